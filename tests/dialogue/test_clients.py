"""The client halves: what is said to backends, and what is made of their answers."""

import time

import pytest

from proxyhelper.dialogue.events import BackendFault
from proxyhelper.dialogue.imap_client import Client as ImapClient
from proxyhelper.dialogue.imap_client import login_command
from proxyhelper.dialogue.pop3_client import Client as Pop3Client

GREETING = b"* OK ready\r\n"


def feed(client, stream, size=1 << 16):
    return b"".join(client.feed(stream[at : at + size]) for at in range(0, len(stream), size))


@pytest.mark.parametrize(
    ("user", "password", "pieces"),
    [
        (b"u1", b"secret", [b'proxy1 LOGIN "u1" "secret"\r\n']),
        (b"u1", b'a"b\\c', [b'proxy1 LOGIN "u1" "a\\"b\\\\c"\r\n']),
        (b"u1", b"\xc3\xb6", [b'proxy1 LOGIN "u1" {2}\r\n', b"\xc3\xb6\r\n"]),
        (b"\xff", b"\xfe", [b"proxy1 LOGIN {1}\r\n", b"\xff {1}\r\n", b"\xfe\r\n"]),
        (b"\xff", b"x", [b"proxy1 LOGIN {1}\r\n", b'\xff "x"\r\n']),
    ],
)
def test_login_is_quoted_or_literal_as_the_value_needs(user, password, pieces):
    assert login_command(user, password) == pieces


@pytest.mark.parametrize("size", [1, 3, 1 << 16])
@pytest.mark.parametrize("after", [b"", b"* 1 EXISTS\r\n\0\xff"])
def test_imap_reply(size, after):
    client = ImapClient(b"u1", b"x", ask_capability=False)
    assert feed(client, GREETING, size) == b'proxy1 LOGIN "u1" "x"\r\n'
    assert feed(client, b"* X {3}\r\na\r\n\r\nproxy1 OK [CAPABILITY Y] in\r\n", size) == b""
    feed(client, after, size)
    assert client.reply.accepted
    assert client.reply.before == b"* X {3}\r\na\r\n\r\n"
    assert client.reply.verdict == b"OK [CAPABILITY Y] in\r\n"


def test_imap_bytes_glued_to_the_reply():
    client = ImapClient(b"u1", b"x", ask_capability=False)
    client.feed(GREETING)
    client.feed(b"proxy1 OK in\r\n* 1 EXISTS\r\nhalf a li")
    assert client.reply.after == b"* 1 EXISTS\r\nhalf a li"


def test_imap_literals_wait_for_their_continuation():
    client = ImapClient(b"\xff", b"\xfe", ask_capability=False)
    assert client.feed(GREETING) == b"proxy1 LOGIN {1}\r\n"
    assert client.feed(b"+ go on\r\n") == b"\xff {1}\r\n"
    assert client.feed(b"+\r\n") == b"\xfe\r\n"
    with pytest.raises(BackendFault):
        client.feed(b"+ and more?\r\n")


@pytest.mark.parametrize("ending", [b"{3}", b"{3+}", b"[X] {99999}"])
def test_imap_status_text_holds_no_literal(ending):
    client = ImapClient(b"u1", b"x", ask_capability=False)
    assert client.feed(b"* OK ready " + ending + b"\r\n")
    client.feed(b"proxy1 OK in " + ending + b"\r\n")
    assert client.reply.accepted


def test_imap_refusal():
    client = ImapClient(b"u1", b"x", ask_capability=True)
    client.feed(GREETING)
    client.feed(b"proxy1 NO [EXPIRED] change it\r\n")
    assert not client.reply.accepted
    assert client.reply.verdict == b"NO [EXPIRED] change it\r\n"


