"""Every account of a source, for the administrator's commands; a login looks one up and never comes here."""

import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from ..failures import Temporary
from ..settings import Settings
from ..text import decode
from . import source, userdb
from .account import Account

COMPILED = (".dat", "shadow.dat")
MAX_LINE = userdb.MAX_RECORD


class Record(NamedTuple):
    """A line of a userdb. Of the records of one name the first counts.

    line     from 1; 0 in the compiled form
    name     "" where the line has none
    problem  why nobody can log in by it, or ""
    """

    file: str
    line: int
    name: str
    fields: "dict[str, str]"
    problem: str

    @property
    def place(self) -> str:
        return f"{self.file} line {self.line}" if self.line else self.file

    def account(self, settings: Settings) -> Account:
        """What the record is for the protocol of `settings`. Only one without a problem is anything."""
        return userdb.account(self.name, self.fields, settings.protocol, settings.default_options)


class Listed(NamedTuple):
    """An account that another source than the userdb lists. It comes without its password."""

    file: str
    name: str
    listed: Account
    line: int = 0
    problem: str = ""

    @property
    def place(self) -> str:
        return self.file

    def account(self, settings: Settings) -> Account:
        return self.listed


def of_source(module: str, settings: Settings, read: Callable[[int], object]) -> Iterator[Record | Listed]:
    """Every account of an available module; `read` as in `records`. Raises Temporary."""
    if module == "authuserdb":
        yield from records(f"{settings.directory}/userdb", read)
        return
    for account in source(module).accounts(settings):
        yield Listed(module, account.address, account)


def length(settings: Settings) -> int:
    """What is told to `read` in all, as far as it is known before. Raises Temporary."""
    return size(f"{settings.directory}/userdb") if "authuserdb" in settings.modules else 0


def records(path: str, read: Callable[[int], object] = lambda size: None) -> Iterator[Record]:
    """Every record of the userdb at `path`, in the order in which a lookup goes through them.

    `read` is told the bytes as they are read, some 100 kB at a time; they add up to `size(path)`. Of a text file's mode
    nothing is said here. Raises Temporary where the userdb cannot be read."""
    try:
        if _is_compiled_only(path):
            yield from _records_compiled(path, read)
        else:
            for file in userdb.files(path):
                yield from _records_of_file(file, read)
    except OSError as error:
        raise Temporary(f"cannot read {error.filename or path}: {error.strerror}") from None


def size(path: str) -> int:
    """The bytes that `records` reads. Raises Temporary."""
    try:
        files = _compiled(path) if _is_compiled_only(path) else userdb.files(path)
        return sum(os.stat(file).st_size for file in files)
    except OSError as error:
        raise Temporary(f"cannot read {error.filename or path}: {error.strerror}") from None


def _compiled(path: str) -> "list[str]":
    return [path + suffix for suffix in COMPILED]


def _is_compiled_only(path: str) -> bool:
    return not os.path.exists(path) and all(map(os.path.exists, _compiled(path)))


def _records_of_file(path: str, read: Callable[[int], object]) -> Iterator[Record]:
    unreported = 0
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # a FIFO must not hold us
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Temporary(f"{path} is not a regular file")
            for number, (line, length) in enumerate(_lines(file), 1):
                unreported += length
                if unreported >= userdb.CHUNK:
                    read(unreported)
                    unreported = 0
                if line and not line.startswith(b"#"):
                    yield _record(path, number, line)
    except OSError as error:
        raise Temporary(f"cannot read {path}: {error.strerror}") from None
    read(unreported)


def _lines(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The first MAX_LINE bytes of each line without its end, and how long it was with it."""
    while piece := file.readline(MAX_LINE):
        line, length = piece, len(piece)
        while len(piece) == MAX_LINE and not piece.endswith(b"\n"):
            piece = file.readline(MAX_LINE)
            length += len(piece)
        yield line if length > MAX_LINE else line.rstrip(b"\r\n"), length


def _records_compiled(path: str, read: Callable[[int], object]) -> Iterator[Record]:
    """The two databases joined. Each name occurs once in a database."""
    userdb.has_gdbm(path, text_exists=False)
    import dbm.gnu

    public, shadow = _compiled(path)
    unread = size(path)
    try:
        with dbm.gnu.open(public, "r") as fields, dbm.gnu.open(shadow, "r") as proofs:
            for database, other in ((fields, proofs), (proofs, fields)):
                name = database.firstkey()
                while name is not None:
                    if database is fields or name not in fields:
                        parts = [database[name], *([other[name]] if name in other else [])]
                        yield _record(public, 0, name + b"\t" + b"|".join(parts))
                    name = database.nextkey(name)
    except dbm.gnu.error as error:
        raise Temporary(f"cannot read {public} or {shadow}: {error}") from None
    read(unread)


def _record(file: str, number: int, line: bytes) -> Record:
    name, tab, record = line.partition(b"\t")
    if not tab:
        return Record(file, number, "", {}, "no tab after a name: this line is no record")
    if len(line) >= MAX_LINE:
        return Record(file, number, decode(name), {}, f"the line is over {MAX_LINE} bytes")
    if b"=" in name:
        return Record(file, number, "", {}, "fields before the tab: another blank stands where it should be")
    fields = userdb.parse(record)
    return Record(file, number, decode(name), fields, _problem(name, record, fields))


def _problem(name: bytes, record: bytes, fields: "dict[str, str]") -> str:
    """Why a login by this record fails, as in `userdb.find`, or ""."""
    if not name:
        return "no name before the tab"
    if b"\0" in name or b"\0" in record:
        return "the line holds NUL"
    try:
        userdb.account("", fields, "", "")
    except Temporary as failure:
        return str(failure)
    return ""
