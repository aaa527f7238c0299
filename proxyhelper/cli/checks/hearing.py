"""What a server says first, in clear or behind TLS. It is not logged in to."""

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...backend import IN_CLEAR, Conversation, Way
from ...dialogue import client, imap_client, pop3_client
from ...dialogue.events import BackendFault, Reply
from ...ends import Closed, SocketEnd, TimedOut
from ...text import decode

if TYPE_CHECKING:
    from ...dialogue.client import Talk

MAX_QUOTED = 80


@dataclass(frozen=True)
class Heard:
    """`own`: the address that the connection came from; `agreed`: TLS version and cipher; `no_tls`: why there is none,
    where there should be."""

    greeting: bytes
    own: str
    agreed: str = ""
    no_tls: str = ""


class _Listener(client.Client):
    """Is content with the greeting, and TLS where it begins behind that."""

    def _talk(self) -> "Talk[None]":
        yield from self._arrive()
        self.reply = Reply(True, self.greeting)
        yield b""


class _ImapListener(_Listener, imap_client.Client):
    pass


class _Pop3Listener(_Listener, pop3_client.Client):
    pass


LISTENERS = {"imap": _ImapListener, "pop3": _Pop3Listener}


def hear(protocol: str, place: "tuple[int, tuple[object, ...]]", seconds: float, way: Way = IN_CLEAR) -> Heard:
    """Connect to an address (family, and what connect takes), and listen. Raises OSError."""
    family, address = place
    deadline = time.monotonic() + seconds
    listener = LISTENERS[protocol](b"", b"", False, way.tls == "starttls")
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(address)
        own = str(connection.getsockname()[0])
        talk = Conversation(SocketEnd(connection), listener, way)
        try:
            talk.run(deadline)
        except (BackendFault, Closed, TimedOut) as failure:
            said = getattr(failure, "said", b"")
            if said and said == listener.greeting:
                return Heard(said, own)  # no greeting of this protocol, as who judges it will see
            why = f"{failure}: {decode(said[:MAX_QUOTED]).strip()}" if said else str(failure)
            if talk.step == "greeting" and not listener.greeting:
                raise OSError(0, why) from None
            return Heard(listener.greeting, own, no_tls=why)
        agreed = f"{talk.channel.version()}, {talk.channel.cipher()}" if talk.channel else ""
        return Heard(listener.greeting, own, agreed)