@pytest.mark.parametrize(
    ("replies", "asked"),
    [
        (b"proxy1 OK [CAPABILITY X] in\r\n", b""),
        (b"* CAPABILITY X\r\nproxy1 OK in\r\n", b""),
        (b"proxy1 OK in\r\n", b"proxy2 CAPABILITY\r\n"),
        (b"proxy1 OK [ALERT] in\r\n", b"proxy2 CAPABILITY\r\n"),
    ],
)
def test_imap_foreign_asks_where_the_reply_does_not_tell(replies, asked):
    client = ImapClient(b"u1", b"x", ask_capability=True)
    client.feed(GREETING)
    assert client.feed(replies) == asked
    if asked:
        client.feed(b"* 3 EXISTS\r\n* CAPABILITY IMAP4rev1 MOVE\r\nproxy2 OK done\r\nglued")
        assert client.reply.before == b"* CAPABILITY IMAP4rev1 MOVE\r\n"
        assert client.reply.after == b"* 3 EXISTS\r\nglued"
    assert client.reply.accepted


@pytest.mark.parametrize(
    "greeting", [b"* PREAUTH hello\r\n", b"* BYE busy\r\n", b"+OK pop\r\n", b"\r\n", b"SSH-2.0\r\n", b"* OKAY\r\n"]
)
def test_imap_greetings_that_are_none(greeting):
    with pytest.raises(BackendFault):
        ImapClient(b"u1", b"x", ask_capability=False).feed(greeting)


@pytest.mark.parametrize("line", [b"* BYE\r\n", b"proxy1 BAD what\r\n", b"proxy2 OK\r\n", b"garbage\r\n", b"\r\n"])
def test_imap_replies_that_are_none(line):
    client = ImapClient(b"u1", b"x", ask_capability=False)
    client.feed(GREETING)
    with pytest.raises(BackendFault):
        client.feed(line)


@pytest.mark.parametrize("endless", [b"x" * 4096, b"* x\r\n" * 800, b"* {4000}\r\n" + b"x" * 4000])
def test_imap_bound(endless):
    client = ImapClient(b"u1", b"x", ask_capability=False)
    client.feed(GREETING)
    with pytest.raises(BackendFault):
        feed(client, endless * 1000)


def test_imap_bound_is_cheap_to_reach():
    client = ImapClient(b"u1", b"x", ask_capability=False)
    client.feed(GREETING)
    started = time.process_time()
    client.feed(b"* x\r\n" * 10_000)
    little = time.process_time() - started
    client.feed(b"* x\r\n" * 100_000)
    assert time.process_time() - started < 60 * little


@pytest.mark.parametrize("utf8", [False, True])
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_pop3_login(utf8, size):
    client = Pop3Client(b"u1", b" a  b ", utf8)
    if utf8:
        assert feed(client, b"+OK hello\r\n", size) == b"UTF8\r\n"
        assert feed(client, b"+OK\r\n", size) == b"USER u1\r\n"
    else:
        assert feed(client, b"+OK hello\r\n", size) == b"USER u1\r\n"
    assert feed(client, b"+OK\r\n", size) == b"PASS  a  b \r\n"
    feed(client, b"+OK 3 messages\r\n", size)
    assert client.reply.accepted
    assert client.reply.verdict == b"+OK 3 messages\r\n"


@pytest.mark.parametrize("at", ["USER", "PASS"])
def test_pop3_refusal(at):
    client = Pop3Client(b"u1", b"x", False)
    client.feed(b"+OK hello\r\n")
    if at == "PASS":
        client.feed(b"+OK\r\n")
    client.feed(b"-ERR [IN-USE] locked\r\nglued")
    assert not client.reply.accepted
    assert client.reply.verdict == b"-ERR [IN-USE] locked\r\n"


@pytest.mark.parametrize("stream", [b"-ERR busy\r\n", b"* OK imap\r\n", b"x" * 70000])
def test_pop3_greetings_that_are_none(stream):
    with pytest.raises(BackendFault):
        Pop3Client(b"u1", b"x", False).feed(stream)
