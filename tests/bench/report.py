"""Rows of figures, and the machine they were seen on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HEADINGS = ("figure", "ours", "theirs", "", "ratio", "bound", "")
VERSION = "import sys; print(*sys.version_info[:3], sep='.')"


@dataclass(frozen=True)
class Row:
    """One figure: ours, what it is compared with, and what may not be exceeded (or must at least be reached)."""

    figure: str
    ours: str
    theirs: str
    whose: str
    value: float | None = None
    """What the bound is about."""
    bound: float | None = None
    at_least: bool = False
    unit: str = "x"

    @property
    def holds(self) -> bool:
        if self.value is None or self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def cells(self) -> tuple[str, ...]:
        value = "" if self.value is None else f"{self.value:.2f} {self.unit}"
        if self.bound is None:
            return self.figure, self.ours, self.theirs, self.whose, value, "", ""
        bound = f"{'>=' if self.at_least else '<='} {self.bound:g} {self.unit}"
        return self.figure, self.ours, self.theirs, self.whose, value, bound, "ok" if self.holds else "MISSED"


def table(rows: Iterable[Row]) -> str:
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def machine(python: str) -> str:
    """One line about where, when and with what."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.check_output([python, "-I", "-S", "-c", VERSION], text=True)
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, load {load},"
        f" Python {version.strip()} ({python}), Linux {platform.release()}"
    )
