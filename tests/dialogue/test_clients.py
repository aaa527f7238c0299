"""The client halves: what is said to backends, and what is made of their answers."""

import time

import pytest

from proxyhelper.dialogue.events import BackendFault, Forwarded
from proxyhelper.dialogue.greetings import Offer, greeting
from proxyhelper.dialogue.imap_client import Client as ImapClient
from proxyhelper.dialogue.imap_client import listed, login_command
from proxyhelper.dialogue.pop3_client import Client as Pop3Client

GREETING = b"* OK ready\r\n"
LOGIN = b'proxy1 LOGIN "u1" "x"\r\n'
TOLD = Forwarded(ip="192.0.2.7", session="s1", ttl=4)
ID = b'proxy0 ID ("x-originating-ip" "192.0.2.7" "x-session-id" "s1" "x-proxy-ttl" "4")\r\n'
XCLIENT = b"XCLIENT ADDR=192.0.2.7 SESSION=s1 TTL=4\r\n"


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


@pytest.mark.parametrize(
    ("response", "capabilities"),
    [
        (b"* OK [CAPABILITY IMAP4rev1 id] ready [X] Y\r\n", [b"IMAP4REV1", b"ID"]),
        (b"* ok [Capability Id]\r\n", [b"ID"]),
        (b"* CAPABILITY IMAP4rev1 ID\r\n", [b"IMAP4REV1", b"ID"]),
        (b"* OK CAPABILITY ID\r\n", []),
        (b"* OK [ALERT] [CAPABILITY ID]\r\n", []),
        (b"* OK ready\r\n", []),
        (b"* OK [CAPABILITY]\r\n", []),
        (b"\r\n", []),
    ],
)
def test_capability_lists(response, capabilities):
    assert listed(response) == capabilities


@pytest.mark.parametrize("size", [1, 1 << 16])
@pytest.mark.parametrize("reply", [b"* ID NIL\r\nproxy0 OK\r\n", b"proxy0 NO\r\n", b"* X\r\nproxy0 BAD what\r\n"])
def test_imap_id_goes_with_the_login(reply, size):
    client = ImapClient(b"u1", b"x", ask_capability=False, forwarded=TOLD)
    assert feed(client, b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n", size) == ID + LOGIN
    assert client.state == "reply to ID"
    assert feed(client, reply, size) == b""
    assert client.state == "login reply"
    feed(client, b"* Y\r\nproxy1 OK in\r\nglued", size)
    assert (client.reply.before, client.reply.verdict, client.reply.after) == (b"* Y\r\n", b"OK in\r\n", b"glued")


def test_imap_id_and_a_login_in_pieces():
    client = ImapClient(b"\xff", b"\xfe", ask_capability=False, forwarded=TOLD)
    assert client.feed(b"* OK [CAPABILITY ID] ready\r\n") == ID + b"proxy1 LOGIN {1}\r\n"
    assert client.feed(b"proxy0 OK\r\n+ go on\r\n") == b"\xff {1}\r\n"
    assert client.feed(b"+ go on\r\n") == b"\xfe\r\n"
    client.feed(b"proxy1 OK in\r\n")
    assert client.reply.accepted


@pytest.mark.parametrize("greeting", [GREETING, b"* OK [CAPABILITY IMAP4rev1 IDLE] ID\r\n", b"* OK [X] ID\r\n"])
def test_imap_id_is_not_for_those_that_do_not_name_it(greeting):
    assert ImapClient(b"u1", b"x", ask_capability=False, forwarded=TOLD).feed(greeting) == LOGIN


@pytest.mark.parametrize("forwarded", [None, Forwarded(), Forwarded(session="a\r\nb")])
def test_imap_without_anything_to_tell(forwarded):
    client = ImapClient(b"u1", b"x", ask_capability=False, forwarded=forwarded)
    assert client.feed(b"* OK [CAPABILITY ID] ready\r\n") == LOGIN
    client.feed(b"proxy1 OK in\r\n")
    assert client.reply.accepted


@pytest.mark.parametrize("line", [b"* BYE\r\n", b"proxy1 OK in\r\n", b"+ go on\r\n", b"proxy2 OK\r\n", b"x\r\n"])
def test_imap_id_replies_that_are_none(line):
    client = ImapClient(b"u1", b"x", ask_capability=False, forwarded=TOLD)
    client.feed(b"* OK [CAPABILITY ID] ready\r\n")
    with pytest.raises(BackendFault, match="reply to ID"):
        client.feed(line)


@pytest.mark.parametrize("size", [1, 1 << 16])
@pytest.mark.parametrize("greeting", [GREETING, b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n"])
def test_imap_starttls(greeting, size):
    client = ImapClient(b"u1", b"x", ask_capability=False, starttls=True)
    assert feed(client, greeting, size) == b"proxy3 STARTTLS\r\n"
    assert client.state == "STARTTLS reply"
    assert not client.wants_tls
    assert feed(client, b"* X\r\nproxy3 OK begin\r\n", size) == b""
    assert client.wants_tls
    assert client.secured() == LOGIN
    assert not client.wants_tls
    feed(client, b"proxy1 OK in\r\n", size)
    assert (client.reply.before, client.reply.verdict) == (b"", b"OK in\r\n")


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        (b"* CAPABILITY IMAP4rev1 ID\r\nproxy2 OK\r\n", ID + LOGIN),
        (b"* CAPABILITY IMAP4rev1\r\n* OK ID\r\nproxy2 OK\r\n", LOGIN),
        (b"proxy2 BAD what\r\n", LOGIN),
    ],
)
def test_imap_asks_again_behind_tls_what_the_backend_can(reply, sent):
    """What was said in clear counts no more: it may have been anybody's words."""
    client = ImapClient(b"u1", b"x", ask_capability=False, starttls=True, forwarded=TOLD)
    client.feed(b"* OK [CAPABILITY ID STARTTLS] ready\r\n* CAPABILITY ID\r\nproxy3 OK begin\r\n")
    assert client.secured() == b"proxy2 CAPABILITY\r\n"
    assert client.state == "capability reply"
    assert client.feed(reply) == sent


def test_imap_starttls_then_everything():
    client = ImapClient(b"u1", b"x", ask_capability=True, starttls=True, forwarded=TOLD)
    client.feed(b"* OK [CAPABILITY STARTTLS] ready\r\n")
    client.feed(b"proxy3 OK begin\r\n")
    client.secured()
    client.feed(b"* CAPABILITY ID\r\nproxy2 OK\r\n")
    assert client.feed(b"* ID NIL\r\nproxy0 OK\r\nproxy1 OK in\r\n") == b"proxy2 CAPABILITY\r\n"
    client.feed(b"* CAPABILITY MOVE\r\nproxy2 OK\r\n")
    assert (client.reply.before, client.reply.verdict) == (b"* CAPABILITY MOVE\r\n", b"OK in\r\n")


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n", b""),
        (GREETING + b"proxy3 NO no certificate\r\n", b"NO no certificate\r\n"),
        (GREETING + b"proxy3 BAD what\r\n", b"BAD what\r\n"),
        (GREETING + b"proxy3\x20\r\n", b"\r\n"),
    ],
)
def test_imap_starttls_that_is_not_offered(stream, said):
    with pytest.raises(BackendFault, match="does not offer STARTTLS") as fault:
        ImapClient(b"u1", b"x", ask_capability=False, starttls=True).feed(stream)
    assert fault.value.said == said


