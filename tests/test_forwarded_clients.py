"""What one proxy tells the next of its client, with us as the one and as the other: IMAP's ID, POP3's XCLIENT, a PROXY
header; and the bound on how many there may be in a row."""

from __future__ import annotations

import os
import re
import socket
import struct
from contextlib import closing
from pathlib import Path

import pytest
from scripted import GREETING, LOGIN, Backend, read_login, start_tls
from support import FRONT, Session, Site, Tls, Wire, command, environment, start
from test_arrival import SIGNATURE, version1
from test_local import LOGGED_IN, SERVER, Local

PROTOCOLS = ("imap", "pop3")
TRUSTED = {"PROXY_TRUSTED": "127.0.0.0/8 ::1"}
READY = {
    "imap": b"* OK [CAPABILITY IMAP4rev1 ID LITERAL+ AUTH=PLAIN] ready\r\n",
    "pop3": b"+OK [XCLIENT] ready\r\n",
}
"""Greetings of backends that want to know."""
LOGIN_LINES = {"imap": b'proxy1 LOGIN "u1" "secret"\r\n', "pop3": b"USER u1\r\n"}
LOOP = {
    "imap": b"a1 NO [SERVERBUG] Mail service is misconfigured: this account's server could not be determined.\r\n",
    "pop3": b"-ERR [SYS/PERM] Mail service is misconfigured: this account's server could not be determined.\r\n",
}
NOTED = {"imap": b"i OK ID completed.\r\n", "pop3": b"+OK Noted.\r\n"}
NAMES = {
    "ip": ("x-originating-ip", "ADDR"),
    "port": ("x-originating-port", "PORT"),
    "local_ip": ("x-connected-ip", "DESTADDR"),
    "local_port": ("x-connected-port", "DESTPORT"),
    "session": ("x-session-id", "SESSION"),
    "ttl": ("x-proxy-ttl", "TTL"),
}
CLIENT = {"ip": "203.0.113.9", "port": "4711", "local_ip": "198.51.100.1", "local_port": "143"}


def telling(protocol: str, **fields: object) -> bytes:
    """The command that tells a server of a client."""
    pops = protocol == "pop3"
    form = "{}={}" if pops else '"{}" "{}"'
    told = " ".join(form.format(NAMES[name][pops], value) for name, value in fields.items())
    return (f"XCLIENT {told}\r\n" if pops else f"i ID ({told})\r\n").encode()


def tell(wire: Wire, protocol: str, **fields: object) -> bytes:
    """Say it; the reply."""
    wire.send(telling(protocol, **fields))
    if protocol == "imap":
        assert wire.line() == b'* ID ("name" "proxyhelper")\r\n'
    return wire.line()


def told_by_us(wire: Wire, protocol: str) -> dict[str, str]:
    """What a backend is told, every byte of it accounted for."""
    line = wire.line().decode()
    if protocol == "imap":
        assert re.fullmatch(r'proxy0 ID \(("[^"]+" "[^"]+"( (?=")|(?=\))))+\)\r\n', line), line
        pairs = re.findall('"([^"]+)" "([^"]+)"', line)
    else:
        assert re.fullmatch(r"XCLIENT( [A-Z]+=[^ =]+)+\r\n", line), line
        pairs = [tuple(word.split("=")) for word in line.split()[1:]]
    by_name = {names[protocol == "pop3"]: name for name, names in NAMES.items()}
    return {by_name[name]: value for name, value in pairs}


def own_fields(session: Session, ttl: int = 4) -> dict[str, str]:
    """What is to be told of a client that has come by itself."""
    ip, port = session.socket.getsockname()[:2]
    local_ip, local_port = session.socket.getpeername()[:2]
    name = re.search("session=([0-9a-f]{16})", session.log.text)
    assert name
    return {
        "ip": ip,
        "port": str(port),
        "local_ip": local_ip,
        "local_port": str(local_port),
        "session": name[1],
        "ttl": str(ttl),
    }


