"""Mail clients that take the time."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from time import perf_counter
from types import TracebackType

PATIENCE = 30.0
PIECE = 1 << 20
QUIET = 0.05
"""Seconds without a byte behind all that was announced: the end."""
NAME = "front.example.com"
"""Whose certificate is expected."""
AGREED = ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
"""Version and cipher of every session behind TLS."""
MAX_OVERHEAD = 0.03
"""Of ciphertext: a record adds 22 bytes, and holds 1 KiB (Dovecot) to 16 KiB."""


class Client:
    """An IMAP session; `greeted` is how long it took from connecting to the greeting."""

    def __init__(self, address: str | socket.socket) -> None:
        began = perf_counter()
        self.socket = self.connected(address) if isinstance(address, str) else address
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        greeting = self.line()
        self.greeted = perf_counter() - began
        assert greeting.startswith(b"* OK"), greeting

    def connected(self, address: str) -> socket.socket:
        return socket.create_connection((address, 143), PATIENCE)

    def ask(self, command: str) -> float:
        """Seconds from a command to its OK."""
        began = perf_counter()
        self.socket.sendall(b"a " + command.encode() + b"\r\n")
        while (line := self.line()).startswith(b"* "):
            pass
        seconds = perf_counter() - began
        assert line.startswith(b"a OK"), (command, line)
        return seconds

    def fetch(self, size: int) -> float:
        """Seconds from asking for a literal of so many bytes to having all of it; the bytes themselves go nowhere."""
        began = perf_counter()
        self.socket.sendall(b"a FETCH %d\r\n" % size)
        announced = self.line()
        literal = re.search(rb"\{(\d+)\}\r\n\Z", announced)
        assert literal, announced
        left = size - len(self.received)
        self.received.clear()
        unused = bytearray(PIECE)
        while left:
            got = self.socket.recv_into(unused, min(left, PIECE), socket.MSG_TRUNC)
            assert got, f"connection closed {left} bytes before the end of the literal"
            left -= got
        assert self.line() == b")\r\n"
        assert self.line().startswith(b"a OK")
        return perf_counter() - began

    def line(self) -> bytes:
        while (end := self.received.find(b"\n") + 1) == 0:
            data = self.socket.recv(65536)
            assert data, f"connection closed after {bytes(self.received)!r}"
            self.received += data
        line = bytes(self.received[:end])
        del self.received[:end]
        return line

    def close(self) -> None:
        """Leave, and wait until the other side has ended too."""
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(65536):
            pass
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        self.socket.close()


class TlsClient(Client):
    """An IMAPS session.

    It does not decrypt what it fetches, as a client that does is no faster than what it measures; behind the first
    literal it understands nothing any more, and can but fetch on."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(address)

    def connected(self, address: str) -> socket.socket:
        connection = socket.create_connection((address, 993), PATIENCE)
        encrypted = self._context.wrap_socket(connection, server_hostname=NAME)
        cipher = encrypted.cipher()
        assert cipher
        assert (encrypted.version(), cipher[0]) == AGREED
        return encrypted

    def fetch(self, size: int) -> float:
        """Seconds from asking for a literal of so many bytes to the last byte of its ciphertext."""
        unused = bytearray(PIECE)

        def discard() -> int:
            """Drop what has arrived, below TLS."""
            got = socket.socket.recv_into(self.socket, unused, PIECE, socket.MSG_TRUNC)
            assert got, f"connection closed within a literal of {size} bytes, or behind it"
            return got

        began = perf_counter()
        self.socket.sendall(b"a FETCH %d\r\n" % size)
        received = 0
        while received < size:
            received += discard()
        ended = perf_counter()
        self.socket.settimeout(QUIET)
        with suppress(TimeoutError):
            while True:
                received += discard()
                ended = perf_counter()
        self.socket.settimeout(PATIENCE)
        assert received < size * (1 + MAX_OVERHEAD), f"{received} bytes for {size}"
        return ended - began
