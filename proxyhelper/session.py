"""The story of one connection on fd 0 and 1: greeting, dialogue, login, and the hand-over to a backend or local server.

Greet first, import later: up to the greeting only what it needs is imported, everything else when its turn comes.
"""

import gc
import sys
import time

from . import activation, log, settings
from .dialogue.greetings import greeting
from .interpreter import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from . import ends
    from .accounts.account import Account
    from .backend import Backend
    from .dialogue.events import Login
    from .dialogue.imap import Server as ImapServer
    from .dialogue.pop3 import Server as Pop3Server
    from .routing import Route

    Server = ImapServer | Pop3Server

LOGIN_SECONDS = 60.0
"""From the greeting to a complete login, as Courier gives."""
FAREWELL_SECONDS = 5.0
"""For a last word to a client that may not read."""
DELAYED = ("credentials", "disabled", "insecure")
"""Kinds of failure told at a fixed time after the command, so that the time tells nothing of the account."""

USAGE = """usage: proxyhelper-{protocol} [LOCAL-SERVER [ARGUMENT...]]

Serves the one {upper} client connected to standard input and output, as started by xinetd, systemd (Accept=yes) or
couriertcpd: reads its login, and hands it to the server that has the account's mailbox. LOCAL-SERVER is run for
mailboxes on this host; its last ARGUMENT is the default maildir. Settings come from the environment and from the files
of PROXYHELPER_CONFDIR (default /etc/courier).

  --help      show this
  --version   show the version
"""


def main(protocol: str, arguments: "list[str]") -> int:
    """Serve the client on fd 0 and 1 in `protocol` ("imap", "pop3"). Returns the exit status."""
    if arguments and arguments[0].startswith("-"):
        return _explain(protocol, arguments[0])
    environment = activation.environment()
    journal = log.Log(log.choose_sink(environment), f"{protocol}d", protocol)
    try:
        _serve(protocol, arguments, environment, journal)
    except activation.NotAConnection as error:
        journal.event("CRIT", str(error))
        return 64
    except Exception as error:
        journal.event("CRIT", "internal error", detail=_where(error))
        return 70
    return 0


def _explain(protocol: str, option: str) -> int:
    if option == "--version":
        from . import __version__

        print(f"proxyhelper-{protocol} {__version__}")
        return 0
    usage = USAGE.format(protocol=protocol, upper=protocol.upper())
    print(usage, end="", file=sys.stdout if option == "--help" else sys.stderr)
    return 0 if option == "--help" else 64


