"""No bytes of any kind make a dialogue raise, hang, take more than it was given, or say something that is no line."""

import random

import pytest
from dialogues import serving

from proxyhelper.dialogue import imap, imap_client, pop3, pop3_client
from proxyhelper.dialogue.events import Abuse, BackendFault, Forwarded, Login, LoginRefused, Logout, StartTls

TO_SERVERS = [
    *b'a LOGIN AUTHENTICATE PLAIN AUTH USER PASS CAPA ID ( ) " \\ {3} {3+} {99999} = AHUxAHg= NIL LANG UTF8 }'.split(),
    *b'STARTTLS STLS EXTERNAL XCLIENT ADDR= 192.0.2.7 PORT= SESSION= TTL= 4 300 "x-proxy-ttl" "x-session-id"'.split(),
    *(
        b"a ID (",
        b'"4"',
        b"AUTHENTICATE EXTERNAL ",
        b"AUTH EXTERNAL",
        b"a STARTTLS\r\n",
        b"STLS\r\n",
        b"XCLIENT TTL=3\r\n",
    ),
    *(b"*", b" ", b"\r\n", b"\n", b"\0", b"\xff"),
]
FITTING = {
    imap_client.Client: {
        "greeting": b"* OK [CAPABILITY IMAP4rev1 ID STARTTLS] hello\r\n",
        "STARTTLS reply": b"proxy3 OK\r\n",
        "capability reply": b"* CAPABILITY IMAP4rev1 ID\r\nproxy2 OK\r\n",
        "reply to ID": b"* ID NIL\r\nproxy0 OK\r\n",
        "login reply": b"proxy1 OK in\r\n",
    },
    pop3_client.Client: dict.fromkeys(
        ["greeting", "STARTTLS reply", "XCLIENT reply", "UTF8 reply", "USER reply", "PASS reply"],
        b"+OK [XCLIENT]\r\n",
    ),
}
TO_CLIENTS = [
    *(
        b"* OK hello\r\n",
        b"+OK\r\n",
        b"-ERR no\r\n",
        b"* X {3}\r\nabc\r\n",
        b"+ go on\r\n",
        b"proxy1 NO\r\n",
        b"proxy2\r\n",
    ),
    *(
        b"* BYE\r\n",
        b"* PREAUTH\r\n",
        b"{3}\r\n",
        b"{99999999999}\r\n",
        b"[",
        b"proxy",
        b"*",
        b" ",
        b"\r\n",
        b"\n",
        b"\0",
    ),
    *(b"\xff", b"* CAPABILITY\r\n", b"* OK [CAPABILITY\r\n"),
]
TOLD = Forwarded("192.0.2.7", "1", "::1", "2", "s", 3)
SEEDS = pytest.mark.parametrize("seed", range(40))


@SEEDS
@pytest.mark.parametrize("protocol", [imap, pop3])
def test_servers(protocol, seed):
    chance = random.Random(seed)
    for _ in range(50):
        server = serving(protocol.Server, chance.choice(["", "u1"]), **any_offer(chance))
        rest = b"".join(chance.choice(TO_SERVERS) for _ in range(chance.randrange(200)))
        size = chance.randrange(1, 50)
        event = None
        while rest and not isinstance(event, (Abuse, Logout)):
            taken, reply, event = server.feed(rest[:size])
            assert 0 < taken <= size
            assert reply == b"" or reply.endswith(b"\r\n")
            check_event(event, server.offer)
            rest = rest[taken:]


def any_offer(chance):
    return {
        "capabilities": ["IMAP4rev1"],
        "login_allowed": chance.random() < 0.8,
        "mechanisms": ["PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL"][: chance.randrange(1, 5)],
        "starttls": chance.random() < 0.5,
        "trusted": chance.random() < 0.5,
    }


def check_event(event, offer):
    if isinstance(event, Login):
        assert offer.login_allowed
        assert not event.external or (event.user == "u1" and "EXTERNAL" in offer.mechanisms)
    if isinstance(event, LoginRefused):
        assert not offer.login_allowed
    if isinstance(event, StartTls):
        assert offer.starttls
    if isinstance(event, Forwarded):
        assert event.ttl is None or 0 <= event.ttl <= 255
        assert offer.trusted or not (event.ip or event.port or event.local_ip or event.local_port or event.session)


@SEEDS
@pytest.mark.parametrize("kind", FITTING)
def test_clients(kind, seed):
    """Whatever a backend says, in whatever pieces: a reply, a fault, or more to wait for."""
    chance = random.Random(seed)
    seen = set()
    for _ in range(200):
        starttls, forwarded = chance.random() < 0.5, chance.choice([None, TOLD])
        client = kind(chance.choice([b"u1", b"\xff"]), b"x", chance.random() < 0.5, starttls, forwarded)
        try:
            seen.update(states(client, chance, secure=not starttls))
        except BackendFault:
            seen.add("fault")
    assert seen == {*FITTING[kind], "fault", "reply"}


def states(client, chance, secure):
    """What the client waits for, one after the other, when it hears mostly what fits."""
    for _ in range(30):
        yield client.state
        said = FITTING[type(client)][client.state] if chance.random() < 0.8 else chance.choice(TO_CLIENTS)
        for piece in cut(said, chance.choice([1, 7, 1 << 16])):
            to_send = client.feed(piece)
            assert to_send == b"" or to_send.endswith(b"\r\n")
            assert secure or not any(word in to_send for word in (b"LOGIN", b"USER", b"ID", b"XCLIENT"))
        if client.wants_tls:
            assert not secure
            secure = True
            assert client.secured().endswith(b"\r\n")
        if client.reply:
            yield "reply"
            return


def cut(stream, size):
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize("forwarded", [None, TOLD])
@pytest.mark.parametrize(
    ("kind", "greeting", "endless"),
    [
        (imap_client.Client, b"", b"x"),
        (imap_client.Client, b"* OK [CAPABILITY ID STARTTLS] x\r\n", b"* CAPABILITY X\r\n"),
        (imap_client.Client, b"* OK [CAPABILITY ID STARTTLS] x\r\n", b"* X {9}\r\n123456789\r\n"),
        (pop3_client.Client, b"", b"x"),
        (pop3_client.Client, b"+OK [XCLIENT] x\r\n", b"x"),
    ],
)
def test_clients_listen_only_so_long(kind, greeting, endless, forwarded, starttls):
    client = kind(b"u1", b"x", False, starttls, forwarded)
    client.feed(greeting)
    with pytest.raises(BackendFault, match="over"):
        list(map(client.feed, [endless] * (2 << 20)))
