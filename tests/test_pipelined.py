"""What a client sends behind its login belongs to the other side, to the byte."""

from __future__ import annotations

import pytest
from scripted import GREETING, read_login
from support import b64

PIPELINED = b"".join(b"a%d NOOP\r\n" % number for number in range(2, 4000))


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize(
    "login",
    [
        b"a1 LOGIN u1 secret\r\n",
        b"a1 LOGIN {2+}\r\nu1 {6+}\r\nsecret\r\n",
        b"a1 AUTHENTICATE PLAIN " + b64("", "u1", "secret") + b"\r\n",
        b"a1 AUTHENTICATE PLAIN\r\n" + b64("", "u1", "secret") + b"\r\n",
        b"a0 NOOP\r\na1 LOGIN {2}\r\nu1 {6}\r\nsecret\r\n",
    ],
)
@pytest.mark.parametrize("more", [b"a2 NOOP\r\n", b"a2 APPEND x {3+}\r\n\0\r\xff\r\n", PIPELINED], ids=len)
def test_imap_backend_gets_exactly_what_follows_the_login(site, greeted, backend, client, login, more):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(client=client)
    session.send(login + more)
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.exactly(len(more)) == more
    assert wire.silent(0.02)


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize(
    "login",
    [
        b"USER u1\r\nPASS secret\r\n",
        b"CAPA\r\nAUTH PLAIN " + b64("", "u1", "secret") + b"\r\n",
        b"AUTH LOGIN\r\n" + b64("u1") + b"\r\n" + b64("secret") + b"\r\n",
    ],
)
@pytest.mark.parametrize("more", [b"STAT\r\n", b"RETR 1\r\n" * 6000], ids=len)
def test_pop3_backend_gets_exactly_what_follows_the_login(site, greeted, backend, client, login, more):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted("pop3", client=client)
    session.send(login + more)
    wire = backend.greet(GREETING["pop3"])
    wire.send(read_login("pop3", wire).reply(b"+OK in"))
    assert wire.exactly(len(more)) == more
    assert wire.silent(0.02)


def test_what_follows_a_refused_login_is_for_the_helper(site, greeted, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(b"a1 LOGIN u1 wrong\r\na2 NOOP\r\na3 LOGIN u1 secret\r\na4 NOOP\r\n")
    assert session.line().startswith(b"a1 NO")
    assert session.line().startswith(b"a2 OK")
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.line() == b"a4 NOOP\r\n"