def _where(error: BaseException) -> str:
    """Type and place of an error; not its text, which may hold anything."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename} line {trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


def _serve(protocol: str, command: "list[str]", environment: "dict[str, str]", journal: "log.Log") -> None:
    connection = activation.inspect(environment)
    journal.of(connection)
    try:
        configured = settings.load(protocol, environment, connection.local.port)
        if configured.tls:
            journal.ident += "-ssl"
        posix.write(1, greeting(protocol, configured.offered, configured.login_allowed))
        Session(connection, configured, journal).run(command, environment)
    except BrokenPipeError:
        journal.event("INFO", "DISCONNECTED")
    except settings.ConfigurationError as error:
        journal.event("ERR", "CONFIGURATION", detail=str(error))
        _give_up(protocol)
    except Exception:
        _give_up(protocol)
        raise


def _give_up(protocol: str) -> None:
    from .ends import client_end

    _bid_farewell(client_end(), _server_class(protocol).FAREWELLS["unavailable"])


def _bid_farewell(end: "ends.End", words: bytes) -> None:
    """Say `words` as the last thing, if the client will hear them."""
    from .ends import Closed, TimedOut

    deadline = time.monotonic() + FAREWELL_SECONDS
    try:
        end.send(words, deadline)
    except (Closed, TimedOut):
        return
    end.finish(deadline)


def _server_class(protocol: str) -> "type[Server]":
    if protocol == "imap":
        from .dialogue.imap import Server as ImapServer

        return ImapServer
    from .dialogue.pop3 import Server as Pop3Server

    return Pop3Server


class Session:
    """One connection behind its greeting: `end` is the client, `server` our side of the dialogue with it."""

    def __init__(self, connection: activation.Connection, configured: settings.Settings, journal: log.Log) -> None:
        from .ends import client_end

        self.end = client_end()
        self.connection = connection
        self.settings = configured
        self.server = _server_class(configured.protocol)(configured.offered, configured.login_allowed)
        self.log = journal

    def run(self, command: "list[str]", environment: "dict[str, str]") -> None:
        """Until the client is handed over, or goes. `command` is the local server's."""
        from .ends import Closed, TimedOut

        self.log.event("DEBUG", "Connection")
        deadline = time.monotonic() + LOGIN_SECONDS
        try:
            while (login := self._next_login(deadline)) and not self._hand_over(login, command, environment):
                pass
        except TimedOut:
            self.log.event("INFO", "TIMEOUT")
            _bid_farewell(self.end, self.server.FAREWELLS["timeout"])
        except Closed:
            self.log.event("INFO", "DISCONNECTED")

    def _next_login(self, deadline: float) -> "Login | None":
        """The next complete login, or None where the client leaves or is sent away. Raises TimedOut, Closed."""
        from .dialogue.events import Abuse, Insecure, Login

        while data := self.end.peek(deadline):
            taken, reply, event = self.server.feed(data)
            self.end.consume(taken)
            if isinstance(event, Abuse):
                self.log.event("INFO", "DISCONNECTED", detail=event.reason)
                _bid_farewell(self.end, reply)
                return None
            if reply:
                self.end.send(reply, deadline)
            if isinstance(event, Login):
                return event
            if isinstance(event, Insecure):
                self.log.login("INFO", "LOGIN REFUSED", detail="TLS is required")
            elif event:
                self.log.event("INFO", "LOGOUT")
                return None
        self.log.event("INFO", "DISCONNECTED")
        return None

    def _hand_over(self, login: "Login", command: "list[str]", environment: "dict[str, str]") -> bool:
        """Find the account's server and leave the client to it; False where that failed and the dialogue goes on."""
        from .failures import BackendRefused, Failure

        started = time.monotonic()
        try:
            self._find_server(login, command, environment)
            return True
        except Failure as failure:
            self.log.login(failure.level, failure.event, login.user, str(failure))
            if isinstance(failure, BackendRefused):
                reply = self.server.answered(failure.reply)
            else:
                reply = self.server.refused(failure.kind)
            if failure.kind in DELAYED:
                time.sleep(max(started + self.settings.fail_delay - time.monotonic(), 0))
        self.end.send(reply, time.monotonic() + FAREWELL_SECONDS)
        return False

    def _find_server(self, login: "Login", command: "list[str]", environment: "dict[str, str]") -> None:
        from . import routing
        from .login import find_account

        account = find_account(login, self.settings)
        route = routing.decide(account, self.settings)
        if route is routing.NO_MAILHOST:
            self.log.event("WARN", f"proxy enabled, but no proxy host defined for {log.escape(account.address)}")
        if route.host:
            self._proxy(login, account, route)
        else:
            self._run_local_server(account, command, environment)

    def _run_local_server(self, account: "Account", command: "list[str]", environment: "dict[str, str]") -> None:
        from . import local

        told = self.server.local_environment()
        inherited = local.environment_for(account, told, self.connection, self.settings, environment)
        try:
            local.run(command, account, inherited, self.settings, self.log)
        except local.ExecFailed as error:
            self.log.login("ERR", "LOGIN DEFERRED", account.address, str(error))
            _bid_farewell(self.end, self.server.refused("temporary") + self.server.FAREWELLS["unavailable"])

    def _proxy(self, login: "Login", account: "Account", route: "Route") -> None:
        from .login import reach_backend
        from .relay import Relay

        started = time.monotonic()
        backend = self._as_proxy_user(lambda: reach_backend(route, account, login, self.settings, self.server.utf8))
        login.password = b""
        gc.enable()
        self.log.login("INFO", "LOGIN", account.address, backend=backend.name)
        relay = Relay()
        pair = relay.add((0, 1), backend.socket.fileno(), self.server.answered(backend.reply))
        relay.run()
        self.log.login(
            "INFO",
            "LOGOUT",
            account.address,
            backend=backend.name,
            rcvd=pair.from_client.moved,
            sent=pair.to_client.moved,
            time=int(time.monotonic() - started),
        )

    def _as_proxy_user(self, reach: "Callable[[], Backend]") -> "Backend":
        """Reach a backend as PROXY_USER, and stay PROXY_USER if that succeeds: nothing relays as root."""
        from . import privileges

        if not privileges.is_root():
            return reach()
        person = privileges.proxy_person(self.settings.proxy_user)
        privileges.assume(person)
        try:
            backend = reach()
        except Exception:
            privileges.resume_root()
            raise
        privileges.settle(person)
        return backend
