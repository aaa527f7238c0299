"""The mailhosts: each is resolved, connected to, and heard out; none may be this host under a name it does not know."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ... import tls
from ...activation import Address
from ...backend import Way, bound_resolver, resolve
from ...dialogue.greetings import greeting
from ...failures import Temporary
from ...networks import Networks
from ...proxy_protocol import version2
from ...routing import names_of_this_host
from ...settings import ConfigurationError, Settings
from ...text import words
from ..console import progress
from . import Finding
from .accounts import Survey
from .hearing import hear

AT_ONCE = 16
SHOWN = 3
SAID_OF_CERTIFICATES = {
    "self-signed certificate in": "name its authority in PROXY_CAFILE",
    "self-signed": "name that certificate in PROXY_CAFILE",
    "issuer": "name its authority in PROXY_CAFILE",
    "mismatch": "have it certified for {host}, or make the mailhost a name that it has",
    "expired": "renew it on the backend",
    "first certificate": "name its authority in PROXY_CAFILE",
}
"""What to do about OpenSSL's reasons for refusing one, by words in them."""
NO_TLS_SPOKEN = ("timed out", "wrong version number", "the connection ended")
"""How the handshake fails with a server that begins in clear."""
GREETINGS = {"imap": [b"*", b"OK"], "pop3": [b"+OK"]}


@dataclass
class Answer:
    """What became of asking a mailhost, with TLS as in Route.tls.

    failures  by address: no answer
    no_tls    by address: an answer, but no TLS, which should be there
    untried   why it was not connected to, if it was not: settings
    greeting  of the first that answered, and the TLS version and cipher `agreed` upon
    own       an address from which a connection to that very address comes
    """

    protocol: str
    host: str
    port: int
    tls: str
    accounts: int
    addresses: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    no_tls: dict[str, str] = field(default_factory=dict)
    untried: str = ""
    greeting: bytes = b""
    agreed: str = ""
    own: str = ""

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def examine(survey: Survey, settings: "dict[str, Settings]", ports: "dict[str, list[str]]") -> Iterator[Finding]:
    answers = [Answer(*place, accounts) for place, accounts in survey.elsewhere.most_common()]
    bound_resolver()
    with ThreadPoolExecutor(AT_ONCE) as pool, progress("mailhosts", len(answers)) as done:
        for answer in pool.map(lambda answer: _ask(answer, settings[answer.protocol]), answers):
            done(1)
            yield from _judge(answer, settings[answer.protocol], ports[answer.protocol])
    yield from _trust(answers, settings)


def _ask(answer: Answer, settings: Settings) -> Answer:
    try:
        places = resolve(answer.host, answer.port)
        way = _way(answer, settings)
    except Temporary as failure:
        answer.failures[""] = str(failure)
        return answer
    except ConfigurationError as error:
        answer.untried = str(error)
        return answer
    for family, address in places:
        ip = str(address[0])
        answer.addresses.append(ip)
        try:
            heard = hear(answer.protocol, (family, address), settings.timeout, way)
        except OSError as error:
            answer.failures[ip] = words(error)
            continue
        if heard.no_tls:
            answer.no_tls[ip] = heard.no_tls
        answer.greeting = answer.greeting or heard.greeting
        answer.agreed = answer.agreed or heard.agreed
        answer.own = ip if heard.own == ip else answer.own
    return answer


def _way(answer: Answer, settings: Settings) -> Way:
    """As the helper speaks to it. Raises ConfigurationError."""
    header = version2(Address(), Address()) if settings.proxy_send == "proxy-v2" else b""
    if answer.tls == "no":
        return Way(header=header)
    return Way(answer.tls, tls.backend_context(settings), answer.host.rstrip("."), header)


