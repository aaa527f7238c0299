"""What a server says first, in clear or behind TLS. It is not logged in to."""

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...dialogue import imap_client, pop3_client
from ...dialogue.events import BackendFault
from ...ends import Closed, SocketEnd, TimedOut
from ...text import decode
from ...tls import Channel, HandshakeFailed, TlsEnd

if TYPE_CHECKING:
    from ...interpreter import ssl
    from ...tls import End

MAX_GREETING = 4096
MAX_QUOTED = 80


@dataclass(frozen=True)
class Way:
    """How a server is spoken to.

    tls      as in Settings.proxy_tls, and its `context`
    name     that its certificate must be for, if any
    header   what is sent first: nothing, or a PROXY header
    """

    tls: str = "no"
    context: "ssl._SSLContext | None" = None
    name: "str | None" = None
    header: bytes = b""


@dataclass(frozen=True)
class Heard:
    """`own`: the address that the connection came from; `agreed`: TLS version and cipher; `no_tls`: why there is none,
    where there should be."""

    greeting: bytes
    own: str
    agreed: str = ""
    no_tls: str = ""


def hear(protocol: str, place: "tuple[int, tuple[object, ...]]", seconds: float, way: Way = Way()) -> Heard:
    """Connect to an address (family, and what connect takes), and listen. Raises OSError."""
    family, address = place
    deadline = time.monotonic() + seconds
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(address)
        own = str(connection.getsockname()[0])
        listener = Listener(SocketEnd(connection), way, deadline)
        try:
            listener.listen(protocol)
        except (BackendFault, HandshakeFailed, TimedOut, Closed) as failure:
            if not listener.securing:
                raise OSError(0, str(failure)) from None
            return Heard(listener.greeting, own, no_tls=str(failure))
        return Heard(listener.greeting, own, listener.agreed)


class Listener:
    """`securing`: TLS is what it waits for."""

    def __init__(self, end: SocketEnd, way: Way, deadline: float) -> None:
        self.greeting = b""
        self.agreed = ""
        self.securing = False
        self._under = end
        self._end: End = end
        self._way = way
        self._deadline = deadline

    def listen(self, protocol: str) -> None:
        """Raises BackendFault, HandshakeFailed, Closed, TimedOut."""
        if self._way.header:
            self._end.send(self._way.header, self._deadline)
        if self._way.tls == "yes":
            self._begin_tls()
        self._hear_greeting()
        if self._way.tls == "starttls":
            self.securing = True
            self._ask_for_tls(protocol)
            self._begin_tls()

    def _hear_greeting(self) -> None:
        while b"\n" not in self.greeting and len(self.greeting) < MAX_GREETING:
            more = self._end.receive(self._deadline)
            if not more:
                raise Closed("closed the connection in place of a greeting")
            self.greeting += more

    def _ask_for_tls(self, protocol: str) -> None:
        """As the helper does."""
        new_client = imap_client.Client if protocol == "imap" else pop3_client.Client
        client = new_client(b"", b"", False, starttls=True)
        said = self.greeting
        while True:
            try:
                to_send = client.feed(said)
            except BackendFault as fault:
                quoted = f": {decode(fault.said[:MAX_QUOTED]).strip()}" if fault.said else ""
                raise BackendFault(f"{fault}{quoted}") from None
            if client.wants_tls:
                return
            self._end.send(to_send, self._deadline)
            said = self._end.receive(self._deadline)
            if not said:
                raise BackendFault(f"closed the connection in place of a {client.state}")

    def _begin_tls(self) -> None:
        self.securing = True
        assert self._way.context
        channel = Channel(self._way.context, server_side=False, peer_name=self._way.name)
        self._end = end = TlsEnd(self._under, channel)
        end.shake_hands(self._deadline)
        self.agreed = f"{channel.version()}, {channel.cipher()}"
        self.securing = False
