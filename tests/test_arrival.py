"""The PROXY protocol: who the client is, by the word of a balancer in front."""

from __future__ import annotations

import re
import socket
import struct

import pytest
from scripted import GREETING, LOGIN, log_in, start_tls
from support import FRONT, Session, Tls, patched
from test_local import LOGGED_IN, SERVER, Local

PROTOCOLS = ("imap", "pop3")
HELLO = {"imap": b"* OK ", "pop3": b"+OK "}
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, SERVED = ("203.0.113.9", 4711), ("198.51.100.1", 143)
CLIENT6, SERVED6 = ("2001:db8::9", 4712), ("2001:db8::1", 993)


def version1(client: tuple[str, int] = CLIENT, served: tuple[str, int] = SERVED) -> bytes:
    family = "TCP6" if ":" in client[0] else "TCP4"
    return f"PROXY {family} {client[0]} {served[0]} {client[1]} {served[1]}\r\n".encode()


def version2(
    client: tuple[str, int] = CLIENT, served: tuple[str, int] = SERVED, more: bytes = b"", command: int = 0x21
) -> bytes:
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, ip) for ip, _ in (client, served))
    block = addresses + struct.pack("!HH", client[1], served[1]) + more
    return SIGNATURE + struct.pack("!BBH", command, 0x21 if ":" in client[0] else 0x11, len(block)) + block


HEADERS = {
    "v1": (version1(), "::ffff:203.0.113.9", 4711),
    "v1 IPv6": (version1(CLIENT6, SERVED6), "2001:db8::9", 4712),
    "v1 mapped": (version1(("::ffff:203.0.113.9", 4711), ("::ffff:198.51.100.1", 143)), "::ffff:203.0.113.9", 4711),
    "v2": (version2(), "::ffff:203.0.113.9", 4711),
    "v2 IPv6": (version2(CLIENT6, SERVED6), "2001:db8::9", 4712),
    "v2 with TLVs": (version2(more=b"\x04\0\x05xxxxx\x03\0\x04abcd" + bytes(500)), "::ffff:203.0.113.9", 4711),
}
"""Headers, and what the log says then."""
OWN = {
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v1 UNKNOWN with addresses": b"PROXY UNKNOWN 203.0.113.9 198.51.100.1 4711 143\r\n",
    "v2 LOCAL": SIGNATURE + b"\x20\0\0\0",
    "v2 LOCAL with addresses": version2(command=0x20),
    "v2 UNSPEC": SIGNATURE + b"\x21\0\0\0",
    "v2 UDP": SIGNATURE + b"\x21\x12" + version2()[14:],
    "v2 Unix": SIGNATURE + b"\x21\x31\0\xd8" + b"/x".ljust(108, b"\0") * 2,
}
"""Headers that leave the client its socket's address."""
ANY = ("v1", "v2")
MALFORMED = {
    "a command": b"a NOOP\r\n",
    "a login": LOGIN["imap"],
    "a POP3 login": LOGIN["pop3"],
    "a ClientHello": b"\x16\x03\x01\x02\0\x01",
    "LF": version1()[:-2] + b"\n",
    "lower case": version1().lower(),
    "a name": b"PROXY TCP4 client.example 198.51.100.1 4711 143\r\n",
    "three fields": b"PROXY TCP4 203.0.113.9 198.51.100.1 4711\r\n",
    "a port too high": version1(("203.0.113.9", 65536)),
    "wrong family": b"PROXY TCP4 2001:db8::9 2001:db8::1 4711 143\r\n",
    "endless": b"PROXY TCP4 " + b"1" * 200,
    "v2 of version 3": SIGNATURE + b"\x31\x11" + version2()[14:],
    "v2 with another command": version2(command=0x22),
    "v2 too short": SIGNATURE + b"\x21\x11\0\x04abcd",
    "v2 too long": SIGNATURE + b"\x21\x11\xff\xff",
    "v2 signature": version2().replace(b"QUIT", b"QuIT"),
}


@pytest.fixture(autouse=True)
def behind_a_balancer(site) -> None:
    site.set(PROXY_PROTOCOL=1, PROXY_PROTOCOL_FROM="192.0.2.0/24, 127.0.0.1")


def greets(session: Session, protocol: str = "imap") -> None:
    assert session.line().startswith(HELLO[protocol])


