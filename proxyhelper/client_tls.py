"""What the reception of a client needs where it comes with TLS."""

import sys
import time

from .tls import Channel, HandshakeFailed, TlsEnd, server_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .activation import Connection
    from .settings import Settings
    from .tls import End

ALERT_SECONDS = 0.1
"""For the client to read the alert that says why there is no TLS."""


def new_channel(settings: "Settings", connection: "Connection") -> Channel:
    """Raises ConfigurationError."""
    sys.unraisablehook = _say_nothing  # a name that is no text fails the handshake, and would be shown on stderr
    return Channel(server_context(settings, connection.local.ip), server_side=True)


def _say_nothing(unraisable: object) -> None:
    pass


def agree(end: "End", channel: Channel, deadline: float) -> TlsEnd:
    """The end in clear as one behind TLS. Raises HandshakeFailed, TimedOut, Closed."""
    assert not isinstance(end, TlsEnd)
    secured = TlsEnd(end, channel)
    try:
        secured.shake_hands(deadline)
    except HandshakeFailed:
        end.finish(time.monotonic() + ALERT_SECONDS)
        raise
    return secured
