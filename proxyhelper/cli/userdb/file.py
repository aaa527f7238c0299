"""One text file of a userdb changed so that a reader sees the old or the new one, whole, whatever happens.

As Courier's own `userdb` does it: `.lock.NAME` beside the file is locked with flock(2), `.tmp.NAME` is written and
renamed. So both exclude each other, and where the userdb is a directory, hidden files hold no accounts.
"""

import fcntl
import os
import signal
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ...failures import Temporary
from ...text import decode, encode

MODE = 0o600
PATIENCE = 60
"""Seconds to wait for another editor's lock."""

Change = Callable[["bytes | None"], "bytes | None"]
"""A record without its name into the new one; None is a record that is not there."""


def edit(path: str, name: bytes, change: Change) -> None:
    """Change the first record of `name` in the file at `path`; what else is there stays byte for byte.

    A file that is not there is empty, and made where there is something to write. Raises Temporary, and whatever
    `change` raises; then nothing has changed."""
    file = Path(os.path.realpath(path))
    try:
        with _locked(file):
            text = _read(file)
            new = _changed(text, name, change)
            if new != text:
                _replace(file, new)
    except OSError as error:
        raise Temporary(f"{path} is as it was: {error.strerror}: {error.filename or file}") from None
    try:
        _sync(file.parent)
    except OSError as error:
        raise Temporary(f"{path} is changed, but a power failure may undo it: {error.strerror}") from None


def holds(path: str, name: bytes) -> bool:
    """Whether the file at `path` has a record of `name`. Raises Temporary."""
    try:
        return _find(_read(Path(path)), name) is not None
    except OSError as error:
        raise Temporary(f"cannot read {path}: {error.strerror}") from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = os.open(file.with_name(f".lock.{file.name}"), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        with _alarm(PATIENCE, f"another program has held the lock on {file} for {PATIENCE} s"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _alarm(seconds: int, text: str) -> Iterator[None]:
    def give_up(*_: object) -> NoReturn:
        raise Temporary(text)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _read(file: Path) -> bytes:
    if file.exists() and not file.is_file():  # a FIFO would hold us
        raise Temporary(f"{file} is not a file")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _find(text: bytes, name: bytes) -> "tuple[int, int] | None":
    """Where the first record of `name` begins, behind its name, and where it ends."""
    if b"\t" in name or b"\n" in name or name.startswith(b"#"):
        return None
    wanted = name + b"\t"
    start = 0 if text.startswith(wanted) else text.find(b"\n" + wanted) + 1
    if not start and not text.startswith(wanted):
        return None
    end = text.find(b"\n", start)
    end = len(text) if end < 0 else end
    return start + len(wanted), end - (text[end - 1 : end] == b"\r")


def _changed(text: bytes, name: bytes, change: Change) -> bytes:
    place = _find(text, name)
    if place is None:
        added = change(None)
        separator = b"" if not text or text.endswith(b"\n") else b"\n"
        return text if added is None else text + separator + name + b"\t" + added + b"\n"
    start, end = place
    record = change(text[start:end])
    if record is not None:
        return text[:start] + record + text[end:]
    line_end = text.find(b"\n", end) + 1
    return text[: start - len(name) - 1] + (text[line_end:] if line_end else b"")


def _replace(file: Path, text: bytes) -> None:
    """Raises OSError, and leaves no other file behind."""
    new = file.with_name(f".tmp.{file.name}")
    new.unlink(missing_ok=True)  # left by an editor that was killed: we have the lock
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE), "wb") as opened:
            _take_owner_and_mode(opened.fileno(), file)
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _take_owner_and_mode(descriptor: int, file: Path) -> None:
    try:
        wanted = file.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, MODE)
        return
    if (wanted.st_uid, wanted.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, wanted.st_uid, wanted.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(wanted.st_mode))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_fields(record: bytes, values: "dict[str, str]") -> bytes:
    """The record with these fields set, in their places if they had any, else at its end."""
    missing = dict(values)
    fields = []
    for field in _fields(record):
        name = _name(field)
        if name not in values:
            fields.append(field)
        elif name in missing:
            fields.append(f"{name}={missing.pop(name)}")
    return encode("|".join(fields + [f"{name}={value}" for name, value in missing.items()]))


def without_fields(record: bytes, names: Collection[str]) -> bytes:
    return encode("|".join(field for field in _fields(record) if _name(field) not in names))


def _fields(record: bytes) -> "list[str]":
    return [field for field in decode(record).split("|") if field]


def _name(field: str) -> str:
    return field.partition("=")[0]
