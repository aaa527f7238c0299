"""Reach a mailhost and log in there.

One deadline covers resolving, every address of the host, and all up to its greeting; another each reply behind that,
and TLS that begins there.
"""

import time

from .activation import Address, plain_ip
from .dialogue.events import BackendFault, Reply
from .ends import Closed, SocketEnd, TimedOut
from .failures import BackendRefused, Failure, Loop, Temporary
from .interpreter import posix, socket
from .text import decode, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .dialogue.client import Client
    from .interpreter import ssl
    from .tls import Channel, End

    Tell = Callable[[str, str], None]  # is told each step that is done: its name, and what came of it
    Place = tuple[int, Any]  # address family, and what connect takes

REPLY_SECONDS = 30.0
"""For each reply to a login: backends delay refusals on purpose, Dovecot by up to 17 s."""

RESOLVER_OPTIONS = b"timeout:1 attempts:1 "
"""resolv.conf(5). The C library cannot be interrupted: where three name servers are silent, a name costs 6 s, whatever
PROXY_TIMEOUT says."""

TEMPORARY_CODES = (b"[UNAVAILABLE]", b"[SYS/TEMP]")
CHUNK = 65536
MAX_QUOTED = 200


def keep_quiet(step: str, outcome: str) -> None:
    pass


class Lost(Temporary):
    """No connection, or no longer; the text names the address. Another address may do better."""


class Backend:
    """A connection on which the user is logged in, the TLS it is behind, if any, and the reply that belongs to the
    client."""

    __slots__ = ("channel", "name", "reply", "socket")

    def __init__(self, name: str, connected: socket.socket, channel: "Channel | None", reply: Reply) -> None:
        self.name = name
        self.socket = connected
        self.channel = channel
        self.reply = reply


class Way:
    """How a server is spoken to.

    tls      as in Settings.proxy_tls, and its `context`
    name     that the server's certificate must be for, if any
    header   what is sent first: nothing, or a PROXY header
    """

    __slots__ = ("context", "header", "name", "tls")

    def __init__(
        self,
        tls: str = "no",
        context: "ssl._SSLContext | None" = None,
        name: "str | None" = None,
        header: bytes = b"",
    ) -> None:
        self.tls = tls
        self.context = context
        self.name = name
        self.header = header


IN_CLEAR = Way()


class Target:
    """A mailhost to log in to, and the `way` to speak to it.

    served       addresses of this very service, and `this_host` the names of its host: a loop ends there
    """

    __slots__ = ("host", "port", "served", "this_host", "timeout", "way")

    def __init__(
        self,
        host: str,
        port: int,
        timeout: float,
        served: "Sequence[Address]" = (),
        this_host: str = "",
        way: Way = IN_CLEAR,
    ) -> None:
        self.host = host
        self.port = port
        self.timeout = timeout
        self.served = served
        self.this_host = this_host
        self.way = way

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def log_in(target: Target, new_client: "Callable[[], Client]", password: bytes, tell: "Tell" = keep_quiet) -> Backend:
    """Log in at the first address of `target` that lets us. `new_client` makes the client half of the dialogue.

    Raises BackendRefused with the backend's reply, Loop, or Temporary with what happened at each address.
    """
    deadline = time.monotonic() + target.timeout
    places = _places(target)
    tell("name", f"{target.host} is at " + ", ".join(address[0] for _, address in places))
    failures: list[Failure] = []
    for position, place in enumerate(places):
        share = (deadline - time.monotonic()) / (len(places) - position)
        try:
            return _log_in_at(place, target, new_client(), password, time.monotonic() + share, tell)
        except BackendRefused as refusal:
            if not is_temporary(refusal.reply.verdict):
                raise
            failures.append(refusal)
        except Lost as failure:
            failures.append(failure)
    raise _summary(target, failures)


def is_temporary(verdict: bytes) -> bool:
    """Whether a refusal says that it is not the user's fault: another address of the backend may do better."""
    return any(word in TEMPORARY_CODES for word in verdict.upper().split(None, 2)[1:2])


def _summary(target: Target, failures: "list[Failure]") -> Failure:
    if isinstance(failures[-1], BackendRefused):
        return failures[-1]
    return Temporary(f"backend {target}: " + "; ".join(str(failure) for failure in failures))


def _places(target: Target) -> "list[Place]":
    bound_resolver()
    try:
        return resolve(target.host, target.port)
    except Temporary as failure:
        raise Temporary(f"backend {target}: {failure}") from None


def bound_resolver() -> None:
    """From now on, for this process. Not while other threads resolve names."""
    posix.putenv(b"RES_OPTIONS", RESOLVER_OPTIONS + posix.environ.get(b"RES_OPTIONS", b""))


