"""The files: who may read and write them."""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from ...accounts import userdb
from ...failures import Temporary
from ...settings import COMMON_FILE, MAIN_FILES, Settings
from ..console import Site
from . import Finding

SECRET_FILES = ("authldaprc", "authmysqlrc", "authpgsqlrc")  # they hold the passwords of databases
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def examine(site: Site, settings: "dict[str, Settings]") -> Iterator[Finding]:
    directory = Path(site.directory)
    for path in (directory, *(directory / name for files in MAIN_FILES.values() for name in files)):
        yield from judge(path, OTHERS_WRITE, "others may write it, and send users and their passwords elsewhere")
    yield from judge(directory / COMMON_FILE, OTHERS_WRITE, "others may write it")
    for name in SECRET_FILES:
        yield from judge(directory / name, stat.S_IRWXO, "it holds a password, and others may read it")
    if not settings or any("authuserdb" in one.modules for one in settings.values()):
        yield from _userdb(site.userdb)


def judge(path: Path, forbidden: int, what: str) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError:
        return
    if status.st_mode & forbidden and not (path.is_dir() and status.st_mode & stat.S_ISVTX):
        remedy = f"chmod {'o=' if forbidden & stat.S_IROTH else 'go-w'} {shlex.quote(str(path))}"
        yield Finding("error", f"mode {stat.S_IMODE(status.st_mode):04o}: {what}", remedy, str(path))


def _userdb(path: str) -> Iterator[Finding]:
    for file in userdb_files(path):
        try:
            status = os.stat(file)
        except OSError as error:
            yield Finding("error", f"cannot be looked at: {error.strerror}", "run this command as root", file)
            continue
        forbidden = OTHERS_WRITE if file == f"{path}.dat" else userdb.OTHERS_READ_OR_WRITE
        if status.st_mode & forbidden:
            what = f"mode {stat.S_IMODE(status.st_mode):04o}: others may read or write it, so it is not used"
            yield Finding("error", what, f"chmod go= {shlex.quote(file)}", file)


def userdb_files(path: str) -> "list[str]":
    """Every file and directory that accounts are read from."""
    try:
        if userdb.compiled_is_newer(path):
            return [f"{path}.dat", f"{path}shadow.dat"]
        return list(dict.fromkeys((path, *userdb.files(path))))
    except (Temporary, OSError):
        return [path] if os.path.lexists(path) else []