def is_logged_in(protocol: str, client: Wire, wire: Wire) -> None:
    """The backend has been told; now the login, and a relay in which nothing of that is left."""
    if protocol == "imap":
        wire.send(b'* ID ("name" "scripted")\r\nproxy0 OK noted\r\n')
    else:
        wire.send(b"+OK noted\r\n")
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (b"u1", b"secret")
    wire.send(login.reply(b"OK in" if protocol == "imap" else b"+OK in"))
    assert client.until(b"a1 " if protocol == "imap" else b"+OK in")[-1].endswith(b"OK in\r\n")
    client.send(b"more\r\n")
    assert wire.line() == b"more\r\n"
    wire.send(b"more\r\n")
    assert client.line() == b"more\r\n"


@pytest.fixture
def known(site, backend):
    site.account("u1", mailhost=backend.mailhost)
    return site


# To backends


@pytest.mark.parametrize("client", ["tcp", "tcp6", "mapped"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_that_wants_to_know(known, greeted, backend, protocol, client):
    session = greeted(protocol, client=client)
    session.log.find("Connection")
    session.send(LOGIN[protocol])
    wire = backend.greet(READY[protocol])
    expected = own_fields(session)
    for name in ("ip", "local_ip"):
        expected[name] = expected[name].removeprefix("::ffff:")
    assert told_by_us(wire, protocol) == expected
    is_logged_in(protocol, session, wire)


def test_bytes_to_an_imap_backend(known, greeted, backend):
    """One write, so that it costs no time: ID and the login behind it."""
    session = greeted()
    session.log.find("Connection")
    session.send(LOGIN["imap"])
    wire = backend.greet(READY["imap"])
    fields = own_fields(session)
    expected = " ".join(f'"{NAMES[name][0]}" "{value}"' for name, value in fields.items())
    whole = f"proxy0 ID ({expected})\r\n".encode() + LOGIN_LINES["imap"]
    wire.fill()
    assert bytes(wire.received) == whole


def test_bytes_to_a_pop3_backend(known, greeted, backend):
    session = greeted("pop3")
    session.log.find("Connection")
    session.send(LOGIN["pop3"])
    wire = backend.greet(READY["pop3"])
    expected = " ".join(f"{NAMES[name][1]}={value}" for name, value in own_fields(session).items())
    assert wire.line() == f"XCLIENT {expected}\r\n".encode()
    assert wire.silent(0.05)
    wire.send(b"+OK\r\n")
    assert wire.line() == b"USER u1\r\n"


@pytest.mark.parametrize(
    ("protocol", "greeting"),
    [
        ("imap", b"* OK ready\r\n"),
        ("imap", b"* OK ID ready\r\n"),
        ("imap", b"* OK [CAPABILITY IMAP4rev1 IDLE X-ID] ID\r\n"),
        ("imap", b"* OK [ALERT] [CAPABILITY ID] x\r\n"),
        ("pop3", b"+OK ready\r\n"),
        ("pop3", b"+OK XCLIENT ready\r\n"),
        ("pop3", b"+OK <XCLIENT@ready>\r\n"),
    ],
)
def test_backend_that_does_not_ask(known, greeted, backend, protocol, greeting):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    assert backend.greet(greeting).line() == LOGIN_LINES[protocol]


@pytest.mark.parametrize("greeting", [b"* ok [capability imap4rev1 id] x\r\n", b"* OK [CAPABILITY ID] x\r\n"])
def test_imap_backend_asks_in_any_case(known, greeted, backend, greeting):
    greeted().send(LOGIN["imap"])
    assert backend.greet(greeting).line().startswith(b"proxy0 ID (")


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("imap", b"proxy0 NO never mind\r\n"),
        ("imap", b"proxy0 BAD unknown\r\n"),
        ("imap", b"* ID NIL\r\n* OK [ALERT] x\r\n* CAPABILITY ID\r\nproxy0 OK\r\n"),
        ("imap", b'* ID ("name" {13}\r\nproxy1 OK x\r\n)\r\nproxy0 OK\r\n'),
        ("pop3", b"-ERR who are you\r\n"),
        ("pop3", b"-ERR [SYS/TEMP] x\r\n"),
    ],
)
def test_what_the_backend_says_to_it_is_nobody_s_business(known, greeted, backend, protocol, reply):
    session = greeted(protocol)
    if protocol == "pop3":
        session.send(b"USER u1\r\n")
        session.line()
    session.send(LOGIN[protocol].removeprefix(b"USER u1\r\n"))
    wire = backend.greet(READY[protocol])
    wire.line()
    wire.send(reply)
    wire.send(read_login(protocol, wire).reply(b"OK in" if protocol == "imap" else b"+OK in"))
    assert session.line() == (b"a1 OK in\r\n" if protocol == "imap" else b"+OK in\r\n")


