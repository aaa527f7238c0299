"""TLS with the client, as part of its reception: from the first byte, or when it asks for it."""

import time

from .reception import LOGOUT_SECONDS
from .settings import ConfigurationError
from .tls import Channel, HandshakeFailed, TlsEnd, identity, server_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .reception import Reception


def new_channel(client: "Reception") -> Channel:
    """Raises ConfigurationError."""
    return Channel(server_context(client.settings, client.connection.local.ip), server_side=True)


def begin(client: "Reception", channel: Channel) -> bool:
    """Whether TLS could be agreed upon. Raises TimedOut, Closed."""
    client.waits_for_tls = True
    under = client.end
    assert not isinstance(under, TlsEnd)
    end = TlsEnd(under, channel)
    try:
        end.shake_hands(client.deadline)
    except HandshakeFailed as failure:
        client.log.event("INFO", "DISCONNECTED", detail=f"TLS handshake failed: {failure}")
        under.finish(time.monotonic() + LOGOUT_SECONDS)  # the client may not have read the alert that says why
        return False
    client.waits_for_tls = False
    client.end, client.channel = end, channel
    client.connection.secure = True
    client.log.secure(channel.version(), channel.cipher())
    client.log.login("DEBUG", "TLS")
    return True


def start(client: "Reception", reply: bytes, injected: bool) -> bool:
    """Begin TLS behind `reply`, or refuse; whether the session goes on.

    What was sent in clear behind the command may be anybody's, who would have it carried out in the client's name:
    https://nostarttls.secvuln.info/"""
    if injected:
        client.log.event("WARN", "DISCONNECTED", detail="sent more in clear behind the command that begins TLS")
        return False
    try:
        channel = new_channel(client)
    except ConfigurationError as error:
        client.log.event("ERR", "CONFIGURATION", detail=str(error))
        client.end.send(client.server.refused("tls"), client.deadline)
        return True
    client.end.send(reply, client.deadline)
    return begin(client, channel)


def identity_of(client: "Reception") -> str:
    """The login name that the client's certificate proves, to us or to whoever has done its TLS; or ""."""
    field = client.settings.tls_external
    if client.settings.tls:
        return client.environment.get(f"TLS_SUBJECT_{field.upper()}", "")
    return identity(client.channel.peer_subject(), field) if client.channel else ""
