"""TLS for both sides: contexts from the settings, and ends that speak it.

`_ssl` is used without `ssl`, whose import costs 15 ms; and without a socket: a Channel turns plaintext into ciphertext
and back, the ends move the ciphertext. So the kernel's socket is read and written by us alone, and half of a
connection can be closed: SSL_shutdown(3) on a socket would read on, and throw away what the peer is still saying.
"""

from .ends import Closed, TimedOut
from .interpreter import posix, ssl, stat
from .settings import DEFAULT_TLS_PROTOCOL, ConfigurationError, is_readable
from .text import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeAlias

    from .ends import SocketEnd
    from .pipes import PipeEnd
    from .settings import Settings

    InClear: TypeAlias = SocketEnd | PipeEnd
    End: TypeAlias = "SocketEnd | PipeEnd | TlsEnd"

RECORD = 16384
"""Bytes of plaintext in the largest record (RFC 8446 section 5.1)."""

VERSIONS = {"": 0x0301, ".1": 0x0302, ".2": 0x0303, ".3": 0x0304}
CERTIFICATE_NAMES = {"cn": "commonname", "o": "organizationname", "ou": "organizationalunitname", "uid": "userid"}
"""Short names of a subject's fields, as TLS_EXTERNAL may have them, and OpenSSL's long ones."""


class HandshakeFailed(Exception):
    """No TLS could be agreed upon with the peer; the text says why."""


class Channel:
    """One end of a TLS connection without its socket: ciphertext in, plaintext out, and back.

    `ended`: the peer has said that it says no more (close_notify). `failure`: nothing more can be understood."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "ended", "failure")

    def __init__(self, context: "ssl._SSLContext", server_side: bool, peer_name: "str | None" = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        wrap: Any = context._wrap_bio  # type: ignore[attr-defined]
        self._tls = wrap(self._incoming, self._outgoing, server_side, peer_name)
        self.ended = False
        self.failure: OSError | None = None

    def shake_hands(self, ciphertext: bytes = b"") -> bool:
        """Whether the handshake is complete; `outgoing` is to be sent in any case. Raises HandshakeFailed."""
        self._incoming.write(ciphertext)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise HandshakeFailed(reason(error)) from None
        return True

    def decrypt(self, ciphertext: "bytes | memoryview") -> bytes:
        """The plaintext of all records that are complete now; behind the last one `ended` or `failure` may be set."""
        self._incoming.write(ciphertext)
        pieces = []
        try:
            while piece := self._tls.read(RECORD):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the peer's close_notify, where ours has been said
            self.ended = True
        except ssl.SSLError as error:
            self.failure = error
        return b"".join(pieces)

    def encrypt(self, plaintext: "bytes | memoryview") -> bytes:
        """Ciphertext for the peer. Raises OSError where the connection has failed."""
        rest = memoryview(plaintext)
        while rest:
            rest = rest[self._tls.write(rest) :]
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What the protocol itself has to say: handshakes, alerts."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """The last thing to send (close_notify)."""
        try:
            self._tls.shutdown()
        except ssl.SSLError:
            pass  # it wants the peer's answer, which is the reader's business
        return self._outgoing.read()

    def version(self) -> str:
        return self._tls.version() or ""

    def cipher(self) -> str:
        agreed = self._tls.cipher()
        return agreed[0] if agreed else ""

    def peer_certificate(self) -> bytes:
        """The one that the peer has shown, in DER, verified or not."""
        return self._tls.getpeercert(True) or b""

    def peer_subject(self) -> "list[tuple[str, str]]":
        """The subject of the peer's verified certificate: [("commonName", "…"), ("emailAddress", "…"), …]."""
        certificate = self._tls.getpeercert() or {}
        return [field for fields in certificate.get("subject", ()) for field in fields]


