"""IMAP before login, byte by byte."""

import pytest
from dialogues import b64, login_of, play, serving

from proxyhelper.dialogue.events import Abuse, Login, LoginRefused, Logout, Reply, StartTls
from proxyhelper.dialogue.greetings import Offer, capability, greeting
from proxyhelper.dialogue.imap import Server


@pytest.fixture
def server():
    return serving(Server, capabilities=["IMAP4rev1"])


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize(
    ("command", "user", "password"),
    [
        (b"a LOGIN u1@example.com secret\r\n", "u1@example.com", b"secret"),
        (b"a login u1 secret\n", "u1", b"secret"),
        (b'a LOGIN "u1" "a \\"b\\" \\\\ c"\r\n', "u1", b'a "b" \\ c'),
        (b'a LOGIN "" ""\r\n', "", b""),
        (b"a LOGIN {2}\r\nu1 {6}\r\nsecret\r\n", "u1", b"secret"),
        (b"a LOGIN {2+}\r\nu1 {8+}\r\nse\r\ncret\r\n", "u1", b"se\r\ncret"),
        (b"a LOGIN u1 {0+}\r\n\r\n", "u1", b""),
        ('a LOGIN "jörg" "пароль"\r\n'.encode(), "jörg", "пароль".encode()),
        (b'a LOGIN "\xff" "\xfe"\r\n', "\udcff", b"\xfe"),
        (b"a LOGIN u] p]\r\n", "u]", b"p]"),
        (b"a AUTHENTICATE PLAIN " + b64("\0u1\0secret") + b"\r\n", "u1", b"secret"),
        (b"a authenticate plain\r\n" + b64("u1\0u1\0secret") + b"\r\n", "u1", b"secret"),
        (b"a AUTHENTICATE LOGIN\r\n" + b64("u1") + b"\r\n" + b64("secret") + b"\r\n", "u1", b"secret"),
        (b"a AUTHENTICATE LOGIN " + b64("u1") + b"\r\n" + b64("secret") + b"\r\n", "u1", b"secret"),
        (b"a AUTHENTICATE PLAIN " + b64("admin\0u1\0secret") + b"\r\n", "", b""),
        (b"a AUTHENTICATE PLAIN " + b64("u1 secret") + b"\r\n", "", b""),
        (b"a AUTHENTICATE PLAIN =\r\n", "", b""),
    ],
)
def test_logins(server, size, command, user, password):
    assert login_of(server, command, size) == (user, password)
    assert server.refused("credentials").startswith(b"a NO [AUTHENTICATIONFAILED] ")


@pytest.mark.parametrize(
    "command",
    [
        b"a LOGIN\r\n",
        b"a LOGIN u1\r\n",
        b"a LOGIN u1 \r\n",
        b"a LOGIN u1 secret \r\n",
        b"a LOGIN u1 secret more\r\n",
        b"a LOGIN  u1 secret\r\n",
        b'a LOGIN "u1 secret\r\n',
        b'a LOGIN "u1"secret\r\n',
        b'a LOGIN "u\\1" secret\r\n',
        b'a LOGIN "u\x001" secret\r\n',
        b"a LOGIN u(1 secret\r\n",
        b"a LOGIN u%1 secret\r\n",
        b"a LOGIN u\xff secret\r\n",
        b"a LOGIN u{2}x secret\r\n",
        b"a AUTHENTICATE\r\n",
        b"a NOOP x\r\n",
        b"a SELECT INBOX\r\n",
        b"a ID\r\n",
        b"a ID (\r\n",
        b'a ID ("name")\r\n',
        b"a ID nothing\r\n",
        b"a\r\n",
        b"a \r\n",
    ],
)
def test_bad_commands(server, command):
    said, events = play(server, command)
    assert said.startswith((b"a BAD ", b"* BAD "))
    assert said.endswith(b"\r\n")
    assert said.count(b"\r\n") == 1
    assert not events


@pytest.mark.parametrize("tag", [b"+", b"a+", b"(", b"", b"a\x01", b"\xff", b'"a"', b"{1}", b"%", b"*"])
def test_bad_tags_are_not_repeated(server, tag):
    assert play(server, tag + b" NOOP\r\n")[0].startswith(b"* BAD ")


