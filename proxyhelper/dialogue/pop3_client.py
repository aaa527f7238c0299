"""Logging in to a POP3 server: the client's half."""

from .events import BackendFault, Reply
from .lines import LineBuffer, TooLong

MAX_REPLY = 1 << 16
"""Bytes of one reply; RFC 2449 section 4 allows 512."""


class Client:
    """Feed it what the backend sends; it returns what to send, and has a `reply` once the backend has decided.

    `state` names what it waits for: "greeting", "UTF8 reply", "USER reply" or "PASS reply". Raises BackendFault.
    """

    def __init__(self, user: bytes, password: bytes, utf8: bool) -> None:
        self.state = "greeting"
        self.reply: Reply | None = None
        self._steps = [("USER reply", b"USER " + user + b"\r\n"), ("PASS reply", b"PASS " + password + b"\r\n")]
        if utf8:
            self._steps.insert(0, ("UTF8 reply", b"UTF8\r\n"))
        self._lines = LineBuffer(MAX_REPLY)

    def feed(self, data: bytes) -> bytes:
        to_send = b""
        while data and self.reply is None:
            try:
                taken, line = self._lines.take(data)
            except TooLong:
                raise BackendFault(f"over {MAX_REPLY} bytes in its {self.state}") from None
            data = data[taken:]
            if line is not None:
                to_send += self._take(line)
        if self.reply is not None:
            self.reply.after = data
        return to_send

    def _take(self, line: bytes) -> bytes:
        accepted = line[:3].upper() == b"+OK"
        if not accepted and line[:4].upper() != b"-ERR":
            raise BackendFault(f"not a {self.state}", line)
        if not accepted and self.state in ("greeting", "UTF8 reply"):
            raise BackendFault(f"an error in place of a {self.state}", line, goodbye=self.state == "greeting")
        if not accepted or not self._steps:
            self.reply = Reply(accepted, line)
            return b""
        self.state, command = self._steps.pop(0)
        return command
