"""Under every activator, for IMAP and POP3: mailhost here and elsewhere, refusals, and a log that arrives whole."""

from __future__ import annotations

import imaplib
import poplib
import re
from collections.abc import Iterator

import pytest
from support import open_directory

from .activators import ACTIVATORS, Listener, front
from .clients import CLIENT, LOGIN, check_mailbox, connect, port_of
from .conftest import ACCOUNTS, FAR, FARTHER, NEAR, Site
from .mail import MESSAGES, Account
from .servers import PORTS

Front = dict[str, Listener]


@pytest.fixture(scope="module", params=ACTIVATORS)
def activated(request: pytest.FixtureRequest, site: Site, backends: None) -> Iterator[Front]:
    activator = ACTIVATORS[request.param]
    with open_directory() as directory, front(activator, directory, "127.0.0.1", site.environment) as listeners:
        yield listeners
        for listener in listeners.values():
            check_log(listener.log.lines())


def check_log(lines: list[str]) -> None:
    """Neither a traceback nor anybody's password is in it."""
    assert not [line for line in lines if "Traceback" in line]
    assert not [line for line in lines for account in ACCOUNTS if account.password in line]


def client_in_log(port: int | str, prefix: str = "::ffff:") -> str:
    """How a log line names our client, as a regular expression."""
    return rf"ip=\[{prefix}{re.escape(CLIENT)}\], port=\[{port}\]"


def imap_quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


@pytest.mark.parametrize("account", [FAR, FARTHER], ids=lambda account: account.name)
def test_mailhost_elsewhere(activated: Front, protocol: str, account: Account) -> None:
    listener = activated[protocol]
    client = LOGIN[protocol](listener.address, account)
    port = port_of(client)
    check_mailbox(client)
    who = f"user={account.name}, {client_in_log(port)}, session=[0-9a-f]{{16}}, protocol={protocol.upper()}"
    where = re.escape(f"backend={account.mailhost}:{PORTS[protocol]}")
    listener.log.wait_for(f"LOGIN, {who}.*{where}")
    logout = listener.log.wait_for(f"LOGOUT, {who}.*{where}")
    assert re.search(r"rcvd=\d+, sent=86\d{4}, time=\d+", logout)


def test_mailhost_here(activated: Front, protocol: str) -> None:
    listener = activated[protocol]
    client = LOGIN[protocol](listener.address, NEAR)
    port = port_of(client)
    check_mailbox(client)
    who = f"user={NEAR.name}, {client_in_log(port, '(::ffff:)?')}"
    listener.log.wait_for(f"LOGIN, {who}")
    listener.log.wait_for(f"LOGOUT, {who}")


PIPELINED = {
    "imap": "a1 LOGIN {0.name} {1}\r\na2 SELECT INBOX\r\na3 FETCH 1:6 BODY.PEEK[]\r\na4 LOGOUT\r\n",
    "pop3": "USER {0.name}\r\nPASS {0.password}\r\nRETR 1\r\nRETR 2\r\nRETR 6\r\nQUIT\r\n",
}


@pytest.mark.parametrize("account", [FAR, NEAR], ids=lambda account: account.name)
def test_commands_sent_with_the_login(activated: Front, protocol: str, account: Account) -> None:
    """They belong to the server behind, however early they come."""
    with connect(activated[protocol].address, protocol) as client, client.makefile("rb") as lines:
        commands = PIPELINED[protocol].format(account, imap_quoted(account.password))
        client.sendall(commands.encode())
        said = lines.read()
    assert said.count(MESSAGES[-1]) == 1
    assert (b"\r\na1 OK [CAPABILITY IMAP4rev1 " in said) == (protocol == "imap" and account is FAR), "as Dovecot says"
    assert re.search(rb"\r\na4 OK [^\r]*\r\n$|\r\n\+OK[^\r]*\r\n$", said)


SYSLOG = r"\w{3} [ \d]\d [\d:]{8} mailserver {ident}(\[\d+\])?: "
SINKS = dict.fromkeys(ACTIVATORS, "INFO: ") | {
    "couriertcpd, courierlogger": SYSLOG,
    "xinetd": SYSLOG,
    "systemd": "<6>",
    "systemd, StandardError=inherit": SYSLOG,
}
"""How a line of a sink begins."""


@pytest.mark.parametrize(("activated", "beginning"), SINKS.items(), indirect=["activated"], ids=SINKS)
def test_wrong_password(activated: Front, beginning: str, protocol: str) -> None:
    listener = activated[protocol]
    with pytest.raises((imaplib.IMAP4.error, poplib.error_proto), match="AUTH"):
        LOGIN[protocol](listener.address, Account(NEAR.name, "wrong-guess"))
    line = listener.log.wait_for("LOGIN FAILED")
    beginning = beginning.replace("{ident}", {"imap": "imapd", "pop3": "pop3d"}[protocol])
    who = f"user={NEAR.name}, {client_in_log(r'[0-9]+')}"
    assert re.match(f"{beginning}LOGIN FAILED, {who}, session=[0-9a-f]{{16}}, protocol={protocol.upper()}", line)
    assert "wrong-guess" not in line


def test_connection_is_logged(activated: Front, protocol: str) -> None:
    listener = activated[protocol]
    with connect(listener.address, protocol) as client:
        assert client.recv(4096).startswith((b"* OK", b"+OK"))
        listener.log.wait_for(f"Connection, {client_in_log(client.getsockname()[1])}")
