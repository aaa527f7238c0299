"""Name and proof in, Account out. Nothing here knows of IMAP or POP3."""

from ..failures import WrongCredentials
from . import userdb
from .passwords import matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..settings import Settings
    from .account import Account


def authenticate(settings: "Settings", service: str, name: str, password: bytes) -> "Account":
    """The account of `name`, if `password` is its own for `service`. Raises WrongCredentials, Temporary."""
    account = find(settings, service, name)
    if not matches(account.password, password):
        raise WrongCredentials("wrong password")
    return account


def find(settings: "Settings", service: str, name: str) -> "Account":
    """The account of `name`, with its password for `service`. Raises WrongCredentials if there is none, Temporary."""
    return userdb.find(f"{settings.directory}/userdb", service, name, settings.default_options)
