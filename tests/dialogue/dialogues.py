"""Playing a dialogue byte for byte, without sockets."""

import base64

from proxyhelper.dialogue.greetings import Offer


def serving(server, identity="", new_challenge=lambda: b"<1@front.example.com>", **offer):
    """A `server` (a class) that offers what `offer` says."""
    return server(Offer(**offer), new_challenge, identity)


def play(server, stream, size=1 << 16):
    """All that `server` says to a stream that comes in pieces of `size`, and the events on the way."""
    said, events, at = b"", [], 0
    while at < len(stream):
        taken, reply, event = server.feed(stream[at : at + size])
        at += taken
        said += reply
        if event is not None:
            events.append(event)
    return said, events


def login_of(server, stream, size=1 << 16):
    """Name and password of the one login in `stream`."""
    (login,) = play(server, stream, size)[1]
    return login.user, login.password


def b64(text):
    return base64.b64encode(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
