"""Name and proof in, Account out. Nothing here knows of IMAP or POP3.

Each source is a module with a function `find(settings, service, name)` and, where it checks proofs itself,
`authenticate(settings, service, name, proof)`. Both raise WrongCredentials, which sends the search to the next source
of the list, or Temporary, which ends it. `accounts(settings)` yields all accounts, without passwords, for the
administrator's commands (listing.py has the userdb's).
"""

from ..failures import Temporary, WrongCredentials
from .proofs import Certificate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from ..settings import Settings
    from .account import Account
    from .proofs import Proof

SOURCES = {
    "authuserdb": "userdb",
    "authldap": "ldap",
    "authmysql": "mysql",
    "authpgsql": "pgsql",
    "authdaemon": "authdaemon",
}
"""Courier's names of account modules, and ours; authdaemon is Courier's own daemon, with the modules that it has."""


DRIVERS = {"authldap": "ldap3", "authmysql": "pymysql", "authpgsql": "psycopg2"}


def authenticate(settings: "Settings", service: str, name: str, proof: "Proof | Certificate") -> "Account":
    """The account of `name`, if `proof` is its own for `service`. Raises WrongCredentials, Temporary."""
    refusals: list[WrongCredentials] = []
    for module in _modules(settings):
        try:
            if module in DRIVERS:
                return _ask_apart(module, settings, service, name, proof)
            return _ask(module, settings, service, name, proof)
        except WrongCredentials as refusal:
            refusals.append(refusal)
    raise _summary(refusals)


def _ask_apart(module: str, settings: "Settings", service: str, name: str, proof: "Proof | Certificate") -> "Account":
    from .apart import ask

    return ask(lambda: _ask(module, settings, service, name, proof))


def _ask(module: str, settings: "Settings", service: str, name: str, proof: "Proof | Certificate") -> "Account":
    asked = source(module)
    if isinstance(proof, Certificate):
        return asked.find(settings, service, name)  # type: ignore[no-any-return]
    if hasattr(asked, "authenticate"):
        return asked.authenticate(settings, service, name, proof)  # type: ignore[no-any-return]
    account: Account = asked.find(settings, service, name)
    proof.check(account)
    return account


def find(settings: "Settings", service: str, name: str) -> "Account":
    """The account of `name`, with its password for `service`. Raises WrongCredentials if there is none, Temporary."""
    refusals: list[WrongCredentials] = []
    for module in _modules(settings):
        try:
            return source(module).find(settings, service, name)  # type: ignore[no-any-return]
        except WrongCredentials as refusal:
            refusals.append(refusal)
    raise _summary(refusals)


def available(settings: "Settings") -> "list[str]":
    """The modules of the list that are to be had here, each once."""
    return [module for module in dict.fromkeys(settings.modules) if module in SOURCES]


def unavailable(settings: "Settings") -> "list[str]":
    """The modules of the list that are not to be had here, each once."""
    return [module for module in dict.fromkeys(settings.modules) if module not in SOURCES]


def source(module: str) -> "ModuleType":
    """The source that an available module is; it and its driver are imported now. Raises Temporary."""
    if driver := DRIVERS.get(module):
        from .drivers import import_driver

        try:
            import_driver(driver)
        except ImportError as error:
            raise Temporary(f"{module} needs the Python module {driver}: {error}; install it with pip") from None
    return __import__(f"{__name__}.{SOURCES[module]}", fromlist=["find"])


def _modules(settings: "Settings") -> "list[str]":
    """Raises Temporary where no module of the list is available."""
    modules = available(settings)
    if not modules:
        raise Temporary(f"no account module is available here: the list has {' '.join(settings.modules)} only")
    return modules


def _summary(refusals: "list[WrongCredentials]") -> WrongCredentials:
    """What the sources said, each thing once."""
    return WrongCredentials("; ".join(dict.fromkeys(str(refusal) for refusal in refusals)))
