"""A client that says too much, nothing, or nonsense, and one that leaves: told, closed, and never a traceback."""

from __future__ import annotations

import contextlib
import random
import re
import time

import pytest
from support import Session, patched

PROTOCOLS = ("imap", "pop3")

OVER_THE_BOUND = {
    "line": b"a LOGIN " + b"x" * 100_000,
    "spaces": b" " * 100_000,
    "ended line": b"a NOOP " + b"x" * 100_000 + b"\r\n",
    "literal": b"a LOGIN {100000000}\r\n",
    "huge literal": b"a LOGIN {99999999999999999999}\r\n",
    "non-synchronizing literal": b"a LOGIN {100000000+}\r\n" + b"x" * 100_000,
    "many literals": b"a LOGIN" + b" {1000+}\r\n" + b" {1000+}\r\n".join([b"x" * 1000] * 200),
    "bad commands": b"a NONSENSE\r\n" * 500,
    "empty lines": b"\r\n" * 10_000,
}


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("what", OVER_THE_BOUND)
def test_over_the_bound_imap_is_told_and_closed(greeted, client, what):
    session = greeted(client=client)
    assert told_and_closed(session, OVER_THE_BOUND[what]).startswith((b"* BYE", b"* BAD", b"a BAD", b"a NO [TOOBIG]"))


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize(
    "abuse",
    [b"USER " + b"x" * 100_000, b"x" * 100_000 + b"\r\n", b"NONSENSE\r\n" * 500, b"AUTH PLAIN\r\n" + b"A" * 100_000],
)
def test_over_the_bound_pop3_is_told_and_closed(greeted, client, abuse):
    assert told_and_closed(greeted("pop3", client=client), abuse).startswith(b"-ERR")


def told_and_closed(session: Session, abuse: bytes) -> bytes:
    """The last line the client sees, whether or not the helper takes all of the abuse."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        session.send(abuse)
    with contextlib.suppress(ConnectionResetError):
        while session.fill():
            pass
    session.close()
    assert session.exit_status() == 0
    return bytes(session.received).splitlines()[-1]


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("flood", ["a NOOP\r\n", "a NONSENSE\r\n", "x"])
def test_flood_does_not_put_the_end_off(greeted, client, flood):
    """A deadline counts for a client that never pauses, too, before the farewell and after it."""
    session = greeted(client=client, wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=0.5, FAREWELL_SECONDS=0.5))
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while session.process.poll() is None and time.monotonic() < started + 5:
            session.push(flood.encode() * 1000)
            if session.readable():
                session.pull()
    session.close()
    assert session.exit_status() == 0
    assert time.monotonic() < started + 4


STATES = {
    "greeting": ("imap", []),
    "within a line": ("imap", [b"a LOG"]),
    "before a literal": ("imap", [b"a LOGIN {5}\r\n"]),
    "within a literal": ("imap", [b"a LOGIN {5}\r\n", b"u1"]),
    "within a non-synchronizing literal": ("imap", [b"a LOGIN {50+}\r\nabc"]),
    "sasl": ("imap", [b"a AUTHENTICATE PLAIN\r\n"]),
    "within sasl": ("imap", [b"a AUTHENTICATE LOGIN\r\n", b"dTE=\r\n"]),
    "while a reply is due": ("imap", [b"a LOGIN nobody wrong\r\n"]),
    "pop3 greeting": ("pop3", []),
    "pop3 user": ("pop3", [b"USER u1\r\n"]),
    "pop3 within a line": ("pop3", [b"USER u1\r\n", b"PASS"]),
    "pop3 sasl": ("pop3", [b"AUTH LOGIN\r\n"]),
}


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("state", STATES)
def test_client_leaves(greeted, state, client):
    protocol, words = STATES[state]
    session = greeted(protocol, client=client)
    for word in words:
        session.send(word)
        if word.endswith(b"\r\n") and b"+}" not in word and b"nobody" not in word:
            session.line()
    session.half_close()
    session.rest()
    assert session.exit_status() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_resets(greeted, protocol):
    session = greeted(protocol)
    session.send(b"a LOGIN u1")
    session.reset()
    session.exit_status()


def test_client_is_gone_before_the_greeting(helper):
    for client in ("tcp", "socketpair"):
        session = helper(client=client)
        session.close()
        session.exit_status()


WORDS = [
    b"LOGIN",
    b"AUTHENTICATE",
    b"AUTH",
    b"PLAIN",
    b"LOGIN",
    b"USER",
    b"PASS",
    b"CAPABILITY",
    b"CAPA",
    b"ID",
    b"NIL",
    b"LOGOUT",
    b"QUIT",
    b"UTF8",
    b"LANG",
    b"NOOP",
    b"u1",
    b'"u1"',
    b'"',
    b"\\",
    b"{2}",
    b"{2+}",
    b"{0}",
    b"{",
    b"}",
    b"(",
    b")",
    b"=",
    b"*",
    b"+",
    b"a",
    b"a1",
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xc3\xa4",
    b"AHUxAHNlY3JldA==",
    b"dTE=",
    b"====",
    b"A" * 70,
    b"%s",
    b"%n",
]
CLEAN_LINE = {
    "imap": re.compile(rb"(\* |\+|[^\x00-\x20\x7f-\xff(){%*\"\\+]+ )[ -~]*\r\n"),
    "pop3": re.compile(rb"([+]|-ERR|\.|[A-Z])[ -~]*\r\n"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(40))
def test_garbage_never_upsets(site, helper, protocol, seed):
    site.account("u1", "other")
    chance = random.Random(f"{protocol} {seed}")
    session = helper(protocol, client=chance.choice(["socketpair", "pipes"]))
    for _ in range(chance.randrange(1, 5)):
        sent = b"".join(chance.choice([b"", b" "]) + chance.choice(WORDS) for _ in range(chance.randrange(60)))
        try:
            session.send(chance.choice([sent, b"a " + sent + b"\r\n", chance.randbytes(200) + b"\r\n"]))
        except (BrokenPipeError, ConnectionResetError):
            break
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        session.half_close()
        while session.fill():
            pass
    session.close()
    for line in bytes(session.received).splitlines(keepends=True):
        assert CLEAN_LINE[protocol].fullmatch(line), line
    assert session.exit_status() == 0
