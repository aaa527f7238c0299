"""A client on two pipes, as ends.SocketEnd is one on a socket: from stunnel, couriertls or a script."""

from .descriptors import POLLIN, POLLOUT, is_ready
from .ends import CHUNK, Closed, TimedOut, remaining
from .interpreter import posix
from .text import words

PIPE_WRITE = 4096
"""A pipe that poll calls writable takes this many bytes (PIPE_BUF) without blocking."""


class PipeEnd:
    """Two pipes, or whatever else can be read on fd 0 and written on fd 1."""

    def peek(self, deadline: float) -> bytes:
        """The next byte, b"" behind the last. Raises TimedOut, Closed."""
        return self._read(1, deadline)

    def receive(self, deadline: float) -> bytes:
        """The bytes at hand, b"" behind the last. Raises TimedOut, Closed."""
        return self._read(CHUNK, deadline)

    def consume(self, count: int) -> None:
        """Nothing is left to drop: `peek` has read its one byte."""

    def rest(self) -> bytes:
        """What has been read, and not consumed: nothing."""
        return b""

    def finish(self, deadline: float) -> None:
        """Nothing is to be done: what was written to a pipe stays there."""

    def send(self, data: bytes, deadline: float) -> None:
        """All of `data`. Raises TimedOut, Closed."""
        while data:
            _wait(1, POLLOUT, deadline)
            try:
                data = data[posix.write(1, data[:PIPE_WRITE]) :]
            except OSError as error:
                raise Closed(words(error)) from None

    def _read(self, size: int, deadline: float) -> bytes:
        _wait(0, POLLIN, deadline)
        try:
            return posix.read(0, size)
        except OSError as error:
            raise Closed(words(error)) from None


def _wait(descriptor: int, event: int, deadline: float) -> None:
    if not is_ready(descriptor, event, remaining(deadline)):
        raise TimedOut
