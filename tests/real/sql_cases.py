"""What the tests of the two SQL sources share: accounts, names and what they must find, servers that are no servers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxyhelper.settings import Settings, Values

HOSTILE = [
    *["'", "u1@example.com'", "' OR '1'='1", "u1@example.com' -- ", "u1@example.com'#", "'; DROP TABLE users; -- "],
    *["\\", "\\'", "\\' OR 1=1 -- ", "u1@example.com\\", "%", "_", "u_@example.com", "%@example.com", "%s", "%(a)s"],
    *['"', '" OR "1"="1', "$(local_part)", "$(domain)@$(local_part)", "$$", "E'x'", "/*", "*/ OR 1=1 /*", "NULL", "0"],
    *["\x01", "\x7f", "\ufffd", "😀@example.com", "'" * 300, "u2@example.com", "", "@", "@@", "u1@example.com@"],
    *["\udcff", "\udcbf' OR 1=1 -- ", "\udcbf\\' OR 1=1 -- ", "\udce0'"],
]
"""Names that no account has. Some are no UTF-8."""

AT_ONCE = 4.0
"""Seconds within which a login that waits for one such deadline, or two, must end."""


def settings(directory: Path, prefix: str, text: str, **environment: str) -> Settings:
    """The helper's settings in a new directory with this rc file."""
    directory.mkdir(exist_ok=True)
    (directory / f"auth{prefix.lower()}rc").write_text(text)
    return Settings("imap", str(directory), {}, Values(environment, {}))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A server whose processes run no more, and whose kernel goes on accepting connections."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def silent(path: Path | None = None) -> Iterator[int]:
    """The port of a server that accepts and never answers; or 0 for one on the unix socket `path`."""
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    with listener:
        listener.bind(str(path) if path else ("127.0.0.1", 0))
        listener.listen()
        yield 0 if path else listener.getsockname()[1]


@contextmanager
def saying(greeting: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that says this to the first client, and what that client says until it leaves."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(AT_ONCE)
                connection.sendall(greeting)
                while piece := connection.recv(4096):
                    heard.append(piece)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listener.getsockname()[1], heard
        server.join(AT_ONCE)


@contextmanager
def quick() -> Iterator[None]:
    """What is done in here must not take long."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < AT_ONCE
