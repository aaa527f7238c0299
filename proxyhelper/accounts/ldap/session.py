"""A connection to an LDAP server, by ldap3. This module is imported when a server is to be asked: ldap3 costs 60 ms."""

import socket
from collections.abc import Iterator
from ssl import SSLContext
from typing import Any

import ldap3
from ldap3.core.exceptions import LDAPException, LDAPInvalidFilterError

from ...failures import Failure, Temporary
from ...text import decode
from .transport import MAX_ANSWER, Bounded, Deadline, Server

SUCCESS, SIZE_LIMIT_EXCEEDED, REFERRAL, NO_SUCH_OBJECT, INVALID_CREDENTIALS = 0, 4, 10, 32, 49
PAGED_RESULTS = "1.2.840.113556.1.4.319"  # RFC 2696
PAGE = 1000
MAX_PAGES = 10000
ENOUGH = 2
"""Entries of which a search for one asks; more would say nothing more."""


class Unusable(Exception):
    """This server cannot be used, another may; the text says why."""


class InvalidCredentials(Unusable):
    """The server refused DN and password."""


class Entry:
    """What a search found; the names of attributes compare without case."""

    def __init__(self, dn: str, attributes: dict[str, list[bytes]]) -> None:
        self.dn = dn
        self._attributes = {name.lower(): values for name, values in attributes.items()}

    def values(self, attribute: str) -> list[bytes]:
        return self._attributes.get(attribute.lower(), [])

    def first(self, attribute: str) -> bytes:
        """The first value, b"" where there is none."""
        return (self.values(attribute) or [b""])[0]

    def text(self, attribute: str) -> str:
        """The first value as text. Raises Temporary for one that would break out of a line."""
        value = decode(self.first(attribute))
        if any(character in value for character in "\r\n\0"):
            raise Temporary(f"{attribute} of the entry {self.dn!r} holds CR, LF or NUL")
        return value


class Secret(bytes):
    """A password of any bytes. ldap3 keeps its requests as text too, and this has none."""

    def decode(self, *_: object) -> str:
        return ""