@pytest.mark.parametrize("tag", [b"a", b"A001", b"]", b"~!#$&'-./:;<=>?@[^_`|}", b"x" * 1000])
def test_good_tags(server, tag):
    assert play(server, tag + b" NOOP\r\n")[0] == tag + b" OK NOOP completed.\r\n"


def test_capability(server):
    said, _ = play(server, b"a CAPABILITY\r\n")
    assert said == b"* CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN AUTH=LOGIN\r\na OK CAPABILITY completed.\r\n"


@pytest.mark.parametrize(
    ("configured", "offer", "shown"),
    [
        ("IMAP4rev1 AUTH=CRAM-MD5 auth=plain STARTTLS", {}, "IMAP4rev1 SASL-IR ID AUTH=PLAIN AUTH=LOGIN"),
        ("IMAP4rev1 LITERAL+ IDLE IDLE", {}, "IMAP4rev1 LITERAL+ IDLE SASL-IR ID AUTH=PLAIN AUTH=LOGIN"),
        ("IMAP4rev1 ID SASL-IR", {"login_allowed": False}, "IMAP4rev1 ID LOGINDISABLED"),
        ("IMAP4rev1", {"starttls": True}, "IMAP4rev1 SASL-IR ID STARTTLS AUTH=PLAIN AUTH=LOGIN"),
        ("IMAP4rev1", {"starttls": True, "login_allowed": False}, "IMAP4rev1 ID STARTTLS LOGINDISABLED"),
        ("IMAP4rev1", {"mechanisms": ["EXTERNAL"]}, "IMAP4rev1 SASL-IR ID AUTH=EXTERNAL"),
    ],
)
def test_capabilities(configured, offer, shown):
    offered = Offer(configured.split(), **offer)
    assert capability(offered) == shown.encode()
    assert greeting("imap", offered).startswith(f"* OK [CAPABILITY {shown}] ".encode())


@pytest.mark.parametrize(
    "fields", [b"NIL", b"nil", b"()", b'("name" "x")', b'("name" NIL "os" {2+}\r\nqq)', b'({2+}\r\nab "x")']
)
def test_id(server, fields):
    said, _ = play(server, b"a ID " + fields + b"\r\n")
    assert said == b'* ID ("name" "proxyhelper")\r\na OK ID completed.\r\n'


def test_id_has_a_bound(server):
    fields = b" ".join(b'"f%d" "x"' % number for number in range(31))
    assert play(server, b"a ID (" + fields + b")\r\n")[0].startswith(b"a BAD")


def test_logout(server):
    said, (event,) = play(server, b"a LOGOUT\r\n")
    assert said == b"* BYE Logging out.\r\na OK LOGOUT completed.\r\n"
    assert isinstance(event, Logout)


def test_continuation_requests(server):
    assert server.feed(b"a LOGIN {2}\r\n")[1] == b"+ OK\r\n"
    assert server.feed(b"u1 {1}\r\n")[1] == b"+ OK\r\n"
    assert server.feed(b"x")[1] == b""


def test_challenges(server):
    assert play(server, b"a AUTHENTICATE PLAIN\r\n")[0] == b"+ \r\n"
    assert play(server, b"*\r\n")[0].startswith(b"a BAD ")
    assert play(server, b"b AUTHENTICATE LOGIN\r\n")[0] == b"+ " + b64("Username:") + b"\r\n"
    assert play(server, b64("u1") + b"\r\n")[0] == b"+ " + b64("Password:") + b"\r\n"
    assert play(server, b"no base64!\r\n")[0].startswith(b"b BAD ")
    assert play(server, b"c NOOP\r\n")[0].startswith(b"c OK")


@pytest.mark.parametrize("response", [b"AHUxAHg", b"AHUxAHg===", b"AHUx AHg=", b"!", b"AHUxAH\xff=", b"*x"])
def test_base64_is_checked(server, response):
    said, events = play(server, b"a AUTHENTICATE PLAIN\r\n" + response + b"\r\n")
    assert said.splitlines()[-1].startswith(b"a BAD ")
    assert not events


