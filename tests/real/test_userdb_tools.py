"""Courier's userdb, userdbpw and makeuserdb beside `proxyhelper userdb`: each reads and keeps what the other wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import admin, gdbm

from proxyhelper.accounts.passwords import matches
from proxyhelper.accounts.userdb import lookup, parse

from .world import BARE_ENVIRONMENT, program, run

NAME = "u1@example.com"
Tool = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "userdb"


@pytest.fixture
def ours(path: Path) -> Tool:
    def ours(*arguments: str, text: str = "") -> str:
        done = admin("-c", path.parent, "userdb", *arguments, text=text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return ours


@pytest.fixture
def theirs(path: Path) -> Tool:
    def theirs(*arguments: str, text: str = "") -> str:
        """Courier's userdb, on our file: `NAME VERB FIELD…`, or `-show NAME`."""
        show, names = (["-show"], arguments[1:]) if arguments[0] == "-show" else ([], arguments)
        command = [program("userdb"), *show, "-f", str(path), *names]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=60, env=BARE_ENVIRONMENT, check=True
        )
        return done.stdout

    return theirs


def fields(path: Path, name: str = NAME) -> dict[str, str]:
    record = lookup(str(path), name.encode())
    assert record is not None
    return parse(record)


def test_theirs_reads_and_changes_what_ours_wrote(path: Path, ours: Tool, theirs: Tool) -> None:
    ours("set", NAME, "uid=1000", "home=/home/u1", "options=mailhost=servera.example.com")
    ours("set", "u2@example.com", "uid=1001")
    assert theirs("-show").split() == [NAME, "u2@example.com"]
    shown = theirs("-show", NAME).split()
    assert shown == ["uid=1000", "home=/home/u1", "options=mailhost=servera.example.com"]
    theirs(NAME, "set", "mail=/mail/u1", "uid=1002")
    theirs(NAME, "unset", "home")
    assert fields(path) == {"uid": "1002", "mail": "/mail/u1", "options": "mailhost=servera.example.com"}
    theirs("u2@example.com", "del")
    assert theirs("-show").split() == [NAME]


def test_ours_reads_and_changes_what_theirs_wrote(path: Path, ours: Tool, theirs: Tool) -> None:
    theirs(NAME, "set", "uid=1000", "home=/home/u1", "options=mailhost=servera.example.com")
    theirs("u2@example.com", "set", "uid=1001")
    assert sorted(ours("show", NAME).splitlines()[1:]) == [
        "home=/home/u1",
        "options=mailhost=servera.example.com",
        "uid=1000",
    ]
    ours("set", NAME, "mail=/mail/u1", "uid=1002")
    ours("unset", NAME, "home")
    ours("del", "u2@example.com")
    assert sorted(theirs("-show", NAME).split()) == [
        "mail=/mail/u1",
        "options=mailhost=servera.example.com",
        "uid=1002",
    ]
    assert theirs("-show").split() == [NAME]
    assert path.stat().st_mode & 0o777 == 0o600


def test_record_without_a_field_left(path: Path, ours: Tool, theirs: Tool) -> None:
    ours("set", NAME, "uid=1000")
    ours("unset", NAME, "uid")
    theirs(NAME, "set", "uid=1001")
    assert fields(path) == {"uid": "1001"}


def test_compiled_from_what_ours_wrote(path: Path, ours: Tool) -> None:
    gdbm()
    ours("set", NAME, "uid=1000", "options=mailhost=servera.example.com")
    ours("passwd", NAME, text="secret\n")
    expected = fields(path)
    run([program("makeuserdb"), "-f", str(path)])
    assert "makeuserdb" in ours("set", "u2@example.com", "uid=1")
    path.unlink()
    assert fields(path) == expected | {"_": fields(path)["_"]}  # makeuserdb adds the place it found it in
    assert ours("show", NAME).splitlines()[0] == f"{NAME}: {path}.dat"


@pytest.mark.parametrize("form", [[], ["-md5"]])
def test_hash_by_userdbpw(path: Path, ours: Tool, form: list[str]) -> None:
    made = subprocess.run(
        [program("userdbpw"), *form], input="secret\n", capture_output=True, text=True, timeout=60, check=True
    )
    ours("set", NAME, "systempw", text=made.stdout)
    assert matches(fields(path)["systempw"].encode(), b"secret")


@pytest.mark.parametrize("form", ["md5", "sha1"])
def test_hash_for_cram_by_userdbpw(path: Path, ours: Tool, form: str) -> None:
    command = [program("userdbpw"), f"-hmac-{form}"]
    made = subprocess.run(command, input="secret\n", capture_output=True, text=True, timeout=60, check=True)
    ours("set", NAME, f"hmac-{form}pw", text=made.stdout)
    assert fields(path) == {f"hmac-{form}pw": made.stdout.strip()}


def test_all_at_once(path: Path, ours: Tool, theirs: Tool) -> None:
    """Twenty editors, every other one Courier's, and none undoes another's change."""
    ours("set", NAME, "uid=1000")

    def edit(number: int) -> None:
        if number % 2:
            theirs(f"u{number}", "set", f"uid={number + 1}")
        else:
            ours("set", f"u{number}", f"uid={number + 1}")

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(edit, range(20)))
    assert fields(path) == {"uid": "1000"}
    for number in range(20):
        assert fields(path, f"u{number}") == {"uid": str(number + 1)}