def test_pop3_starttls_that_is_not_offered():
    client = Pop3Client(b"u1", b"x", False, starttls=True)
    with pytest.raises(BackendFault, match="does not offer STARTTLS") as fault:
        client.feed(b"+OK hello\r\n-ERR what\r\n")
    assert fault.value.said == b"-ERR what\r\n"


BEGIN = {ImapClient: (GREETING, b"proxy3 OK begin\r\n"), Pop3Client: (b"+OK hello\r\n", b"+OK begin\r\n")}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("injected", [b"x", b"proxy1 OK in\r\n", b"+OK\r\n", b"\x16\x03\x03"])
@pytest.mark.parametrize("kind", [ImapClient, Pop3Client])
def test_bytes_in_clear_behind_the_starttls_reply(kind, injected, together):
    client = kind(b"u1", b"x", False, starttls=True)
    greeting, begin = BEGIN[kind]
    client.feed(greeting)
    if not together:
        client.feed(begin)
        assert client.wants_tls
    with pytest.raises(BackendFault, match="in clear behind its STARTTLS reply"):
        client.feed(begin + injected if together else injected)
    assert client.reply is None


@pytest.mark.parametrize("kind", [ImapClient, Pop3Client])
def test_bound_holds_across_tls(kind):
    client = kind(b"u1", b"x", False, starttls=True)
    greeting, begin = BEGIN[kind]
    client.feed(greeting)
    client.feed(begin)
    client.secured()
    with pytest.raises(BackendFault, match="over"):
        feed(client, b"x" * (2 << 20))


@pytest.mark.parametrize("size", [1, 1 << 16])
def test_pop3_stls_xclient_and_utf8(size):
    client = Pop3Client(b"u1", b"x", True, starttls=True, forwarded=TOLD)
    steps = []
    for said in (b"+OK [XCLIENT] hello\r\n", b"+OK begin\r\n", b"-ERR not from you\r\n", *[b"+OK\r\n"] * 3):
        steps.append((client.state, feed(client, said, size)))
        if client.wants_tls:
            steps.append(("TLS", client.secured()))
    assert steps == [
        ("greeting", b"STLS\r\n"),
        ("STARTTLS reply", b""),
        ("TLS", XCLIENT),
        ("XCLIENT reply", b"UTF8\r\n"),
        ("UTF8 reply", b"USER u1\r\n"),
        ("USER reply", b"PASS x\r\n"),
        ("PASS reply", b""),
    ]
    assert client.reply.accepted


@pytest.mark.parametrize(
    ("greeting", "forwarded"),
    [(b"+OK hello\r\n", TOLD), (b"+OK [XCLIENT] hello\r\n", None), (b"+OK [XCLIENT] hello\r\n", Forwarded())],
)
def test_pop3_without_xclient(greeting, forwarded):
    assert Pop3Client(b"u1", b"x", False, forwarded=forwarded).feed(greeting) == b"USER u1\r\n"


def test_pop3_of_our_kind_is_told_the_ttl_in_any_case():
    client = Pop3Client(b"u1", b"x", False, forwarded=TOLD)
    assert client.feed(greeting("pop3", Offer())) == b"XCLIENT TTL=4\r\n"
    assert client.feed(b"+OK\r\n") == b"USER u1\r\n"


def test_pop3_xclient_reply_that_is_none():
    client = Pop3Client(b"u1", b"x", False, forwarded=TOLD)
    assert client.feed(b"+OK [XCLIENT] hello\r\n") == XCLIENT
    with pytest.raises(BackendFault, match="not a XCLIENT reply"):
        client.feed(b"* OK\r\n")


def test_pop3_utf8_that_is_refused():
    client = Pop3Client(b"u1", b"x", True)
    client.feed(b"+OK hello\r\n")
    with pytest.raises(BackendFault, match="an error in place of a UTF8 reply"):
        client.feed(b"-ERR\r\n")
