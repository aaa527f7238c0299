"""The relay's end behind TLS."""

from .interpreter import posix
from .relay import GROWN_BUFFER, ROUNDS, End

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .relay import Bytes
    from .tls import Channel

MAX_UNSENT = 2 * GROWN_BUFFER
"""Bytes of ciphertext for a sink that takes none. What one buffer makes is a little more than the buffer."""


class Encrypted(End):
    """An end behind TLS. `unsent`: ciphertext of what was taken."""

    __slots__ = ("_channel", "unsent", "was_cut")

    encrypted = True

    def __init__(self, reading: int, writing: int, channel: "Channel") -> None:
        super().__init__(reading, writing)
        self._channel = channel
        self.unsent: Bytes = b""
        self.was_cut = False

    def read(self, buffer: memoryview) -> "Bytes":
        for _ in range(ROUNDS):
            if self._channel.failure:
                raise self._channel.failure
            if self._channel.ended:
                return b""
            size = posix.readv(self.reading, (buffer,))
            if not size:
                self.was_cut = True
                return b""
            data = self._channel.decrypt(buffer[:size])
            self._answer(self._channel.outgoing())
            if data:
                return data
        raise BlockingIOError

    def write(self, data: "Bytes") -> int:
        self.flush()
        self.unsent = memoryview(self._channel.encrypt(data))
        return len(data)

    def flush(self) -> None:
        while self.unsent:
            self.unsent = self.unsent[posix.write(self.writing, self.unsent) :]
        self.unsent = b""  # an empty view would keep all that was sent

    def say_goodbye(self) -> None:
        """With the next flush."""
        self._queue(self._channel.close())

    def at_end(self) -> bool:
        return self._channel.ended or self._channel.failure is not None

    def _answer(self, said: bytes) -> None:
        """Send what the protocol itself has to say behind what is under way: alerts, for the most part."""
        if not said:
            return
        if len(self.unsent) > MAX_UNSENT:
            raise ConnectionResetError("has answers to its TLS messages, and reads none")
        self._queue(said)
        try:
            self.flush()
        except OSError:
            pass  # with the next write, or never: what was read is not lost for that

    def _queue(self, ciphertext: bytes) -> None:
        self.unsent = bytes(self.unsent) + ciphertext
