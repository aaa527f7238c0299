"""Start a program for every connection as systemd does with Accept=yes and StandardInput=socket.

accept_yes.py journal|file|connection ADDRESS PORT PROGRAM [ARG…]

The first argument says where stderr goes: "journal" means that JOURNAL_STREAM names our own stderr, as it names the
journal's socket in a unit with StandardError=journal.
"""

import os
import signal
import socket
import sys


def environment(stderr: str, peer: tuple[str, int]) -> dict[str, str]:
    """What systemd tells a service about its connection."""
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "connection"}
    told |= {"REMOTE_ADDR": peer[0], "REMOTE_PORT": str(peer[1])}
    if stderr == "journal":
        file = os.fstat(2)
        told["JOURNAL_STREAM"] = f"{file.st_dev}:{file.st_ino}"
    inherited = dict(os.environ)
    inherited.pop("LC_CTYPE", None)  # Python's own (PEP 538)
    return inherited | told


def start(connection: int, stderr: str, peer: tuple[str, int], argv: list[str]) -> None:
    """Become the program, with the connection on 0, 1 and 3."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    connection = os.dup2(connection, 10)
    for descriptor in (0, 1, 3) if stderr != "connection" else (0, 1, 2, 3):
        os.dup2(connection, descriptor)
    os.closerange(4, 20)
    os.execve(argv[0], argv, environment(stderr, peer))


def main() -> None:
    stderr, address, port, *argv = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server((address, int(port)), backlog=128)
    while True:
        connection, peer = listener.accept()
        if os.fork() == 0:
            start(connection.fileno(), stderr, peer, argv)
        connection.close()


main()
