"""The middle of the story: name and proof → account → route → here, a backend reached, or a failure."""

from . import accounts, routing
from .accounts.proofs import Certificate, Password, Response
from .dialogue.events import Forwarded
from .failures import Disabled, Insecure, Loop, Temporary, WrongCredentials
from .settings import ConfigurationError, is_true
from .text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .accounts.account import Account
    from .accounts.proofs import Proof
    from .activation import Connection
    from .backend import Backend, Target, Tell
    from .dialogue.client import Client
    from .dialogue.events import Login
    from .routing import Route
    from .settings import Settings

CONTROL_BYTES = bytes([*range(0x20), 0x7F])


def find_server(login: "Login", settings: "Settings", connection: "Connection") -> "tuple[Account, Route]":
    """The account that may log in on the connection, and where it lives. Raises a Failure."""
    account = _find_account(login, settings, connection)
    return account, routing.decide(account, settings, connection.served[0].port)


def _find_account(login: "Login", settings: "Settings", connection: "Connection") -> "Account":
    if not could_be(encode(login.user)) or not (login.cram or login.external or could_be(login.password)):
        raise WrongCredentials("not a name or password at all")
    service = settings.services.get(connection.local.port) or settings.protocol
    account = accounts.authenticate(settings, service, with_domain(login.user, settings), proof_of(login))
    check_options(account, settings, connection.secure)
    return account


def proof_of(login: "Login") -> "Proof | Certificate":
    if login.external:
        return Certificate()
    cram = login.cram
    return Response(cram.mechanism, cram.challenge, cram.response) if cram else Password(login.password)


def could_be(value: bytes) -> bool:
    """Whether `value` may be a name or password at all: some bytes, and no control characters among them."""
    return bool(value) and len(value) == len(value.translate(None, CONTROL_BYTES))


def with_domain(name: str, settings: "Settings") -> str:
    """The name with DEFDOMAIN, unless it has a domain already: a character of DOMAINSEP where that is set, else the
    first of DEFDOMAIN."""
    separators = settings.domain_separators or settings.default_domain[:1]
    return name if any(character in name for character in separators) else name + settings.default_domain


def check_options(account: "Account", settings: "Settings", secure: bool) -> None:
    """The account options that forbid a service; `secure`: behind TLS. Raises Disabled or Insecure."""
    for option, applies, failure in (
        (f"disable{settings.protocol}", True, Disabled),
        (f"disableinsecure{settings.protocol}", not secure, Insecure),
    ):
        if applies and is_true(account.options.get(option, "")):
            raise failure(f"the account has the option {option}")


def reach_backend(
    route: "Route",
    account: "Account",
    login: "Login",
    settings: "Settings",
    connection: "Connection",
    forwarded: Forwarded,
    utf8: bool = False,
    tell: "Tell | None" = None,
) -> "Backend":
    """Log in to the backend of `route` as the account, with `forwarded` for it to know of the client, and `tell` each
    step. Raises a Failure.

    Where this process is root it becomes PROXY_USER before it connects; root is back only if that fails."""
    from . import backend, privileges

    if forwarded.ttl is not None and forwarded.ttl < 1:
        raise Loop(f"mailhost {route.host} would be one proxy too many for this login: do the proxies send it round?")
    target = _target(route, settings, connection)
    password = _password_for_backend(account, login)
    told = _told(settings, forwarded)
    if told:
        from .dialogue import forwarding  # noqa: F401  now: PROXY_USER need not be able to read this installation
    starttls = route.tls == "starttls"
    new_client = _client_maker(_line_value(account.address), password, settings, utf8, starttls, told)
    person = privileges.proxy_person(settings.proxy_user) if privileges.is_root() else None
    tell = tell or backend.keep_quiet
    if person is None:
        return backend.log_in(target, new_client, password, tell)
    before = privileges.assume(person)
    try:
        reached = backend.log_in(target, new_client, password, tell)
    except BaseException:
        privileges.resume_root(before)
        raise
    privileges.settle(person)
    return reached


def _target(route: "Route", settings: "Settings", connection: "Connection") -> "Target":
    """Raises Temporary."""
    from .backend import Target, Way

    names = ", ".join(f"{name} ({source})" for name, source in routing.names_of_this_host(settings))
    context, header = None, b""
    if route.tls != "no":
        from . import tls

        try:
            context = tls.backend_context(settings)
        except ConfigurationError as error:
            raise Temporary(f"backend {route.host}: {error}") from None
    if settings.proxy_send == "proxy-v2":
        from . import proxy_protocol

        header = proxy_protocol.version2(connection.peer, connection.local)
    way = Way(route.tls, context, route.host.rstrip("."), header)
    return Target(route.host, route.port, settings.timeout, connection.served, names, way)


def _told(settings: "Settings", forwarded: Forwarded) -> "Forwarded | None":
    """What the dialogue with the backend says of the client: not what a PROXY header has said already."""
    if settings.proxy_send == "no":
        return None
    if settings.proxy_send == "proxy-v2":
        return Forwarded(session=forwarded.session, ttl=forwarded.ttl)
    return forwarded


def _password_for_backend(account: "Account", login: "Login") -> bytes:
    """What the client sent, else what the account source holds. Raises Temporary."""
    password = account.cleartext if login.cram or login.external else login.password
    if not could_be(password):
        raise Temporary(
            "a backend needs the password in clear: CRAM and EXTERNAL cannot be used where the account source lacks it"
        )
    return password


def _client_maker(
    user: bytes, password: bytes, settings: "Settings", utf8: bool, starttls: bool, told: "Forwarded | None"
) -> "Callable[[], Client]":
    if settings.protocol == "imap":
        from .dialogue import imap_client

        return lambda: imap_client.Client(user, password, settings.foreign, starttls, told)
    from .dialogue import pop3_client

    return lambda: pop3_client.Client(user, password, utf8, starttls, told)


def _line_value(value: str) -> bytes:
    """A value of an account source that goes into a line of protocol. Raises Temporary."""
    data = encode(value)
    if not could_be(data):
        raise Temporary(f"the account's address {value!r} holds control characters, or nothing")
    return data