def is_refused(session: Session, reason: str) -> str:
    """Closed without a word, and logged; the line."""
    assert session.ended()
    line = session.log.find("DISCONNECTED")
    assert line.startswith("WARN: DISCONNECTED, ip=[")
    assert f": PROXY protocol: {reason}" in line
    assert session.exit_status() == 0
    assert session.log.rest() == b""
    return line


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_s_address(site, helper, backend, protocol, header):
    """In each line, and what the balancer's is in one."""
    sent, ip, port = HEADERS[header]
    site.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    assert session.silent(0.05)
    session.send(sent)
    greets(session, protocol)
    wire = log_in(protocol, session, backend)
    wire.close()
    session.close()
    session.exit_status()
    lines = session.log.rest().decode().splitlines()
    events = ["DEBUG: PROXY", "DEBUG: Connection", "INFO: LOGIN", "INFO: LOGOUT"]
    assert [line.split(",")[0] for line in lines] == events
    about = rf", ip=\[{re.escape(ip)}\], port=\[{port}\], session=([0-9a-f]{{16}})"
    found = [re.search(about, line) for line in lines]
    assert len({match and match[1] for match in found}) == 1
    assert None not in found
    assert lines[0].endswith(", via=127.0.0.1")


@pytest.mark.parametrize("header", OWN)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header_that_leaves_the_socket_s_address(helper, protocol, header):
    session = helper(protocol)
    session.send(OWN[header])
    greets(session, protocol)
    assert f"ip=[::ffff:127.0.0.1], port=[{session.socket.getsockname()[1]}]" in session.log.find("Connection")


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize("header", ANY)
def test_byte_by_byte(site, helper, header, client):
    site.set(PROXY_PROTOCOL_FROM="127.0.0.1 192.0.2.7")
    session = helper(client=client, env={"TCPREMOTEIP": "192.0.2.7", "TCPREMOTEPORT": "9"})
    sent, ip, port = HEADERS[header]
    for byte in sent[:-1]:
        session.send(bytes([byte]))
    assert session.silent(0.02)
    session.send(sent[-1:])
    greets(session)
    assert f"ip=[{ip}], port=[{port}]" in session.log.find("Connection")


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("header", [*HEADERS, *OWN])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_command_in_the_same_segment(site, helper, protocol, header, client):
    session = helper(protocol, client=client, env={"TCPREMOTEIP": "192.0.2.7"})
    sent = HEADERS[header][0] if header in HEADERS else OWN[header]
    session.send(sent + (b"x NOOP\r\n" if protocol == "imap" else b"UTF8\r\n"))
    greets(session, protocol)
    assert session.line() == (b"x OK NOOP completed.\r\n" if protocol == "imap" else b"+OK UTF-8 from now on.\r\n")


@pytest.mark.parametrize("header", [*HEADERS, *OWN])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_hello_in_the_same_segment(certified, helper, authority, protocol, header):
    session = helper(protocol, env={"PROXY_TLS_WRAP": "1"})
    session.send = Prepended(session, HEADERS[header][0] if header in HEADERS else OWN[header])
    tls = Tls(session, authority.trusting(), FRONT)
    assert tls.line().startswith(HELLO[protocol])
    if header in HEADERS:
        assert f"ip=[{HEADERS[header][1]}]" in session.log.find("DEBUG: TLS")


class Prepended:
    """A send whose first bytes go out with others in front of them, as one segment."""

    def __init__(self, session: Session, first: bytes) -> None:
        self.send, self.first = session.send, first

    def __call__(self, data: bytes) -> None:
        if data:
            self.send(self.first + data)
            self.first = b""


@pytest.mark.parametrize("header", ANY)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_starttls_behind_a_header(certified, helper, backend, authority, protocol, header):
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.send(HEADERS[header][0])
    greets(session, protocol)
    start_tls(session, protocol)
    log_in(protocol, Tls(session, authority.trusting(), FRONT), backend)
    assert "ip=[::ffff:203.0.113.9], port=[4711]" in session.log.find("INFO: LOGIN")


@pytest.mark.parametrize("wrap", ["0", "1"])
@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_malformed(certified, helper, backend, protocol, what, wrap):
    """The log tells of no client that it would be, but of the balancer."""
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, env={"PROXY_TLS_WRAP": wrap})
    session.send(MALFORMED[what])
    line = is_refused(session, "no PROXY header: ")
    assert f"ip=[::ffff:127.0.0.1], port=[{session.socket.getsockname()[1]}], session=" in line
    assert "203.0.113.9" not in line.split("session=")[0]
    assert backend.untouched()


