"""The story of one connection on fd 0 and 1 behind its greeting: dialogue, login, and the hand-over to a backend or
local server. What a step needs is imported when its turn comes."""

import gc
import time

from . import activation, log
from .ends import Closed, TimedOut, client_end
from .interpreter import posix, signal, socket
from .settings import ConfigurationError
from .text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .accounts.account import Account
    from .backend import Backend
    from .dialogue.events import Abuse, Login, Logout
    from .dialogue.imap import Server as ImapServer
    from .dialogue.pop3 import Server as Pop3Server
    from .ends import End
    from .relay import Relay
    from .settings import Settings

    Server = ImapServer | Pop3Server

LOGIN_SECONDS = 60.0
"""From the greeting to a complete login, as Courier gives."""
MAX_LOGINS = 10
"""Logins of one connection: a client that asks again at once must not turn an outage into a storm."""
FAREWELL_SECONDS = 5.0
"""For a last word to a client that may not read."""
LOGOUT_SECONDS = 0.1
"""After LOGOUT, to read away what the client sent behind it."""
LISTENER_PAUSE = 1.0
"""Seconds before an end for which xinetd's `wait = yes` would start us again at once."""
DELAYED = ("credentials", "disabled", "insecure")
"""Kinds of failure told at a fixed time after the command, so that the time tells nothing of the account."""


def serve(settings: "Settings", command: "list[str]", environment: "dict[str, str]") -> int:
    """Serve the client, who has been greeted; `command` and `environment` are the local server's. Returns the exit
    status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would end in a traceback
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some supervisors leave it, no child could be waited for
    journal = log.Log(log.choose_sink(environment), settings.protocol, settings.tls)
    try:
        connection = activation.inspect(environment)
        journal.about(connection)
        journal.event("DEBUG", "Connection")
        handover = Session(connection, settings, journal, command, environment).run()
    except Exception as error:
        return _fail(settings.protocol, journal, error)
    return _relay(handover, journal) if handover else 0


def give_up(protocol: str, environment: "dict[str, str]", error: Exception) -> int:
    """Deal with an error before the greeting. Returns the exit status."""
    journal = log.Log(log.choose_sink(environment), protocol, tls=False)
    try:
        journal.about(activation.inspect(environment))
    except activation.NotAConnection as reason:
        error = reason
    return _fail(protocol, journal, error)


def _fail(protocol: str, journal: log.Log, error: Exception) -> int:
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
        journal.event("CRIT", "internal error", detail=_where(error))
    _bid_farewell(client_end(), _server_class(protocol).FAREWELLS["unavailable"])
    return 70


def _where(error: BaseException) -> str:
    """Type and place of an error; not its text, which may hold anything."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename} line {trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


def _bid_farewell(end: "End", words: bytes, linger: float = 0.0) -> None:
    """Say `words` as the last thing, if the client will hear them; it has `linger` seconds (FAREWELL_SECONDS where 0)
    to end the connection."""
    try:
        end.send(words, time.monotonic() + FAREWELL_SECONDS)
    except (Closed, TimedOut):
        return
    end.finish(time.monotonic() + (linger or FAREWELL_SECONDS))


def _server_class(protocol: str) -> "type[Server]":
    if protocol == "imap":
        from .dialogue.imap import Server as ImapServer

        return ImapServer
    from .dialogue.pop3 import Server as Pop3Server

    return Pop3Server


def new_challenge() -> bytes:
    """An unguessable one of its own for each CRAM exchange, in the form of a message id (RFC 2195)."""
    return b"<" + posix.urandom(16).hex().encode() + b"@" + encode(socket.gethostname()) + b">"


class Handover:
    """A client to be relayed: who it is, its backend, what it is to be told first, and what relays."""

    __slots__ = ("backend", "relay", "to_client", "user")

    def __init__(self, user: str, backend: "Backend", to_client: bytes, relay: "Relay") -> None:
        self.user = user
        self.backend = backend
        self.to_client = to_client
        self.relay = relay


def _relay(handover: Handover, journal: log.Log) -> int:
    """Until client and backend are done. Not a byte of our own is said from here on."""
    started = time.monotonic()
    gc.enable()
    backend = handover.backend
    journal.login("INFO", "LOGIN", handover.user, backend=backend.name)
    try:
        pair = handover.relay.add((0, 1), backend.socket.fileno(), handover.to_client)
        handover.relay.run()
    except Exception as error:
        journal.event("CRIT", "internal error", detail=_where(error))
        return 70
    journal.login(
        "INFO",
        "LOGOUT",
        handover.user,
        backend=backend.name,
        rcvd=pair.from_client.moved,
        sent=pair.to_client.moved,
        time=int(time.monotonic() - started),
    )
    return 0


