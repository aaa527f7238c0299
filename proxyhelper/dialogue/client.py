"""What the client halves of both protocols share: gather a reply, bound what is said, stop where TLS begins."""

from .events import BackendFault, Reply
from .lines import TooLong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    from .lines import CommandBuffer, LineBuffer

    Result = TypeVar("Result")
    Talk = Generator[bytes, bytes, Result]  # yields what to send, is sent each reply


class Client:
    """Feed it what the backend sends; it returns what to send, and has a `reply` once the backend has decided.

    Where it `wants_tls`, the caller begins TLS and sends what `secured` returns. `state` names what it waits for:
    "greeting", "login reply", … Raises BackendFault, and is of no more use then.
    """

    def __init__(self, replies: "CommandBuffer | LineBuffer") -> None:
        self.state = "greeting"
        self.wants_tls = False
        self.greeting = b""
        self.reply: Reply | None = None
        self._replies = replies
        self._received = 0
        self._dialogue = self._talk()
        next(self._dialogue)

    def feed(self, data: bytes) -> bytes:
        self._received += len(data)
        to_send = b""
        while data and self.reply is None and not self.wants_tls:
            try:
                taken, reply = self._replies.take(data)
            except TooLong:
                raise self._too_much() from None
            data = data[taken:]
            if reply is not None:
                to_send += self._dialogue.send(reply)
        if self.wants_tls and data:  # whoever sits in between would have it taken for the backend's own words
            raise BackendFault(f"sent {len(data)} bytes in clear behind its {self.state}")
        if self.reply is not None:
            self.reply.after += data
        elif self._received > self._replies.limit:
            raise self._too_much()
        return to_send

    def secured(self) -> bytes:
        """What to send now that TLS has begun."""
        self.wants_tls = False
        return next(self._dialogue)

    def _talk(self) -> "Talk[None]":
        """From the greeting to the `reply`."""
        raise NotImplementedError

    def _arrive(self) -> "Talk[None]":
        """The greeting, and TLS where it begins behind that."""
        raise NotImplementedError

    def _start_tls(self) -> "Talk[None]":
        self.wants_tls = True
        yield b""

    def _too_much(self) -> BackendFault:
        return BackendFault(f"over {self._replies.limit} bytes in its {self.state}")
