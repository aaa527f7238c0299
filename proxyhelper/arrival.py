"""Who has come, where somebody stands between: the PROXY header of a balancer, the word of another proxy."""

from .activation import Address, Connection, canonical
from .networks import Networks
from .proxy_protocol import Malformed, Reader
from .settings import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .dialogue.events import Forwarded
    from .settings import Settings
    from .tls import End

HEADER_SECONDS = 5.0
"""For a PROXY header; its specification asks for at least 3."""


class Unwelcome(Exception):
    """Somebody who should begin with a PROXY header and does not, or may not. The text is for the log."""


def read_header(end: "End", connection: Connection, settings: "Settings", deadline: float) -> None:
    """Read the PROXY header and correct `connection` by it; not a byte behind it is read.

    Raises Unwelcome, TimedOut, Closed, ConfigurationError."""
    if not _is_in(connection.peer, settings.proxy_protocol_from, "PROXY_PROTOCOL_FROM"):
        raise Unwelcome("PROXY_PROTOCOL_FROM does not name this address")
    reader = Reader()
    try:
        while data := end.peek(deadline):
            taken, header = reader.feed(data)
            end.consume(taken)
            if header:
                break
        else:
            raise Unwelcome("the connection ended in place of a PROXY header")
    except Malformed as error:
        raise Unwelcome(f"no PROXY header: {error}") from None
    if header.peer and header.local:
        connection.peer, connection.local = header.peer, header.local
        connection.served.append(header.local)


def is_trusted(peer: Address, settings: "Settings") -> bool:
    """Whether a client's word about its own client counts. Raises ConfigurationError."""
    return _is_in(peer, settings.trusted, "PROXY_TRUSTED")


def _is_in(peer: Address, networks: str, setting: str) -> bool:
    try:
        return peer.ip in Networks(networks)
    except ValueError as error:
        raise ConfigurationError(f"setting {setting}: {error}", setting) from None


def believe(told: "Forwarded", connection: Connection) -> None:
    """Correct `connection` by what a trusted proxy says."""
    if ip := canonical(told.ip):
        connection.peer = Address(ip, told.port)
    if ip := canonical(told.local_ip):
        connection.local = Address(ip, told.local_port)