class Session:
    """One connection behind its greeting: `end` is the client, `server` our side of the dialogue with it.

    `command` and `environment` are the local server's.
    """

    def __init__(
        self,
        connection: activation.Connection,
        settings: "Settings",
        journal: log.Log,
        command: "list[str]",
        environment: "dict[str, str]",
    ) -> None:
        self.end = client_end()
        self.connection = connection
        self.settings = settings
        self.server = _server_class(settings.protocol)(
            settings.capabilities, settings.login_allowed, settings.mechanisms, new_challenge
        )
        self.log = journal
        self.command = command
        self.environment = environment
        self._modules_named = False

    def run(self) -> "Handover | None":
        """Until the client can be handed over; None where it is gone or sent away."""
        deadline = time.monotonic() + LOGIN_SECONDS
        try:
            for _ in range(MAX_LOGINS):
                login = self._next_login(deadline)
                if not login:
                    return None
                if handover := self._log_in(login):
                    return handover
            self.log.event("INFO", "DISCONNECTED", detail="too many failed logins")
            _bid_farewell(self.end, self.server.FAREWELLS["too many"])
        except TimedOut:
            self.log.event("INFO", "TIMEOUT")
            _bid_farewell(self.end, self.server.FAREWELLS["timeout"])
        except Closed:
            self.log.event("INFO", "DISCONNECTED")
        return None

    def _next_login(self, deadline: float) -> "Login | None":
        """The next complete login, or None where the client leaves or is sent away. Raises TimedOut, Closed."""
        from .dialogue.events import Abuse, LoginRefused, Logout

        while data := self.end.peek(deadline):
            taken, reply, event = self.server.feed(data)
            self.end.consume(taken)
            if isinstance(event, (Abuse, Logout)):
                self._end(event, reply)
                return None
            if reply:
                self.end.send(reply, deadline)
            if isinstance(event, LoginRefused):
                self.log.login("INFO", "LOGIN REFUSED", detail="TLS is required")
            elif event:
                return event
        self.log.event("INFO", "DISCONNECTED")
        return None

    def _end(self, event: "Abuse | Logout", words: bytes) -> None:
        from .dialogue.events import Abuse

        if isinstance(event, Abuse):
            self.log.event("INFO", "DISCONNECTED", detail=event.reason)
            _bid_farewell(self.end, words)
        else:
            self.log.event("INFO", "LOGOUT")
            _bid_farewell(self.end, words, LOGOUT_SECONDS)

    def _log_in(self, login: "Login") -> "Handover | None":
        """Find the account's server. None where that failed, and the client has been told; does not return where the
        server is here."""
        from .failures import BackendRefused, Failure

        started = time.monotonic()
        try:
            return self._find_server(login)
        except Failure as failure:
            self.log.login(failure.level, failure.event, login.user, str(failure))
            if isinstance(failure, BackendRefused):
                reply = self.server.answered(failure.reply)
            else:
                reply = self.server.refused(failure.kind)
            if failure.kind in DELAYED:
                time.sleep(max(started + self.settings.fail_delay - time.monotonic(), 0))
        self.end.send(reply, time.monotonic() + FAREWELL_SECONDS)
        return None

    def _find_server(self, login: "Login") -> "Handover | None":
        from .failures import Temporary
        from .login import find_server, reach_backend

        served = self.connection.local
        self._name_unavailable_modules()
        account, route = find_server(login, self.settings, served.port)
        if route.is_missing:
            self.log.event("WARN", f"proxy enabled, but no proxy host defined for {log.escape(account.address)}")
        if route.host:
            from .relay import Relay  # now: PROXY_USER need not be able to read this installation

            relay = Relay()
            backend = reach_backend(route, account, login, self.settings, served, self.server.utf8)
            return Handover(account.address, backend, self.server.answered(backend.reply), relay)
        try:
            self._run_local_server(account)
        except Temporary as failure:
            raise Temporary(f"{failure}; {route.reason}") from None

    def _name_unavailable_modules(self) -> None:
        from .accounts import unavailable

        if not self._modules_named and (missing := unavailable(self.settings)):
            self.log.event("WARN", "account modules not available here", detail=" ".join(missing))
        self._modules_named = True

    def _run_local_server(self, account: "Account") -> "NoReturn":
        from . import local

        told = self.server.local_environment()
        environment = local.environment_for(account, told, self.connection, self.settings, self.environment)
        try:
            local.run(self.command, account, environment, self.settings, self.log)
        except local.ExecFailed as error:
            self.log.login("ERR", "LOGIN DEFERRED", account.address, str(error))
            _bid_farewell(client_end(), self.server.refused("temporary"))  # `run` has closed all but fd 0, 1, 2
            raise Closed from None
