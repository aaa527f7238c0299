"""POP3 before login, the server's half (RFC 1939; CAPA: RFC 2449; AUTH: RFC 5034; response codes: RFC 2449, RFC 3206;
UTF8 and LANG: RFC 6856; STLS: RFC 2595; XCLIENT: Dovecot's)."""

from . import server
from .events import Logout
from .lines import LineBuffer
from .server import BadCommand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .greetings import Offer
    from .server import Step

CAPABILITIES = (
    b"TOP\r\nLOGIN-DELAY 10\r\nPIPELINING\r\nUIDL\r\nUTF8 USER\r\nLANG\r\n"
    b"RESP-CODES\r\nAUTH-RESP-CODE\r\nIMPLEMENTATION proxyhelper\r\n"
)
LANGUAGES = b"en English\r\ni-default Default language\r\n"


class Server(server.Server):
    """The offer's `capabilities` are IMAP's: POP3's list is Courier's."""

    REPLIES = {
        "credentials": b"-ERR [AUTH] Login failed: wrong user name or password.",
        "temporary": b"-ERR [SYS/TEMP] Mail service is temporarily unavailable, your password was not refused."
        b" Try again later.",
        "disabled": b"-ERR [SYS/PERM] POP3 access is disabled for this account.",
        "insecure": b"-ERR [SYS/PERM] Login is allowed over an encrypted connection only.",
        "loop": b"-ERR [SYS/PERM] Mail service is misconfigured: this account's server could not be determined.",
        "mechanism": b"-ERR Authentication mechanism is not supported.",
        "tls": b"-ERR [SYS/TEMP] TLS is temporarily unavailable. Try again later.",
    }
    FAREWELLS = {
        "unavailable": b"-ERR [SYS/TEMP] Mail service is temporarily unavailable. Try again later.\r\n",
        "timeout": b"",  # RFC 1939 section 3: the server closes without a response
        "too long": b"-ERR Command line is too long.\r\n",
        "too many": b"-ERR Too many commands or failed logins.\r\n",
    }
    BAD = b"-ERR "

    def __init__(self, offer: "Offer", new_challenge: "Callable[[], bytes]", identity: str = "") -> None:
        super().__init__(LineBuffer(), offer, new_challenge, identity)
        self._user: bytes | None = None

    def local_environment(self) -> "dict[str, str]":
        """What a local server is told of this dialogue; it writes the reply to the login itself."""
        return {"PROTOCOL": "POP3", "UTF8": str(int(self.utf8))}

    def _capa(self, argument: bytes) -> "Step":
        login = f"SASL {' '.join(self.offer.mechanisms)}\r\nUSER\r\n".encode() if self.offer.login_allowed else b""
        stls = b"STLS\r\n" if self.offer.starttls else b""
        return b"+OK Capability list follows.\r\n" + login + stls + CAPABILITIES + b".\r\n", None

    def _stls(self, argument: bytes) -> "Step":
        return self._start_tls(b"+OK Begin TLS negotiation now.")

    def _xclient(self, argument: bytes) -> "Step":
        from .forwarded import read_xclient

        told, allowed = read_xclient(argument, self.offer.trusted)
        return b"+OK Noted.\r\n" if allowed else b"-ERR Only a trusted proxy tells a client's address.\r\n", told

    def _user_command(self, argument: bytes) -> "Step":
        if not self.offer.login_allowed:
            return self._login(argument, b"")
        self._user = argument.strip()
        return b"+OK Password required.\r\n", None

    def _pass(self, argument: bytes) -> "Step":
        user, self._user = self._user, None
        if user is None:
            raise BadCommand("USER comes first.")
        return self._login(user, argument)

    def _auth(self, argument: bytes) -> "Step":
        if not argument:
            names = "".join(f"{name}\r\n" for name in self.offer.mechanisms) if self.offer.login_allowed else ""
            return b"+OK Mechanisms follow.\r\n" + names.encode() + b".\r\n", None
        name, blank, initial = argument.partition(b" ")
        return self._authenticate(name, initial if blank else None)

    def _utf8(self, argument: bytes) -> "Step":
        self.utf8 = True
        return b"+OK UTF-8 from now on.\r\n", None

    def _lang(self, argument: bytes) -> "Step":
        if not argument:
            return b"+OK Languages follow.\r\n" + LANGUAGES + b".\r\n", None
        if argument.lower() in (b"*", b"en", b"i-default"):
            return b"+OK en Replies are in English.\r\n", None
        raise BadCommand("Language is not available.")

    def _quit(self, argument: bytes) -> "Step":
        return b"+OK Goodbye.\r\n", Logout()

    COMMANDS = {
        b"CAPA": _capa,
        b"STLS": _stls,
        b"XCLIENT": _xclient,
        b"USER": _user_command,
        b"PASS": _pass,
        b"AUTH": _auth,
        b"UTF8": _utf8,
        b"LANG": _lang,
        b"QUIT": _quit,
    }
