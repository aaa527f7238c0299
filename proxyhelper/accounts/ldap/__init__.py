"""Accounts in a directory, as Courier's authldaprc describes them (its authldaplib finds them so).

Each server of LDAP_URI is asked in turn until one can be used, and has LDAP_TIMEOUT seconds for it all. Attributes and
filters, where they are used, stand in the comments of the file that Courier ships.
"""

from ...failures import Temporary, WrongCredentials
from ...text import decode, encode
from ..proofs import Password
from .site import IGNORED, KNOWN, Site, mapped

__all__ = ["IGNORED", "KNOWN", "accounts", "authenticate", "find"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...settings import Settings
    from ..account import Account
    from ..proofs import Proof
    from .session import Entry, Session


def find(settings: "Settings", service: str, name: str) -> "Account":
    """The account of `name`. Raises WrongCredentials where there is none, Temporary."""
    site = Site(settings)
    return site.account(name, _in_turn(site, lambda server: server.entry_of(name)))


def authenticate(settings: "Settings", service: str, name: str, proof: "Proof") -> "Account":
    """The account of `name`, if `proof` is its own: with LDAP_AUTHBIND the server checks it. Raises WrongCredentials,
    Temporary."""
    site = Site(settings)
    if not site.authbind:
        account = site.account(name, _in_turn(site, lambda server: server.entry_of(name)))
        proof.check(account)
        return account
    if not isinstance(proof, Password):
        raise WrongCredentials(f"{proof.mechanism} is not possible with LDAP_AUTHBIND, which needs the password")
    if not proof.password:  # it would be an anonymous bind, which succeeds
        raise WrongCredentials("empty password")
    password = proof.password
    return site.account(name, _in_turn(site, lambda server: server.entry_bound_to(name, password)))


def accounts(settings: "Settings") -> "Iterator[Account]":
    """All accounts, by each of their names and without passwords. Raises Temporary."""
    from .session import Unusable

    site = Site(settings)
    session = _in_turn(site, lambda server: server.session(site.binder).open())
    try:
        for page in session.pages(site.base, site.enumerate_filter, site.attributes(site.mail), site.dereference):
            for entry in page:
                for name in entry.values(site.mail):
                    yield site.account(decode(name), entry, with_passwords=False)
    except Unusable as reason:
        raise Temporary(f"LDAP: {reason}") from None
    finally:
        session.close()


class _Asked:
    """One server that is asked; all of its sessions together have LDAP_TIMEOUT seconds."""

    def __init__(self, site: Site, uri: str) -> None:
        from .transport import Deadline, tls_context

        needs_tls = site.start_tls or uri.lower().startswith("ldaps:")
        self._context = tls_context(site.tls_options) if needs_tls else None
        self._deadline = Deadline(site.timeout)
        self._site = site
        self._uri = uri

    def session(self, who: "tuple[str, bytes] | None") -> "Session":
        from .session import Session

        return Session(self._uri, who, self._deadline, self._context, self._site.start_tls)

    def entry_of(self, name: str) -> "Entry":
        site = self._site
        if not name:
            raise WrongCredentials("no such account")
        with self.session(site.binder) as session:
            attribute, value = site.mail, encode(name)
            if site.emailmap and "@" in name:
                wanted = mapped(site.emailmap, name)
                found = self._only(session, site.emailmap_base, wanted, [site.emailmap_attribute])
                attribute, value = site.emailmap_mail, found.first(site.emailmap_attribute)
                if not value:
                    raise WrongCredentials("no such account")
            return self._only(session, site.base, site.filter_for(attribute, value), site.attributes())

    def entry_bound_to(self, name: str, password: bytes) -> "Entry":
        """The entry of `name`, if the server takes `password` for its own, on a connection of its own."""
        from .session import InvalidCredentials

        entry = self.entry_of(name)
        if not entry.dn:  # binding to it would be anonymous, whatever the password
            raise Temporary(f"{self._uri}: the entry has an empty DN, which LDAP_AUTHBIND cannot use")
        try:
            with self.session((entry.dn, password)):
                return entry
        except InvalidCredentials:
            raise WrongCredentials("wrong password") from None

    def _only(self, session: "Session", base: str, wanted: str, attributes: "list[str]") -> "Entry":
        entries = session.search(base, wanted, attributes, self._site.dereference)
        if not entries:
            raise WrongCredentials("no such account")
        if len(entries) > 1:
            raise Temporary(f"{wanted} finds more than one entry in {base}: see LDAP_FILTER in {self._site.file}")
        return entries[0]


if TYPE_CHECKING:
    from typing import TypeVar

    Told = TypeVar("Told")


def _in_turn(site: Site, story: "Callable[[_Asked], Told]") -> "Told":
    """What the first server that can be used tells. Raises Temporary if none can."""
    from .session import Unusable

    reasons = []
    for uri in site.uris:
        try:
            return story(_Asked(site, uri))
        except Unusable as reason:
            reasons.append(f"{uri}: {reason}")
    raise Temporary("; ".join(reasons))