class TlsEnd:
    """The end of a connection behind TLS until the login, as SocketEnd and PipeEnd are those in clear."""

    def __init__(self, under: "InClear", channel: Channel) -> None:
        self._under = under
        self.channel = channel
        self._plaintext = b""  # decrypted, and not used yet

    def shake_hands(self, deadline: float) -> None:
        """Raises HandshakeFailed, TimedOut, Closed."""
        received = b""
        while True:
            try:
                done = self.channel.shake_hands(received)
            except HandshakeFailed:
                self._send_alert(deadline)
                raise
            if to_send := self.channel.outgoing():
                self._under.send(to_send, deadline)
            if done:
                self._plaintext = self.channel.decrypt(b"")  # of what came with the end of the handshake
                return
            received = self._under.receive(deadline)
            if not received:
                raise HandshakeFailed("the connection ended")

    def _send_alert(self, deadline: float) -> None:
        try:
            self._under.send(self.channel.outgoing(), deadline)
        except (Closed, TimedOut):
            pass  # why there is no TLS counts more

    def peek(self, deadline: float) -> bytes:
        """The bytes at hand, b"" behind the last. Raises TimedOut, Closed."""
        while not self._plaintext and not self.channel.ended:
            if self.channel.failure:
                raise Closed(reason(self.channel.failure))
            ciphertext = self._under.receive(deadline)
            if not ciphertext:
                raise Closed("TLS ended without a goodbye")
            self._plaintext = self.channel.decrypt(ciphertext)
            if answer := self.channel.outgoing():
                self._under.send(answer, deadline)
        return self._plaintext

    def consume(self, count: int) -> None:
        """Drop bytes that were peeked at."""
        self._plaintext = self._plaintext[count:]

    def rest(self) -> bytes:
        """What has been read, and not consumed."""
        return self._plaintext

    def receive(self, deadline: float) -> bytes:
        """As peek, but the bytes are gone then."""
        data = self.peek(deadline)
        self._plaintext = b""
        return data

    def send(self, data: bytes, deadline: float) -> None:
        """All of `data`. Raises TimedOut, Closed."""
        try:
            ciphertext = self.channel.encrypt(data)
        except OSError as error:
            raise Closed(reason(error)) from None
        self._under.send(ciphertext, deadline)

    def finish(self, deadline: float) -> None:
        """Say no more, and let the client go on talking until it has read all."""
        try:
            self._under.send(self.channel.close(), deadline)
        except (Closed, TimedOut):
            return
        self._under.finish(deadline)


def server_context(settings: "Settings", local_ip: str) -> "ssl._SSLContext":
    """For clients that have come to `local_ip`. Raises ConfigurationError.

    No tickets: the key to them is the context's, and the next connection is another process."""
    context = _server_context(settings, local_ip)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.sni_callback = _contexts_by_name(settings)
    return context


def _server_context(settings: "Settings", suffix: str) -> "ssl._SSLContext":
    """With the certificate for a name or address, and all else that OpenSSL takes from the context of a name."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings.tls_protocol)
    if settings.ciphers:
        try:
            context.set_ciphers(settings.ciphers)
        except OSError as error:
            _refuse("TLS_CIPHER_LIST", settings.ciphers, error)
    _load_certificate(context, *certificate_for(settings, suffix))
    if settings.verify_peer != "none":
        context.verify_mode = ssl.CERT_REQUIRED if settings.verify_peer == "requirepeer" else ssl.CERT_OPTIONAL
        _trust(context, "TLS_TRUSTCERTS", settings.trustcerts)
    return context


def backend_context(settings: "Settings") -> "ssl._SSLContext":
    """For backends: their certificates are verified. Raises ConfigurationError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, DEFAULT_TLS_PROTOCOL)
    if settings.proxy_cafile:
        _trust(context, "PROXY_CAFILE", settings.proxy_cafile)
    else:
        context.set_default_verify_paths()
    return context


