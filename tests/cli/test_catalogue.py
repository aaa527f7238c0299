"""The catalogue of settings: it names what settings.py reads, no more and no less, and knows what Courier ships."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Site, need

from proxyhelper.cli import catalogue
from proxyhelper.cli.forms import form_of
from proxyhelper.interpreter import crypt
from proxyhelper.settings import MAIN_FILES, Settings, Values

SHIPPED = ("imapd", "imapd-ssl", "pop3d", "pop3d-ssl")


class Recorder(Values):
    """Notes which settings are asked for, and how."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(environment, {})
        self.read: set[str] = set()
        self.flags: set[str] = set()
        self.prefixes: set[str] = set()
        self.of_environment: set[str] = set()

    def text(self, name: str) -> str:
        self.read.add(name)
        return super().text(name)

    def flag(self, name: str) -> bool:
        self.flags.add(name)
        return super().flag(name)

    def renamed(self, in_environment: str, in_files: str) -> str:
        self.of_environment.add(in_environment)
        return super().renamed(in_environment, in_files)

    def environment_flag(self, name: str) -> bool:
        self.of_environment.add(name)
        return super().environment_flag(name)

    def starting_with(self, prefix: str) -> dict[str, str]:
        self.prefixes.add(prefix)
        return super().starting_with(prefix)


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorders(protocol: str) -> list[Recorder]:
    """With and without TLS: settings.py asks for some names on one side only."""
    made = [Recorder({}), Recorder({f"{protocol.upper()}_TLS": "1"})]
    for recorder in made:
        settings = Settings(protocol, "/", {}, recorder)
        settings.offer(secure=False)
        settings.offer(secure=True)
    return made


def union(sets: list[set[str]]) -> set[str]:
    return set().union(*sets)


def test_names(protocol: str, recorders: list[Recorder]) -> None:
    by_prefix = {name for name in catalogue.COMMON if name.startswith(catalogue.LDAP_TLS_PREFIX)}
    read = union([recorder.read for recorder in recorders])
    assert read | by_prefix == catalogue.COMMON | catalogue.OWN[protocol]
    assert not read & by_prefix


def test_flags(protocol: str, recorders: list[Recorder]) -> None:
    flags = {name for name in catalogue.FLAGS if name in catalogue.OWN[protocol] | catalogue.COMMON}
    assert union([recorder.flags for recorder in recorders]) == flags


def test_prefixes(recorders: list[Recorder]) -> None:
    prefixes = {catalogue.SERVICE_PREFIX, catalogue.LDAP_TLS_PREFIX}
    assert union([recorder.prefixes for recorder in recorders]) == prefixes


def test_environment(protocol: str, recorders: list[Recorder]) -> None:
    only = union([recorder.of_environment - recorder.read for recorder in recorders])
    assert only == catalogue.ENVIRONMENT_ONLY & (only | {f"{protocol.upper()}_TLS", "PROXY_TLS_WRAP"})


def test_nothing_is_in_two_lists() -> None:
    every = [catalogue.COMMON, *catalogue.OWN.values(), catalogue.ENVIRONMENT_ONLY]
    assert sum(map(len, every)) == len(union([set(names) for names in every]))
    ours = union([set(names) for names in every])
    assert not [name for names in catalogue.COURIERS.values() for name in names & ours]
    assert ours.issuperset(catalogue.FLAGS)


@pytest.mark.parametrize("name", [*SHIPPED, "authdaemonrc"])
def test_what_courier_ships(site: Site, check: Callable[..., "object"], name: str) -> None:
    unpacked = Path(os.environ.get("PROXYHELPER_COURIER", "/nonexistent"), "etc/courier")
    shipped = (Path("/etc/courier") if name == "authdaemonrc" else unpacked) / name
    need(os.access(shipped, os.R_OK), f"Courier's {shipped}, readable")
    shutil.copyfile(shipped, site.directory / name)
    findings = [finding for finding in check().findings if finding.file.endswith(f"/{name}")]
    assert all(finding.setting == "authmodulelist" for finding in findings)


def test_file_of_each_setting() -> None:
    for name in catalogue.OWN["imap"]:
        assert catalogue.file_for(name) == "imapd"
    for name in catalogue.OWN["pop3"]:
        assert catalogue.file_for(name) == "pop3d"
    assert catalogue.file_for("daemons") == "authdaemonrc"
    assert catalogue.file_for("XYZZY") == ""


def test_known_by_file() -> None:
    for protocol, files in MAIN_FILES.items():
        for file in files:
            assert catalogue.protocol_of(file) == protocol
            assert catalogue.known(file) >= catalogue.COMMON | catalogue.OWN[protocol]
    assert "IMAP_PROXY" not in catalogue.known("pop3d")


SALTS = [
    "$y$j9T$abcdefgh",
    "$gy$j9T$abcdefgh",
    "$7$CU..../....abcdefgh",
    "$2a$05$abcdefghijklmnopqrstuu",
    "$2b$05$abcdefghijklmnopqrstuu",
    "$2y$05$abcdefghijklmnopqrstuu",
    "$6$abcdefgh",
    "$6$rounds=1000$abcdefgh",
    "$5$abcdefgh",
    "$sha1$4000$abcdefgh",
    "$md5,rounds=5$abcdefgh$",
    "$1$abcdefgh",
    "$3$",
    "_J9..abcd",
    "ab",
    "ab" + "." * 22,
]


@pytest.mark.parametrize("salt", SALTS)
def test_every_form_of_the_c_library_has_a_name(salt: str) -> None:
    hashed = crypt(b"a password of more than 8 bytes", salt.encode())
    if hashed is None or hashed.startswith(b"*"):
        pytest.skip("this C library does not know it")
    assert form_of(hashed.decode())
    assert form_of("{CRYPT}" + hashed.decode()) == form_of(hashed.decode())
