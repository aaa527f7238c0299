"""TLS as clients see it: OpenSSL's s_client, Python's mail clients behind TLS, and what goes over the wire in clear."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support import Wire, need

from .activators import Activator, Listener, front
from .clients import CLIENT, Client, Imap, Pop3
from .mail import Account
from .servers import PORTS, TLS_PORTS
from .world import BARE_ENVIRONMENT, HERE, PATIENCE, World, program

WAYS = {"starttls": PORTS, "wrapped": TLS_PORTS}
"""How a client comes to TLS, and on which ports; wrapped: from the first byte."""
EXTERNAL = {"imap": "a1 AUTHENTICATE EXTERNAL =\r\n", "pop3": "AUTH EXTERNAL =\r\n"}
LOGGED_IN = {"imap": r"\na1 OK ", "pop3": r"\+OK logged in"}
"""What Courier's servers say to a client that has shown who it is."""
LOGOUT = {"imap": "a9 LOGOUT\r\n", "pop3": "QUIT\r\n"}

Front = Mapping[str, Mapping[str, Listener]]
"""Listeners by way and protocol."""

SOL_PACKET, PACKET_STATISTICS, ETH_P_ALL = 263, 6, 3  # linux/if_packet.h, linux/if_ether.h
CAPTURED_BYTES = 32 << 20


@contextmanager
def tls_front(
    activator: Activator, directory: Path, address: str, environment: Mapping[str, str], world: World = HERE
) -> Iterator[Front]:
    """The helper on all four ports of an address."""
    with ExitStack() as listeners:
        started = {}
        for way, ports in WAYS.items():
            told = {**environment, "PROXY_TLS_WRAP": "1"} if way == "wrapped" else environment
            of_way = front(activator, directory / way, address, told, world, ports=ports)
            started[way] = listeners.enter_context(of_way)
        yield started


class Imaps(Imap):
    """imaplib's client, behind TLS from the first byte."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(address)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        return connect(self.host, "imap", self._context)


class Pop3s(Pop3):
    """poplib's client, behind TLS from the first byte."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(address)

    def _create_socket(self, timeout: float) -> ssl.SSLSocket:
        return connect(self.host, "pop3", self._context)


def connect(address: str, protocol: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection from CLIENT, behind TLS from the first byte."""
    connection = socket.create_connection((address, TLS_PORTS[protocol]), PATIENCE, source_address=(CLIENT, 0))
    return context.wrap_socket(connection, server_hostname=address)


def shake_hands(
    connection: socket.socket, context: ssl.SSLContext, name: str, preface: bytes = b""
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """TLS whose bytes go over the connection by hand, the first ones together with the preface; its incoming and
    outgoing bytes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    while not tls.version():
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            connection.sendall(preface + outgoing.read())
            preface = b""
            incoming.write(connection.recv(65536))
    connection.sendall(outgoing.read())
    return tls, incoming, outgoing


def client(way: str, address: str, protocol: str, context: ssl.SSLContext) -> Client:
    """A client behind TLS that has not logged in."""
    if way != "starttls":
        return (Imaps if protocol == "imap" else Pop3s)(address, context)
    if protocol == "imap":
        imap = Imap(address)
        imap.starttls(context)
        return imap
    pop3 = Pop3(address)
    pop3.stls(context)
    return pop3


def log_in(client: Client, account: Account) -> None:
    """With name and password."""
    if isinstance(client, Imap):
        client.login(account.name, account.password)
    else:
        client.user(account.name)
        client.pass_(account.password)


def logged_in(way: str, address: str, protocol: str, account: Account, context: ssl.SSLContext) -> Client:
    """A client behind TLS that has logged in."""
    started = client(way, address, protocol, context)
    log_in(started, account)
    return started


def _s_client(way: str, address: str, protocol: str, options: tuple[str, ...]) -> list[str]:
    starttls = ["-starttls", protocol] if way == "starttls" else []
    where = f"{address}:{WAYS[way][protocol]}"
    return [program("openssl"), "s_client", "-connect", where, *starttls, *options]


def handshake(way: str, address: str, protocol: str, *options: str, lines: str = "") -> str:
    """All that s_client tells of a session in which the lines are said, and then good-bye."""
    done = subprocess.run(
        _s_client(way, address, protocol, ("-ign_eof", *options)),
        input=(lines + LOGOUT[protocol]).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=BARE_ENVIRONMENT,
        timeout=PATIENCE,
    )
    return done.stdout.decode(errors="replace")


@contextmanager
def s_client(way: str, address: str, protocol: str, *options: str) -> Iterator[Wire]:
    """A session of s_client; one line at a time, for a line of R alone renegotiates."""
    command = _s_client(way, address, protocol, options)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=BARE_ENVIRONMENT
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Wire(process.stdout.fileno(), process.stdin.fileno())
        finally:
            process.kill()


@contextmanager
def on_the_wire() -> Iterator[Callable[[], bytes]]:
    """What goes over the loopback interface in here: a function that tells all of it so far."""
    need(os.geteuid() == 0, "root, to see what goes over the wire")
    seen = bytearray()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as capture:
        capture.setsockopt(socket.SOL_SOCKET, 33, CAPTURED_BYTES)  # SO_RCVBUFFORCE
        capture.bind(("lo", 0))
        capture.setblocking(False)

        def so_far() -> bytes:
            try:
                while packet := capture.recv(1 << 17):
                    seen.extend(packet)
            except BlockingIOError:
                pass
            _, dropped = struct.unpack("II", capture.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            assert not dropped
            return bytes(seen)

        yield so_far
