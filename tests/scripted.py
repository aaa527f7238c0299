"""A backend whose every word the test says itself, for what real ones do not do on command."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from support import DEADLINE, Wire

GREETING = {"imap": b"* OK scripted\r\n", "pop3": b"+OK scripted\r\n"}
LOGIN = {"imap": b"a1 LOGIN u1 secret\r\n", "pop3": b"USER u1\r\nPASS secret\r\n"}
STARTTLS = {"imap": b"t STARTTLS\r\n", "pop3": b"STLS\r\n"}
BEGIN_TLS = {"imap": b"t OK Begin TLS negotiation now.\r\n", "pop3": b"+OK Begin TLS negotiation now.\r\n"}


@dataclass
class Login:
    """What the helper told a backend, and in which bytes."""

    user: bytes
    password: bytes
    raw: bytes
    tag: bytes = b""

    def reply(self, text: bytes) -> bytes:
        """An IMAP reply with the command's tag, or a POP3 one."""
        return (self.tag + b" " if self.tag else b"") + text + b"\r\n"


class Backend:
    """A listening socket; each connection it accepts is a Wire."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, backlog: int = 8) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=backlog)
        self.listener.settimeout(DEADLINE)
        self.host, self.port = self.listener.getsockname()[:2]
        self.wires: list[Wire] = []

    @property
    def mailhost(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def accept(self) -> Wire:
        self.wires.append(Wire(self.listener.accept()[0]))
        return self.wires[-1]

    def greet(self, greeting: bytes) -> Wire:
        wire = self.accept()
        wire.send(greeting)
        return wire

    def untouched(self, seconds: float = 0) -> bool:
        """Nobody has connected since the last accept."""
        self.listener.settimeout(seconds)
        try:
            self.accept()
        except (BlockingIOError, TimeoutError):
            return True
        finally:
            self.listener.settimeout(DEADLINE)
        return False

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        self.listener.close()


class Unreachable(Backend):
    """Connecting to it neither succeeds nor fails: its queue is full and nobody accepts."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port, backlog=0)
        self.queued = [socket.socket(self.listener.family) for _ in range(3)]
        for client in self.queued:
            client.setblocking(False)
            client.connect_ex(self.listener.getsockname())

    def close(self) -> None:
        for client in self.queued:
            client.close()
        super().close()


def closed_port() -> str:
    """A mailhost that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def read_login(protocol: str, wire: Wire) -> Login:
    return read_imap_login(wire) if protocol == "imap" else read_pop3_login(wire)


def read_imap_login(wire: Wire) -> Login:
    raw = wire.line()
    while literal := re.search(rb"\{(\d+)(\+?)\}\r\n\Z", raw):
        if not literal[2]:
            wire.send(b"+ go on\r\n")
        raw += wire.exactly(int(literal[1])) + wire.line()
    tag, word, arguments = raw.split(b" ", 2)
    assert word.upper() == b"LOGIN", raw
    user, left = read_string(arguments)
    password, left = read_string(left[1:])
    assert left == b"\r\n", raw
    return Login(user, password, raw, tag)


def read_string(data: bytes) -> tuple[bytes, bytes]:
    """An astring at the start of `data`, and what stands behind it."""
    if literal := re.match(rb"\{(\d+)\+?\}\r\n", data):
        end = literal.end() + int(literal[1])
        return data[literal.end() : end], data[end:]
    if quoted := re.match(rb'"((?:[^"\\\r\n\x80-\xff]|\\["\\])*)"', data):
        return re.sub(rb"\\(.)", rb"\1", quoted[1]), data[quoted.end() :]
    atom = re.match(rb'[^(){%*"\\\x00-\x20\x7f-\xff]+', data)
    assert atom, f"not a string: {data!r}"
    return atom[0], data[atom.end() :]


def read_pop3_login(wire: Wire) -> Login:
    user = wire.line()
    wire.send(b"+OK go on\r\n")
    password = wire.line()
    assert (user[:5], password[:5]) == (b"USER ", b"PASS ")
    return Login(user[5:].removesuffix(b"\r\n"), password[5:].removesuffix(b"\r\n"), user + password)


def log_in(protocol: str, client: Wire, backend: Backend) -> Wire:
    """The plainest login, from the client's command to the reply it sees."""
    client.send(LOGIN[protocol])
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    wire.send(login.reply(b"OK in" if protocol == "imap" else b"+OK in"))
    client.until(b"a1 OK" if protocol == "imap" else b"+OK in")
    return wire


def start_tls(client: Wire, protocol: str) -> None:
    """What a client says in clear before TLS."""
    client.send(STARTTLS[protocol])
    line = client.line()
    assert line == BEGIN_TLS[protocol], line


def reply_to(client: Wire, protocol: str) -> bytes:
    """What the client sees of its login, without the answer to USER."""
    if protocol == "imap":
        return client.line()
    line = client.line()
    return client.line() if line.startswith(b"+OK") and b"done" not in line else line
