"""One way to fail. Each protocol maps `kind` to its reply and response code, the log maps it to a line.

The text of an exception is the reason as the log shows it; it never holds a password.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .dialogue.events import Reply


class Failure(Exception):
    """A login that did not succeed. Raised as one of the classes below."""

    kind = "temporary"
    level = "ERR"
    event = "LOGIN DEFERRED"


class WrongCredentials(Failure):
    """Unknown name, wrong password, or a name or password that cannot be one."""

    kind = "credentials"
    level = "INFO"
    event = "LOGIN FAILED"


class Temporary(Failure):
    """An account source, a backend, this host or its configuration is at fault: never the user's password."""


class Disabled(Failure):
    """The account may not use this service."""

    kind = "disabled"
    level = "INFO"
    event = "LOGIN REFUSED"


class Insecure(Failure):
    """The login is allowed over TLS only."""

    kind = "insecure"
    level = "INFO"
    event = "LOGIN REFUSED"


class Loop(Failure):
    """The backend is this very service, or would be one proxy too many."""

    kind = "loop"
    level = "ERR"
    event = "LOGIN REFUSED"


class BackendRefused(Failure):
    """The backend refused the login; `reply` is what it said, for the client to read."""

    kind = "backend"
    level = "WARN"
    event = "LOGIN REFUSED"

    def __init__(self, reason: str, reply: "Reply") -> None:
        super().__init__(reason)
        self.reply = reply
