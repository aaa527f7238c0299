"""CRAM-MD5 (RFC 2195), CRAM-SHA1 and CRAM-SHA256 before login, byte by byte."""

import itertools

import pytest
from dialogues import b64, play, serving

from proxyhelper.dialogue import imap, pop3
from proxyhelper.dialogue.events import Abuse, LoginRefused
from proxyhelper.dialogue.greetings import CRAM_MECHANISMS, MECHANISMS, Offer, greeting

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
RESPONSE = b"tim b913a602c7eda7a495b4e6e7334d3890"
SHOWN = b"+ PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n"
SENT = b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n"
"""RFC 2195 section 2: what server and client say in its example."""

COMMANDS = {imap: b"a AUTHENTICATE %b\r\n", pop3: b"AUTH %b\r\n"}
BAD = {imap: b"a BAD ", pop3: b"-ERR "}


@pytest.fixture(params=[imap, pop3], ids=["imap", "pop3"])
def protocol(request):
    return request.param


@pytest.fixture
def new_server(protocol):
    def make(*cram, login_allowed=True, new_challenge=lambda: CHALLENGE):
        mechanisms = [*MECHANISMS, *cram]
        return serving(protocol.Server, login_allowed=login_allowed, mechanisms=mechanisms, new_challenge=new_challenge)

    return make


@pytest.fixture
def ask(protocol):
    return lambda mechanism: COMMANDS[protocol] % mechanism


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize("name", [b"CRAM-MD5", b"cram-md5", b"Cram-Md5"])
def test_example_of_the_rfc(new_server, ask, name, size):
    said, (login,) = play(new_server("CRAM-MD5"), ask(name) + SENT, size)
    assert said == SHOWN
    assert (login.user, login.password) == ("tim", b"")
    assert (login.cram.mechanism, login.cram.challenge, login.cram.response) == ("CRAM-MD5", CHALLENGE, RESPONSE)


@pytest.mark.parametrize("mechanism", CRAM_MECHANISMS)
def test_each_mechanism_says_which_it_is(new_server, ask, mechanism):
    _, (login,) = play(new_server(*CRAM_MECHANISMS), ask(mechanism.encode()) + SENT)
    assert login.cram.mechanism == mechanism


@pytest.mark.parametrize(
    ("response", "user"),
    [
        ("u1@example.com 00", "u1@example.com"),
        ("first last 00", "first last"),
        (" 00", ""),
        ("00", ""),
        ("u1 ", "u1"),
        ("jörg 00", "jörg"),
        (b"j\xf6rg 00", "j\udcf6rg"),
        ("u1\r\nx 00", "u1\r\nx"),
        ("u\0001 00", "u\0001"),
    ],
)
def test_name_is_all_before_the_last_blank(new_server, ask, response, user):
    """Also one that no account has: refusing it is not the dialogue's business."""
    _, (login,) = play(new_server("CRAM-MD5"), ask(b"CRAM-MD5") + b64(response) + b"\r\n")
    assert (login.user, login.password) == (user, b"")


def test_empty_response_is_a_login_of_nobody(new_server, ask):
    said, (login,) = play(new_server("CRAM-MD5"), ask(b"CRAM-MD5") + b"\r\n")
    assert said == SHOWN
    assert (login.user, login.cram.response) == ("", b"")


@pytest.mark.parametrize("initial", [SENT.strip(), b"=", b"?"])
def test_initial_response_is_refused(protocol, new_server, ask, initial):
    """RFC 4959 section 3, RFC 5034 section 4: the server speaks first."""
    server = new_server("CRAM-MD5")
    said, events = play(server, ask(b"CRAM-MD5 " + initial))
    assert said.startswith(BAD[protocol])
    assert said.count(b"\r\n") == 1
    assert CHALLENGE not in said
    assert events == []
    assert goes_on(server, ask)


def goes_on(server, ask):
    said, events = play(server, ask(b"CRAM-MD5") + SENT)
    return said == SHOWN and events[0].cram.response == RESPONSE


