"""Who the client really is: told by HAProxy, told to Dovecot, passed on between helpers, and counted against loops."""

from __future__ import annotations

import imaplib
import poplib
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support import open_directory, wait_until

from .activators import Listener, couriertcpd, front
from .certificates import Authority
from .clients import CLIENT, LOGIN, Client, check_mailbox, connect, port_of
from .conftest import HOSTNAME, SETTINGS
from .courier import configure
from .mail import Account, fill_maildir, home_of
from .servers import BEHIND_HAPROXY, PORTS, TLS_PORTS, Server, dovecot, trusting
from .tls import Front, logged_in, shake_hands, tls_front
from .world import LogFile, is_listening, program, running

ID_FRONT, SILENT_FRONT, HEADER_FRONT = "127.0.0.20", "127.0.0.21", "127.0.0.22"
BALANCED_FRONT = "127.0.0.6"
BALANCERS = {"send-proxy": "127.0.0.7", "send-proxy-v2": "127.0.0.8"}
TRUSTING_DOVECOT, HEADER_DOVECOT = "127.0.0.12", "127.0.0.13"
FIRST, SECOND = "127.0.0.14", "127.0.0.15"
"""Two helpers that know of each other."""
THIRD, FOURTH = "127.0.0.17", "127.0.0.18"
"""Two that do not."""
STRANGER = "127.0.0.16"
"""A helper that the second one does not trust."""
OURS = "127.0.0.1"
"""Where our own connections come from."""

TOLD = Account("told@example.com", "told-Secret", TRUSTING_DOVECOT)
HEADED = Account("headed@example.com", "headed-Secret", HEADER_DOVECOT)
NEAR = Account("near@example.com", "near-Secret", HOSTNAME)
LOOPING = Account("looping@example.com", "looping-Secret", SECOND)
PASSED_ON = Account("passed-on@example.com", "passed-on-Secret", SECOND)
BOUND = 5
"""Connections that one login may cause, the client's own among them."""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with open_directory() as own:
        yield own


