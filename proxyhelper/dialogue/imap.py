"""IMAP before login, the server's half (RFC 9051, RFC 3501; SASL-IR: RFC 4959; ID: RFC 2971, with Dovecot's fields)."""

from . import server
from .events import Logout
from .greetings import capability
from .lines import DIGITS, CommandBuffer
from .server import BadCommand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .events import Forwarded
    from .greetings import Offer
    from .server import Step

MAX_ID_FIELDS = 30  # RFC 2971 section 3.3

ATOM = bytes(set(range(0x21, 0x7F)) - set(b'(){%*"\\]'))
ASTRING = ATOM + b"]"
TAG = ASTRING.replace(b"+", b"")


class Server(server.Server):
    REPLIES = {
        "credentials": b"NO [AUTHENTICATIONFAILED] Login failed: wrong user name or password.",
        "temporary": b"NO [UNAVAILABLE] Mail service is temporarily unavailable, your password was not refused."
        b" Try again later.",
        "disabled": b"NO [CONTACTADMIN] IMAP access is disabled for this account.",
        "insecure": b"NO [PRIVACYREQUIRED] Login is allowed over an encrypted connection only.",
        "loop": b"NO [SERVERBUG] Mail service is misconfigured: this account's server could not be determined.",
        "mechanism": b"NO [CANNOT] Authentication mechanism is not supported.",
        "tls": b"NO [UNAVAILABLE] TLS is temporarily unavailable. Try again later.",
    }
    FAREWELLS = {
        "unavailable": b"* BYE [UNAVAILABLE] Mail service is temporarily unavailable. Try again later.\r\n",
        "timeout": b"* BYE Login timed out.\r\n",
        "too long": b"* BYE Command line or literal is too long.\r\n",
        "too many": b"* BYE Too many commands or failed logins.\r\n",
    }
    BAD = b"BAD "

    def __init__(self, offer: "Offer", new_challenge: "Callable[[], bytes]", identity: str = "") -> None:
        super().__init__(CommandBuffer(), offer, new_challenge, identity)
        self.tag = b""

    def local_environment(self) -> "dict[str, str]":
        """What a local server is told of this dialogue; it writes the reply to the login itself."""
        return {"IMAPLOGINTAG": self.tag.decode(), "PROTOCOL": "IMAP"}

    def _parse(self, command: bytes) -> "tuple[bytes, Arguments]":
        self.prefix = b"* "
        arguments = Arguments(command)
        self.tag = arguments.span(TAG)
        arguments.space()
        self.prefix = self.tag + b" "
        return arguments.span(ATOM), arguments

    def _capability_command(self, arguments: "Arguments") -> "Step":
        arguments.end()
        return b"* CAPABILITY " + capability(self.offer) + b"\r\n" + self._reply(b"OK CAPABILITY completed."), None

    def _noop(self, arguments: "Arguments") -> "Step":
        arguments.end()
        return self._reply(b"OK NOOP completed."), None

    def _logout(self, arguments: "Arguments") -> "Step":
        arguments.end()
        return b"* BYE Logging out.\r\n" + self._reply(b"OK LOGOUT completed."), Logout()

    def _id(self, arguments: "Arguments") -> "Step":
        arguments.space()
        fields = arguments.id_fields()
        arguments.end()
        return b'* ID ("name" "proxyhelper")\r\n' + self._reply(b"OK ID completed."), _forwarded(fields, self.offer)

    def _starttls(self, arguments: "Arguments") -> "Step":
        arguments.end()
        return self._start_tls(b"OK Begin TLS negotiation now.")

    def _login_command(self, arguments: "Arguments") -> "Step":
        arguments.space()
        user = arguments.astring()
        arguments.space()
        password = arguments.astring()
        arguments.end()
        return self._login(user, password)

    def _authenticate_command(self, arguments: "Arguments") -> "Step":
        arguments.space()
        name = arguments.span(ATOM)
        return self._authenticate(name, arguments.last_word())

    COMMANDS = {
        b"CAPABILITY": _capability_command,
        b"NOOP": _noop,
        b"LOGOUT": _logout,
        b"ID": _id,
        b"STARTTLS": _starttls,
        b"LOGIN": _login_command,
        b"AUTHENTICATE": _authenticate_command,
    }


def _forwarded(fields: "dict[bytes, bytes]", offer: "Offer") -> "Forwarded | None":
    from .forwarded import read_id

    return read_id(fields, offer.trusted)


class Arguments:
    """A cursor over one command, literals included. Each method takes one item, or raises BadCommand."""

    def __init__(self, command: bytes) -> None:
        self._command = command
        self._at = 0

    def span(self, alphabet: bytes) -> bytes:
        """One or more bytes of `alphabet`."""
        rest = self._command[self._at :]
        length = len(rest) - len(rest.lstrip(alphabet))
        if not length:
            raise BadCommand("Syntax error.")
        return self._take(length)

    def space(self) -> None:
        self._expect(b" ")

    def end(self) -> None:
        if self._at != len(self._command):
            raise BadCommand("Too many arguments.")

    def astring(self) -> bytes:
        following = self._peek()
        if following == b'"':
            return self._quoted()
        if following == b"{":
            return self._literal()
        return self.span(ASTRING)

    def last_word(self) -> "bytes | None":
        """The one word left, or None where there is none."""
        if self._at == len(self._command):
            return None
        self.space()
        return self._take(len(self._command) - self._at)

    def id_fields(self) -> "dict[bytes, bytes]":
        """NIL, or a list of field names (strings) and values (strings or NIL)."""
        fields: dict[bytes, bytes] = {}
        if self._peek() != b"(":
            self._nil()
            return fields
        self._expect(b"(")
        while self._peek() != b")":
            if len(fields) == MAX_ID_FIELDS:
                raise BadCommand("Too many ID fields.")
            if fields:
                self.space()
            name = self._string()
            self.space()
            fields[name.lower()] = self._string() if self._peek() in (b'"', b"{") else self._nil()
        self._expect(b")")
        return fields

    def _string(self) -> bytes:
        return self._quoted() if self._peek() == b'"' else self._literal()

    def _nil(self) -> bytes:
        if self.span(ATOM).upper() != b"NIL":
            raise BadCommand("Syntax error.")
        return b""

    def _quoted(self) -> bytes:
        self._expect(b'"')
        value = bytearray()
        while (byte := self._take(1)) != b'"':
            if byte == b"\\":
                byte = self._take(1)
                if byte not in (b'"', b"\\"):
                    raise BadCommand("Only a quote and a backslash are quoted by a backslash.")
            elif byte in (b"\r", b"\n", b"\0"):
                raise BadCommand("A quoted string holds no line end and no NUL.")
            value += byte
        return bytes(value)

    def _literal(self) -> bytes:
        self._expect(b"{")
        size = int(self.span(DIGITS))
        if self._peek() == b"+":
            self._expect(b"+")
        self._expect(b"}")
        if self._peek() == b"\r":
            self._expect(b"\r")
        self._expect(b"\n")
        return self._take(size)

    def _peek(self) -> bytes:
        return self._command[self._at : self._at + 1]

    def _expect(self, item: bytes) -> None:
        if self._take(len(item)) != item:
            raise BadCommand("Syntax error.")

    def _take(self, length: int) -> bytes:
        taken = self._command[self._at : self._at + length]
        if len(taken) != length:
            raise BadCommand("Syntax error.")
        self._at += length
        return taken
