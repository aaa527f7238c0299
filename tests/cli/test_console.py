"""What all commands share: how hostile text is shown, help, versions, and the exit statuses of wrong usage."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Site, admin

from proxyhelper import __version__
from proxyhelper.cli.console import clean, status_of
from proxyhelper.failures import Disabled, Failure, Insecure, Loop, Temporary, WrongCredentials

COMMANDS = ["check", "lookup", "login", "accounts", "userdb", "entry", "demo"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain Grüße 漢字", "plain Grüße 漢字"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2028\ufeff\u200b", "\\u2028\\ufeff\\u200b"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        (17, "17"),
    ],
)
def test_clean(raw: object, shown: str) -> None:
    assert clean(raw) == shown
    assert clean(raw).isprintable()


@pytest.mark.parametrize(
    ("failure", "status"),
    [(WrongCredentials, 1), (Temporary, 75), (Disabled, 77), (Insecure, 77), (Loop, 77), (Failure, 75)],
)
def test_statuses(failure: type[Failure], status: int) -> None:
    assert status_of(failure("")) == status


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    done = admin(option)
    assert done.returncode == 0
    assert re.findall(r"(?m)^  (\w+) +\S", done.stdout.partition("Commands:")[2]) == sorted(COMMANDS)
    statuses = " ".join(done.stdout.split()).partition("Exit status: ")[2]
    assert re.findall(r"\b(\d+) [a-z]", statuses) == ["0", "1", "2", "75", "77", "78"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str) -> None:
    done = admin(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: proxyhelper {command}")


def test_version() -> None:
    assert admin("--version").stdout == f"proxyhelper {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["check", "extra"], ["lookup"], ["login"], ["check", "--entries", "/nonexistent"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = admin(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: proxyhelper")


def test_directory_given_relative_to_here(site: Site, run: Callable[..., object], no_entries: Path) -> None:
    """-c is made absolute; the tests run commands in /."""
    done = admin("-c", str(site.directory)[1:], "check", "--entries", no_entries)
    assert done.stdout.splitlines()[-1].startswith(f"{site.directory}: 0 errors")