@pytest.fixture(scope="module")
def trusting_dovecot(directory: Path, authority: Authority) -> Iterator[Server]:
    certificate = authority.issue("trusting-dovecot", f"IP:{TRUSTING_DOVECOT}")
    (directory / "trusting").mkdir()
    accounts = [TOLD, PASSED_ON]
    settings = trusting(OURS)
    with dovecot(directory / "trusting", TRUSTING_DOVECOT, accounts, certificate, settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def header_dovecot(directory: Path, authority: Authority) -> Iterator[Server]:
    certificate = authority.issue("header-dovecot", f"IP:{HEADER_DOVECOT}")
    (directory / "header").mkdir()
    with dovecot(directory / "header", HEADER_DOVECOT, [HEADED], certificate, settings=BEHIND_HAPROXY) as server:
        yield server


@pytest.fixture(scope="module")
def environment(directory: Path) -> dict[str, str]:
    """What tells a helper of the configuration."""
    fill_maildir(home_of(directory / "homes", NEAR) / "Maildir")
    settings = {"PROXY_HOSTNAME": HOSTNAME, **SETTINGS}
    configuration = configure(directory / "etc", [TOLD, HEADED, NEAR], directory / "homes", **settings)
    return {"PROXYHELPER_CONFDIR": str(configuration)}


@contextmanager
def front_on(address: str, environment: dict[str, str], **settings: str) -> Iterator[dict[str, Listener]]:
    with open_directory() as own, front(couriertcpd, own, address, environment | settings) as started:
        yield started


def for_both(name: str, value: str) -> dict[str, str]:
    """A setting of IMAP and POP3."""
    return {f"IMAP_{name}": value, f"POP3_{name}": value}


def session_in(log: LogFile, port: int) -> str:
    """The session id of the client with this port."""
    found = re.search(r"session=(\w+)", log.wait_for(rf"Connection, .*port=\[{port}\]"))
    assert found
    return found[1]


def dovecots_line(server: Server, account: Account, session: str = ".*") -> str:
    return server.log.wait_for(rf"Login: user=<{account.name}>, .*session=<{session}>")


# Told to Dovecot


@pytest.fixture(params=["no", "starttls", "yes"])
def backend_tls(request: pytest.FixtureRequest, authority: Authority) -> dict[str, str]:
    """Settings for TLS towards the backend."""
    return {"PROXY_CAFILE": str(authority.ca), **for_both("PROXY_TLS", request.param)}


def test_dovecot_logs_the_client(
    environment: dict[str, str], backend_tls: dict[str, str], trusting_dovecot: Server, protocol: str
) -> None:
    """Its true address, and our session id, with and without TLS."""
    with front_on(ID_FRONT, environment, **backend_tls) as started:
        client = LOGIN[protocol](ID_FRONT, TOLD)
        line = dovecots_line(trusting_dovecot, TOLD, session_in(started[protocol].log, port_of(client)))
        assert f", rip={CLIENT}, " in line
        assert (", TLS" in line) == (backend_tls["IMAP_PROXY_TLS"] != "no")
        check_mailbox(client)


def test_dovecot_reads_our_header(
    environment: dict[str, str], backend_tls: dict[str, str], header_dovecot: Server, protocol: str
) -> None:
    """In clear, in front of TLS."""
    before = len(header_dovecot.log.matching("Login: "))
    with front_on(HEADER_FRONT, environment, **for_both("PROXY_SEND", "proxy-v2"), **backend_tls):
        check_mailbox(LOGIN[protocol](HEADER_FRONT, HEADED))
        line = next_login(header_dovecot, before)
        assert f"{protocol}-login: " in line
        assert f", rip={CLIENT}, lip={HEADER_FRONT}, " in line
        assert (", TLS" in line) == (backend_tls["IMAP_PROXY_TLS"] != "no")


def next_login(server: Server, before: int) -> str:
    """What Dovecot logs of the login behind the first ones."""
    wait_until(lambda: len(server.log.matching("Login: ")) > before, "Dovecot has logged no login")
    return server.log.matching("Login: ")[before]


def test_dovecot_is_told_nothing(environment: dict[str, str], trusting_dovecot: Server, protocol: str) -> None:
    before = len(trusting_dovecot.log.matching("Login: "))
    with front_on(SILENT_FRONT, environment, **for_both("PROXY_SEND", "no")) as started:
        client = LOGIN[protocol](SILENT_FRONT, TOLD)
        session = session_in(started[protocol].log, port_of(client))
        line = next_login(trusting_dovecot, before)
        assert f", rip={OURS}, " in line
        assert session not in line
        check_mailbox(client)


# Told by HAProxy

HAPROXY = """\
global
    log stderr format raw local0
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""
LISTEN = """\
listen {name}
    bind {address}:{port}
    server front {front}:{port} source {address} {version} {check}
"""
GREETING_IS_EXPECTED = "    option tcp-check\n    tcp-check expect rstring ^(\\*|\\+)\\ ?OK\n"


@contextmanager
def haproxy(directory: Path) -> Iterator[LogFile]:
    """In TCP mode on all ports of both BALANCERS, looking after the helper's health on those in clear."""
    text = HAPROXY
    places = [(version, address, port) for version, address in BALANCERS.items() for port in ALL_PORTS]
    for version, address, port in places:
        check = port in PORTS.values()
        where = {"name": f"{version}-{port}", "address": address, "port": port, "front": BALANCED_FRONT}
        text += LISTEN.format(**where, version=version, check="check check-send-proxy inter 1s" if check else "")
        text += GREETING_IS_EXPECTED if check else ""
    (directory / "haproxy.cfg").write_text(text)
    log = directory / "haproxy.log"
    with running([program("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], output=log) as process:
        for _, address, port in places:
            wait_until(lambda: is_listening(address, port) or process.poll() is not None, "HAProxy does not listen")  # noqa: B023
        assert process.poll() is None, log.read_text()
        yield LogFile(log)


ALL_PORTS = (*PORTS.values(), *TLS_PORTS.values())


@pytest.fixture(scope="module")
def balanced(environment: dict[str, str], authority: Authority, trusting_dovecot: Server) -> Iterator[Front]:
    """The helper for clients of HAProxy."""
    certificate = authority.issue("balanced", *(f"IP:{address}" for address in BALANCERS.values()))
    told = {"PROXY_PROTOCOL": "1", "PROXY_PROTOCOL_FROM": " ".join(BALANCERS.values())}
    tls = {"TLS_CERTFILE": str(certificate.both), "IMAP_STARTTLS": "YES", "POP3_STARTTLS": "YES"}
    with open_directory() as own, tls_front(couriertcpd, own, BALANCED_FRONT, environment | told | tls) as started:
        yield started
        for of_protocol in started.values():
            for listener in of_protocol.values():
                assert not listener.log.matching("Traceback|internal error|Secret")


@pytest.fixture(scope="module")
def haproxys_log(balanced: Front, directory: Path) -> Iterator[LogFile]:
    with haproxy(directory) as log:
        yield log


@pytest.mark.usefixtures("haproxys_log")
@pytest.mark.parametrize("account", [TOLD, NEAR], ids=lambda account: account.name)
@pytest.mark.parametrize("way", ["in clear", "starttls", "wrapped"])
@pytest.mark.parametrize("version", BALANCERS)
def test_behind_haproxy(
    balanced: Front,
    trusting_dovecot: Server,
    authority: Authority,
    version: str,
    way: str,
    protocol: str,
    account: Account,
) -> None:
    """The client's address goes all the way: our log, Dovecot's, Courier's."""
    address = BALANCERS[version]
    client: Client
    if way == "in clear":
        client = LOGIN[protocol](address, account)
    else:
        client = logged_in(way, address, protocol, account, authority.trusting())
    log = balanced["wrapped" if way == "wrapped" else "starttls"][protocol].log
    who = rf"ip=\[(::ffff:)?{re.escape(CLIENT)}\], port=\[{port_of(client)}\]"
    log.wait_for(f"LOGIN, user={account.name}, {who}")
    if account is TOLD:
        session = re.search(r"session=(\w+)", log.wait_for(f"LOGIN, user={account.name}, {who}"))
        assert session
        assert f", rip={CLIENT}, " in dovecots_line(trusting_dovecot, account, session[1])
    check_mailbox(client)


@pytest.mark.parametrize("version", BALANCERS)
def test_health_checks(balanced: Front, haproxys_log: LogFile, version: str, protocol: str) -> None:
    """HAProxy asks on its own behalf: v1 says so with its own address, v2 with LOCAL."""
    haproxys_log.wait_for(f"Health check for server {version}-{PORTS[protocol]}/front succeeded")
    balanced["starttls"][protocol].log.wait_for(rf"Connection, ip=\[(::ffff:)?{re.escape(BALANCERS[version])}\]")


@pytest.mark.parametrize("version", BALANCERS)
def test_header_and_client_hello_at_once(balanced: Front, authority: Authority, version: str, protocol: str) -> None:
    """What is behind the header in the same segment belongs to TLS."""
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    headers = {
        "send-proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 993\r\n",
        "send-proxy-v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses + b"\x04\xd2\x03\xe1",
    }
    source = BALANCERS[version]
    where = (BALANCED_FRONT, TLS_PORTS[protocol])
    with socket.create_connection(where, 10, source_address=(source, 0)) as connection:
        tls, incoming, _ = shake_hands(connection, authority.trusting(), source, headers[version])
        incoming.write(connection.recv(65536))
        assert tls.read(4).startswith((b"* OK", b"+OK"))
        balanced["wrapped"][protocol].log.wait_for(r"Connection, ip=\[(::ffff:)?192\.0\.2\.1\], port=\[1234\]")


HEADER = "PROXY TCP4 192.0.2.1 192.0.2.2 1234 {{}}\r\n"
NOT_SERVED = {
    "untrusted": (CLIENT, HEADER),
    "without a header": (BALANCERS["send-proxy"], "a1 LOGOUT\r\n"),
    "malformed": (BALANCERS["send-proxy"], "PROXY TCP4 192.0.2.1 192.0.2.2 1234\r\n"),
    "nothing": (BALANCERS["send-proxy"], ""),
}


@pytest.mark.parametrize("way", ["starttls", "wrapped"])
@pytest.mark.parametrize("case", NOT_SERVED)
def test_not_served(balanced: Front, way: str, protocol: str, case: str) -> None:
    """Whoever does not begin as agreed hears nothing, and is logged."""
    listener = balanced[way][protocol]
    source, said = NOT_SERVED[case]
    where = (BALANCED_FRONT, listener.port)
    with socket.create_connection(where, 10, source_address=(source, 0)) as client, client.makefile("rb") as lines:
        port = client.getsockname()[1]
        client.sendall(said.format(listener.port).encode())
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            assert lines.read() == b""
    listener.log.wait_for(rf"ip=\[(::ffff:)?{re.escape(source)}\], port=\[{port}\].*PROXY")


# Passed on between helpers, and loops


Pair = dict[str, dict[str, Listener]]


@contextmanager
def two_helpers(directory: Path, first: str, second: str, trusted: str) -> Iterator[Pair]:
    """At two addresses. Each believes that the other has LOOPING; the second knows better where PASSED_ON is."""
    accounts = {
        first: [replace(LOOPING, mailhost=second), replace(PASSED_ON, mailhost=second)],
        second: [replace(LOOPING, mailhost=first), replace(PASSED_ON, mailhost=TRUSTING_DOVECOT)],
    }
    with ExitStack() as stack:
        started = {}
        for address, theirs in accounts.items():
            settings = {**SETTINGS, "PROXY_HOSTNAME": f"at-{address}.example.com", "PROXY_TRUSTED": trusted}
            configuration = configure(directory / address, theirs, directory / "homes", **settings)
            environment = {"PROXYHELPER_CONFDIR": str(configuration)}
            started[address] = stack.enter_context(front_on(address, environment))
        yield started


@pytest.fixture(scope="module")
def pair(directory: Path, trusting_dovecot: Server) -> Iterator[Pair]:
    with two_helpers(directory, FIRST, SECOND, f"{OURS} 192.0.2.0/24") as started:
        yield started


@pytest.fixture(scope="module")
def strangers(directory: Path) -> Iterator[Pair]:
    """They do not trust each other."""
    with two_helpers(directory, THIRD, FOURTH, "") as started:
        yield started


def test_passed_on(pair: Pair, trusting_dovecot: Server, protocol: str) -> None:
    """All who are on the way know the client, and the session by one name."""
    client = LOGIN[protocol](FIRST, PASSED_ON)
    session = session_in(pair[FIRST][protocol].log, port_of(client))
    who = rf"ip=\[(::ffff:)?{re.escape(CLIENT)}\], port=\[{port_of(client)}\], session={session}"
    for address in (FIRST, SECOND):
        pair[address][protocol].log.wait_for(f"LOGIN, user={PASSED_ON.name}, {who}, ")
    assert f", rip={CLIENT}, " in dovecots_line(trusting_dovecot, PASSED_ON, session)
    check_mailbox(client)


FIELDS = {
    "imap": '("x-originating-ip" "192.0.2.77" "x-originating-port" "77" "x-session-id" "0123456789abcdef")',
    "pop3": "ADDR=192.0.2.77 PORT=77 SESSION=0123456789abcdef",
}
LOGIN_LINES = {
    "imap": f"a1 LOGIN {PASSED_ON.name} {PASSED_ON.password}\r\n",
    "pop3": f"USER {PASSED_ON.name}\r\nPASS {PASSED_ON.password}\r\n",
}


def test_not_believed(pair: Pair, directory: Path, trusting_dovecot: Server, protocol: str) -> None:
    """A helper that is not in PROXY_TRUSTED cannot say who its client is."""
    settings = {"PROXYHELPER_CONFDIR": str(directory / SECOND), "PROXY_TRUSTED": "192.0.2.1, 2001:db8::/32"}
    with front_on(STRANGER, settings) as started:
        lines = {"imap": f"a0 ID {FIELDS['imap']}\r\n", "pop3": f"XCLIENT {FIELDS['pop3']}\r\n"}
        with connect(STRANGER, protocol) as client, client.makefile("rb") as said:
            assert b"XCLIENT" not in said.readline()
            client.sendall(lines[protocol].encode())
            assert re.match({"imap": rb"\* ID ", "pop3": rb"-ERR "}[protocol], said.readline())
            client.sendall(LOGIN_LINES[protocol].encode())
            assert any(re.match(rb"a1 OK|\+OK [Ll]ogged in", line) for line in said)
            line = started[protocol].log.wait_for(f"LOGIN, user={PASSED_ON.name}, ")
        assert re.search(rf"ip=\[(::ffff:)?{re.escape(CLIENT)}\]", line)
        assert "0123456789abcdef" not in line
        assert not trusting_dovecot.log.matching("192.0.2.77")


def connections(started: dict[str, Listener], protocol: str) -> int:
    return len(started[protocol].log.matching("Connection, "))


@pytest.mark.parametrize("begin", [FIRST, SECOND])
def test_loop(pair: Pair, protocol: str, begin: str) -> None:
    """The login goes round until its time has come, and fails for good: not as a wrong password."""
    check_loop(pair, protocol, begin)


def test_loop_of_strangers(strangers: Pair, protocol: str) -> None:
    check_loop(strangers, protocol, THIRD)


def check_loop(pair: Pair, protocol: str, begin: str) -> None:
    before = sum(connections(started, protocol) for started in pair.values())
    kind = {"imap": r"\[SERVERBUG\]", "pop3": r"\[SYS/PERM\]"}[protocol]
    with pytest.raises((imaplib.IMAP4.error, poplib.error_proto), match=kind):
        LOGIN[protocol](begin, LOOPING)
    assert sum(connections(started, protocol) for started in pair.values()) - before == BOUND
    pair[begin][protocol].log.wait_for(f"LOGIN REFUSED, user={LOOPING.name}, .*one proxy too many")
