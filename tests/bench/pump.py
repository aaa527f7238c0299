"""A backend that sends literals as fast as the kernel can.

    python pump.py ADDRESS

It believes every LOGIN, with literals or without, and answers `tag FETCH n` with a literal of n bytes.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

BLOCK = 1 << 20


def zeros() -> int:
    """A file in memory that holds one block."""
    file = os.memfd_create("block")
    os.write(file, bytes(BLOCK))
    return file


def send_literal(client: socket.socket, source: int, size: int) -> None:
    while size:
        size -= os.sendfile(client.fileno(), source, 0, min(size, BLOCK))


def commands(client: socket.socket) -> Iterator[bytes]:
    """Each command, whole, with its literals."""
    command = b""
    for line in client.makefile("rb"):
        command += line
        if line.endswith(b"}\r\n"):
            client.sendall(b"+ go on\r\n")
        else:
            yield command
            command = b""


def serve(client: socket.socket, source: int) -> None:
    client.sendall(b"* OK pump\r\n")
    for said in commands(client):
        tag, command, *arguments = said.split()
        if command == b"FETCH":
            client.sendall(b"* 1 FETCH (BODY[] {%s}\r\n" % arguments[0])
            send_literal(client, source, int(arguments[0]))
            client.sendall(b")\r\n")
        client.sendall(tag + b" OK done\r\n")


def main() -> None:
    source = zeros()
    with socket.create_server((sys.argv[1], 143)) as listener:
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                serve(client, source)
                os._exit(0)
            client.close()


if __name__ == "__main__":
    main()
