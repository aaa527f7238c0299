"""authldaprc, authmysqlrc, authpgsqlrc: lines `NAME<blanks>value`, `#` comments; a `\\` at the end continues a line.

What is not set, or empty, is "". Read as Courier's authconfigfile does.
"""

from ..failures import Temporary
from ..settings import ConfigurationError, read

BLANKS = " \t"


def load(path: str) -> "dict[str, str]":
    """The settings in the file at `path`. Raises Temporary where it cannot be read, or is not there."""
    try:
        text = read(path)
    except ConfigurationError as error:
        raise Temporary(str(error)) from None
    if not text:
        raise Temporary(f"{path} is not there, or empty")
    return parse(text)


def parse(text: str) -> "dict[str, str]":
    """Continued lines are joined by a blank; of two settings of one name the first counts."""
    values: dict[str, str] = {}
    pending = ""
    for line in [*text.split("\n"), ""]:
        line = line.rstrip("\r" + BLANKS)
        if not pending and line.lstrip(BLANKS).startswith("#"):
            continue
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        words = (pending + line).strip(BLANKS).split(None, 1)
        pending = ""
        if words:
            values.setdefault(words[0], "".join(words[1:]))
    return values
