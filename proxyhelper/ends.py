"""The ends of connections until the login, the client's and the backend's. Deadlines are of time.monotonic.

Of what a client says in clear, no more is read than the dialogue uses; whoever comes after it, local server, relay or
TLS, finds the bytes behind it in the kernel. A socket is read with MSG_PEEK and consumed to the end of each command; a
pipe (pipes.py), which cannot be peeked, byte by byte. The ends behind TLS are in tls.py.
"""

import time

from .interpreter import socket
from .text import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")

PEEK = 4096
CHUNK = 65536


class Closed(Exception):
    """The peer is gone; the text says how, where that is known."""


class TimedOut(Exception):
    """The deadline has passed."""

    def __str__(self) -> str:
        return "timed out"


class SocketEnd:
    """A connected socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def peek(self, deadline: float) -> bytes:
        """The bytes at hand, b"" behind the last. Raises TimedOut, Closed."""
        return self._within(deadline, lambda: self._socket.recv(PEEK, socket.MSG_PEEK))

    def receive(self, deadline: float) -> bytes:
        """As peek, but the bytes are gone then."""
        return self._within(deadline, lambda: self._socket.recv(CHUNK))

    def consume(self, count: int) -> None:
        """Drop bytes that were peeked at. Raises Closed."""
        while count:
            try:
                taken = len(self._socket.recv(count))
            except OSError:
                taken = 0
            if not taken:
                raise Closed  # somebody else has read from the connection
            count -= taken

    def rest(self) -> bytes:
        """What has been read, and not consumed: nothing, it is still in the kernel."""
        return b""

    def send(self, data: bytes, deadline: float) -> None:
        """All of `data`. Raises TimedOut, Closed."""
        self._within(deadline, lambda: self._socket.sendall(data))

    def finish(self, deadline: float) -> None:
        """Say no more, and let the client go on talking until it has read all: closing a socket with bytes unread
        resets the connection, and a reset takes our last words from the client."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while self.receive(deadline):
                pass
        except (OSError, Closed, TimedOut):
            pass  # it has gone, or had its time

    def _within(self, deadline: float, act: "Callable[[], Result]") -> "Result":
        try:
            self._socket.settimeout(remaining(deadline))
            return act()
        except TimeoutError:
            raise TimedOut from None
        except OSError as error:
            raise Closed(words(error)) from None


def remaining(deadline: float) -> float:
    """Seconds left. Raises TimedOut: a client that never pauses must not put the end off."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimedOut
    return seconds
