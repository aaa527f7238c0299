"""SASL mechanisms, the server's half: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), CRAM-MD5 (RFC 2195) and,
with other hashes in MD5's place, CRAM-SHA1 and CRAM-SHA256; EXTERNAL (RFC 4422 appendix A).

A mechanism is stepped with each decoded response and returns the next challenge, or the Login once it is complete.
What cannot be a login becomes one without a name, which is a failed login like any other.
"""

from .events import Cram, Login
from .greetings import CRAM_MECHANISMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    class Mechanism(Protocol):
        def step(self, response: "bytes | None") -> "bytes | Login": ...


class Plain:
    """[authzid] NUL authcid NUL password; acting for somebody else is not offered."""

    __slots__ = ()

    def step(self, response: "bytes | None") -> "bytes | Login":
        if response is None:
            return b""
        parts = response.split(b"\0", 2)
        if len(parts) != 3 or parts[0] not in (b"", parts[1]):
            return Login(b"", b"")
        return Login(parts[1], parts[2])


class LoginMechanism:
    """Name and password, asked for one after the other."""

    __slots__ = ("_user",)

    def __init__(self) -> None:
        self._user: bytes | None = None

    def step(self, response: "bytes | None") -> "bytes | Login":
        if response is None:
            return b"Username:"
        if self._user is None:
            self._user = response
            return b"Password:"
        return Login(self._user, response)


class CramMechanism:
    """A challenge, and name SP digest as the response. The challenge is used once."""

    __slots__ = ("_challenge", "_name")

    def __init__(self, name: str, challenge: bytes) -> None:
        self._name = name
        self._challenge = challenge

    def step(self, response: "bytes | None") -> "bytes | Login":
        if response is None:
            return self._challenge
        return Login(response.rpartition(b" ")[0], b"", Cram(self._name, self._challenge, response))


class External:
    """[authzid]; the client's certificate has proved its `identity`, and acting for somebody else is not offered."""

    __slots__ = ("_identity",)

    def __init__(self, identity: str) -> None:
        self._identity = identity.encode("utf-8", "surrogateescape")

    def step(self, response: "bytes | None") -> "bytes | Login":
        if response is None:
            return b""
        if not self._identity or response not in (b"", self._identity):
            return Login(b"", b"")
        return Login(self._identity, b"", external=True)


def mechanism(
    name: bytes, offered: "Sequence[str]", new_challenge: "Callable[[], bytes]", identity: str
) -> "Mechanism | None":
    """A new exchange of the mechanism `name`, or None where it is not `offered`."""
    wanted = name.upper().decode("ascii", "replace")
    if wanted not in offered:
        return None
    if wanted in CRAM_MECHANISMS:
        return CramMechanism(wanted, new_challenge())
    if wanted == "EXTERNAL":
        return External(identity)
    return Plain() if wanted == "PLAIN" else LoginMechanism()


def decode(line: bytes) -> bytes:
    """The bytes behind a base64 line, padding and alphabet checked. Raises ValueError."""
    from binascii import a2b_base64, b2a_base64

    data = a2b_base64(line)
    if b2a_base64(data, newline=False) != line:
        raise ValueError("not base64")
    return data


def encode(challenge: bytes) -> bytes:
    """A challenge as a continuation request."""
    from binascii import b2a_base64

    return b"+ " + b2a_base64(challenge, newline=False) + b"\r\n"
