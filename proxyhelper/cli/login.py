"""`proxyhelper login`: the way of a login, walked step by step up to the real server."""

import os
import pwd
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

from .. import accounts, privileges
from ..accounts.account import Account
from ..activation import Address, Connection
from ..backend import Conversation, Way, is_temporary, quote
from ..dialogue import imap_client, pop3_client
from ..dialogue.events import BackendFault, Forwarded, Login, Reply
from ..ends import Closed, SocketEnd, TimedOut
from ..failures import BackendRefused, Failure, Insecure, Temporary, WrongCredentials
from ..login import check_options, could_be, proof_of, reach_backend, with_domain
from ..reception import MAX_HOPS
from ..routing import decide
from ..settings import Settings
from ..text import encode
from ..tls import unverified_context
from . import activators
from .checks.certificates import Certificate
from .console import (
    COLOURS,
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
"""Until the helper's greeting."""
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
    "entry": "proxyhelper check looks at the entries",
    "name": "correct the account's option mailhost, or the name service",
    "connection": "is the server running, and does it let this host connect? proxyhelper check asks them all",
    "greeting": "does a server of this protocol listen there, without TLS?",
    "reply": "is this the account's server? It must know the name with this password, and accept logins without TLS",
    "backend's TLS": "IMAP_PROXY_TLS, POP3_PROXY_TLS and the account's option mailhosttls say no, starttls or yes; "
    "PROXY_CAFILE names who certifies backends. proxyhelper check asks them all",
    "insecure": "log in with --starttls or --tls",
    "TLS": "proxyhelper check looks at the certificates and the settings about TLS",
    "expired": "renew it; the next connection has the new one",
    "not yet valid": "is this host's clock right?",
    "helper": "the helper's own log line says more; without --starttls and --tls each step towards a backend is shown",
    "loop": "set PROXY_HOSTNAME, or change the mailhost, so that they agree; proxyhelper check says more",
    "round": "that server is a proxy, too: proxyhelper lookup NAME on each of them shows where it sends the account",
    "local server": "proxyhelper check looks at the entries and local servers; the helper's own log line says more",
}
BACKEND_TLS_REMEDIES = {
    "PROXY_CAFILE": "it must be a file in PEM form, or a hashed directory, that the entry's user can read",
    "in certificate chain": "name the authority in PROXY_CAFILE",
    "signed certificate": "name that certificate in PROXY_CAFILE",
    "local issuer": "name the authority in PROXY_CAFILE, unless the server does not send those in between",
    "first certificate": "name the authority in PROXY_CAFILE",
    "has expired": "the server's certificate: renew it there",
    "not yet valid": "are the clocks of both hosts right?",
    "mismatch": "the mailhost must be a name that the server's certificate has",
    "wrong version number": "that port does not begin with TLS: starttls in place of yes, or another port",
}
"""By words of the reason."""
BACKEND_TLS = ("TLS failed: ", "no TLS handshake: ", "STARTTLS", "PROXY_CAFILE")
"""Of which one is in the reason where a backend's TLS has failed."""
LOOP = ("SERVERBUG", "this account's server could not be determined")
"""What a proxy, our own among them, says where it would send the login round."""


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

    def note(self, text: str) -> None:
        self._add("note", self.step, text)

    def bad(self, step: str, outcome: str, remedy: str) -> None:
        """A step that real clients may not go beyond."""
        self._add("error", step, outcome)
        self._advise(REMEDIES[remedy])

    def failed(self, failure: Failure) -> None:
        remedy = self._remedy(failure)
        if self._is_of_backend_tls(failure):
            self.step = "TLS"
        self._add("error", self.step, str(failure))
        self._advise(remedy)

    def _remedy(self, failure: Failure) -> str:
        said = str(failure)
        if failure.kind in ("loop", "insecure"):
            return REMEDIES[failure.kind]
        if isinstance(failure, BackendRefused) and any(words in said for words in LOOP):
            return REMEDIES["loop" if "this very service" in said else "round"]
        of_backend_tls = self._is_of_backend_tls(failure)
        if of_backend_tls or self.step == "helper":
            for words, remedy in BACKEND_TLS_REMEDIES.items():
                if words in said:
                    return remedy
        is_refused = self.step == "reply" and "TLS" in said
        return REMEDIES["backend's TLS" if of_backend_tls or is_refused else self.step]

    def _is_of_backend_tls(self, failure: Failure) -> bool:
        on_the_way = self.step in ("name", *NEXT.values()) and not isinstance(failure, BackendRefused)
        return on_the_way and any(words in str(failure) for words in BACKEND_TLS)

    def _advise(self, remedy: str) -> None:
        if not self._quiet:
            click.echo(" " * 9 + click.style("→ ", fg="cyan") + remedy)

    def _add(self, level: str, step: str, outcome: str) -> None:
        now = time.monotonic()
        milliseconds = round((now - self._since) * 1000, 1)
        self._since = now
        self.taken.append({"step": step, "level": level, "milliseconds": milliseconds, "outcome": outcome})
        if not self._quiet:
            mark = click.style(f"{level:>7}", fg=COLOURS[level], bold=True)
            click.echo(f"{mark}  {milliseconds:8.1f} ms  {step:<13} {clean(outcome)}")


