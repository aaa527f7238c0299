"""How an LDAP server is reached: a socket, TLS, and an end to every wait. Imported with ldap3 only."""

import ssl
from collections.abc import Iterator
from time import monotonic
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import ldap3

from ...failures import Temporary

DEFAULT_SOCKET = "/run/slapd/ldapi"
MAX_ANSWER = 1 << 24

REQCERT = {"never": False, "allow": False, "try": True, "demand": True, "hard": True}
"""Whether a certificate is verified (ldap.conf(5)); every server has one, and so `try` is `demand`."""


class Deadline:
    """When the server must have answered."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._end = monotonic() + self.seconds

    def left(self) -> float:
        """Seconds that are left. Raises TimeoutError."""
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def has_passed(self) -> bool:
        return self._end - monotonic() < 0.01


def tls_context(options: dict[str, str]) -> ssl.SSLContext:
    """TLS as LDAPTLS_CACERT, CACERTDIR, CERT, KEY and REQCERT want it (ldap.conf(5)); the system's CAs where none is
    named. Raises Temporary."""
    demand = options.get("REQCERT") or "demand"
    if demand.lower() not in REQCERT:
        raise Temporary(f"LDAPTLS_REQCERT={demand} is none of {' '.join(REQCERT)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = REQCERT[demand.lower()]
    context.verify_mode = ssl.CERT_REQUIRED if REQCERT[demand.lower()] else ssl.CERT_NONE
    file, directory = options.get("CACERT"), options.get("CACERTDIR")
    certificate, key = options.get("CERT"), options.get("KEY")
    try:
        what = f"LDAPTLS_CACERT={file or ''} LDAPTLS_CACERTDIR={directory or ''}"
        if file or directory:
            context.load_verify_locations(file or None, directory or None)
        elif context.check_hostname:
            context.load_default_certs()
        what = f"LDAPTLS_CERT={certificate} LDAPTLS_KEY={key or ''}"
        if certificate:
            context.load_cert_chain(certificate, key or None, password="")
    except OSError as error:  # ssl.SSLError is one
        raise Temporary(f"cannot use {what}: {error.strerror or 'not what it should be'}") from None
    return context


class Server(ldap3.Server):
    """All addresses of a server share the time that is left."""

    def __init__(self, uri: str, deadline: Deadline, context: ssl.SSLContext | None) -> None:
        self._deadline = deadline
        scheme, host, port = parts_of(uri)
        tls = _Tls(deadline, context) if context else None
        super().__init__(host, port, scheme == "ldaps", get_info=ldap3.NONE, tls=tls)

    def candidate_addresses(self) -> Iterator[Any]:
        addresses = super().candidate_addresses()  # type: ignore[no-untyped-call,unused-ignore]
        if not addresses:
            raise OSError("this host has no address")
        for address in addresses:
            self.connect_timeout = self._deadline.left()
            yield address


class _Tls(ldap3.Tls):
    """The standard library verifies chain and host name, in the time that is left."""

    def __init__(self, deadline: Deadline, context: ssl.SSLContext) -> None:
        super().__init__()
        self._deadline = deadline
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        plain = connection.socket
        plain = plain.wrapped if isinstance(plain, Bounded) else plain
        plain.settimeout(self._deadline.left())
        connection.socket = self._context.wrap_socket(plain, server_hostname=connection.server.host)


class Bounded:
    """A socket on which nothing outlasts the deadline, and no answer the allowance."""

    def __init__(self, wrapped: Any, deadline: Deadline) -> None:
        self.wrapped = wrapped
        self.allowance = MAX_ANSWER
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def recv(self, size: int) -> bytes:
        self.wrapped.settimeout(self._deadline.left())
        data: bytes = self.wrapped.recv(size)
        self.allowance -= len(data)
        if self.allowance < 0:
            raise OSError(f"an answer of over {MAX_ANSWER} bytes")
        return data

    def sendall(self, data: bytes) -> None:
        self.wrapped.settimeout(self._deadline.left())
        self.wrapped.sendall(data)


def parts_of(uri: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; of ldapi a URI as ldap3 reads it takes the place of the host. Raises Temporary."""
    try:
        parts = urlsplit(uri)
        scheme, port = parts.scheme, parts.port if parts.scheme != "ldapi" else None
    except ValueError:
        scheme, port = "", None
    if scheme not in ("ldap", "ldaps", "ldapi"):
        raise Temporary(f"LDAP_URI: {uri!r} is not ldap://HOST, ldaps://HOST or ldapi://PATH with %2F for each /")
    if scheme == "ldapi":
        return scheme, "ldapi://" + quote(unquote(parts.netloc) or DEFAULT_SOCKET, safe=""), None
    return scheme, parts.hostname or "localhost", port