def _judge(answer: Answer, settings: Settings, served_ports: "list[str]") -> Iterator[Finding]:
    if answer.untried:
        yield Finding("note", f"{_who(answer)} is not tried: {answer.untried}", setting="mailhost")
        return
    ours = [ip for ip in answer.addresses if is_of_this_host(ip)]
    for ip, failure in answer.no_tls.items():
        what = f"{_who(answer)}: no TLS ({answer.tls}) with {ip}: {failure}"
        yield Finding("error", what, _remedy_for_tls(answer, failure), setting="mailhost")
    if not answer.greeting and answer.no_tls and not answer.failures:
        return
    if not answer.greeting:
        yield Finding(
            "error", _silence(answer), _remedy_for_silence(answer, ours, settings, served_ports), setting="mailhost"
        )
        return
    for ip, failure in answer.failures.items():
        yield Finding("warning", f"{answer.name}: of its addresses {ip} does not answer: {failure}", setting="mailhost")
    expected = GREETINGS[answer.protocol]
    if answer.greeting.upper().split()[: len(expected)] != expected:
        said = answer.greeting[:80].decode(errors="backslashreplace").strip()
        what = f"{_who(answer)} does not greet as {answer.protocol.upper()} servers do: {said}"
        yield Finding("error", what, "is another service on this port, or does it want TLS?", setting="mailhost")
    elif ours and _is_ourselves(answer, settings, served_ports):
        what = f"{_who(answer)} is this very service ({', '.join(ours)}), under a name that it does not know as its own"
        yield Finding("error", what, _agree(answer, settings), setting="PROXY_HOSTNAME")
    elif answer.own and str(answer.port) in served_ports:
        what = f"{_who(answer)} is taken for this very service: connections to {answer.own} come from there, too"
        yield Finding(
            "error", what, "give that server an address of its own, 127.0.0.2 for example", setting="mailhost"
        )
    elif answer.tls == "no" and b"LOGINDISABLED" in answer.greeting.upper():
        what = f"{_who(answer)} refuses logins without TLS (LOGINDISABLED)"
        remedy = f"set {answer.protocol.upper()}_PROXY_TLS=starttls, or let it accept them from this host"
        yield Finding("error", what, remedy, setting="mailhost")
    elif not answer.no_tls:
        where = f"another server on this host ({', '.join(ours)})" if ours else ", ".join(answer.addresses)
        agreed = f", {answer.agreed}" if answer.agreed else ""
        yield Finding("ok", f"{_who(answer)} answers: {where}{agreed}")


def _remedy_for_tls(answer: Answer, failure: str) -> str:
    if "certificate was refused" in failure:
        reason = failure.lower().replace("self signed", "self-signed")  # as OpenSSL 1.1 says
        known = (remedy for words, remedy in SAID_OF_CERTIFICATES.items() if words in reason)
        return next(known, "have its certificate mended on the backend").format(host=answer.host)
    setting = f"{answer.protocol.upper()}_PROXY_TLS"
    if answer.tls == "yes" and any(words in failure for words in NO_TLS_SPOKEN):
        way = f"set {setting}, or the accounts' option mailhosttls, to starttls or no"
        return f"does port {answer.port} begin in clear? Then {way}; or let mailhost name the port for TLS"
    return f"set {setting}, or the accounts' option mailhosttls, to what the server offers: no, starttls or yes"


def _trust(answers: "list[Answer]", settings: "dict[str, Settings]") -> Iterator[Finding]:
    """Hosts that have accounts may be helpers, too, and send us a login in a client's name."""
    unknown = dict.fromkeys(
        ip for answer in answers for ip in answer.addresses if not _is_trusted(ip, settings[answer.protocol])
    )
    if unknown:
        shown = ", ".join(list(unknown)[:SHOWN]) + (f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else "")
        what = f"mailhosts are not in PROXY_TRUSTED ({shown}): a client's address that they tell this host is lost"
        remedy = "if these run proxyhelper, name them or their networks in PROXY_TRUSTED; else nothing is to be done"
        yield Finding("warning", what, remedy, setting="PROXY_TRUSTED")


def _is_trusted(ip: str, settings: Settings) -> bool:
    try:
        return ip in Networks(settings.trusted)
    except ValueError:
        return True  # the settings' section has said what is wrong


def _silence(answer: Answer) -> str:
    reasons = "; ".join(f"{ip}: {failure}" if ip else failure for ip, failure in answer.failures.items())
    return f"{_who(answer)} does not answer: {reasons}"


def _who(answer: Answer) -> str:
    return f"{answer.protocol.upper()} {answer.name} ({answer.accounts} account{'s' * (answer.accounts != 1)})"


def _remedy_for_silence(answer: Answer, ours: "list[str]", settings: Settings, served_ports: "list[str]") -> str:
    if ours and str(answer.port) in served_ports:
        return f"it is this host. If the mailboxes are here, {_agree(answer, settings)}; else start the server"
    if not answer.addresses:
        return "correct the mailhost of these accounts, or the name service"
    return "is the server running, is the port right, does it let this host connect?"


def _agree(answer: Answer, settings: Settings) -> str:
    known = ", ".join(f"{name} ({source})" for name, source in names_of_this_host(settings))
    own = f"set PROXY_HOSTNAME={answer.host} in authdaemonrc"
    return f"{own}, or let the mailhost be a name that counts as this host: {known}"


def _is_ourselves(answer: Answer, settings: Settings, served_ports: "list[str]") -> bool:
    trusted = [_is_trusted(ip, settings) for ip in answer.addresses]
    return str(answer.port) in served_ports and answer.greeting in [
        greeting(answer.protocol, settings.offer(secure=answer.tls == "yes", trusted=one)) for one in trusted
    ]


def is_of_this_host(ip: str) -> bool:
    """Whether an address is one of this host's own: only those can be bound to."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True