@pytest.mark.parametrize(
    ("protocol", "said", "step"),
    [
        ("imap", b"* BYE no\r\n", "goodbye in place of a reply to ID"),
        ("imap", b"proxy9 OK\r\n", "not a reply to ID"),
        ("imap", b"", "closed the connection in place of a reply to ID"),
        ("pop3", b"nonsense\r\n", "not a XCLIENT reply"),
        ("pop3", b"", "closed the connection in place of a XCLIENT reply"),
    ],
)
def test_backend_that_fails_there(known, greeted, backend, protocol, said, step):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.greet(READY[protocol])
    wire.line()
    wire.send(said)
    if not said:
        wire.half_close()
    session.until(b"a1 NO [UNAVAILABLE]" if protocol == "imap" else b"-ERR [SYS/TEMP]")
    assert step in session.log.find("LOGIN DEFERRED")


def test_password_in_a_literal_behind_an_id(known, greeted, backend):
    known.account("u8", "p\u00e4ss", mailhost=backend.mailhost)
    session = greeted()
    session.send(b"a1 LOGIN u8 {5+}\r\np\xc3\xa4ss\r\n")
    wire = backend.greet(READY["imap"])
    wire.line()
    assert wire.line() == b'proxy1 LOGIN "u8" {5}\r\n'
    wire.send(b"* ID NIL\r\nproxy0 OK x\r\n+ go on\r\n")
    assert wire.line() == b"p\xc3\xa4ss\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_without_an_address(known, greeted, backend, protocol):
    session = greeted(protocol, client="pipes")
    session.send(LOGIN[protocol])
    told = told_by_us(backend.greet(READY[protocol]), protocol)
    assert told.keys() == {"session", "ttl"}
    assert told["ttl"] == "4"


def test_utf8_comes_behind_xclient(known, greeted, backend):
    session = greeted("pop3")
    session.send(b"UTF8\r\n")
    session.line()
    session.send(LOGIN["pop3"])
    wire = backend.greet(READY["pop3"])
    assert wire.line().startswith(b"XCLIENT ")
    wire.send(b"+OK\r\n")
    assert wire.line() == b"UTF8\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_told_at_each_attempt(known, greeted, backend, protocol):
    session = greeted(protocol)
    session.log.find("Connection")
    for _ in range(2):
        session.send(LOGIN[protocol])
        wire = backend.greet(READY[protocol])
        assert told_by_us(wire, protocol) == own_fields(session)
        wire.send(b"proxy0 OK\r\n" if protocol == "imap" else b"+OK\r\n")
        wire.send(read_login(protocol, wire).reply(b"NO no" if protocol == "imap" else b"-ERR no"))
        session.until(b"a1 NO" if protocol == "imap" else b"-ERR")


# PROXY_SEND


