"""Logging in at a backend: the exact bytes to it, and the exact bytes of its reply to the client."""

from __future__ import annotations

import socket

import pytest
from scripted import GREETING, LOGIN, read_login, reply_to
from support import b64, hashed

PROTOCOLS = ("imap", "pop3")
OK = {"imap": b"OK done", "pop3": b"+OK done"}
REFUSAL = {"imap": b"NO [OVERQUOTA] you have too much", "pop3": b"-ERR [IN-USE] somebody reads it"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("user", "password"),
    [
        (b"u1", b"secret"),
        (b"u1@example.com", b"with blank"),
        (b"u1", b'quo"te'),
        (b"u1", b"back\\slash\\"),
        (b"u1", b" lead"),
        (b"u1", b"trail "),
        (b"u1", b"(){}%*]"),
        (b"\xc3\xa4@example.com", b"secret"),
        (b"u1", b"p\xc3\xa4ss w\xc3\xb6rd"),
        (b"NIL", b"NIL"),
        (b"u1", b"{5}"),
        (b"u1", b"{5+}"),
        (b"u1", b"~"),
        (b"u1", b"x" * 200),
        (b"u1", b"+ OK"),
    ],
)
def test_backend_learns_the_credentials_exactly(site, greeted, backend, protocol, user, password):
    site.account(user.decode(), password.decode(), mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(
        b"a1 AUTHENTICATE PLAIN " + b64("", user, password) + b"\r\n"
        if protocol == "imap"
        else b"AUTH PLAIN " + b64("", user, password) + b"\r\n"
    )
    login = read_login(protocol, backend.greet(GREETING[protocol]))
    assert (login.user, login.password) == (user, password)
    if protocol == "imap" and not (user + password).isascii():
        assert b"}\r\n" in login.raw, "8-bit needs a literal"


@pytest.mark.parametrize(
    "sent",
    [
        b"a1 LOGIN u1 secret\r\n",
        b'a1 login "u1" "secret"\r\n',
        b"a1 LOGIN {2+}\r\nu1 {6+}\r\nsecret\r\n",
        b'a1 LOGIN "\\u1" secret\r\n',
        b'a1 LOGIN u1 "sec\\ret"\r\n',
    ],
)
def test_imap_login_in_every_form(site, greeted, backend, sent):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(sent)
    if b"\\" in sent:
        assert session.line().startswith(b"a1 BAD"), "only a quote and a backslash may follow a backslash"
        return
    login = read_login("imap", backend.greet(GREETING["imap"]))
    assert (login.user, login.password) == (b"u1", b"secret")


def test_imap_literals_are_asked_for(site, greeted, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(b"a1 LOGIN {2}\r\n")
    assert session.line().startswith(b"+ ")
    session.send(b"u1 {6}\r\n")
    assert session.line().startswith(b"+ ")
    session.send(b"secret\r\n")
    login = read_login("imap", backend.greet(GREETING["imap"]))
    assert (login.user, login.password) == (b"u1", b"secret")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_sasl_in_steps(site, greeted, backend, protocol, mechanism):
    site.set(IMAP_CAPABILITY="IMAP4rev1 AUTH=PLAIN AUTH=LOGIN")
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send((b"a1 AUTHENTICATE " if protocol == "imap" else b"AUTH ") + mechanism.encode() + b"\r\n")
    steps = [b64("", "u1", "secret")] if mechanism == "PLAIN" else [b64("u1"), b64("secret")]
    for step in steps:
        assert session.line().startswith(b"+ ")
        session.send(step + b"\r\n")
    login = read_login(protocol, backend.greet(GREETING[protocol]))
    assert (login.user, login.password) == (b"u1", b"secret")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sasl_cancelled(greeted, protocol):
    session = greeted(protocol)
    session.send(b"a1 AUTHENTICATE PLAIN\r\n" if protocol == "imap" else b"AUTH PLAIN\r\n")
    assert session.line().startswith(b"+ ")
    session.send(b"*\r\n")
    assert session.line().startswith(b"a1 BAD" if protocol == "imap" else b"-ERR")
    session.send(b"a2 NOOP\r\n" if protocol == "imap" else b"CAPA\r\n")
    assert session.line().startswith((b"a2 OK", b"+OK"))


def test_blanks_in_a_pop3_password_count(site, greeted, backend):
    site.account("u1", " a  b ", mailhost=backend.mailhost)
    session = greeted("pop3")
    session.send(b"USER u1\r\nPASS  a  b \r\n")
    assert read_login("pop3", backend.greet(GREETING["pop3"])).password == b" a  b "


def test_utf8_is_repeated_to_a_pop3_backend_before_the_login(site, greeted, backend):
    site.account("\u00e4", mailhost=backend.mailhost)
    session = greeted("pop3")
    session.send(b"UTF8\r\n")
    assert session.line().startswith(b"+OK")
    session.send("USER \u00e4\r\nPASS secret\r\n".encode())
    wire = backend.greet(GREETING["pop3"])
    assert wire.line() == b"UTF8\r\n"
    wire.send(b"+OK\r\n")
    login = read_login("pop3", wire)
    assert login.user == "\u00e4".encode()


def test_address_with_the_default_domain_is_what_the_backend_is_told(site, greeted, backend):
    site.set(DEFDOMAIN="@example.com")
    site.account("u1@example.com", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    assert read_login("imap", backend.greet(GREETING["imap"])).user == b"u1@example.com"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stored", ["systempw", "servicepw"])
def test_service_password_comes_first(site, greeted, backend, protocol, stored):
    fields = {"systempw": hashed("wrong"), f"{'imap' if protocol == 'imap' else 'pop3'}pw": hashed("secret")}
    site.account("u1", mailhost=backend.mailhost, **fields if stored == "servicepw" else {})
    greeted(protocol).send(LOGIN[protocol])
    backend.accept()


@pytest.mark.parametrize(
    "text",
    [
        b"OK [CAPABILITY IMAP4rev1 IDLE X-OWN] Logged in, \xc3\xa4",
        b"OK x",
        b"OK [ALERT] y",
        b"OK [CAPABILITY " + b" ".join(b"X%d" % n for n in range(4000)) + b"] long",
    ],
)
def test_imap_reply_comes_through_under_the_client_s_tag(site, greeted, backend, text):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(b"My.Tag LOGIN u1 secret\r\n")
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    wire.send(login.reply(text) + b"* 1 EXISTS\r\nglued\0\xff")
    assert session.exactly(len(text) + 28) == b"My.Tag " + text + b"\r\n* 1 EXISTS\r\nglued\0\xff"


@pytest.mark.parametrize(
    "untagged",
    [
        [b"* OK [ALERT] back up\r\n"],
        [b"* CAPABILITY IMAP4rev1 X\r\n", b"* ID NIL\r\n"],
        [b"* OK " + b"x" * 100_000 + b"\r\n"],
        [b"* OK \xff\x80 \r\n"],
        [b"* OK line %d\r\n" % number for number in range(500)],
    ],
    ids=len,
)
def test_untagged_lines_come_before_the_reply(site, greeted, backend, untagged):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    wire.send(b"".join(untagged) + login.reply(b"OK in"))
    assert session.until(b"a1 ") == [*untagged, b"a1 OK in\r\n"]


def test_untagged_literal_is_not_read_as_lines(site, greeted, backend):
    """A tagged line within a literal is nobody's reply."""
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    trap = login.tag + b" NO trap\r\n"
    wire.send(b'* ID ("name" {%d}\r\n%s)\r\n' % (len(trap), trap) + login.reply(b"OK in"))
    got = b"".join(session.until(b"a1 "))
    assert got.endswith(b"a1 OK in\r\n")
    assert trap in got


@pytest.mark.parametrize("text", [b"+OK Logged in, \xc3\xa4.", b"+OK", b"+OK [X] two", b"+OK " + b"x" * 50_000])
def test_pop3_reply_comes_through(site, greeted, backend, text):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted("pop3")
    session.send(b"USER u1\r\n")
    session.line()
    session.send(b"PASS secret\r\n")
    wire = backend.greet(b"+OK <1.2@timestamp> ready\r\n")
    login = read_login("pop3", wire)
    wire.send(login.reply(text) + b"glued")
    assert session.exactly(len(text) + 7) == text + b"\r\nglued"


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_that_writes_in_small_pieces(site, greeted, backend, protocol, step):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    in_pieces(wire, GREETING[protocol], step)
    login = read_login(protocol, wire)
    in_pieces(wire, login.reply(OK[protocol]) + b"more", step)
    assert reply_to(session, protocol).endswith(OK[protocol] + b"\r\n")
    assert session.exactly(4) == b"more"


def in_pieces(wire, data, size):
    for at in range(0, len(data), size):
        wire.send(data[at : at + size])


@pytest.mark.parametrize(
    ("text", "asked"), [(b"OK in", True), (b"OK [CAPABILITY IMAP4rev1 Y] in", False), (b"OK [ALERT] in", True)]
)
def test_foreign_backend_s_capabilities_come_first(site, greeted, backend, text, asked):
    site.set(IMAP_PROXY_FOREIGN=1)
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"] + b"a2 NOOP\r\n")
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    wire.send(login.reply(text))
    if asked:
        tag, word = wire.line().split()
        assert word.upper() == b"CAPABILITY"
        wire.send(b"* CAPABILITY IMAP4rev1 X-FOREIGN\r\n" + tag + b" OK done\r\n* 5 EXISTS\r\n")
        assert session.line() == b"* CAPABILITY IMAP4rev1 X-FOREIGN\r\n"
    assert session.line() == b"a1 " + text + b"\r\n"
    if asked:
        assert session.line() == b"* 5 EXISTS\r\n"
    assert wire.line() == b"a2 NOOP\r\n"


def test_backend_is_not_asked_for_capabilities_otherwise(site, greeted, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"] + b"a2 NOOP\r\n")
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.line() == b"a2 NOOP\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusal_is_the_client_s_to_read(site, greeted, protocol, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "5"})
    for _ in range(2):
        session.send(LOGIN[protocol])
        wire = backend.greet(GREETING[protocol])
        wire.send(read_login(protocol, wire).reply(REFUSAL[protocol]))
        assert session.until((b"a1 ", b"-ERR")[protocol == "pop3"])[-1].endswith(REFUSAL[protocol] + b"\r\n")
        line = session.log.find("LOGIN REFUSED, user=u1, ip=[")
        assert line.startswith("WARN: ")
        assert backend.host in line
        assert "OVERQUOTA" in line or "IN-USE" in line
        assert wire.rest() in (b"", b"QUIT\r\n", b"LOGOUT\r\n")
    session.send(LOGIN[protocol])
    wire = backend.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(OK[protocol]))
    assert session.until((b"a1 ", b"+OK done")[protocol == "pop3"])[-1].endswith(OK[protocol] + b"\r\n")


def test_pop3_backend_that_refuses_the_name(site, greeted, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted("pop3")
    session.send(LOGIN["pop3"])
    wire = backend.greet(GREETING["pop3"])
    assert wire.line() == b"USER u1\r\n"
    wire.send(b"-ERR [AUTH] who?\r\n")
    assert reply_to(session, "pop3") == b"-ERR [AUTH] who?\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_local_account_after_a_backend_s_refusal(site, greeted, backend, home, protocol):
    """Reaching the backend needed no root; becoming the next user does."""
    site.account("u1", mailhost=backend.mailhost)
    site.account("u2", home=str(home), mail=str(home))
    session = greeted(protocol, "/bin/sh", "-c", "printf 'uid '; id -u", "sh", "Maildir")
    session.send(LOGIN[protocol])
    wire = backend.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(REFUSAL[protocol]))
    session.until((b"a1 ", b"-ERR")[protocol == "pop3"])
    session.send(LOGIN[protocol].replace(b"u1", b"u2"))
    assert session.until(b"uid ")[-1] == b"uid 1000\n"