class Session:
    """A connection from its opening to its end; all that goes wrong on it is Unusable.

    uri       ldap://, ldaps:// or ldapi://
    who       DN and password to bind with, or None
    context   of TLS: for ldaps, and for StartTLS with `start_tls`
    """

    def __init__(
        self,
        uri: str,
        who: tuple[str, bytes] | None,
        deadline: Deadline,
        context: SSLContext | None = None,
        start_tls: bool = False,
    ) -> None:
        server = Server(uri, deadline, context)
        user, password = who or (None, None)
        self._start_tls = start_tls and not server.ssl and not server.ipc
        self._deadline = deadline
        self._connection: Any = ldap3.Connection(
            server,
            user,
            Secret(password) if password else None,  # type: ignore[arg-type,unused-ignore]
            authentication=ldap3.SIMPLE if who else ldap3.ANONYMOUS,
            auto_referrals=False,
            auto_escape=False,
            auto_range=False,
            check_names=False,
            return_empty_attributes=False,
        )

    def __enter__(self) -> "Session":
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> "Session":
        """Connect, encrypt and bind."""
        try:
            self._open()
        except BaseException as error:
            failure = self._failure(error)
            self.close()
            raise failure from None
        return self

    def close(self) -> None:
        connection = self._connection
        try:
            if not connection.closed:
                connection.unbind()
        except (LDAPException, OSError):
            pass
        if connection.socket:
            connection.socket.close()

    def _open(self) -> None:
        connection = self._connection
        connection.open(read_server_info=False)
        if not connection.server.ipc:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the search waits for no ACK
        connection.socket = Bounded(connection.socket, self._deadline)
        if self._start_tls:
            connection.start_tls(read_server_info=False)
            connection.socket = Bounded(connection.socket, self._deadline)
        if connection.user:
            connection.bind(read_server_info=False)
            self._check_result(f"bind as {connection.user!r}")

    def search(self, base: str, wanted: str, attributes: list[str], dereference: int) -> list[Entry]:
        """Entries that the filter `wanted` lets through, ENOUGH at most."""
        try:
            self._search(base, wanted, attributes, dereference, size_limit=ENOUGH)
            entries = self._entries()
            if len(entries) < ENOUGH:
                self._check_result(f"search in {base!r}")
        except Exception as error:
            raise self._failure(error) from None
        return entries

    def pages(self, base: str, wanted: str, attributes: list[str], dereference: int) -> Iterator[list[Entry]]:
        """Every entry that the filter `wanted` lets through. Each page has the time of its own."""
        cookie = b""
        for _ in range(MAX_PAGES):
            self._deadline.restart()
            try:
                self._search(base, wanted, attributes, dereference, paged_size=PAGE, paged_cookie=cookie)
                entries = self._entries()
                self._check_result(f"search in {base!r}")
                cookie = self._cookie()
            except Exception as error:
                raise self._failure(error) from None
            yield entries
            if not cookie:
                return
        raise Unusable(f"over {MAX_PAGES} pages of {PAGE} entries")

    def _search(self, base: str, wanted: str, attributes: list[str], dereference: int, **how: Any) -> None:
        self._connection.socket.allowance = MAX_ANSWER
        try:
            self._connection.search(
                base,
                wanted,
                dereference_aliases=dereference,
                attributes=attributes,
                time_limit=self._deadline.seconds,
                **how,
            )
        except LDAPInvalidFilterError:
            raise Temporary(f"{wanted!r} is not an LDAP filter: see the filters in authldaprc") from None

    def _entries(self) -> list[Entry]:
        """Of the answer; references to other servers are not followed."""
        found = [part for part in self._connection.response if part["type"] == "searchResEntry"]
        return [Entry(part["dn"], part["raw_attributes"]) for part in found]

    def _cookie(self) -> bytes:
        """What the server wants to hear for the next page; nothing after the last, or where it knows no pages."""
        control = self._connection.result.get("controls", {}).get(PAGED_RESULTS, {"value": {}})
        return bytes(control["value"].get("cookie") or b"")

    def _check_result(self, what: str) -> None:
        code, description = self._connection.result["result"], self._connection.result["description"]
        if code != SUCCESS:
            kind = InvalidCredentials if code == INVALID_CREDENTIALS else Unusable
            raise kind(f"{what}: {description}{REMEDIES.get(code, '')}")

    def _reason(self, error: Exception) -> str:
        """One line; the texts of ldap3's errors quote one another, `last_error` does not."""
        reason = " ".join((self._connection.last_error or str(error) or type(error).__name__).split())
        return f"{reason}: see LDAPTLS_CACERT" if "CERTIFICATE_VERIFY_FAILED" in reason else reason

    def _failure(self, error: BaseException) -> BaseException:
        """What a caller is told of `error`. Texts of other libraries' errors may hold what the server sent."""
        if isinstance(error, Failure | Unusable) or not isinstance(error, Exception):
            return error
        if self._deadline.has_passed():
            return Unusable(f"no answer within {self._deadline.seconds} s (LDAP_TIMEOUT)")
        if isinstance(error, LDAPException | OSError):
            return Unusable(self._reason(error))
        return Unusable(f"it answers what is not LDAP ({type(error).__name__})")


REMEDIES = {
    SIZE_LIMIT_EXCEEDED: ": the server lists no more entries to LDAP_BINDDN: raise its limit there",
    REFERRAL: ": it refers to another server, which is not followed: name that one in LDAP_URI",
    INVALID_CREDENTIALS: ": are LDAP_BINDDN and LDAP_BINDPW right?",
    NO_SUCH_OBJECT: ": there is no such entry, or LDAP_BINDDN may not see it",
}