@pytest.mark.parametrize("greeting", [GREETING, READY], ids=["plain", "ready"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing(known, greeted, backend, protocol, greeting):
    known.set(IMAP_PROXY_SEND="no", POP3_PROXY_SEND="no")
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    assert wire.silent(0.05)
    wire.send(greeting[protocol])
    assert wire.line() == LOGIN_LINES[protocol]


@pytest.mark.parametrize("client", ["tcp", "tcp6", "mapped"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header(known, greeted, backend, protocol, client):
    """In front of everything; behind it a session id and a time-to-live, and no address again."""
    known.set(IMAP_PROXY_SEND="PROXY-V2", POP3_PROXY_SEND="Proxy-V2")
    session = greeted(protocol, client=client)
    session.log.find("Connection")
    session.send(LOGIN[protocol])
    wire = backend.accept()
    fields = own_fields(session)
    ips = [fields[name].removeprefix("::ffff:") for name in ("ip", "local_ip")]
    family, code = (socket.AF_INET6, 0x21) if client == "tcp6" else (socket.AF_INET, 0x11)
    block = b"".join(socket.inet_pton(family, ip) for ip in ips)
    block += struct.pack("!HH", int(fields["port"]), int(fields["local_port"]))
    expected = SIGNATURE + struct.pack("!BBH", 0x21, code, len(block)) + block
    assert wire.exactly(len(expected)) == expected
    assert wire.silent(0.05)
    wire.send(READY[protocol])
    assert told_by_us(wire, protocol) == {"session": fields["session"], "ttl": "4"}
    is_logged_in(protocol, session, wire)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header_of_a_client_without_an_address(known, greeted, backend, protocol):
    session = greeted(protocol, client="pipes", env={f"{protocol.upper()}_PROXY_SEND": "proxy-v2"})
    session.send(LOGIN[protocol])
    wire = backend.accept()
    assert wire.exactly(16) == SIGNATURE + b"\x20\0\0\0"
    wire.send(GREETING[protocol])
    assert wire.line() == LOGIN_LINES[protocol]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header_at_each_address(known, greeted, backend, protocol):
    """A host whose first address does not answer."""
    known.set(IMAP_PROXY_SEND="proxy-v2", POP3_PROXY_SEND="proxy-v2")
    known.account("u2", mailhost=f"localhost:{backend.port}")
    session = greeted(protocol)
    session.send(LOGIN[protocol].replace(b"u1", b"u2"))
    wire = backend.accept()
    assert wire.exactly(28).startswith(SIGNATURE + b"\x21\x11\0\x0c")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_has_its_own(known, greeted, backend, protocol):
    other = {"imap": "POP3", "pop3": "IMAP"}[protocol]
    known.set(**{f"{protocol.upper()}_PROXY_SEND": "no", f"{other}_PROXY_SEND": "proxy-v2"})
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    assert backend.greet(READY[protocol]).line() == LOGIN_LINES[protocol]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sending_what_is_not_known(site, helper, protocol):
    site.set(IMAP_PROXY_SEND="xclient", POP3_PROXY_SEND="xclient")
    session = helper(protocol)
    assert session.line().startswith((b"* BYE [UNAVAILABLE]", b"-ERR [SYS/TEMP]"))
    setting = f"{protocol.upper()}_PROXY_SEND='xclient'"
    session.log.find("ERR: CONFIGURATION, ip=[", f"{setting} must be one of id, proxy-v2, no")


# From other proxies


def test_xclient_is_offered_to_the_trusted(site, helper):
    site.set(**TRUSTED)
    for client in ("tcp", "tcp6", "mapped"):
        assert helper("pop3", client=client).line() == b"+OK [XCLIENT] proxyhelper POP3 server ready.\r\n"
        assert b" ID " in helper(client=client).line()


@pytest.mark.parametrize("networks", ["", "192.0.2.0/24", "::1", "128.0.0.0/1"])
def test_xclient_is_not_offered_to_others(site, helper, networks):
    site.set(PROXY_TRUSTED=networks)
    assert helper("pop3").line() == b"+OK proxyhelper POP3 server ready.\r\n"
    assert b" ID " in helper().line()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mapped_networks(site, greeted, protocol):
    site.set(PROXY_TRUSTED="::ffff:127.0.0.0/104")
    session = greeted(protocol)
    assert tell(session, protocol, **CLIENT) == NOTED[protocol]
    session.send(LOGIN[protocol])
    assert "ip=[::ffff:203.0.113.9]" in session.log.find("FAILED")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trusted_proxy_is_believed(known, greeted, backend, protocol):
    """Its client's address and the session's name are in the log and go on to the next."""
    known.set(**TRUSTED)
    session = greeted(protocol)
    assert tell(session, protocol, **CLIENT, session="its.Own/name", ttl=3) == NOTED[protocol]
    session.send(LOGIN[protocol])
    wire = backend.greet(READY[protocol])
    assert told_by_us(wire, protocol) == {**CLIENT, "session": "its.Own/name", "ttl": "2"}
    is_logged_in(protocol, session, wire)
    about = "ip=[::ffff:203.0.113.9], port=[4711], session=its.Own/name, protocol="
    assert about in session.log.find("INFO: LOGIN, user=u1, ")
    wire.close()
    session.close()
    assert about in session.log.find("INFO: LOGOUT, user=u1, ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trusted_proxy_of_a_client_in_ipv6(known, greeted, backend, protocol):
    known.set(**TRUSTED)
    told = {"ip": "2001:db8::9", "port": "4711", "local_ip": "2001:db8::1", "local_port": "993"}
    session = greeted(protocol)
    tell(session, protocol, **told)
    session.send(LOGIN[protocol])
    found = told_by_us(backend.greet(READY[protocol]), protocol)
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header_tells_what_a_trusted_proxy_told(known, greeted, backend, protocol):
    known.set(**TRUSTED, IMAP_PROXY_SEND="proxy-v2", POP3_PROXY_SEND="proxy-v2")
    session = greeted(protocol)
    tell(session, protocol, **CLIENT, session="its-own", ttl=3)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    block = socket.inet_aton("203.0.113.9") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 4711, 143)
    assert wire.exactly(28) == SIGNATURE + b"\x21\x11\0\x0c" + block
    wire.send(READY[protocol])
    assert told_by_us(wire, protocol) == {"session": "its-own", "ttl": "2"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_local_server_is_told_the_client_s_address(site, greeted, home, protocol):
    site.set(**TRUSTED)
    site.account("u1", home=str(home), mail=f"{home}/Mail")
    session = greeted(protocol, *SERVER)
    tell(session, protocol, **CLIENT)
    session.send(LOGIN[protocol])
    session.until(LOGGED_IN[protocol])
    environment = Local(session, home).environment()
    names = ("TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT")
    assert [environment[name] for name in names] == list(CLIENT.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_others_are_not_believed(known, greeted, backend, protocol):
    """IMAP's ID may come from anybody, and is answered; XCLIENT is refused."""
    known.set(PROXY_TRUSTED="192.0.2.1")
    session = greeted(protocol)
    session.log.find("Connection")
    reply = tell(session, protocol, **CLIENT, session="its-own")
    assert reply.startswith(NOTED["imap"] if protocol == "imap" else b"-ERR Only a trusted proxy ")
    session.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol) == own_fields(session)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "fields",
    [
        {"ip": "203.0.113.999"},
        {"ip": "client.example"},
        {"ip": "203.0.113.9:4711"},
        {"ip": "::" + "1" * 44},
        {"ip": "1.2.3.4],_ip=[5.6.7.8"},
        {"port": "4711"},
        {"session": "x" * 65},
    ],
    ids=str,
)
def test_trusted_proxy_that_tells_nonsense(known, greeted, backend, protocol, fields):
    known.set(**TRUSTED)
    session = greeted(protocol)
    session.log.find("Connection")
    tell(session, protocol, **fields)
    session.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol) == own_fields(session)


def test_session_name_cannot_forge_a_field(site, greeted):
    site.set(**TRUSTED)
    session = greeted()
    tell(session, "imap", session="x],ip=[203.0.113.9")
    session.send(LOGIN["imap"])
    line = session.log.find("FAILED")
    assert line.index("ip=[") == line.rindex("ip=[")
    assert "session=x\\x5d\\x2cip=\\x5b203.0.113.9," in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_clients_tell_the_last_word(known, greeted, backend, protocol):
    """A second word corrects the first, and leaves what it does not name; the bound can only shrink."""
    known.set(**TRUSTED)
    session = greeted(protocol)
    tell(session, protocol, **CLIENT, session="first", ttl=3)
    tell(session, protocol, ip="203.0.113.10", port=4712, ttl=200)
    session.send(LOGIN[protocol])
    told = told_by_us(backend.greet(READY[protocol]), protocol)
    assert told == {**CLIENT, "ip": "203.0.113.10", "port": "4712", "session": "first", "ttl": "2"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trust_is_in_who_has_connected(known, greeted, backend, protocol):
    """Not in whom it names: a client's own address gives nobody the right to tell another."""
    known.set(PROXY_TRUSTED="203.0.113.9")
    session = greeted(protocol)
    session.log.find("Connection")
    tell(session, protocol, **CLIENT)
    tell(session, protocol, ip="203.0.113.10")
    session.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol) == own_fields(session)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trust_behind_a_balancer(site, helper, protocol):
    """The true client's counts, not the balancer's."""
    site.set(**TRUSTED, PROXY_PROTOCOL=1, PROXY_PROTOCOL_FROM="127.0.0.1")
    session = helper(protocol)
    session.send(version1())
    session.line()
    tell(session, protocol, ip="192.0.2.77")
    session.send(LOGIN[protocol])
    assert "ip=[::ffff:203.0.113.9]" in session.log.find("FAILED")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trusted_proxy_behind_tls(certified, secured, backend, protocol):
    certified.set(**TRUSTED)
    certified.account("u1", mailhost=backend.mailhost)
    _, tls = secured(protocol)
    assert tell(tls, protocol, **CLIENT, session="its-own", ttl=5) == NOTED[protocol]
    tls.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol) == {**CLIENT, "session": "its-own", "ttl": "4"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trusted_proxy_before_and_behind_tls(certified, helper, backend, authority, protocol):
    """Dovecot tells it before STARTTLS. What it said there holds, and it may say it again."""
    certified.set(**TRUSTED)
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.line()
    tell(session, protocol, ip="192.0.2.1", port=1, session="its-own", ttl=4)
    start_tls(session, protocol)
    tls = Tls(session, authority.trusting(), FRONT)
    assert tell(tls, protocol, **CLIENT) == NOTED[protocol]
    tls.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol) == {**CLIENT, "session": "its-own", "ttl": "3"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trusted_networks_that_are_none(site, helper, protocol):
    site.set(PROXY_TRUSTED="127.0.0.1 somewhere")
    session = helper(protocol)
    session.until(b"* BYE [UNAVAILABLE]" if protocol == "imap" else b"-ERR [SYS/TEMP]")
    session.log.find("ERR: CONFIGURATION, ip=[", "PROXY_TRUSTED", "somewhere")


# Hops


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
@pytest.mark.parametrize(
    ("ttl", "onward"), [(2, 1), (3, 2), (5, 4), (6, 4), (255, 4), ("", 4), (256, 4), ("-1", 4), ("x", 4)]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_time_to_live(known, greeted, backend, protocol, ttl, onward, trusted):
    """Of anybody: it can but refuse its sender."""
    known.set(PROXY_TRUSTED=trusted)
    session = greeted(protocol)
    assert tell(session, protocol, ttl=ttl) == NOTED[protocol]
    session.send(LOGIN[protocol])
    assert told_by_us(backend.greet(READY[protocol]), protocol)["ttl"] == str(onward)


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
@pytest.mark.parametrize("ttl", [0, 1, "01"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_further_hop(known, greeted, backend, protocol, ttl, trusted):
    known.set(PROXY_TRUSTED=trusted)
    session = greeted(protocol)
    tell(session, protocol, ttl=ttl)
    for _ in range(2):
        session.send(LOGIN[protocol])
        assert session.until(b"a1 " if protocol == "imap" else b"-ERR")[-1] == LOOP[protocol]
        line = session.log.find("ERR: LOGIN REFUSED, user=u1, ip=[")
        assert f"mailhost {backend.host} would be one proxy too many" in line
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_further_hop_is_no_secret_s_business(known, greeted, protocol):
    """A wrong password is one, whatever the time-to-live."""
    session = greeted(protocol)
    tell(session, protocol, ttl=1)
    session.send(LOGIN[protocol].replace(b"secret", b"wrong"))
    session.until(b"a1 NO [AUTHENTICATIONFAILED]" if protocol == "imap" else b"-ERR [AUTH]")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_further_hop_is_needed_here(site, greeted, home, protocol):
    site.account("u1", home=str(home), mail=f"{home}/Mail")
    session = greeted(protocol, *SERVER)
    tell(session, protocol, ttl=1)
    session.send(LOGIN[protocol])
    session.until(LOGGED_IN[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_time_to_live_with_an_address_of_the_untrusted(known, greeted, protocol):
    """The one is honoured, the other is not; POP3 says so."""
    session = greeted(protocol)
    tell(session, protocol, ip="203.0.113.9", ttl=1)
    session.send(LOGIN[protocol])
    assert session.until(b"a1 " if protocol == "imap" else b"-ERR")[-1] == LOOP[protocol]
    assert "ip=[::ffff:127.0.0.1]" in session.log.find("REFUSED")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_time_to_live_told_before_tls(certified, helper, backend, authority, protocol):
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.line()
    tell(session, protocol, ttl=1)
    start_tls(session, protocol)
    tls = Tls(session, authority.trusting(), FRONT)
    tls.send(LOGIN[protocol])
    assert tls.until(b"a1 " if protocol == "imap" else b"-ERR")[-1] == LOOP[protocol]


class Host:
    """Where helpers are started for whoever connects, as by an activator."""

    def __init__(self, directory: Path, protocol: str) -> None:
        directory.mkdir()
        self.site = Site(directory)
        self.listener = Backend()
        self.mailhost = self.listener.mailhost
        self.sessions: list[Session] = []
        self._command = command(protocol)

    def serve(self) -> Session:
        """The next connection; nobody here holds its other end."""
        connection, _ = self.listener.listener.accept()
        self.sessions.append(start(self._command, environment(self.site, {}), os.pipe(), [connection.detach()]))
        return self.sessions[-1]

    def close(self) -> None:
        for session in self.sessions:
            session.end()
        self.listener.close()


@pytest.mark.parametrize("send", ["id", "proxy-v2"])
@pytest.mark.parametrize(("protocol", "trusted"), [("imap", "127.0.0.1"), ("imap", ""), ("pop3", "127.0.0.1")])
def test_two_hosts_that_each_believe_the_other_has_it(known, greeted, tmp_path, protocol, trusted, send):
    """Where they trust each other, all of them log the one client and the one session. (POP3 shows XCLIENT to nobody
    else, and is told no bound then.)"""
    with closing(Host(tmp_path / "one", protocol)) as one, closing(Host(tmp_path / "other", protocol)) as other:
        for host, next_host in ((one, other), (other, one)):
            host.site.set(PROXY_TRUSTED=trusted, IMAP_PROXY_SEND=send, POP3_PROXY_SEND=send)
            if send == "proxy-v2":
                host.site.set(PROXY_PROTOCOL=1, PROXY_PROTOCOL_FROM="127.0.0.1")
            host.site.account("u1", mailhost=next_host.mailhost)
        known.set(IMAP_PROXY_SEND=send, POP3_PROXY_SEND=send)
        known.account("u2", mailhost=one.mailhost)
        for host in (one, other):
            host.site.account("u2", mailhost=(other if host is one else one).mailhost)
        session = greeted(protocol)
        session.send(LOGIN[protocol].replace(b"u1", b"u2"))
        session.log.find("Connection")
        fields = own_fields(session)
        for host in (one, other, one, other):
            host.serve()
        assert session.until(b"a1 " if protocol == "imap" else b"-ERR")[-1] == LOOP[protocol]
        about = f"ip=[::ffff:{fields['ip']}], port=[{fields['port']}], session={fields['session']}, protocol="
        lines = [helper.log.find("LOGIN REFUSED, user=u2") for host in (one, other) for helper in host.sessions]
        assert [about in line for line in lines] == [bool(trusted)] * 4
        assert ["one proxy too many" in line for line in lines] == [False, False, False, True]
        assert one.listener.untouched()
        assert other.listener.untouched()
