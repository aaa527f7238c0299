"""Accounts in Courier's userdb: `name<TAB>field=value|field=value…`, one a line.

The source is `userdb` in the configuration directory, a text file or a directory of text files, or what makeuserdb
compiles it into, `userdb.dat` and `userdbshadow.dat` (GDBM), where these are newer and Python has `dbm.gnu`.
"""

from ..failures import Temporary, WrongCredentials
from ..interpreter import posix, stat
from ..text import decode, encode
from . import available
from .account import MAX_ID, Account, is_id, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..settings import Settings

OTHERS_READ_OR_WRITE = 0o077
OTHERS_WRITE = 0o022
CHUNK = 1 << 17
MAX_RECORD = 1 << 16
MAX_FILES = 10000


def find(settings: "Settings", service: str, name: str) -> Account:
    """The account `name` in the userdb, with the password for `service` ("imap", "pop3").

    Raises WrongCredentials where there is no such account, Temporary where the userdb cannot be used."""
    path = f"{settings.directory}/userdb"
    if not _exists(path) and available(settings) != ["authuserdb"]:
        raise WrongCredentials("there is no userdb")  # as with Courier, whose lists often begin with authuserdb
    record = lookup(path, encode(name))
    if record is None:
        raise WrongCredentials("no such account")
    if b"\0" in record:
        raise Temporary("the account's record holds NUL")
    return account(name, parse(record), service, settings.default_options)


def account(name: str, fields: "dict[str, str]", service: str, default_options: str) -> Account:
    """The account that the fields of a record make. Raises Temporary for one that cannot be used."""
    return Account(
        name,
        encode(fields.get(f"{service}pw", fields.get("systempw", ""))),
        uid=number(fields, "uid"),
        gid=number(fields, "gid"),
        home=fields.get("home", ""),
        maildir=fields.get("mail", ""),
        quota=fields.get("quota", ""),
        options=parse_options(fields.get("options", ""), default_options),
    )


def parse(record: bytes) -> "dict[str, str]":
    """The fields of one record; one without a value is empty."""
    fields: dict[str, str] = {}
    for field in decode(record).split("|"):
        name, _, value = field.partition("=")
        fields.setdefault(name, value)
    return fields


def number(fields: "dict[str, str]", name: str) -> "int | None":
    value = fields.get(name, "")
    if not value:
        return None
    if not is_id(value):
        raise Temporary(f"userdb field {name}={value!r} is not a number from 0 to {MAX_ID}")
    return int(value)


def lookup(path: str, name: bytes) -> "bytes | None":
    """The record of `name` without its name, or None. Raises Temporary."""
    if b"\t" in name or b"\n" in name or name.startswith(b"#"):
        return None
    try:
        if compiled_is_newer(path):
            return _lookup_compiled(path, name)
        return _lookup_text(path, name)
    except OSError as error:
        raise Temporary(f"cannot read {error.filename or path}: {error.strerror}") from None


def _exists(path: str) -> bool:
    for file in (path, f"{path}.dat"):
        try:
            posix.stat(file)
        except FileNotFoundError:
            continue
        except OSError:
            pass  # whoever reads it says what is wrong
        return True
    return False


def compiled_is_newer(path: str) -> bool:
    try:
        compiled = min(posix.stat(f"{path}.dat").st_mtime, posix.stat(f"{path}shadow.dat").st_mtime)
    except FileNotFoundError:
        return False
    text: float | None
    try:
        text = max(posix.stat(file).st_mtime for file in (path, *files(path)))
    except FileNotFoundError:
        text = None
    return (text is None or compiled >= text) and has_gdbm(path, text_exists=text is not None)


def has_gdbm(path: str, text_exists: bool) -> bool:
    try:
        import dbm.gnu  # noqa: F401
    except ImportError:
        if not text_exists:
            raise Temporary(f"{path}.dat needs Python's dbm.gnu, and there is no text file {path}") from None
        return False
    return True


def _lookup_compiled(path: str, name: bytes) -> "bytes | None":
    import dbm.gnu

    parts = []
    for file, forbidden in ((f"{path}.dat", OTHERS_WRITE), (f"{path}shadow.dat", OTHERS_READ_OR_WRITE)):
        _check_mode(file, posix.stat(file).st_mode, forbidden)
        try:
            with dbm.gnu.open(file, "r") as database:
                part = database.get(name)
        except dbm.gnu.error as error:
            raise Temporary(f"cannot read {file}: {error}") from None
        if part is not None:
            parts.append(part)
    return b"|".join(parts) if parts else None


def _lookup_text(path: str, name: bytes) -> "bytes | None":
    for file in files(path):
        record = _search(file, name)
        if record is not None:
            return record
    return None


def files(path: str) -> "Iterator[str]":
    """The text files of a userdb in the order of their names; in a directory neither hidden ones count, as with
    makeuserdb, nor what is not a file."""
    status = posix.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        yield path
        return
    _check_mode(path, status.st_mode, OTHERS_READ_OR_WRITE)
    pending = [path]
    for _ in range(MAX_FILES):
        if not pending:
            return
        current = pending.pop()
        mode = posix.stat(current).st_mode
        if stat.S_ISDIR(mode):
            pending += (f"{current}/{name}" for name in sorted(posix.listdir(current), reverse=True) if name[0] != ".")
        elif stat.S_ISREG(mode):
            yield current
    raise Temporary(f"{path} holds over {MAX_FILES} files and directories: compile it with makeuserdb")


def _check_mode(path: str, mode: int, forbidden: int) -> None:
    if mode & forbidden:
        raise Temporary(f"{path} has mode {stat.S_IMODE(mode):04o}: others may read or write it. Run: chmod go= {path}")


def _search(path: str, name: bytes) -> "bytes | None":
    """The record of `name` in one text file, read in pieces and searched as bytes: 100,000 accounts cost some 3 ms."""
    wanted = b"\n" + name + b"\t"
    overlap = len(wanted)
    buffer = bytearray(overlap + CHUNK)  # the end of the piece before, and a piece
    buffer[overlap - 1] = wanted[0]
    view = memoryview(buffer)
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)  # a FIFO must not hold us
    try:
        mode = posix.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise Temporary(f"{path} is not a regular file")
        _check_mode(path, mode, OTHERS_READ_OR_WRITE)
        while size := posix.readv(descriptor, [view[overlap:]]):
            at = buffer.find(wanted, 0, overlap + size)
            if at >= 0:
                return _rest_of_line(descriptor, bytes(view[at + len(wanted) : overlap + size]))
            view[:overlap] = view[size : size + overlap]
        return None
    finally:
        posix.close(descriptor)


def _rest_of_line(descriptor: int, found: bytes) -> bytes:
    while b"\n" not in found:
        more = posix.read(descriptor, MAX_RECORD)
        if not more:
            break
        found += more
        if len(found) > MAX_RECORD + CHUNK:
            raise Temporary(f"a userdb record is over {MAX_RECORD} bytes")
    return found.partition(b"\n")[0].rstrip(b"\r")