def resolve(host: str, port: int) -> "list[Place]":
    """Addresses of a mailhost. As bytes the name is not run through the IDNA codec, whose import costs 10 ms.

    Raises Temporary."""
    try:
        found = socket.getaddrinfo(host.rstrip(".").encode(), port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Temporary(f"cannot resolve the name: {words(error)}") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _log_in_at(
    place: "Place", target: Target, client: "Client", password: bytes, deadline: float, tell: "Tell"
) -> Backend:
    connected = _connect(place, deadline)
    ip = place[1][0]
    tell("connection", f"{ip} port {target.port}")
    talk = Conversation(SocketEnd(connected), client, target.way, tell)
    try:
        _guard_against_loop(connected, target)
        reply = talk.run(deadline)
        if not reply.accepted:
            raise BackendRefused(f"backend {target} refused: {quote(reply.verdict, password)}", reply)
    except BackendFault as fault:
        connected.close()
        said = f": {quote(fault.said, password)}" if fault.said else ""
        raise _failure(f"{ip}: {fault}{said}", target, lost=fault.goodbye) from None
    except (Closed, TimedOut) as error:
        connected.close()
        lost = talk.step in ("greeting", "TLS handshake") or isinstance(error, Closed)
        raise _failure(f"{ip}: no {talk.step}: {words(error)}", target, lost) from None
    except Failure:
        connected.close()
        raise
    return Backend(str(target), connected, talk.channel, reply)


def _failure(what: str, target: Target, lost: bool) -> Temporary:
    return Lost(what) if lost else Temporary(f"backend {target}: {what}")


def _connect(place: "Place", deadline: float) -> socket.socket:
    family, address = place
    try:
        connecting = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # an IPv6 address, and no IPv6 here
        raise Lost(f"{address[0]}: {words(error)}") from None
    try:
        connecting.settimeout(max(deadline - time.monotonic(), 0.001))
        connecting.connect(address)
    except OSError as error:
        connecting.close()
        raise Lost(f"{address[0]}: {words(error)}") from None
    return connecting


def _guard_against_loop(connected: socket.socket, target: Target) -> None:
    """Raises Loop where the backend is this host on the port that is served. Where the kernel has connected different
    addresses of this host, the next helper sees it: its client has come to the address that it is to connect to."""
    try:
        own, peer = connected.getsockname()[:2], connected.getpeername()[:2]
    except OSError as error:  # reset already
        raise Closed(words(error)) from None
    for served in target.served:
        if plain_ip(peer[0]) in (plain_ip(own[0]), served.ip) and str(peer[1]) == served.port:
            raise Loop(
                f"mailhost {target} is {peer[0]}, this very service, but this host knows itself as {target.this_host}: "
                "make the mailhost option, PROXY_HOSTNAME or the host name agree"
            )


class Conversation:
    """`client` speaking to a server over `end`, until it has its `reply`. `step` is what is waited for now, `channel`
    the TLS that has begun."""

    def __init__(self, end: "SocketEnd", client: "Client", way: Way, tell: "Tell" = keep_quiet) -> None:
        self.step = client.state
        self.channel: Channel | None = None
        self._end: End = end
        self._under = end
        self._client = client
        self._way = way
        self._tell = tell

    def run(self, deadline: float) -> Reply:
        """`deadline` is for the greeting and TLS. Raises BackendFault, Closed, TimedOut."""
        client = self._client
        if self._way.header:
            self._under.send(self._way.header, deadline)
        if self._way.tls == "yes":
            self._begin_tls(deadline)
        while client.reply is None:
            self.step = state = client.state
            data = self._end.receive(deadline)
            if not data:
                raise BackendFault(f"closed the connection in place of a {state}", goodbye=True)
            self._send(client.feed(data), deadline)
            if client.wants_tls:
                self._begin_tls(deadline)
                self._send(client.secured(), deadline)
            if client.state != state:
                self._tell(state, "received")
                deadline = time.monotonic() + REPLY_SECONDS
        return client.reply

    def _send(self, data: bytes, deadline: float) -> None:
        if data:
            self._end.send(data, deadline)

    def _begin_tls(self, deadline: float) -> None:
        from .tls import Channel, HandshakeFailed, TlsEnd

        self.step = "TLS handshake"
        assert self._way.context
        self.channel = Channel(self._way.context, server_side=False, peer_name=self._way.name)
        self._end = end = TlsEnd(self._under, self.channel)
        try:
            end.shake_hands(deadline)
        except HandshakeFailed as failure:
            raise BackendFault(f"TLS failed: {failure}", goodbye=True) from None
        self._tell("TLS", f"{self.channel.version()}, {self.channel.cipher()}")


def quote(said: bytes, password: bytes) -> str:
    """What a backend said, for the log; not where it repeats the password."""
    escaped = password.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    if password in said or escaped in said:
        return "(not shown: it repeats the password)"
    return decode(said[:MAX_QUOTED].rstrip())
