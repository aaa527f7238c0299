"""What a local server is given, under every activator: Courier's contract, and no trace of the helper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import open_directory

from . import courier
from .activators import ACTIVATORS, front
from .clients import CLIENT, LOGIN, Imap, check_mailbox, port_of
from .conftest import CAPABILITY, NEAR, Site
from .mail import MAIL_UID
from .servers import PORTS

FRONT = "127.0.0.1"
HOME = "/as/it/was"
WITNESS = """\
#!/bin/sh
# Note what we were started with, then be the real server.
cat /proc/$$/task/$$/children >{notes}/children
pwd >{notes}/home
cat /proc/$$/environ >{notes}/environment
cat /proc/self/status >{notes}/status
cat /proc/$$/fdinfo/0 >{notes}/input
ls /proc/self/fd >{notes}/descriptors
readlink /proc/$$/fd/0 /proc/$$/fd/2 >{notes}/links
printf '%s\\n' "$@" >{notes}/arguments
exec "$@"
"""


@dataclass(frozen=True)
class Notes:
    """What the local server saw when it started, and the client that it was started for."""

    directory: Path
    client_port: int
    tag_number: int
    """imaplib's tags are letters, always the same, and this."""

    def lines(self, name: str) -> list[str]:
        return (self.directory / name).read_text().splitlines()

    def fields(self, name: str) -> dict[str, list[str]]:
        return {field: value.split() for field, _, value in (line.partition(":") for line in self.lines(name))}

    @property
    def environment(self) -> dict[str, str]:
        assignments = (self.directory / "environment").read_text().split("\0")
        return dict(assignment.split("=", 1) for assignment in assignments if assignment)


@pytest.fixture(scope="module", params=ACTIVATORS)
def witnessed(request: pytest.FixtureRequest, site: Site) -> Iterator[dict[str, Notes]]:
    """A session of each protocol, and what its local server has noted."""
    with open_directory() as directory:
        environment = site.environment | {"HOME": HOME}
        activator = ACTIVATORS[request.param]
        servers = {protocol: [str(witness(directory, protocol)), *courier.local_server(protocol)] for protocol in PORTS}
        with front(activator, directory / "front", FRONT, environment, local_server=servers.__getitem__):
            yield {protocol: session(directory, protocol) for protocol in PORTS}


def witness(directory: Path, protocol: str) -> Path:
    notes = directory / f"{protocol}-notes"
    notes.mkdir()
    os.chown(notes, MAIL_UID, MAIL_UID)
    script = directory / protocol
    script.write_text(WITNESS.format(notes=notes))
    script.chmod(0o755)
    return script


def session(directory: Path, protocol: str) -> Notes:
    client = LOGIN[protocol](FRONT, NEAR)
    number = client.tagnum - 1 if isinstance(client, Imap) else 0
    notes = Notes(directory / f"{protocol}-notes", port_of(client), number)
    check_mailbox(client)
    return notes


@pytest.fixture
def notes(witnessed: dict[str, Notes], protocol: str) -> Notes:
    return witnessed[protocol]


def test_arguments(notes: Notes, site: Site, protocol: str) -> None:
    home = site.homes / NEAR.name
    assert notes.lines("arguments") == [courier.local_server(protocol)[0], str(home / "Maildir")]
    assert notes.lines("home") == [str(home)]


def test_environment(notes: Notes, protocol: str) -> None:
    told = notes.environment
    assert (told["PROTOCOL"], told["AUTHENTICATED"]) == (protocol.upper(), NEAR.name)
    assert told["OPTIONS"] == f"mailhost={NEAR.mailhost}"
    assert told["TCPREMOTEIP"].removeprefix("::ffff:") == CLIENT
    assert told["TCPREMOTEPORT"] == str(notes.client_port)
    assert told["TCPLOCALIP"].removeprefix("::ffff:") == FRONT
    assert told["TCPLOCALPORT"] == str(PORTS[protocol])
    assert told["HOME"] == HOME
    if protocol == "imap":
        assert re.fullmatch(f"[A-P]{{4}}{notes.tag_number}", told["IMAPLOGINTAG"])
        assert told["IMAP_CAPABILITY"].startswith(CAPABILITY)
    else:
        assert told["UTF8"] == "0"
        assert "IMAPLOGINTAG" not in told


def test_nothing_more_in_the_environment(notes: Notes) -> None:
    told = notes.environment
    assert not [name for name in told if name.startswith(("LISTEN_", "LC_", "PYTHON"))]
    assert not [name for name, value in told.items() if NEAR.password in value]


def test_user(notes: Notes) -> None:
    who = notes.fields("status")
    assert set(who["Uid"] + who["Gid"] + who["Groups"]) == {str(MAIL_UID)}
    assert int(who["CapEff"][0], 16) == int(who["CapPrm"][0], 16) == 0
    assert who["Umask"] == ["0022"]


def test_signals(notes: Notes) -> None:
    signals = notes.fields("status")
    assert int(signals["SigBlk"][0], 16) == 0
    assert int(signals["SigIgn"][0], 16) == 0


def test_descriptors(notes: Notes) -> None:
    assert notes.lines("descriptors") == ["0", "1", "2", "3"], "and the last is of the `ls` that looks"
    assert int(notes.fields("input")["flags"][0], 8) & os.O_NONBLOCK == 0
    connection, stderr = notes.lines("links")
    assert stderr != connection


def test_no_process_but_itself(notes: Notes) -> None:
    (children,) = notes.lines("children")
    assert len(children.split()) == 1, "more than the `cat` that looks"
