"""The middle of the story: name and proof → account → route → here, a backend reached, or a failure."""

from . import accounts, routing
from .accounts.proofs import Password, Response
from .failures import Disabled, Insecure, Temporary, WrongCredentials
from .settings import is_true
from .text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .accounts.account import Account
    from .accounts.proofs import Proof
    from .activation import Address
    from .backend import Backend, Client, Tell
    from .dialogue.events import Login
    from .routing import Route
    from .settings import Settings

CONTROL_BYTES = bytes([*range(0x20), 0x7F])


def find_server(login: "Login", settings: "Settings", served_port: str) -> "tuple[Account, Route]":
    """The account that may log in on the port that is served ("" where that is not known), and where it lives.

    Raises a Failure."""
    account = _find_account(login, settings, served_port)
    return account, routing.decide(account, settings, served_port)


def _find_account(login: "Login", settings: "Settings", served_port: str) -> "Account":
    if not could_be(encode(login.user)) or not (login.cram or could_be(login.password)):
        raise WrongCredentials("not a name or password at all")
    service = settings.services.get(served_port) or settings.protocol
    account = accounts.authenticate(settings, service, with_domain(login.user, settings), proof_of(login))
    check_options(account, settings)
    return account


def proof_of(login: "Login") -> "Proof":
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


def check_options(account: "Account", settings: "Settings") -> None:
    """The account options that forbid a service. Raises Disabled or Insecure."""
    for option, applies, failure in (
        (f"disable{settings.protocol}", True, Disabled),
        (f"disableinsecure{settings.protocol}", not settings.tls, Insecure),
    ):
        if applies and is_true(account.options.get(option, "")):
            raise failure(f"the account has the option {option}")


def reach_backend(
    route: "Route",
    account: "Account",
    login: "Login",
    settings: "Settings",
    served: "Address",
    utf8: bool,
    tell: "Tell | None" = None,
) -> "Backend":
    """Log in to the backend of `route` as the account, and `tell` each step. Raises a Failure.

    Where this process is root it becomes PROXY_USER before it connects; root is back only if that fails."""
    from . import backend, privileges

    names = ", ".join(f"{name} ({source})" for name, source in routing.names_of_this_host(settings))
    target = backend.Target(route.host, route.port, settings.timeout, served, names)
    password = _password_for_backend(account, login)
    new_client = _client_maker(_line_value(account.address), password, settings, utf8)
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


def _password_for_backend(account: "Account", login: "Login") -> bytes:
    """What the client sent, or for CRAM what the account source holds. Raises Temporary."""
    password = account.cleartext if login.cram else login.password
    if not could_be(password):
        raise Temporary("a backend needs the password in clear: CRAM cannot be used where the account source lacks it")
    return password


def _client_maker(user: bytes, password: bytes, settings: "Settings", utf8: bool) -> "Callable[[], Client]":
    if settings.protocol == "imap":
        from .dialogue import imap_client

        return lambda: imap_client.Client(user, password, settings.foreign)
    from .dialogue import pop3_client

    return lambda: pop3_client.Client(user, password, utf8)


def _line_value(value: str) -> bytes:
    """A value of an account source that goes into a line of protocol. Raises Temporary."""
    data = encode(value)
    if not could_be(data):
        raise Temporary(f"the account's address {value!r} holds control characters, or nothing")
    return data
