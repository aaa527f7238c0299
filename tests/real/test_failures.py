"""Where stderr is the connection, a client gets nothing but the protocol whatever fails; syslog tells what failed."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from .activators import ACTIVATORS, Activator, front
from .clients import connect
from .conftest import HOSTNAME, SETTINGS
from .courier import configure
from .mail import Account, fill_maildir, home_of

FRONT = "127.0.0.1"
PASSWORD = "its-Secret"
NEAR = Account("near@example.com", PASSWORD, mailhost=HOSTNAME)
GONE = Account("gone@example.com", PASSWORD, mailhost="127.0.0.99")
LOOP = Account("loop@example.com", PASSWORD, mailhost=FRONT)
NOWHERE = Account("nowhere@example.com", PASSWORD, mailhost="no-such-host.invalid")
HOMELESS = Account("homeless@example.com", PASSWORD, mailhost=HOSTNAME)
ROOT = Account("root@example.com", PASSWORD, mailhost=HOSTNAME)
DISABLED = Account("disabled@example.com", PASSWORD, mailhost=HOSTNAME, options="disableimap=1,disablepop3=t")
ACCOUNTS = (NEAR, GONE, LOOP, NOWHERE, HOMELESS, ROOT, DISABLED)
LOGIN = {"imap": "a1 LOGIN {0.name} {0.password}\r\n", "pop3": "USER {0.name}\r\nPASS {0.password}\r\n"}
LOGOUT = {"imap": "a2 LOGOUT\r\n", "pop3": "QUIT\r\n"}
REPLY = {
    "imap": rb"(\* (OK|NO|BAD|BYE|CAPABILITY|ID)|\+|[!-~]+ (OK|NO|BAD)) [^\0\r\n]*\r\n",
    "pop3": rb"(\+OK|-ERR)( [^\0\r\n]*)?\r\n",
}


@pytest.fixture(params=["xinetd", "systemd, StandardError=inherit"])
def activator(request: pytest.FixtureRequest) -> Activator:
    return ACTIVATORS[request.param]


@pytest.fixture
def configuration(area: Path) -> Path:
    homes = area / "homes"
    directory = configure(area / "etc", ACCOUNTS, homes, PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
    fill_maildir(home_of(homes, NEAR) / "Maildir")
    (homes / HOMELESS.name).rmdir()
    userdb = directory / "userdb"
    userdb.write_text(re.sub(rf"(?m)^({ROOT.name}\t)uid=\d+", r"\1uid=0", userdb.read_text()))
    return directory


def exchange(protocol: str, sent: bytes) -> bytes:
    """Send all that the helper takes; all that it says until it closes or resets the connection: just the protocol."""
    said = bytearray()
    with connect(FRONT, protocol) as client:
        with suppress(ConnectionError):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while data := client.recv(65536):
                said += data
    assert re.fullmatch(b"(%s)*" % REPLY[protocol], said)
    return bytes(said)


def log_in(protocol: str, account: Account) -> bytes:
    """Log in and out; the reply to the login."""
    said = exchange(protocol, (LOGIN[protocol] + LOGOUT[protocol]).format(account).encode())
    return said.splitlines()[{"imap": 1, "pop3": 2}[protocol]]


UNAVAILABLE = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
CONTACT_ADMIN = {"imap": b"a1 NO [CONTACTADMIN] ", "pop3": b"-ERR [SYS/PERM] "}
SERVER_BUG = {"imap": b"a1 NO [SERVERBUG] ", "pop3": b"-ERR [SYS/PERM] "}

REFUSALS = [
    (GONE, UNAVAILABLE, rf"LOGIN DEFERRED, user={GONE.name}, .*127\.0\.0\.99"),
    (NOWHERE, UNAVAILABLE, rf"LOGIN DEFERRED, user={NOWHERE.name}, .*no-such-host"),
    (HOMELESS, UNAVAILABLE, rf"LOGIN DEFERRED, user={HOMELESS.name}, .*home"),
    (ROOT, CONTACT_ADMIN, rf"LOGIN REFUSED, user={ROOT.name}, .*uid"),
    (DISABLED, CONTACT_ADMIN, rf"LOGIN REFUSED, user={DISABLED.name}, "),
    (LOOP, SERVER_BUG, rf"LOGIN REFUSED, user={LOOP.name}, .*{HOSTNAME} \(PROXY_HOSTNAME\).*mailhost option"),
]


def test_refusals(area: Path, activator: Activator, configuration: Path, protocol: str) -> None:
    with front(activator, area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(configuration)}) as listeners:
        for account, reply, reason in REFUSALS:
            assert log_in(protocol, account).startswith(reply[protocol]), account
            listeners[protocol].log.wait_for(reason)


def break_userdb(configuration: Path) -> None:
    (configuration / "userdb").chmod(0o644)


def lose_userdb(configuration: Path) -> None:
    (configuration / "userdb").unlink()


def lose_everything(configuration: Path) -> None:
    configuration.rename(configuration.with_name("gone"))


@pytest.mark.parametrize("spoil", [break_userdb, lose_userdb, lose_everything])
def test_no_accounts(
    area: Path, activator: Activator, configuration: Path, protocol: str, spoil: Callable[[Path], None]
) -> None:
    spoil(configuration)
    with front(activator, area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(configuration)}) as listeners:
        assert log_in(protocol, NEAR).startswith(UNAVAILABLE[protocol])
        listeners[protocol].log.wait_for(f"LOGIN DEFERRED, user={NEAR.name}, ")


LOCAL_SERVERS = {"missing": None, "not executable": 0o644, "noisy": 0o755}
NOISE = "noise of the local server"


@pytest.mark.parametrize("mode", LOCAL_SERVERS.values(), ids=LOCAL_SERVERS)
def test_local_server_fails(
    area: Path, activator: Activator, configuration: Path, protocol: str, mode: int | None
) -> None:
    server = area / "server"
    if mode:
        server.write_text(f"#!/bin/sh\necho '{NOISE}' >&2\nexit 1\n")
        server.chmod(mode)
    environment = {"PROXYHELPER_CONFDIR": str(configuration)}
    command = [str(server), "Maildir"]
    with front(activator, area / "front", FRONT, environment, local_server=lambda _: command) as listeners:
        said = exchange(protocol, LOGIN[protocol].format(NEAR).encode())
        listeners[protocol].log.wait_for(NOISE if mode == 0o755 else f"LOGIN DEFERRED, user={NEAR.name}, .*{server}")
    assert mode == 0o755 or UNAVAILABLE[protocol] in said


GARBAGE = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n" * 50,
    "TLS": bytes.fromhex("16030100f1010000ed0303") + bytes(range(256)),
    "NULs": bytes(200_000),
    "one long line": b"a1 LOGIN " + b"x" * 2_000_000,
    "a huge literal": b"a1 LOGIN {4294967295}\r\na1 LOGIN {99999999999999999999+}\r\n" + b"x" * 100_000,
    "bytes above ASCII": b"\xff\xfe\xfd\r\n" * 200,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage(area: Path, activator: Activator, configuration: Path, protocol: str, garbage: str) -> None:
    with front(activator, area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(configuration)}) as listeners:
        exchange(protocol, GARBAGE[garbage])
        assert not listeners[protocol].log.matching("Traceback|internal error|Error")