def unverified_context() -> "ssl._SSLContext":
    """For a look at what a server shows, whoever certifies it."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, DEFAULT_TLS_PROTOCOL)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(side: int, version: str) -> "ssl._SSLContext":
    context = ssl._SSLContext(side)
    context.minimum_version = _minimum_version(version)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # cut is not ended; OpenSSL 3 has the option
    return context


def _minimum_version(protocol: str) -> int:
    """Of Courier's TLS_PROTOCOL: TLSv1.2, TLSv1.2+ and TLSv1.2++ are "or higher"; renegotiation is never allowed."""
    version = protocol.upper().rstrip("+")
    if not version.startswith("TLSV1") or version[5:] not in VERSIONS:
        known = " ".join(f"TLSv1{minor}" for minor in VERSIONS)
        raise ConfigurationError(f"setting TLS_PROTOCOL={protocol!r} is none of {known}", "TLS_PROTOCOL")
    return VERSIONS[version[5:]]


def _trust(context: "ssl._SSLContext", setting: str, path: str) -> None:
    """Trust the authorities in a file or hashed directory."""
    try:
        if stat.S_ISDIR(posix.stat(path).st_mode):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        _refuse(setting, path, error)


def _refuse(setting: str, value: str, error: OSError) -> "NoReturn":
    raise ConfigurationError(f"setting {setting}={value!r} cannot be used: {reason(error)}", setting) from None


def certificate_for(settings: "Settings", suffix: str) -> "tuple[str, str]":
    """The files of the certificate and its key for a name or address; those without a suffix where it has none."""
    certificate, key = settings.certificate, settings.private_key
    if suffix and is_readable(f"{certificate}.{suffix}"):
        certificate = f"{certificate}.{suffix}"
    if not key:
        return certificate, certificate
    return certificate, f"{key}.{suffix}" if suffix and is_readable(f"{key}.{suffix}") else key


def _load_certificate(context: "ssl._SSLContext", certificate: str, key: str) -> None:
    if not certificate:
        raise ConfigurationError("TLS_CERTFILE names no certificate", "TLS_CERTFILE")
    for path in (certificate, key):
        try:
            posix.close(posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK))
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}", "TLS_CERTFILE") from None
    try:
        context.load_cert_chain(certificate, key, "")  # "": nobody is asked for the password of a key
    except (OSError, ValueError) as error:
        where = f"the certificate in {certificate}" + (f" and the key in {key}" if key != certificate else "")
        why = reason(error)
        if "PEM lib" in why:
            why = "not both are there in PEM form, or the key has a password"
        raise ConfigurationError(f"{where} cannot be used: {why}", "TLS_CERTFILE") from None


def _contexts_by_name(settings: "Settings") -> "Any":
    """What presents TLS_CERTFILE.<name> to a client that asks for the name (RFC 6066 section 3)."""

    def choose(tls: "Any", name: "str | None", context: "ssl._SSLContext") -> None:
        name = (name or "").lower()
        if is_name(name) and is_readable(f"{settings.certificate}.{name}"):
            try:
                tls.context = _server_context(settings, name)
            except ConfigurationError:
                pass  # `check` names it; the certificate for all is better than none

    return choose


def decode_certificate(path: str) -> "dict[str, Any]":
    """The first certificate in a PEM file, as SSLSocket.getpeercert() has it. Raises OSError."""
    decode: "Callable[[str], dict[str, Any]]" = getattr(ssl, "_test_decode_cert")  # noqa: B009  as typeshed lacks it
    return decode(path)


def is_name(name: str) -> bool:
    """Whether a host name from outside may be part of a file's name."""
    return name[:1].isalnum() and name.isascii() and not name.strip("abcdefghijklmnopqrstuvwxyz0123456789.-")


def identity(subject: "list[tuple[str, str]]", field: str) -> str:
    """The login name that a certificate's subject proves (TLS_EXTERNAL names the field); "" where it has none, or more
    than one."""
    wanted = CERTIFICATE_NAMES.get(field.lower(), field.lower())
    found = [value for name, value in subject if name.lower() == wanted]
    return found[0] if len(found) == 1 else ""


def reason(error: Exception) -> str:
    """Why TLS failed, in OpenSSL's words."""
    if said := getattr(error, "verify_message", ""):
        return f"the certificate was refused: {said}"
    if code := getattr(error, "reason", None):
        return str(code).lower().replace("_", " ")
    return str(error.args[0]) if len(error.args) == 1 else words(error)  # SSLError shows its arguments as a tuple
