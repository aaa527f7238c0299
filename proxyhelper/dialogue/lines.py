"""Gathering commands out of a stream: lines, and for IMAP the literals that lines announce.

`take` is given the bytes at hand and returns how many of them belong to the current command, so that a caller who
peeks can leave what comes behind it to others. A byte is searched once, however finely the stream is cut.
"""

MAX_COMMAND = 16384
"""Bytes of one command with its literals: RFC 4954 section 4 allows 12288 for a SASL response, RFC 9051 section 4
asks for 8192 for a command line."""

DIGITS = b"0123456789"


class TooLong(Exception):
    """A command is over its bound."""


class LineBuffer:
    """Gathers one line at a time."""

    __slots__ = ("_gathered", "limit")

    prompt = False

    def __init__(self, limit: int = MAX_COMMAND) -> None:
        self.limit = limit
        self._gathered = bytearray()

    def take(self, data: bytes) -> "tuple[int, bytes | None]":
        """How many bytes of `data` belong to the line, and the whole line with its end once it is there.

        Raises TooLong."""
        taken = data.find(b"\n") + 1
        complete = taken > 0
        taken = taken or len(data)
        if len(self._gathered) + taken > self.limit:
            raise TooLong
        self._gathered += data[:taken]
        if not complete:
            return taken, None
        line = bytes(self._gathered)
        self._gathered.clear()
        return taken, line


class CommandBuffer:
    """Gathers one IMAP command or response at a time: its lines and the literals between them.

    After `take` returned no command, `prompt` says that the client waits for a continuation request before it sends
    a literal (RFC 9051 section 4.3, RFC 7888)."""

    __slots__ = ("_command", "_line", "_literal", "limit", "prompt")

    def __init__(self, limit: int = MAX_COMMAND) -> None:
        self.limit = limit
        self.prompt = False
        self._command = bytearray()
        self._line = LineBuffer(limit)
        self._literal = 0  # bytes of it still to come

    def take(self, data: bytes) -> "tuple[int, bytes | None]":
        """As LineBuffer.take, for a whole command."""
        self.prompt = False
        at = 0
        while at < len(data) and not self.prompt:
            if self._literal:
                at += self._take_literal(data, at)
                continue
            taken, line = self._line.take(data[at:])
            at += taken
            if line is None:
                break
            self._command += line
            announced = self.literal(line)
            if announced is None:
                self._check(0)
                command = bytes(self._command)
                self._command.clear()
                return at, command
            self._literal, synchronizing = announced
            self._check(self._literal)
            self.prompt = synchronizing
        return at, None

    def literal(self, line: bytes) -> "tuple[int, bool] | None":
        """Size of the literal that `line` announces, and whether its sender waits for a continuation request."""
        return literal_size(line)

    def _take_literal(self, data: bytes, at: int) -> int:
        part = data[at : at + self._literal]
        self._command += part
        self._literal -= len(part)
        return len(part)

    def _check(self, more: int) -> None:
        if len(self._command) + more > self.limit:
            raise TooLong


def literal_size(line: bytes) -> "tuple[int, bool] | None":
    """Size of the literal that the end of a line announces, and whether its sender waits: b"… {5}" is (5, True)."""
    line = line.rstrip(b"\r\n")
    if not line.endswith(b"}"):
        return None
    size = line[line.rfind(b"{") + 1 : -1]
    waits = not size.endswith(b"+")
    size = size if waits else size[:-1]
    if not size or size.strip(DIGITS) or b"{" not in line:
        return None
    return (int(size) if len(size) < 10 else 1 << 40), waits