@click.command()
@click.argument("user")
@click.option("--imap", "protocol", flag_value="imap", default="imap", help="Log in by IMAP. [default]")
@click.option("--pop3", "protocol", flag_value="pop3", help="Log in by POP3.")
@click.option("--starttls", "tls", flag_value="starttls", help="Go through the helper, with STARTTLS (POP3's STLS).")
@click.option("--tls", "tls", flag_value="yes", help="Go through the helper, with TLS from the first byte.")
@entries_option
@json_option
@click.pass_obj
def login(site: Site, user: str, protocol: str, tls: "str | None", entries: "tuple[str, ...]", as_json: bool) -> None:
    """Log in as USER the way the helper does, up to the real server, and say what came of each step.

    Asks for the password; where standard input is no terminal, its first line is the password. A mailbox on this host
    is logged in to by starting the helper with its local server, as an activator's entry on this host says. With
    --starttls or --tls every login goes through the helper that an entry starts, as a mail program's would; the
    certificate that it shows is told, and of it only the dates are verified. Run it as root, who can start the helper
    as the entry's user.
    """
    settings = site.settings(protocol)
    attempt = Login(encode(user), encode(_ask_password()))
    walk = Walk(quiet=as_json)
    status = 0
    try:
        _walk(walk, site, settings, attempt, _entry_of(protocol, entries or activators.PLACES, tls), tls)
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


def _entry_of(protocol: str, places: "tuple[str, ...]", tls: "str | None") -> "activators.Entry | None":
    """The first that serves clients who come this way; if that is all the same, who begin in clear."""
    ours = [entry for entry in activators.find(places) if entry.protocol == protocol]
    if tls:
        return next((entry for entry in ours if (entry.wraps if tls == "yes" else not entry.tls)), None)
    return min(ours, key=lambda entry: entry.tls, default=None)


def _walk(
    walk: Walk, site: Site, settings: Settings, login: Login, entry: "activators.Entry | None", tls: "str | None"
) -> None:
    port = served_port(entry.service, entry.port) if entry else served_port(settings.protocol, None)
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
    secure = bool(tls) or settings.tls or bool(entry and entry.tls)
    check_options(account, settings, secure)
    walk.done("options", account.options_text() or "none")
    walk.begin("route")
    route = decide(account, settings, port)
    walk.done("route", route.reason)
    if route.host and not tls:
        walk.begin("name")
        connection = Connection(Address(), Address("", port))
        told = Forwarded(ttl=MAX_HOPS - 1)
        if entry and (person := _person_of(entry, walk)):
            privileges.assume(person)
        backend = reach_backend(route, account, login, settings, connection, told, tell=walk.done)
        backend.socket.close()
        walk.done("reply", _shown(backend.reply, login))
        return
    walk.begin("helper" if route.host else "local server")
    if settings.tls_required and not secure:
        raise Insecure(f"{settings.protocol.upper()}_TLS_REQUIRED is on")
    if entry is None:
        how = {"starttls": " without TLS from the first byte", "yes": " with TLS from the first byte"}.get(
            tls or "", ""
        )
        raise Temporary(f"nothing on this host starts proxyhelper-{settings.protocol}{how}: see proxyhelper entry")
    said = _log_in_here(walk, site, entry, login, port, tls or ("yes" if entry.wraps else "no"))
    walk.done(walk.step, said if route.host else f"{' '.join(entry.local_server)}: {said}")


def _shown(reply: Reply, login: Login) -> str:
    """A server's reply without its list of capabilities."""
    return quote(CAPABILITIES.sub(b"", reply.verdict), login.password)


def _said_of(name: str, find: "Callable[[], Account]") -> Account:
    try:
        return find()
    except WrongCredentials as failure:
        raise WrongCredentials(f"{name}: {failure}") from None


