"""The story of one connection on fd 0 and 1: reception, login, and the hand-over to a backend or local server. What a
step needs is imported when its turn comes."""

import time

from . import activation, log
from .ends import Closed, TimedOut
from .interpreter import signal
from .reception import Reception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .accounts.account import Account
    from .dialogue.events import Login
    from .handover import Handover
    from .routing import Route
    from .settings import Settings

MAX_LOGINS = 10
"""Logins of one connection: a client that asks again at once must not turn an outage into a storm."""
DELAYED = ("credentials", "disabled", "insecure")
"""Kinds of failure told at a fixed time after the command, so that the time tells nothing of the account."""


def serve(settings: "Settings", command: "list[str]", environment: "dict[str, str]") -> int:
    """Serve the client, who has been greeted if settings.greets_first(); `command` and `environment` are the local
    server's. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would end in a traceback
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some supervisors leave it, no child could be waited for
    journal = log.Log(log.choose_sink(environment), settings.protocol, settings.tls or settings.tls_wrap)
    client = None
    try:
        connection = activation.inspect(environment, settings.tls)
        client = Reception(connection, settings, journal, environment)
        handover = Session(client, settings, journal, command, environment).run()
    except Exception as error:
        from .fatal import end

        return end(settings.protocol, journal, error, client.listener() if client else None)
    return handover.run(journal) if handover else 0


class Session:
    """One connection, and the login that hands it over. `command` and `environment` are the local server's."""

    def __init__(
        self,
        client: Reception,
        settings: "Settings",
        journal: log.Log,
        command: "list[str]",
        environment: "dict[str, str]",
    ) -> None:
        self.client = client
        self.settings = settings
        self.log = journal
        self.command = command
        self.environment = environment
        self._modules_named = False

    def run(self) -> "Handover | None":
        """Until the client can be handed over; None where it is gone or sent away."""
        try:
            if not self.client.arrive():
                return None
            for _ in range(MAX_LOGINS):
                login = self.client.next_login()
                if not login:
                    return None
                if handover := self._log_in(login):
                    return handover
            self.log.event("INFO", "DISCONNECTED", detail="too many failed logins")
            self.client.send_away("too many")
        except TimedOut:
            self.log.event("INFO", "TIMEOUT")
            self.client.send_away("timeout")
        except Closed as closed:
            self.log.event("INFO", "DISCONNECTED", detail=str(closed))
        return None

    def _log_in(self, login: "Login") -> "Handover | None":
        """Find the account's server. None where that failed, and the client has been told; does not return where the
        server is here and takes this process over."""
        from .failures import BackendRefused, Failure

        started = time.monotonic()
        server = self.client.server
        try:
            return self._find_server(login)
        except Failure as failure:
            self.log.login(failure.level, failure.event, login.user, str(failure))
            if isinstance(failure, BackendRefused):
                reply = server.answered(failure.reply)
            else:
                reply = server.refused(failure.kind)
            if failure.kind in DELAYED:
                time.sleep(max(started + self.settings.fail_delay - time.monotonic(), 0))
        self.client.answer(reply)
        return None

    def _find_server(self, login: "Login") -> "Handover":
        from .failures import Temporary
        from .login import find_server

        self._name_unavailable_modules()
        account, route = find_server(login, self.settings, self.client.connection)
        if route.is_missing:
            self.log.event("WARN", f"proxy enabled, but no proxy host defined for {log.escape(account.address)}")
        if route.host:
            return self._reach_backend(login, account, route)
        try:
            return self._run_local_server(account)
        except Temporary as failure:
            raise Temporary(f"{failure}; {route.reason}") from None

    def _name_unavailable_modules(self) -> None:
        from .accounts import unavailable

        if not self._modules_named and (missing := unavailable(self.settings)):
            self.log.event("WARN", "account modules not available here", detail=" ".join(missing))
        self._modules_named = True

    def _reach_backend(self, login: "Login", account: "Account", route: "Route") -> "Handover":
        from .login import reach_backend

        client = self.client
        handover = self._new_handover(account)  # now: PROXY_USER need not be able to read this installation
        if route.tls != "no":
            from . import encrypted  # noqa: F401
        backend = reach_backend(
            route, account, login, self.settings, client.connection, client.forwarded(), client.server.utf8
        )
        return handover.to_backend(backend, client.server.answered(backend.reply))

    def _new_handover(self, account: "Account") -> "Handover":
        from .handover import Handover

        return Handover(account.address, self.client.channel, self.client.end.rest())

    def _run_local_server(self, account: "Account") -> "Handover":
        """Returns only where the client's TLS stays with this process. Raises Closed where all is over."""
        from . import local

        client = self.client
        told = client.server.local_environment()
        environment = local.environment_for(account, told, client.connection, self.settings, self.environment)
        if client.channel:
            handover = self._new_handover(account)
            return handover.to_child(*local.serve_beside(self.command, account, environment, self.settings, self.log))
        try:
            local.run(self.command, account, environment, self.settings, self.log)
        except local.ExecFailed as error:
            self.log.login("ERR", "LOGIN DEFERRED", account.address, str(error))
            client.leave(client.server.refused("temporary"))  # on what `run` has left open
            raise Closed("the local server could not be run") from None