@pytest.mark.parametrize("sent", [b"", b"PROXY", version1()[:-1], SIGNATURE, version2()[:-1]])
def test_ended_before_the_header_did(helper, sent):
    session = helper()
    session.send(sent)
    session.half_close()
    is_refused(session, "the connection ended in place of a PROXY header")


@pytest.mark.parametrize("wrap", ["0", "1"])
@pytest.mark.parametrize("sent", [b"", version1()[:-1], version2()[:-1]])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_missing(certified, helper, protocol, sent, wrap):
    within = patched("proxyhelper.arrival", HEADER_SECONDS=0.2)
    session = helper(protocol, wrapped=within, env={"PROXY_TLS_WRAP": wrap})
    session.send(sent)
    is_refused(session, "timed out")


@pytest.mark.parametrize("networks", ["", "192.0.2.0/24", "::1", "::/0", "127.0.0.2 128.0.0.0/1"])
@pytest.mark.parametrize("header", ANY)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_untrusted(site, helper, protocol, header, networks):
    """It is not even listened to."""
    site.set(PROXY_PROTOCOL_FROM=networks)
    session = helper(protocol)
    session.send(HEADERS[header][0])
    line = is_refused(session, "PROXY_PROTOCOL_FROM does not name this address")
    assert f"ip=[::ffff:127.0.0.1], port=[{session.socket.getsockname()[1]}], session=" in line


def test_without_from_at_all(site, helper):
    del site.settings["PROXY_PROTOCOL_FROM"]
    site.set()
    is_refused(helper(), "PROXY_PROTOCOL_FROM does not name this address")


@pytest.mark.parametrize(
    ("networks", "client"),
    [("127.0.0.0/8", "mapped"), ("::ffff:127.0.0.1", "tcp"), ("::1/128", "tcp6"), ("::ffff:127.0.0.0/104", "mapped")],
)
def test_networks(site, helper, networks, client):
    site.set(PROXY_PROTOCOL_FROM=networks)
    session = helper(client=client)
    session.send(version1())
    greets(session)


@pytest.mark.parametrize("client", ["socketpair", "pipes"])
def test_nobody_knows_who_sends_it(helper, client):
    session = helper(client=client)
    session.send(version1())
    is_refused(session, "PROXY_PROTOCOL_FROM does not name this address")


