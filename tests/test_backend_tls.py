"""TLS towards backends: what is said in clear before it, whose certificates are believed, and that nothing is ever said
in clear instead."""

from __future__ import annotations

import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from real.certificates import Authority, Certificate
from scripted import GREETING, LOGIN, Backend, read_login
from support import Session, Tls, Wire, open_directory, patched
from test_arrival import SIGNATURE
from test_forwarded_clients import READY, told_by_us

PROTOCOLS = ("imap", "pop3")
MODES = ("starttls", "yes")
OFFERING = {"imap": b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n", "pop3": b"+OK ready\r\n"}
STARTTLS = {"imap": b"proxy3 STARTTLS\r\n", "pop3": b"STLS\r\n"}
GO_ON = {"imap": b"proxy3 OK go on\r\n", "pop3": b"+OK go on\r\n"}
NO = {"imap": b"proxy3 NO [UNAVAILABLE] not now\r\n", "pop3": b"-ERR not now\r\n"}
TEMPORARY = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
OK = {"imap": b"OK in", "pop3": b"+OK in"}
SEEN = {"imap": b"a1 OK in\r\n", "pop3": b"+OK in\r\n"}
FLAG = {"imap": "starttls=1", "pop3": "stls=1"}


@pytest.fixture(scope="session")
def mailhost(authority: Authority) -> Certificate:
    return authority.issue("mailhost", "IP:127.0.0.1", "DNS:localhost")


@pytest.fixture(params=MODES)
def mode(request, site, authority, backend) -> str:
    """The site's, and an account behind it."""
    mode = str(request.param)
    site.set(IMAP_PROXY_TLS=mode, POP3_PROXY_TLS=mode, PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    return mode


def context_of(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def begin(wire: Wire, protocol: str, mode: str, context: ssl.SSLContext, **options: bytes) -> Tls:
    """A backend's side until TLS has begun; every byte that it is sent in clear is accounted for."""
    if mode == "starttls":
        wire.send(OFFERING[protocol])
        assert wire.line() == STARTTLS[protocol]
        assert wire.silent(0)
        wire.send(GO_ON[protocol])
    return Tls(wire, context, server_side=True, **options)


def secured(backend: Backend, protocol: str, mode: str, context: ssl.SSLContext, greeting: bytes = b"") -> Tls:
    """A backend behind TLS, which waits for the login."""
    tls = begin(backend.accept(), protocol, mode, context)
    if mode == "yes":
        tls.send(greeting or GREETING[protocol])
    elif protocol == "imap":
        assert tls.line() == b"proxy2 CAPABILITY\r\n"
        tls.send(b"* CAPABILITY IMAP4rev1\r\nproxy2 OK\r\n")
    return tls


def is_put_off(session: Session, protocol: str, *reasons: str) -> None:
    """A temporary failure whose reason stands in the log; the dialogue goes on."""
    assert session.until(b"a1 " if protocol == "imap" else b"-ERR")[-1].startswith(TEMPORARY[protocol])
    line = session.log.find("LOGIN DEFERRED")
    assert line.startswith("ERR: LOGIN DEFERRED, user=u1, ip=[")
    assert [reason for reason in reasons if reason not in line] == [], line
    session.send(b"n NOOP\r\n" if protocol == "imap" else b"LANG EN\r\n")
    assert session.line().startswith((b"n OK", b"+OK en"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_session(mode, site, greeted, backend, mailhost, protocol):
    """Every byte, both ways; the log names the version."""
    session = greeted(protocol)
    session.send(LOGIN[protocol] + b"pipelined")
    tls = secured(backend, protocol, mode, context_of(mailhost))
    login = read_login(protocol, tls)
    assert (login.user, login.password) == (b"u1", b"secret")
    tls.send(login.reply(OK[protocol]) + b"glued\0\xff\r\n")
    tls.send(b"in the next record\r\n")
    assert session.until(SEEN[protocol])
    assert (session.line(), session.line()) == (b"glued\0\xff\r\n", b"in the next record\r\n")
    assert tls.exactly(9) == b"pipelined"
    about = rf"user=u1, ip=\[.*\], port=\[\d+\], session=\w+, protocol={protocol.upper()}"
    where = rf"backend={re.escape(backend.mailhost)}, backend_tls=TLSv1\.3"
    assert re.fullmatch(rf"INFO: LOGIN, {about}, {where}\n", session.log.find("LOGIN"))
    more = bytes(range(256)) * 2000
    session.send(more)
    assert tls.exactly(len(more)) == more
    tls.send(more)
    assert session.exactly(len(more)) == more
    session.half_close()
    assert tls.rest() == b""
    tls.send(b"last words")
    tls.half_close()
    tls.under.half_close()
    assert session.rest() == b"last words"
    counts = rf"rcvd={9 + len(more)}, sent={len(SEEN[protocol]) + 9 + 20 + len(more) + 10}, time=\d"
    assert re.fullmatch(rf"INFO: LOGOUT, {about}, {where}, {counts}\n", session.log.find("LOGOUT"))
    assert session.exit_status() == 0


@pytest.mark.parametrize("way", ["starttls", "wrapped"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_on_both_sides(mode, certified, request, backend, mailhost, protocol, way):
    session, client = request.getfixturevalue("secured")(protocol, way=way)
    client.send(LOGIN[protocol])
    tls = secured(backend, protocol, mode, context_of(mailhost))
    tls.send(read_login(protocol, tls).reply(OK[protocol]))
    client.until(SEEN[protocol])
    ending = f", backend_tls=TLSv1.3, {FLAG[protocol]}, tls=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384\n"
    assert session.log.find("INFO: LOGIN, ").endswith(ending)
    more = bytes(range(256)) * 2000
    client.send(more)
    assert tls.exactly(len(more)) == more
    tls.send(more + b"last words")
    tls.half_close()
    assert client.rest() == more + b"last words"
    client.send(b"and mine")
    client.half_close()
    assert tls.exactly(8) == b"and mine"
    assert tls.rest() == b""
    tls.under.half_close()
    session.half_close()
    assert session.ended()
    assert session.exit_status() == 0


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_that_does_not_wait(site, greeted, backend, authority, mailhost, protocol, newest):
    """Its greeting comes with the end of the handshake."""
    site.set(IMAP_PROXY_TLS="yes", POP3_PROXY_TLS="yes", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    context = context_of(mailhost)
    context.maximum_version = newest
    greeted(protocol).send(LOGIN[protocol])
    tls = begin(backend.accept(), protocol, "yes", context, first=GREETING[protocol])
    assert read_login(protocol, tls).password == b"secret"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_password_there(mode, greeted, backend, mailhost, protocol):
    session = greeted(protocol)
    for _ in range(2):
        session.send(LOGIN[protocol])
        tls = secured(backend, protocol, mode, context_of(mailhost))
        reply = b"NO [OVERQUOTA] x" if protocol == "imap" else b"-ERR [IN-USE] x"
        tls.send(read_login(protocol, tls).reply(reply))
        assert session.until(b"a1 NO [OVER" if protocol == "imap" else b"-ERR [IN-USE]")
        session.log.find("WARN: LOGIN REFUSED, user=u1")


# What is told, and when


def test_imap_capabilities_are_asked_for_again(site, greeted, backend, authority, mailhost):
    """Those of the greeting were said in clear."""
    site.set(IMAP_PROXY_TLS="starttls", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.greet(b"* OK [CAPABILITY IMAP4rev1 ID STARTTLS] x\r\n")
    assert wire.line() == STARTTLS["imap"]
    wire.send(GO_ON["imap"])
    tls = Tls(wire, context_of(mailhost), server_side=True)
    assert tls.line() == b"proxy2 CAPABILITY\r\n"
    tls.send(b"* CAPABILITY IMAP4rev1\r\nproxy2 OK\r\n")
    assert tls.line().startswith(b"proxy1 LOGIN")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_is_told_of_behind_tls(mode, site, greeted, backend, mailhost, protocol):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    if mode == "starttls":
        wire.send(READY[protocol].replace(b"ID ", b"ID STARTTLS "))
        assert wire.line() == STARTTLS[protocol]
        wire.send(GO_ON[protocol])
    tls = Tls(wire, context_of(mailhost), server_side=True)
    if mode == "yes":
        tls.send(READY[protocol])
    elif protocol == "imap":
        assert tls.line() == b"proxy2 CAPABILITY\r\n"
        tls.send(b"* CAPABILITY IMAP4rev1 ID\r\nproxy2 OK\r\n")
    told = told_by_us(tls, protocol)
    assert (told["ip"], told["port"]) == ("127.0.0.1", str(session.socket.getsockname()[1]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_told(mode, site, greeted, backend, mailhost, protocol):
    site.set(IMAP_PROXY_SEND="no", POP3_PROXY_SEND="no")
    greeted(protocol).send(LOGIN[protocol])
    tls = begin(backend.accept(), protocol, mode, context_of(mailhost))
    if mode == "yes":
        tls.send(READY[protocol])
    assert tls.line() == (b'proxy1 LOGIN "u1" "secret"\r\n' if protocol == "imap" else b"USER u1\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_header_stands_in_front_of_everything(mode, site, greeted, backend, mailhost, protocol):
    site.set(IMAP_PROXY_SEND="proxy-v2", POP3_PROXY_SEND="proxy-v2")
    greeted(protocol).send(LOGIN[protocol])
    wire = backend.accept()
    header = wire.exactly(28)
    assert header.startswith(SIGNATURE + b"\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1")
    tls = begin(wire, protocol, mode, context_of(mailhost))
    if mode == "yes":
        tls.send(GREETING[protocol])
    elif protocol == "imap":
        assert tls.line() == b"proxy2 CAPABILITY\r\n"
        tls.send(b"proxy2 OK\r\n")
    assert read_login(protocol, tls).password == b"secret"


def test_utf8_behind_tls(mode, greeted, backend, mailhost):
    session = greeted("pop3")
    session.send(b"UTF8\r\n" + LOGIN["pop3"])
    tls = secured(backend, "pop3", mode, context_of(mailhost))
    assert tls.line() == b"UTF8\r\n"


# Whether there is TLS at all


@pytest.mark.parametrize("setting", ["", "no", "NO"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_by_itself(site, greeted, backend, protocol, setting):
    """As Courier's, though the backend offers it."""
    site.set(IMAP_PROXY_TLS=setting, POP3_PROXY_TLS=setting)
    site.account("u1", mailhost=backend.mailhost)
    greeted(protocol).send(LOGIN[protocol])
    assert read_login(protocol, backend.greet(OFFERING[protocol])).password == b"secret"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("setting", "option", "expected"),
    [
        ("no", "starttls", "starttls"),
        ("no", "yes", "yes"),
        ("no", "YES", "yes"),
        ("yes", "starttls", "starttls"),
        ("yes", "no", "no"),
        ("starttls", "no", "no"),
        ("StartTLS", "", "starttls"),
    ],
)
def test_account_s_own_mode(site, greeted, backend, authority, mailhost, protocol, setting, option, expected):
    site.set(IMAP_PROXY_TLS=setting, POP3_PROXY_TLS=setting, PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost, options=f"mailhosttls={option}")
    greeted(protocol).send(LOGIN[protocol])
    if expected == "no":
        wire: Wire = backend.greet(OFFERING[protocol])
    else:
        wire = secured(backend, protocol, expected, context_of(mailhost))
    assert read_login(protocol, wire).password == b"secret"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_account_s_mode_that_is_none(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost, options="mailhosttls=perhaps")
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    is_put_off(session, protocol, "mailhosttls='perhaps'")
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_setting_that_is_none(site, helper, protocol):
    site.set(IMAP_PROXY_TLS="perhaps", POP3_PROXY_TLS="perhaps")
    session = helper(protocol)
    assert session.line().startswith((b"* BYE [UNAVAILABLE]", b"-ERR [SYS/TEMP]"))
    session.log.find(
        "ERR: CONFIGURATION, ip=[", f"{protocol.upper()}_PROXY_TLS='perhaps' must be one of no, starttls, yes"
    )


@pytest.mark.parametrize(("protocol", "port"), [("imap", 993), ("pop3", 995)])
def test_ports(site, greeted, authority, protocol, port):
    """Behind TLS from the first byte, where neither the account nor the site names one."""
    site.set(IMAP_PROXY_TLS="yes", POP3_PROXY_TLS="yes", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost="127.0.0.99")
    with closing(Backend("127.0.0.99", port)) as backend:
        greeted(protocol).send(LOGIN[protocol])
        tls = secured(backend, protocol, "yes", context_of(authority.issue("port", "IP:127.0.0.99")))
        assert read_login(protocol, tls).password == b"secret"


# Whose certificates are believed


Certify = Callable[[str], Certificate]


@pytest.fixture(scope="module")
def certify(authority: Authority) -> Iterator[Certify]:
    """A certificate by what is wrong with it."""
    made: dict[str, Certificate] = {}
    with open_directory() as directory:
        foreign = Authority(directory)

        def make(what: str) -> Certificate:
            if what not in made:
                made[what] = {
                    "another name": lambda: authority.issue("wrong", "DNS:localhost", "DNS:127.0.0.1", "IP:127.0.0.2"),
                    "no name": lambda: authority.issue("nameless", subject="/CN=127.0.0.1"),
                    "expired": lambda: authority.issue(
                        "expired", "IP:127.0.0.1", start=-timedelta(days=9), end=-timedelta(days=1)
                    ),
                    "not yet": lambda: authority.issue("early", "IP:127.0.0.1", start=timedelta(days=1)),
                    "self-signed": lambda: authority.self_signed("self", "IP:127.0.0.1"),
                    "of another authority": lambda: foreign.issue("foreign", "IP:127.0.0.1"),
                }[what]()
            return made[what]

        yield make


BAD = {
    "another name": "IP address mismatch, certificate is not valid for '127.0.0.1'.",
    "no name": "IP address mismatch, certificate is not valid for '127.0.0.1'.",
    "expired": "certificate has expired",
    "not yet": "certificate is not yet valid",
    "self-signed": "self-signed certificate",
    "of another authority": "unable to get local issuer certificate",
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificate_that_is_refused(mode, greeted, backend, certify, protocol, what):
    """Not a byte of the login is said, neither behind such TLS nor in clear."""
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    with pytest.raises((ssl.SSLError, EOFError)):  # noqa: PT012  TLS 1.3 tells it behind the handshake
        tls = begin(wire, protocol, mode, context_of(certify(what)))
        said = tls.rest()
        raise AssertionError(said)
    is_put_off(
        session,
        protocol,
        f"backend {backend.mailhost}: 127.0.0.1: TLS failed: the certificate was refused: {BAD[what]}",
    )
    assert backend.untouched()


def test_name_of_the_mailhost_is_what_counts(mode, site, greeted, backend, certify):
    """Not its address."""
    site.account("u2", mailhost=f"LocalHost.:{backend.port}")
    greeted().send(LOGIN["imap"].replace(b"u1", b"u2"))
    tls = secured(backend, "imap", mode, context_of(certify("another name")))  # it has localhost's
    assert read_login("imap", tls).user == b"u2"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_system_s_authorities_unless_others_are_named(mode, site, greeted, backend, mailhost, protocol):
    site.set(PROXY_CAFILE="")
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    with pytest.raises((ssl.SSLError, EOFError)):
        begin(backend.accept(), protocol, mode, context_of(mailhost)).rest()
    is_put_off(session, protocol, "the certificate was refused: unable to get local issuer certificate")


def test_system_s_authorities(mode, site, greeted, backend, authority, mailhost):
    """Where OpenSSL looks for them, which its environment may move."""
    site.set(PROXY_CAFILE="")
    greeted(env={"SSL_CERT_FILE": str(authority.ca)}).send(LOGIN["imap"])
    assert read_login("imap", secured(backend, "imap", mode, context_of(mailhost))).user == b"u1"


def test_authorities_in_a_directory(mode, site, greeted, backend, authority, mailhost, tmp_path):
    """As c_rehash makes it; OpenSSL looks into it late, when this process is PROXY_USER already."""
    hashing = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(authority.ca)]
    name = subprocess.run(hashing, capture_output=True, text=True, check=True).stdout.strip()
    with open_directory() as directory:
        Path(directory, f"{name}.0").write_text(authority.ca.read_text())
        site.set(PROXY_CAFILE=directory)
        greeted().send(LOGIN["imap"])
        assert read_login("imap", secured(backend, "imap", mode, context_of(mailhost))).user == b"u1"


@pytest.mark.parametrize("content", [None, "", "garbage"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_authorities_that_cannot_be_read(mode, site, greeted, backend, tmp_path, protocol, content):
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    site.set(PROXY_CAFILE=file)
    session = greeted(protocol)
    for _ in range(2):
        session.send(LOGIN[protocol])
        is_put_off(session, protocol, f"PROXY_CAFILE='{file}' cannot be used")
    assert backend.untouched()


# Where there is none after all


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("reply", ["no", "bad", "none"])
def test_backend_that_does_not_offer_it(site, greeted, backend, authority, protocol, reply):
    """No silent fall-back; where the greeting tells so, it is not even asked."""
    site.set(IMAP_PROXY_TLS="starttls", POP3_PROXY_TLS="starttls", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.greet(
        b"* OK [CAPABILITY IMAP4rev1 ID] x\r\n" if reply == "none" and protocol == "imap" else GREETING[protocol]
    )
    if reply != "none" or protocol == "pop3":
        assert wire.line() == STARTTLS[protocol]
        wire.send(b"proxy3 BAD what\r\n" if reply == "bad" and protocol == "imap" else NO[protocol])
    is_put_off(session, protocol, f"backend {backend.mailhost}: 127.0.0.1: does not offer STARTTLS")
    assert wire.rest() == b""
    assert backend.untouched()


@pytest.mark.parametrize(
    "injected", [b"* CAPABILITY IMAP4rev1\r\n", b"\r\n", b"x", b"proxy1 OK in\r\n", b"\x16\x03\x03\0\x7a"]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_in_clear_behind_its_reply(site, greeted, backend, authority, protocol, injected):
    """They could be anybody's: no TLS begins, which would hide that."""
    site.set(IMAP_PROXY_TLS="starttls", POP3_PROXY_TLS="starttls", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.greet(OFFERING[protocol])
    assert wire.line() == STARTTLS[protocol]
    wire.send(GO_ON[protocol] + injected)
    is_put_off(session, protocol, f"sent {len(injected)} bytes in clear behind its STARTTLS reply")
    assert wire.ended()
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_in_clear_a_little_later(site, greeted, backend, authority, protocol):
    """They come into the handshake, which fails of them."""
    site.set(IMAP_PROXY_TLS="starttls", POP3_PROXY_TLS="starttls", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.greet(OFFERING[protocol])
    assert wire.line() == STARTTLS[protocol]
    wire.send(GO_ON[protocol])
    wire.fill()  # a ClientHello
    wire.send(b"proxy1 OK in\r\n")
    is_put_off(session, protocol, "TLS failed: wrong version number")
    assert b"secret" not in wire.received + wire.rest()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"* OK in clear, at once\r\n", "TLS failed: wrong version number"), (b"", "TLS failed: the connection ended")],
)
def test_no_tls_in_the_handshake(mode, greeted, backend, protocol, said, reason):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    if mode == "starttls":
        wire.send(OFFERING[protocol])
        wire.line()
        wire.send(GO_ON[protocol])
    wire.fill()
    if said:
        wire.send(said)
    else:
        wire.half_close()
    is_put_off(session, protocol, reason)
    assert b"secret" not in wire.received


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_silence_in_the_handshake(mode, site, helper, backend, protocol):
    site.set(PROXY_TIMEOUT=1)
    session = helper(protocol, wrapped=patched("proxyhelper.backend", REPLY_SECONDS=1.0))
    session.line()
    session.send(LOGIN[protocol])
    wire = backend.accept()
    if mode == "starttls":
        wire.send(OFFERING[protocol])
        wire.line()
        wire.send(GO_ON[protocol])
    wire.fill()
    before = time.monotonic()
    is_put_off(session, protocol, "no TLS handshake: timed out")
    assert time.monotonic() - before < 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_older_tls(mode, greeted, backend, mailhost, protocol):
    context = context_of(mailhost)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    with pytest.raises(ssl.SSLError):
        begin(backend.accept(), protocol, mode, context)
    is_put_off(session, protocol, "TLS failed: ", "protocol version")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_backend_that_demands_a_certificate(mode, greeted, backend, authority, mailhost, newest):
    """We have none to show; TLS 1.3 tells so when the handshake seems to be over."""
    context = context_of(mailhost)
    context.maximum_version = newest
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    session = greeted()
    session.send(LOGIN["imap"])
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        begin(backend.accept(), "imap", mode, context)
    for wire in backend.wires:
        wire.half_close()
    is_put_off(session, "imap", f"backend {backend.mailhost}: 127.0.0.1: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_that_goes_in_the_middle_of_the_login(mode, greeted, backend, mailhost, protocol):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    tls = secured(backend, protocol, mode, context_of(mailhost))
    tls.line()
    tls.half_close()
    tls.under.half_close()
    is_put_off(session, protocol, "closed the connection in place of a ", "reply")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_that_is_cut_off_in_the_middle_of_the_login(mode, greeted, backend, mailhost, protocol):
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    tls = secured(backend, protocol, mode, context_of(mailhost))
    tls.line()
    tls.under.half_close()
    is_put_off(session, protocol, "TLS ended without a goodbye")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_next_login_begins_anew(mode, greeted, backend, certify, mailhost, protocol):
    """A failure of TLS leaves nothing behind, root's rights included."""
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    with pytest.raises((ssl.SSLError, EOFError)):
        begin(backend.accept(), protocol, mode, context_of(certify("expired"))).rest()
    is_put_off(session, protocol, "expired")
    session.send(LOGIN[protocol])
    tls = secured(backend, protocol, mode, context_of(mailhost))
    tls.send(read_login(protocol, tls).reply(OK[protocol]))
    session.until(SEEN[protocol])