def test_unknown_mechanism(server):
    assert play(server, b"a AUTHENTICATE CRAM-MD5\r\n")[0].startswith(b"a NO [CANNOT] ")


@pytest.mark.parametrize(
    "command", [b"a LOGIN u1 x\r\n", b"a AUTHENTICATE PLAIN\r\n", b"a AUTHENTICATE LOGIN dTE=\r\n"]
)
def test_no_login_without_the_tls_that_is_required(command):
    said, (event,) = play(serving(Server, login_allowed=False), command)
    assert said.startswith(b"a NO [PRIVACYREQUIRED] ")
    assert isinstance(event, LoginRefused)


def test_starttls():
    server = serving(Server, starttls=True, login_allowed=False)
    said, (event,) = play(server, b"a STARTTLS\r\n")
    assert said == b"a OK Begin TLS negotiation now.\r\n"
    assert isinstance(event, StartTls)


def test_bytes_behind_starttls_are_left_alone():
    assert serving(Server, starttls=True).feed(b"a starttls\r\nb LOGIN u1 x\r\n")[0] == len(b"a starttls\r\n")


def test_starttls_that_cannot_be():
    server = serving(Server, starttls=True)
    play(server, b"a STARTTLS\r\n")
    assert server.refused("tls") == b"a NO [UNAVAILABLE] TLS is temporarily unavailable. Try again later.\r\n"
    assert isinstance(play(server, b"b LOGIN u1 x\r\n")[1][0], Login), "the dialogue goes on"


def test_starttls_where_it_is_not_offered_is_an_unknown_command(server):
    said, events = play(server, b"a STARTTLS\r\n")
    assert said == play(server, b"a NONSENSE\r\n")[0]
    assert not events


def test_starttls_has_no_argument():
    said, events = play(serving(Server, starttls=True), b"a STARTTLS now\r\n")
    assert said.startswith(b"a BAD ")
    assert not events


def test_bad_commands_in_a_row_end_the_connection(server):
    said, events = play(server, b"a BAD\r\n" * 9 + b"a NOOP\r\n" + b"a BAD\r\n" * 9)
    assert not events
    said, (event,) = play(server, b"a BAD\r\n")
    assert said.splitlines()[-1].startswith(b"* BYE ")
    assert isinstance(event, Abuse)


def test_refused_logins_in_a_row_end_the_connection():
    said, events = play(serving(Server, login_allowed=False), b"a LOGIN u1 x\r\n" * 10)
    assert said.count(b"[PRIVACYREQUIRED]") == 10
    assert said.endswith(b"* BYE Too many commands or failed logins.\r\n")
    assert isinstance(events[-1], Abuse)


def test_refusing_backend_s_further_words_are_not_passed_on(server):
    login_of(server, b"a LOGIN u1 x\r\n")
    assert server.answered(Reply(False, b"NO [X] no\r\n", after=b"* BYE\r\n")) == b"a NO [X] no\r\n"


def test_too_long(server):
    said, (event,) = play(server, b"a LOGIN {20000}\r\n")
    assert said.startswith(b"* BYE ")
    assert isinstance(event, Abuse)


def test_pipelined_bytes_are_left_alone(server):
    taken, _, _ = server.feed(b"a LOGIN u1 x\r\nb SELECT INBOX\r\n")
    assert taken == len(b"a LOGIN u1 x\r\n")


def test_backend_s_reply_is_the_client_s(server):
    login_of(server, b"x.1 LOGIN u1 x\r\n")
    reply = Reply(True, b"OK [CAPABILITY IMAP4rev1 MOVE] in\r\n", b"* ALERT\r\n", b"* 1 EXISTS\r\n")
    assert server.answered(reply) == b"* ALERT\r\nx.1 OK [CAPABILITY IMAP4rev1 MOVE] in\r\n* 1 EXISTS\r\n"


def test_what_a_local_server_is_told(server):
    login_of(server, b"x.1 LOGIN u1 x\r\n")
    assert server.local_environment() == {"IMAPLOGINTAG": "x.1", "PROTOCOL": "IMAP"}
