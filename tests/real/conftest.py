"""The site of these tests: two Dovecot backends, one configuration directory, and mailboxes on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import need, open_directory

from .certificates import Authority
from .courier import configure
from .mail import Account, fill_maildir, home_of
from .servers import PORTS, dovecot, file_monitor

HOSTNAME = "front.example.com"
FAR = Account("far@example.com", 'pass word "x\\', mailhost="127.0.0.2")
FARTHER = Account("farther@example.com", "farther-Secret", mailhost="127.0.0.3")
NEAR = Account("near@example.com", "near-Secret", mailhost=HOSTNAME)
ACCOUNTS = (FAR, FARTHER, NEAR)
CAPABILITY = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE"
SETTINGS = {
    "IMAP_PROXY": "1",
    "POP3_PROXY": "1",
    "IMAP_CAPABILITY": f"{CAPABILITY} AUTH=PLAIN AUTH=LOGIN",
    "POP3AUTH": "PLAIN LOGIN",
    "LOGIN_FAIL_DELAY": "0",
}


@dataclass(frozen=True)
class Site:
    """The helper's settings, and the mailboxes on its own host."""

    configuration: Path
    homes: Path

    @property
    def environment(self) -> dict[str, str]:
        """What an activator is told to tell the helper."""
        return {"PROXYHELPER_CONFDIR": str(self.configuration)}


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    need(os.geteuid() == 0, "root, to become the accounts' users and to use ports 143 and 110")


@pytest.fixture(scope="session", autouse=True)
def monitored_files(root: None) -> Iterator[None]:
    with file_monitor():
        yield


@pytest.fixture(scope="session")
def backends(root: None) -> Iterator[None]:
    """Dovecot with the mailbox of FAR, and Dovecot with that of FARTHER."""
    with ExitStack() as servers:
        for account in (FAR, FARTHER):
            servers.enter_context(dovecot(servers.enter_context(open_directory()), account.mailhost, [account]))
        yield


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The front's configuration directory, and the mailbox of NEAR."""
    with open_directory() as directory:
        homes = directory / "homes"
        fill_maildir(home_of(homes, NEAR) / "Maildir")
        yield Site(configure(directory / "etc", ACCOUNTS, homes, PROXY_HOSTNAME=HOSTNAME, **SETTINGS), homes)


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    """Who certifies all servers of these tests."""
    with open_directory() as directory:
        yield Authority(directory)


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory of the test's own."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(params=PORTS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)
