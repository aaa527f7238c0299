"""Errors that end a session: what is logged, and what a client is told."""

import time

from . import activation, log
from .reception import bid_farewell, farewell, new_name
from .settings import ConfigurationError, is_true

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tls import End

LISTENER_PAUSE = 1.0
"""Seconds before an end for which xinetd's `wait = yes` would start us again at once."""


def give_up(protocol: str, environment: "dict[str, str]", error: Exception) -> int:
    """Deal with an error before the greeting. Returns the exit status."""
    waits_for_tls = is_true(environment.get("PROXY_TLS_WRAP", ""))
    journal = log.Log(log.choose_sink(environment), protocol, waits_for_tls)
    try:
        journal.about(activation.inspect(environment), new_name())
    except activation.NotAConnection as reason:
        return end(protocol, journal, reason, None)
    return end(protocol, journal, error, None if waits_for_tls else activation.client_end())


def end(protocol: str, journal: log.Log, error: Exception, listener: "End | None") -> int:
    """Log an error, and tell the client, where that can be. Returns the exit status."""
    if isinstance(error, activation.NotAConnection):
        journal.event("CRIT", str(error))
        time.sleep(LISTENER_PAUSE)
        return 64
    if isinstance(error, ConnectionError):
        journal.event("INFO", "DISCONNECTED")
        return 0
    if isinstance(error, ConfigurationError):
        journal.event("ERR", "CONFIGURATION", detail=str(error))
    else:
        journal.event("CRIT", "internal error", detail=log.where(error))
    if listener:
        bid_farewell(listener, farewell(protocol, "unavailable"))
    return 70
