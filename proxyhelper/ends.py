"""The client's end until the login: what is read is what the dialogue uses, the bytes behind it stay in the kernel.

Whoever comes after the dialogue, local server or relay, finds them there. A socket is read with MSG_PEEK and consumed
to the end of each command; a pipe, which cannot be peeked, byte by byte. Deadlines are of time.monotonic.
"""

import time

from .descriptors import POLLIN, POLLOUT, is_ready, is_socket, same_file
from .interpreter import posix, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")

PEEK = 4096
DISCARD = 65536
PIPE_WRITE = 4096
"""A pipe that poll calls writable takes this many bytes (PIPE_BUF) without blocking."""


class Closed(Exception):
    """The client is gone."""


class TimedOut(Exception):
    """The deadline has passed."""


class SocketEnd:
    """One socket on fd 0 and 1."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=posix.dup(0))  # a copy: fd 0 itself outlives this object

    def peek(self, deadline: float) -> bytes:
        """The bytes at hand, b"" behind the last. Raises TimedOut, Closed."""
        return self._within(deadline, lambda: self._socket.recv(PEEK, socket.MSG_PEEK))

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

    def send(self, data: bytes, deadline: float) -> None:
        """All of `data`. Raises TimedOut, Closed."""
        self._within(deadline, lambda: self._socket.sendall(data))

    def finish(self, deadline: float) -> None:
        """Say no more, and let the client go on talking until it has read all: closing a socket with bytes unread
        resets the connection, and a reset takes our last words from the client."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while self._within(deadline, lambda: self._socket.recv(DISCARD)):
                pass
        except (OSError, Closed, TimedOut):
            pass  # it has gone, or had its time

    def _within(self, deadline: float, act: "Callable[[], Result]") -> "Result":
        try:
            self._socket.settimeout(_remaining(deadline))
            return act()
        except TimeoutError:
            raise TimedOut from None
        except OSError:
            raise Closed from None


class PipeEnd:
    """Two pipes, or whatever else can be read on fd 0 and written on fd 1."""

    def peek(self, deadline: float) -> bytes:
        """The next byte, b"" behind the last. Raises TimedOut, Closed."""
        _wait(0, POLLIN, deadline)
        try:
            return posix.read(0, 1)
        except OSError:
            raise Closed from None

    def consume(self, count: int) -> None:
        """Nothing is left to drop: `peek` has read its one byte."""

    def finish(self, deadline: float) -> None:
        """Nothing is to be done: what was written to a pipe stays there."""

    def send(self, data: bytes, deadline: float) -> None:
        """All of `data`. Raises TimedOut, Closed."""
        while data:
            _wait(1, POLLOUT, deadline)
            try:
                data = data[posix.write(1, data[:PIPE_WRITE]) :]
            except OSError:
                raise Closed from None


if TYPE_CHECKING:
    End = SocketEnd | PipeEnd


def client_end() -> "End":
    """The end on fd 0 and 1."""
    return SocketEnd() if is_socket(0) and same_file(0, 1) else PipeEnd()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    if not is_ready(descriptor, event, _remaining(deadline)):
        raise TimedOut


def _remaining(deadline: float) -> float:
    """Seconds left. Raises TimedOut: a client that never pauses must not put the end off."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimedOut
    return seconds
