"""What follows a login where this process stays: client and server are relayed, until both are done. Not a byte of our
own is said from here on."""

import gc
import time

from .descriptors import POLLIN, is_ready
from .interpreter import posix
from .log import where
from .relay import LINGER, End, Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .backend import Backend
    from .log import Log
    from .relay import Pair
    from .tls import Channel


class Handover:
    """A client that has logged in on fd 0 and 1, and the server that it is relayed to: a backend, or a child of this
    process. `said` is what the client has sent behind its login, as far as it has been read."""

    def __init__(self, user: str, channel: "Channel | None", said: bytes) -> None:
        self._user = user
        self._client = _end(0, 1, channel)
        self._said = said
        self._relay = Relay()
        self._backend: Backend | None = None
        self._child = 0

    def to_backend(self, backend: "Backend", reply: bytes) -> "Handover":
        """`reply` is for the client to read first."""
        self._backend = backend
        descriptor = backend.socket.fileno()
        self._server = _end(descriptor, descriptor, backend.channel)
        self._reply = reply
        return self

    def to_child(self, child: int, descriptor: int) -> "Handover":
        """The child will reply by itself."""
        self._child = child
        self._server = End(descriptor, descriptor)
        self._reply = b""
        return self

    def run(self, journal: "Log") -> int:
        """Until all has been relayed; the exit status."""
        gc.enable()
        try:
            if self._backend:
                self._serve_logged(journal, self._backend)
            else:
                self._serve()
        except Exception as error:
            journal.event("CRIT", "internal error", detail=where(error))
            return 70
        if self._child:
            _wait_for(self._child)
        return 0

    def _serve_logged(self, journal: "Log", backend: "Backend") -> None:
        started = time.monotonic()
        server: dict[str, Any] = {"backend": backend.name}
        if backend.channel:
            server["backend_tls"] = backend.channel.version()
        journal.login("INFO", "LOGIN", self._user, **server)
        pair = self._serve()
        server.update(rcvd=pair.from_client.moved, sent=pair.to_client.moved, time=int(time.monotonic() - started))
        journal.login("INFO", "LOGOUT", self._user, **server)

    def _serve(self) -> "Pair":
        pair = self._relay.add(self._client, self._server, self._reply, self._said)
        self._relay.run()
        return pair


def _end(reading: int, writing: int, channel: "Channel | None") -> End:
    if not channel:
        return End(reading, writing)
    from .encrypted import Encrypted

    return Encrypted(reading, writing, channel)


def _wait_for(child: int) -> None:
    """The activator takes our end for that of the session, and may kill what is left."""
    try:
        ending = posix.pidfd_open(child)
    except (OSError, AttributeError):  # a kernel, or a Python built for one, that has it not
        return
    is_ready(ending, POLLIN, LINGER)
