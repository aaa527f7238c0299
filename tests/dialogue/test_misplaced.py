"""What comes where an entry and those in front of it do not agree."""

import pytest
from dialogues import serving

from proxyhelper.dialogue import imap, pop3
from proxyhelper.dialogue.events import Abuse

HELLO = b"\x16\x03\x01\x02\x00\x01\x00"
HEADER = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)


@pytest.mark.parametrize("protocol", [imap, pop3], ids=["imap", "pop3"])
@pytest.mark.parametrize(
    ("said", "setting"),
    [
        (HELLO, "PROXY_TLS_WRAP"),
        (HEADER, "PROXY_PROTOCOL"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 143\r\na NOOP\r\n", "PROXY_PROTOCOL"),
        (b"PROXY UNKNOWN\r\n", "PROXY_PROTOCOL"),
    ],
)
def test_nothing_is_said_and_the_log_names_the_setting(protocol, said, setting):
    taken, reply, event = serving(protocol.Server).feed(said)
    assert (taken, reply) == (len(said), b"")
    assert isinstance(event, Abuse)
    assert f"{setting}=1 missing" in event.reason


def test_only_as_the_first_thing():
    server = serving(imap.Server)
    server.feed(b"a NOOP\r\n")
    assert not isinstance(server.feed(b"PROXY TCP4\r\n")[2], Abuse)


def test_a_tag_that_looks_like_one():
    assert serving(imap.Server).feed(b"PROXY NOOP\r\n")[1] == b"PROXY OK NOOP completed.\r\n"
