"""What a client proves itself with: a password, the response to a challenge, or a certificate."""

from ..failures import WrongCredentials
from ..interpreter import compare_digest
from .passwords import matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .account import Account

HASHES = {"CRAM-MD5": "md5", "CRAM-SHA1": "sha1", "CRAM-SHA256": "sha256"}


class Password:
    """A password as the client sent it."""

    __slots__ = ("password",)

    def __init__(self, password: bytes) -> None:
        self.password = password

    def check(self, account: "Account") -> None:
        """Raises WrongCredentials, Temporary. A stored hash goes before cleartext, as with Courier's
        SQL modules; where a source means the other order it gives the cleartext alone."""
        if account.password:
            is_right = matches(account.password, self.password)
        else:
            is_right = bool(account.cleartext) and compare_digest(account.cleartext, self.password)
        if not is_right:
            raise WrongCredentials("wrong password")


class Response:
    """A response to `challenge` by a CRAM `mechanism`: name SP hexadecimal HMAC (RFC 2195), before base64."""

    __slots__ = ("challenge", "mechanism", "response")

    def __init__(self, mechanism: str, challenge: bytes, response: bytes) -> None:
        self.mechanism = mechanism
        self.challenge = challenge
        self.response = response

    def check(self, account: "Account") -> None:
        """Raises WrongCredentials."""
        if not account.cleartext:
            raise WrongCredentials(f"{self.mechanism} needs a cleartext password, and the account's source has none")
        import hmac

        expected = hmac.new(account.cleartext, self.challenge, HASHES[self.mechanism]).hexdigest().encode()
        if not compare_digest(expected, self.response.rpartition(b" ")[2].lower()):
            raise WrongCredentials(f"wrong response to {self.mechanism}")


class Certificate:
    """A client certificate that names the account, and has been verified already: no source is asked about it."""

    __slots__ = ()


if TYPE_CHECKING:
    Proof = Password | Response
