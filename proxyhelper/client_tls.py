"""What the reception of a client needs where it comes with TLS."""

import time

from .tls import Channel, HandshakeFailed, TlsEnd, identity, server_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .activation import Connection
    from .settings import Settings
    from .tls import End

ALERT_SECONDS = 0.1
"""For the client to read the alert that says why there is no TLS."""


def new_channel(settings: "Settings", connection: "Connection") -> Channel:
    """Raises ConfigurationError."""
    return Channel(server_context(settings, connection.local.ip), server_side=True)


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


def identity_of(settings: "Settings", environment: "Mapping[str, str]", channel: "Channel | None") -> str:
    """The login name that the client's certificate proves, to us or to whoever has done its TLS; or ""."""
    field = settings.tls_external
    if settings.tls:
        return environment.get(f"TLS_SUBJECT_{field.upper()}", "")
    return identity(channel.peer_subject(), field) if channel else ""
