"""What is said first. It is all that a client waits for at the start, so it is apart from the rest of the dialogue."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MECHANISMS = ("PLAIN", "LOGIN")
"""SASL mechanisms this program always offers."""
CRAM_MECHANISMS = ("CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256")
"""Those it offers where the settings list them."""

OWN_NAME = b"proxyhelper"
"""In POP3's greeting: from it another one of our kind knows that it can tell the time-to-live, trusted or not."""

OWN_CAPABILITIES = ("SASL-IR", "ID", "STARTTLS", "LOGINDISABLED")


class Offer:
    """What a server offers now; once TLS has begun, another server goes on with another offer.

    capabilities   IMAP's, as configured; they speak for the time after login too
    login_allowed  TLS is there, or not required
    mechanisms     of SASL; EXTERNAL only where a client certificate has proved an identity
    starttls       the client can begin TLS
    trusted        the client may say in whose name it comes
    """

    __slots__ = ("capabilities", "login_allowed", "mechanisms", "starttls", "trusted")

    def __init__(
        self,
        capabilities: "Sequence[str]" = (),
        login_allowed: bool = True,
        mechanisms: "Sequence[str]" = MECHANISMS,
        starttls: bool = False,
        trusted: bool = False,
    ) -> None:
        self.capabilities = capabilities
        self.login_allowed = login_allowed
        self.mechanisms = mechanisms
        self.starttls = starttls
        self.trusted = trusted


def greeting(protocol: str, offer: Offer) -> bytes:
    """The greeting of `protocol` ("imap", "pop3")."""
    if protocol == "pop3":
        return b"+OK " + (b"[XCLIENT] " if offer.trusted else b"") + OWN_NAME + b" POP3 server ready.\r\n"
    return b"* OK [CAPABILITY " + capability(offer) + b"] IMAP server ready.\r\n"


def capability(offer: Offer) -> bytes:
    """IMAP's: the configured ones, and those of this dialogue."""
    words = [word for word in offer.capabilities if not _is_own(word.upper())]
    words += ["SASL-IR", "ID"] if offer.login_allowed else ["ID"]
    words += ["STARTTLS"] if offer.starttls else []
    words += [f"AUTH={name}" for name in offer.mechanisms] if offer.login_allowed else ["LOGINDISABLED"]
    return " ".join(dict.fromkeys(words)).encode("ascii", "replace")


def _is_own(word: str) -> bool:
    return word.startswith("AUTH=") or word in OWN_CAPABILITIES
