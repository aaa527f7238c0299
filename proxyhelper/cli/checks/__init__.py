"""What `proxyhelper check` examines, a module for each section of its report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A fact about the site: `level` is "ok", "note", "warning" or "error"; `file`, `line` and `setting` where it is,
    as far as it is anywhere."""

    level: str
    what: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    setting: str = ""

    @property
    def place(self) -> str:
        return f"{self.file} line {self.line}" if self.line else self.file
