"""What the server halves of both protocols share: gather a command, carry it out, count the bad ones, step SASL."""

from .events import Abuse, Login, LoginRefused, StartTls
from .lines import TooLong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from . import sasl
    from .events import Event, Reply
    from .greetings import Offer
    from .lines import CommandBuffer, LineBuffer

    Step = tuple[bytes, "Event | None"]

TLS = "the client began TLS where clear text is expected (is PROXY_TLS_WRAP=1 missing?)"
HEADER = "a PROXY header where none is expected (is PROXY_PROTOCOL=1 missing?)"
HTTP = "speaks HTTP"  # for a browser, perhaps, whose form holds mail commands
MISPLACED = {
    b"\x16\x03": TLS,
    **dict.fromkeys((b"PROXY TCP", b"PROXY UNKNOWN", b"\r\n\r\n\0\r\nQUIT\n"), HEADER),
    **dict.fromkeys((b"GET /", b"POST /", b"PUT /", b"HEAD /", b"OPTIONS /"), HTTP),
}
"""What no mail program begins with, and which mistake, the administrator's for the most part, makes it come."""

MAX_BAD_COMMANDS = 10  # in a row
MAX_COMMANDS = 1000  # in all

UNKNOWN = "Unknown command, or not before login."


class BadCommand(Exception):
    """A command outside the grammar or out of place; the text is for the client."""


class Server:
    """Speaks to one client from the greeting, or from the begin of TLS, to its login.

    `feed` takes bytes and returns (how many of them it used, what to send, what happened). At most one command is
    used at a time; the bytes behind it are not this object's business. After a Login, `refused` or `answered` make
    the reply; then the dialogue goes on. After a StartTls it goes on where that was `refused`.

    `new_challenge` makes an unguessable one for each CRAM exchange; `identity` is the name that the client's
    certificate proves.

    COMMANDS    name → handler(self, arguments)
    REPLIES     kind of failure → reply: the response codes of the protocol are nowhere else
    FAREWELLS   "unavailable", "timeout", "too long", "too many" → what is said before the connection is closed
    """

    COMMANDS: "ClassVar[dict[bytes, Callable[[Any, Any], Step]]]"
    REPLIES: "ClassVar[dict[str, bytes]]"
    FAREWELLS: "ClassVar[dict[str, bytes]]"
    BAD: "ClassVar[bytes]"

    def __init__(
        self,
        commands: "CommandBuffer | LineBuffer",
        offer: "Offer",
        new_challenge: "Callable[[], bytes]",
        identity: str,
    ) -> None:
        self.offer = offer
        self._new_challenge = new_challenge
        self._identity = identity
        self.utf8 = False  # the client has switched to UTF-8 (POP3): the backend must be told before login
        self.prefix = b""  # of each reply to the current command
        self._commands = commands
        self._bad_commands = 0
        self._all_commands = 0
        self._is_new = True
        self._mechanism: "sasl.Mechanism | None" = None

    def feed(self, data: bytes) -> "tuple[int, bytes, Event | None]":
        if self._is_new:
            self._is_new = False
            for beginning, reason in MISPLACED.items():
                if data.startswith(beginning):
                    return len(data), b"", Abuse(reason)
        try:
            taken, command = self._commands.take(data)
        except TooLong:
            return len(data), self.FAREWELLS["too long"], Abuse("command too long")
        if command is None:
            return taken, b"+ OK\r\n" if self._commands.prompt else b"", None
        self._all_commands += 1
        if self._all_commands > MAX_COMMANDS:
            return taken, self.FAREWELLS["too many"], Abuse("too many commands")
        command = command[:-2] if command.endswith(b"\r\n") else command[:-1]
        try:
            reply, event = self._respond(command) if self._mechanism else self._execute(command)
        except BadCommand as error:
            self._mechanism = None
            return (taken, *self._count_bad(self._reply(self.BAD + str(error).encode()), None))
        if isinstance(event, LoginRefused):
            return (taken, *self._count_bad(reply, event))
        if self._mechanism is None:
            self._bad_commands = 0
        return taken, reply, event

    def refused(self, kind: str) -> bytes:
        """The reply to a login, or a wish for TLS, that failed on our side."""
        return self._reply(self.REPLIES[kind])

    def answered(self, reply: "Reply") -> bytes:
        """The backend's reply, under the client's tag, with all that came before and behind it."""
        behind = reply.after if reply.accepted else b""  # with a backend that refused, this dialogue goes on
        return reply.before + self.prefix + reply.verdict + behind

    def _reply(self, text: bytes) -> bytes:
        return self.prefix + text + b"\r\n"

    def _count_bad(self, reply: bytes, event: "Event | None") -> "Step":
        self._bad_commands += 1
        if self._bad_commands < MAX_BAD_COMMANDS:
            return reply, event
        return reply + self.FAREWELLS["too many"], Abuse("too many bad commands")

    def _execute(self, command: bytes) -> "Step":
        name, arguments = self._parse(command)
        handler = self.COMMANDS.get(name.upper())
        if handler is None:
            raise BadCommand(UNKNOWN)
        return handler(self, arguments)

    def _parse(self, command: bytes) -> "tuple[bytes, Any]":
        name, _, argument = command.partition(b" ")
        return name, argument

    def _login(self, user: bytes, password: bytes) -> "Step":
        return (b"", Login(user, password)) if self.offer.login_allowed else (self.refused("insecure"), LoginRefused())

    def _start_tls(self, accepted: bytes) -> "Step":
        if not self.offer.starttls:
            raise BadCommand(UNKNOWN)
        return self._reply(accepted), StartTls()

    def _authenticate(self, name: bytes, initial: "bytes | None") -> "Step":
        from . import sasl

        mechanism = sasl.mechanism(name, self.offer.mechanisms, self._new_challenge, self._identity)
        if mechanism is None:
            return self.refused("mechanism"), None
        if not self.offer.login_allowed:
            return self.refused("insecure"), LoginRefused()
        if initial is not None and isinstance(mechanism, sasl.CramMechanism):
            raise BadCommand("This mechanism begins with a challenge.")
        self._mechanism = mechanism
        return self._step(None if initial is None else _decode(b"" if initial == b"=" else initial))  # RFC 4959

    def _respond(self, line: bytes) -> "Step":
        if line == b"*":
            raise BadCommand("Authentication cancelled.")
        return self._step(_decode(line))

    def _step(self, response: "bytes | None") -> "Step":
        assert self._mechanism
        answer = self._mechanism.step(response)
        if isinstance(answer, bytes):
            from .sasl import encode

            return encode(answer), None
        self._mechanism = None
        return b"", answer


def _decode(line: bytes) -> bytes:
    from .sasl import decode

    try:
        return decode(line)
    except ValueError:
        raise BadCommand("Invalid base64.") from None