def _person_of(entry: activators.Entry, walk: Walk) -> "privileges.Person | None":
    """Whom the activator starts the helper as, where that is somebody else, whom this process can become.

    Raises Temporary."""
    user = entry.user
    try:
        known = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        if known.pw_uid == os.geteuid():
            return None
        if not privileges.is_root():
            walk.note(f"only root can do this as the entry's user {user}: what that user may not read is not noticed")
            return None
        groups = os.getgrouplist(known.pw_name, known.pw_gid) if entry.activator != activators.XINETD else []
        return privileges.Person(known.pw_uid, known.pw_gid, groups)
    except (KeyError, ValueError):
        walk.begin("entry")
        where = f"{entry.file} line {entry.line}"
        raise Temporary(f"{where}: its user {user} is not an unprivileged user of this host") from None


def _log_in_here(walk: Walk, site: Site, entry: activators.Entry, login: Login, port: str, tls: str) -> str:
    """Through the helper, started as an entry of this host says; what it, or the server behind it, says in the end.
    Raises a Failure."""
    ours, theirs = socket.socketpair()
    told = {"TCPREMOTEIP": "127.0.0.1", "TCPREMOTEPORT": "0", "TCPLOCALPORT": port, "PROXY_PROTOCOL": "0"}
    environment = {"PROXYHELPER_CONFDIR": site.directory, "PATH": "/usr/bin:/bin", **entry.environment, **told}
    command = [*entry.program, *entry.local_server]
    person = _person_of(entry, walk)
    with ours, theirs, tempfile.TemporaryFile() as log:
        with _started(command, theirs.fileno(), log.fileno(), environment, person):
            theirs.close()
            try:
                reply = _converse(ours, entry.protocol, login, tls, walk)
                said = _shown(reply, login)
            except (BackendFault, Closed, TimedOut) as error:
                reply, said = None, str(error)
            ours.close()
        log.seek(0)
        logged = log.read(CHUNK).decode(errors="backslashreplace").splitlines()
    because = "; ".join([said, *(line for line in logged if not line.startswith(("DEBUG:", "INFO:")))][:3])
    if reply is None or (not reply.accepted and is_temporary(reply.verdict)):
        raise Temporary(because)
    if not reply.accepted:
        raise BackendRefused(because, reply)
    return said


@contextmanager
def _started(
    command: "list[str]",
    connection: int,
    log: int,
    environment: "dict[str, str]",
    person: "privileges.Person | None",
) -> Iterator[None]:
    """The helper on a connection, as an activator starts it; neither it nor its local server lasts longer.

    Raises Temporary."""
    try:
        helper = subprocess.Popen(
            command,
            stdin=connection,
            stdout=connection,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
            user=person.uid if person else None,
            group=person.gid if person else None,
            extra_groups=person.groups if person else None,
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


def _converse(connection: socket.socket, protocol: str, login: Login, tls: str, walk: Walk) -> Reply:
    """A mail program's side of a connection; `tls` as in Settings.proxy_tls. What the helper shows is not verified.

    Raises BackendFault, Closed, TimedOut."""
    new_dialogue = imap_client.Client if protocol == "imap" else pop3_client.Client
    dialogue = new_dialogue(encode(login.user), login.password, False, starttls=tls == "starttls")
    behind_tls = walk.step

    def tell(step: str, outcome: str) -> None:
        if step == "TLS" and talk.channel:
            walk.done(step, outcome)
            _judge(walk, _certificate(talk.channel.peer_certificate()))
            walk.step = behind_tls

    way = Way() if tls == "no" else Way(tls, unverified_context())
    walk.step = behind_tls if tls == "no" else "TLS"
    talk = Conversation(SocketEnd(connection), dialogue, way, tell)
    return talk.run(time.monotonic() + LOCAL_SECONDS)


def _judge(walk: Walk, certificate: Certificate) -> None:
    """By its dates."""
    now = time.time()
    if certificate.ends < now:
        walk.bad("certificate", f"expired on {_day(certificate.ends)}: {certificate}", "expired")
    elif certificate.begins > now:
        walk.bad("certificate", f"not valid before {_day(certificate.begins)}: {certificate}", "not yet valid")
    else:
        walk.done("certificate", str(certificate))


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _certificate(der: bytes) -> Certificate:
    import ssl

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(ssl.DER_cert_to_PEM_cert(der))
        file.flush()
        return Certificate.read(file.name)