@pytest.mark.parametrize(
    "response", [b"*", b"* ", b"dGlt=", b"dGl t", b"tim b913a602c7eda7a495b4e6e7334d3890", b"=", b"d"]
)
def test_cancelled_or_not_base64(protocol, new_server, ask, response):
    server = new_server("CRAM-MD5")
    said, events = play(server, ask(b"CRAM-MD5") + response + b"\r\n")
    assert said.startswith(SHOWN + BAD[protocol])
    assert said.count(b"\r\n") == 2
    assert events == []
    assert goes_on(server, ask)


def test_ten_cancelled_in_a_row_end_the_connection(new_server, ask):
    _, events = play(new_server("CRAM-MD5"), (ask(b"CRAM-MD5") + b"*\r\n") * 10)
    assert [type(event) for event in events] == [Abuse]


def test_a_challenge_is_used_once(new_server, ask):
    """After a failed login, a cancelled one and bad base64, each exchange has another."""
    numbers = itertools.count(1)
    server = new_server("CRAM-MD5", new_challenge=lambda: b"<%d@x>" % next(numbers))
    exchange = ask(b"CRAM-MD5")
    said, events = play(server, exchange + SENT + exchange + b"*\r\n" + exchange + b"?\r\n" + exchange + SENT)
    assert [said.count(b"+ " + b64(f"<{number}@x>") + b"\r\n") for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert [login.cram.challenge for login in events] == [b"<1@x>", b"<4@x>"]


def test_no_challenge_is_made_for_other_mechanisms(new_server, ask):
    server = new_server("CRAM-MD5", new_challenge=lambda: pytest.fail("asked for"))
    _, (login,) = play(server, ask(b"PLAIN " + b64("\0u1\0x")))
    assert login.cram is None


@pytest.mark.parametrize("name", [b"CRAM-SHA1", b"CRAM-SHA256", b"CRAM-MD", b"CRAM-MD5X", b"CRAM", b"DIGEST-MD5"])
def test_mechanism_that_is_not_listed_is_refused(protocol, new_server, ask, name):
    server = new_server("CRAM-MD5")
    said, events = play(server, ask(name))
    assert said == server.prefix + protocol.Server.REPLIES["mechanism"] + b"\r\n"
    assert events == []


def test_none_is_offered_where_none_is_listed(protocol, new_server, ask):
    server = new_server()
    for name in CRAM_MECHANISMS:
        said, events = play(server, ask(name.encode()))
        assert protocol.Server.REPLIES["mechanism"] in said
        assert events == []


def test_no_exchange_without_the_tls_that_is_required(protocol, new_server, ask):
    said, (event,) = play(new_server("CRAM-MD5", login_allowed=False), ask(b"CRAM-MD5"))
    assert protocol.Server.REPLIES["insecure"] in said
    assert isinstance(event, LoginRefused)


def test_imap_tells_them():
    mechanisms = [*MECHANISMS, "CRAM-SHA256", "CRAM-MD5"]
    shown = b"IMAP4rev1 SASL-IR ID AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-SHA256 AUTH=CRAM-MD5"
    words = ["IMAP4rev1", "AUTH=CRAM-SHA1", "auth=cram-md5"]
    assert b"[CAPABILITY %b]" % shown in greeting("imap", Offer(words, mechanisms=mechanisms))
    said, _ = play(serving(imap.Server, capabilities=words, mechanisms=mechanisms), b"a CAPABILITY\r\n")
    assert said.startswith(b"* CAPABILITY %b\r\n" % shown)
    assert b"CRAM" not in greeting("imap", Offer(words, login_allowed=False, mechanisms=mechanisms))


def test_pop3_tells_them():
    mechanisms = [*MECHANISMS, "CRAM-SHA1"]
    server = serving(pop3.Server, mechanisms=mechanisms)
    assert b"\r\nSASL PLAIN LOGIN CRAM-SHA1\r\n" in play(server, b"CAPA\r\n")[0]
    assert play(server, b"AUTH\r\n")[0] == b"+OK Mechanisms follow.\r\nPLAIN\r\nLOGIN\r\nCRAM-SHA1\r\n.\r\n"
    closed = serving(pop3.Server, login_allowed=False, mechanisms=mechanisms)
    assert b"CRAM" not in play(closed, b"CAPA\r\nAUTH\r\n")[0]
