"""`proxyhelper login`: the way of a login, walked step by step up to the real server."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from .. import accounts
from ..accounts.account import Account
from ..activation import Address
from ..backend import is_temporary, quote, words
from ..dialogue import imap_client, pop3_client
from ..dialogue.events import BackendFault, Login, Reply
from ..failures import BackendRefused, Failure, Temporary, WrongCredentials
from ..login import check_options, could_be, proof_of, reach_backend, with_domain
from ..routing import decide
from ..settings import Settings
from ..text import encode
from . import activators
from .console import (
    TEMPORARY,
    USAGE,
    Site,
    clean,
    entries_option,
    fail,
    json_option,
    print_json,
    served_port,
    status_of,
)

LOCAL_SECONDS = 20.0
"""For each thing that a local server says."""
LEAVE_SECONDS = 5.0
"""For it to end when the client has gone."""
CHUNK = 65536

CAPABILITIES = re.compile(rb"\[CAPABILITY [^]]*\] ", re.IGNORECASE)

NEXT = {"name": "connection", "connection": "greeting", "greeting": "reply"}
REMEDIES = {
    "account": "proxyhelper accounts --list has the names, proxyhelper check says what is wrong with their source",
    "password": "proxyhelper userdb passwd NAME sets a new one",
    "options": "proxyhelper userdb set NAME options=… changes them",
    "route": "correct the account's option mailhost",
    "name": "correct the account's option mailhost, or the name service",
    "connection": "is the server running, and does it let this host connect? proxyhelper check asks them all",
    "greeting": "does a server of this protocol listen there, without TLS?",
    "reply": "is this the account's server? It must know the name with this password, and accept logins without TLS",
    "loop": "set PROXY_HOSTNAME, or change the mailhost, so that they agree; proxyhelper check says more",
    "local server": "proxyhelper check looks at the entries and local servers; the helper's own log line says more",
}


class Walk:
    """The steps taken, each with its time in milliseconds; `step` is the one that is being tried. They are shown as
    they are done, unless the walk is `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self.taken: list[dict[str, object]] = []
        self.step = ""
        self._quiet = quiet
        self._since = time.monotonic()

    def begin(self, step: str) -> None:
        self.step = step

    def done(self, step: str, outcome: str) -> None:
        """As `backend.Tell`."""
        self._add("ok", step, outcome)
        self.step = NEXT.get(step, self.step)

    def failed(self, failure: Failure) -> None:
        self._add("error", self.step, str(failure))
        if not self._quiet:
            remedy = REMEDIES["loop" if failure.kind == "loop" else self.step]
            click.echo(" " * 9 + click.style("→ ", fg="cyan") + remedy)

    def _add(self, level: str, step: str, outcome: str) -> None:
        now = time.monotonic()
        milliseconds = round((now - self._since) * 1000, 1)
        self._since = now
        self.taken.append({"step": step, "level": level, "milliseconds": milliseconds, "outcome": outcome})
        if not self._quiet:
            mark = click.style(f"{level:>7}", fg="green" if level == "ok" else "red", bold=True)
            click.echo(f"{mark}  {milliseconds:8.1f} ms  {step:<13} {clean(outcome)}")


@click.command()
@click.argument("user")
@click.option("--imap", "protocol", flag_value="imap", default="imap", help="Log in by IMAP. [default]")
@click.option("--pop3", "protocol", flag_value="pop3", help="Log in by POP3.")
@entries_option
@json_option
@click.pass_obj
def login(site: Site, user: str, protocol: str, entries: "tuple[str, ...]", as_json: bool) -> None:
    """Log in as USER the way the helper does, up to the real server, and say what came of each step.

    Asks for the password; where standard input is no terminal, its first line is the password. A mailbox on this host
    is logged in to by starting the helper with its local server, as an activator's entry on this host says.
    """
    settings = site.settings(protocol)
    attempt = Login(encode(user), encode(_ask_password()))
    walk = Walk(quiet=as_json)
    status = 0
    try:
        _walk(walk, site, settings, attempt, _entry_of(protocol, entries or activators.PLACES))
    except Failure as failure:
        walk.failed(failure)
        is_down = isinstance(failure, BackendRefused) and is_temporary(failure.reply.verdict)
        status = TEMPORARY if is_down else status_of(failure)
    if as_json:
        print_json({"user": user, "protocol": protocol, "status": status, "steps": walk.taken})
    sys.exit(status)


def _ask_password() -> str:
    if sys.stdin is None:
        fail("standard input is closed: nowhere to read the password from", USAGE)
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, err=True))
    return sys.stdin.buffer.readline().rstrip(b"\r\n").decode("utf-8", "surrogateescape")


def _entry_of(protocol: str, places: "tuple[str, ...]") -> "activators.Entry | None":
    return next((entry for entry in activators.find(places) if entry.protocol == protocol), None)


def _walk(walk: Walk, site: Site, settings: Settings, login: Login, entry: "activators.Entry | None") -> None:
    port = served_port(settings.protocol, entry.port if entry else None)
    walk.begin("account")
    if not could_be(encode(login.user)) or not could_be(login.password):
        raise WrongCredentials("not a name or password at all: empty, or with control characters")
    name = with_domain(login.user, settings)
    service = settings.services.get(port) or settings.protocol
    account = _said_of(name, lambda: accounts.find(settings, service, name))
    walk.done("account", f"{account.address} found")
    walk.begin("password")
    account = accounts.authenticate(settings, service, name, proof_of(login))
    walk.done("password", "right")
    walk.begin("options")
    check_options(account, settings)
    walk.done("options", account.options_text() or "none")
    walk.begin("route")
    route = decide(account, settings, port)
    walk.done("route", route.reason)
    if route.host:
        walk.begin("name")
        backend = reach_backend(route, account, login, settings, Address("", port), False, walk.done)
        backend.socket.close()
        walk.done("reply", _shown(backend.reply, login))
    else:
        walk.begin("local server")
        if entry is None:
            raise Temporary(f"nothing on this host starts proxyhelper-{settings.protocol}: see proxyhelper entry")
        _log_in_here(walk, site, entry, login, port)


def _shown(reply: Reply, login: Login) -> str:
    """A server's reply without its list of capabilities."""
    return quote(CAPABILITIES.sub(b"", reply.verdict), login.password)


def _said_of(name: str, find: "Callable[[], Account]") -> Account:
    try:
        return find()
    except WrongCredentials as failure:
        raise WrongCredentials(f"{name}: {failure}") from None


def _log_in_here(walk: Walk, site: Site, entry: activators.Entry, login: Login, port: str) -> None:
    """Through the helper and its local server, started as an entry of this host says. Raises a Failure."""
    ours, theirs = socket.socketpair()
    told = {"TCPREMOTEIP": "127.0.0.1", "TCPREMOTEPORT": "0", "TCPLOCALPORT": port}
    environment = {"PROXYHELPER_CONFDIR": site.directory, "PATH": "/usr/bin:/bin", **entry.environment, **told}
    command = [*entry.program, *entry.local_server]
    with ours, theirs, tempfile.TemporaryFile() as log:
        with _started(command, theirs.fileno(), log.fileno(), environment):
            theirs.close()
            try:
                reply = _converse(ours, entry.protocol, login)
                said = _shown(reply, login)
            except (OSError, BackendFault) as error:
                reply, said = None, words(error)
            ours.close()
        log.seek(0)
        logged = log.read(CHUNK).decode(errors="backslashreplace").splitlines()
    because = "; ".join([said, *(line for line in logged if not line.startswith(("DEBUG:", "INFO:")))][:3])
    if reply is None or (not reply.accepted and is_temporary(reply.verdict)):
        raise Temporary(because)
    if not reply.accepted:
        raise BackendRefused(because, reply)
    walk.done("local server", f"{' '.join(entry.local_server)}: {said}")


@contextmanager
def _started(command: "list[str]", connection: int, log: int, environment: "dict[str, str]") -> Iterator[None]:
    """The helper on a connection, as an activator starts it; neither it nor its local server lasts longer.

    Raises Temporary."""
    try:
        helper = subprocess.Popen(
            command, stdin=connection, stdout=connection, stderr=log, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise Temporary(f"{' '.join(command)} does not start: {error}") from None
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            helper.wait(LEAVE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(helper.pid, signal.SIGKILL)
        helper.wait()


def _converse(connection: socket.socket, protocol: str, login: Login) -> Reply:
    """Log in as a mail program does. Raises OSError, BackendFault."""
    user = encode(login.user)
    client: imap_client.Client | pop3_client.Client = (
        imap_client.Client(user, login.password, False)
        if protocol == "imap"
        else pop3_client.Client(user, login.password, False)
    )
    connection.settimeout(LOCAL_SECONDS)
    while client.reply is None:
        data = connection.recv(CHUNK)
        if not data:
            raise BackendFault(f"the connection ended in place of a {client.state}")
        if to_send := client.feed(data):
            connection.sendall(to_send)
    return client.reply
