"""The mailhosts: each is resolved, connected to, and heard out; none may be this host under a name it does not know."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ...backend import bound_resolver, resolve, words
from ...dialogue.greetings import greeting
from ...failures import Temporary
from ...routing import names_of_this_host
from ...settings import Settings
from ..console import progress
from . import Finding
from .accounts import Survey

AT_ONCE = 16
MAX_GREETING = 4096
GREETINGS = {"imap": [b"*", b"OK"], "pop3": [b"+OK"]}


@dataclass
class Answer:
    """What became of asking a mailhost. `failures` by address; `greeting` of the first that answered; `own`: an address
    from which a connection to that very address comes."""

    protocol: str
    host: str
    port: int
    accounts: int
    addresses: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    greeting: bytes = b""
    own: str = ""

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def examine(survey: Survey, settings: "dict[str, Settings]", ports: "dict[str, str]") -> Iterator[Finding]:
    answers = [Answer(*place, accounts) for place, accounts in survey.elsewhere.most_common()]
    bound_resolver()
    with ThreadPoolExecutor(AT_ONCE) as pool, progress("mailhosts", len(answers)) as done:
        for answer in pool.map(lambda answer: _ask(answer, settings[answer.protocol].timeout), answers):
            done(1)
            yield from _judge(answer, settings[answer.protocol], ports[answer.protocol])


def _ask(answer: Answer, seconds: float) -> Answer:
    try:
        places = resolve(answer.host, answer.port)
    except Temporary as failure:
        answer.failures[""] = str(failure)
        return answer
    for family, address in places:
        ip = str(address[0])
        answer.addresses.append(ip)
        try:
            said, from_ip = hear(family, address, seconds)
            answer.greeting = answer.greeting or said
            answer.own = ip if from_ip == ip else answer.own
        except OSError as error:
            answer.failures[ip] = words(error)
    return answer


def hear(family: int, address: "tuple[object, ...]", seconds: float) -> "tuple[bytes, str]":
    """The first line that a server says, and the address that the connection comes from. Raises OSError."""
    deadline = time.monotonic() + seconds
    said = b""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(address)
        while b"\n" not in said and len(said) < MAX_GREETING:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = connection.recv(MAX_GREETING)
            if not more:
                raise OSError(0, "closed the connection in place of a greeting")
            said += more
        return said, str(connection.getsockname()[0])


def _judge(answer: Answer, settings: Settings, served_port: str) -> Iterator[Finding]:
    ours = [ip for ip in answer.addresses if is_of_this_host(ip)]
    if not answer.greeting:
        yield Finding(
            "error", _silence(answer), _remedy_for_silence(answer, ours, settings, served_port), setting="mailhost"
        )
        return
    for ip, failure in answer.failures.items():
        yield Finding("warning", f"{answer.name}: of its addresses {ip} does not answer: {failure}", setting="mailhost")
    expected = GREETINGS[answer.protocol]
    if answer.greeting.upper().split()[: len(expected)] != expected:
        said = answer.greeting[:80].decode(errors="backslashreplace").strip()
        what = f"{_who(answer)} does not greet as {answer.protocol.upper()} servers do: {said}"
        yield Finding("error", what, "is another service on this port, or does it want TLS?", setting="mailhost")
    elif ours and _is_ourselves(answer, settings, served_port):
        what = f"{_who(answer)} is this very service ({', '.join(ours)}), under a name that it does not know as its own"
        yield Finding("error", what, _agree(answer, settings), setting="PROXY_HOSTNAME")
    elif answer.own and str(answer.port) == served_port:
        what = f"{_who(answer)} is taken for this very service: connections to {answer.own} come from there, too"
        yield Finding(
            "error", what, "give that server an address of its own, 127.0.0.2 for example", setting="mailhost"
        )
    elif b"LOGINDISABLED" in answer.greeting.upper():
        what = f"{_who(answer)} refuses logins without TLS (LOGINDISABLED)"
        yield Finding("error", what, "let it accept them from this host", setting="mailhost")
    else:
        where = f"another server on this host ({', '.join(ours)})" if ours else ", ".join(answer.addresses)
        yield Finding("ok", f"{_who(answer)} answers: {where}")


def _silence(answer: Answer) -> str:
    reasons = "; ".join(f"{ip}: {failure}" if ip else failure for ip, failure in answer.failures.items())
    return f"{_who(answer)} does not answer: {reasons}"


def _who(answer: Answer) -> str:
    return f"{answer.protocol.upper()} {answer.name} ({answer.accounts} account{'s' * (answer.accounts != 1)})"


def _remedy_for_silence(answer: Answer, ours: "list[str]", settings: Settings, served_port: str) -> str:
    if ours and str(answer.port) == served_port:
        return f"it is this host. If the mailboxes are here, {_agree(answer, settings)}; else start the server"
    if not answer.addresses:
        return "correct the mailhost of these accounts, or the name service"
    return "is the server running, is the port right, does it let this host connect?"


def _agree(answer: Answer, settings: Settings) -> str:
    known = ", ".join(f"{name} ({source})" for name, source in names_of_this_host(settings))
    own = f"set PROXY_HOSTNAME={answer.host} in authdaemonrc"
    return f"{own}, or let the mailhost be a name that counts as this host: {known}"


def _is_ourselves(answer: Answer, settings: Settings, served_port: str) -> bool:
    words = greeting(answer.protocol, settings.capabilities, settings.login_allowed, settings.mechanisms)
    return str(answer.port) == served_port and answer.greeting == words


def is_of_this_host(ip: str) -> bool:
    """Whether an address is one of this host's own: only those can be bound to."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True