@pytest.mark.parametrize("wrap", ["0", "1"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_networks_that_are_none(site, helper, protocol, wrap):
    site.set(PROXY_PROTOCOL_FROM="127.0.0.1 10.0.0.0/33")
    session = helper(protocol, env={"PROXY_TLS_WRAP": wrap})
    session.send(version1())
    session.log.find("ERR: CONFIGURATION, ip=[", "PROXY_PROTOCOL_FROM", "10.0.0.0/33")
    if wrap == "1":
        assert session.ended()
    else:
        assert session.line().startswith((b"* BYE [UNAVAILABLE]", b"-ERR [SYS/TEMP]"))
        session.half_close()
    assert session.exit_status() == 70


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("setting", ["0", "", "no"])
def test_not_asked_for(site, helper, protocol, setting):
    """Then nobody is believed, and the log names the setting."""
    site.set(PROXY_PROTOCOL=setting)
    session = helper(protocol)
    greets(session, protocol)
    session.send(version1())
    assert session.ended()
    line = session.log.find("DISCONNECTED")
    assert "ip=[::ffff:127.0.0.1]" in line
    assert "is PROXY_PROTOCOL=1 missing?" in line


def test_not_in_front_of_tls_of_somebody_else(site, greeted):
    """couriertls has read what came first; what is left is the dialogue. The header is read all the same where the
    setting asks for it."""
    session = greeted(env={"PROXY_PROTOCOL": "0", "IMAP_TLS": "1"})
    session.send(b"a NOOP\r\n")
    assert session.line().startswith(b"a OK")


@pytest.mark.parametrize("header", ["v1", "v2 IPv6"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_local_server_is_told(site, helper, home, protocol, header):
    site.account("u1", home=str(home), mail=f"{home}/Mail")
    session = helper(protocol, *SERVER)
    session.send(HEADERS[header][0])
    greets(session, protocol)
    session.send(LOGIN[protocol])
    session.until(LOGGED_IN[protocol])
    environment = Local(session, home).environment()
    client, served = (CLIENT, SERVED) if header == "v1" else (CLIENT6, SERVED6)
    names = ("TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT")
    assert [environment[name] for name in names] == [client[0], str(client[1]), served[0], str(served[1])]


@pytest.mark.parametrize("way", ["starttls", "wrapped"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_local_server_behind_tls_is_told(certified, helper, home, authority, protocol, way):
    certified.account("u1", home=str(home), mail=f"{home}/Mail")
    session = helper(protocol, *SERVER, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))})
    session.send(version2())
    if way == "starttls":
        greets(session, protocol)
        start_tls(session, protocol)
    tls = Tls(session, authority.trusting(), FRONT)
    if way == "wrapped":
        tls.line()
    tls.send(LOGIN[protocol])
    tls.until(LOGGED_IN[protocol])
    environment = Local(session, home).environment()
    assert (environment["TCPREMOTEIP"], environment["TCPREMOTEPORT"]) == ("203.0.113.9", "4711")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_is_told(site, helper, backend, protocol):
    """Not of the balancer."""
    site.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.send(version2(CLIENT6, SERVED6))
    greets(session, protocol)
    session.send(LOGIN[protocol])
    wire = backend.greet(b"* OK [CAPABILITY IMAP4rev1 ID] x\r\n" if protocol == "imap" else b"+OK [XCLIENT] x\r\n")
    told = wire.line()
    if protocol == "imap":
        assert b'"x-originating-ip" "2001:db8::9" "x-originating-port" "4712" "x-connected-ip" "2001:db8::1"' in told
    else:
        assert told.startswith(b"XCLIENT ADDR=2001:db8::9 PORT=4712 DESTADDR=2001:db8::1 DESTPORT=993 ")


def test_account_service_of_the_port_that_the_client_came_to(site, helper, backend):
    site.set(AUTHSERVICE143="webmail")
    site.account("u1", "other", mailhost=backend.mailhost, webmailpw="{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=")  # of secret
    session = helper()
    session.send(version1())
    greets(session)
    log_in("imap", session, backend)


def test_certificate_of_the_address_that_the_client_came_to(certified, helper, authority, front, tmp_path):
    certified.set(TLS_CERTFILE=tmp_path / "front.pem")
    (tmp_path / "front.pem").write_text(front.both.read_text())
    other = authority.issue("of-balancer", f"DNS:{FRONT}")
    (tmp_path / f"front.pem.{SERVED[0]}").write_text(other.both.read_text())
    session = helper(env={"PROXY_TLS_WRAP": "1"})
    session.send(version1())
    tls = Tls(session, authority.trusting(), FRONT)
    assert ("commonName", "of-balancer") in [field for (field,) in (tls.tls.getpeercert() or {})["subject"]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_loop_through_the_balancer(site, helper, protocol):
    """The address that clients come to is this very service."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        site.account("u1", mailhost=f"127.0.0.1:{port}")
        session = helper(protocol)
        session.send(version1(served=("127.0.0.1", port)))
        greets(session, protocol)
        session.send(LOGIN[protocol])
        session.until(b"a1 NO [SERVERBUG]" if protocol == "imap" else b"-ERR [SYS/PERM]")
        session.log.find("LOGIN REFUSED, user=u1, ip=[::ffff:203.0.113.9]", "this very service")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_that_goes_at_once(helper, protocol):
    """A balancer's health check: one that ends is no error, one that resets is none either."""
    for end in ("half_close", "reset"):
        session = helper(protocol)
        getattr(session, end)()
        session.log.find("DISCONNECTED")
        assert session.exit_status() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_greeting_waits_for_the_header(helper, backend, protocol):
    """Also where it comes in the middle of nothing: silence, the header, the greeting, one after the other."""
    session = helper(protocol)
    assert session.silent(0.3)
    session.send(version1())
    greets(session, protocol)
    assert session.silent(0.02)


def test_every_session_has_a_name_of_its_own(helper):
    names = set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(3):
            session = helper(client=listener)
            session.send(version1())
            greets(session)
            found = re.search("session=([0-9a-f]{16})$", session.log.find("Connection").rstrip("\n"))
            assert found
            names.add(found[1])
    assert len(names) == 3


def test_greeting_of_the_backend_is_not_a_header(site, helper, backend):
    """What is asked of clients is not said to backends unless it is asked for."""
    site.account("u1", mailhost=backend.mailhost)
    session = helper()
    session.send(version1())
    greets(session)
    session.send(LOGIN["imap"])
    wire = backend.accept()
    assert wire.silent(0.05)
    wire.send(GREETING["imap"])
    assert wire.line().startswith(b"proxy1 LOGIN")
