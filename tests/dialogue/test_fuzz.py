"""No bytes of any kind make a dialogue raise, hang, take more than it was given, or say something that is no line."""

import random

import pytest
from dialogues import SASL

from proxyhelper.dialogue import imap, pop3
from proxyhelper.dialogue.events import Abuse, Logout

WORDS = [
    *b'a LOGIN AUTHENTICATE PLAIN AUTH USER PASS CAPA ID ( ) " \\ {3} {3+} {99999} = AHUxAHg= NIL LANG UTF8 }'.split(),
    *(b"*", b" ", b"\r\n", b"\n", b"\0", b"\xff"),
]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("protocol", [imap, pop3])
def test_garbage(protocol, seed):
    chance = random.Random(seed)
    for _ in range(50):
        server = protocol.Server(["IMAP4rev1"], login_allowed=chance.random() < 0.8, **SASL)
        rest = b"".join(chance.choice(WORDS) for _ in range(chance.randrange(200)))
        size = chance.randrange(1, 50)
        event = None
        while rest and not isinstance(event, (Abuse, Logout)):
            taken, reply, event = server.feed(rest[:size])
            assert 0 < taken <= size
            assert reply == b"" or reply.endswith(b"\r\n")
            rest = rest[taken:]
