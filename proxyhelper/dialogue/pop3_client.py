"""Logging in to a POP3 server: the client's half."""

from . import client
from .events import BackendFault, Forwarded, Reply
from .greetings import OWN_NAME
from .lines import LineBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .client import Talk

MAX_REPLIES = 1 << 16
"""Bytes a backend may say before it has let the user in; RFC 2449 section 4 allows 512 in a reply."""


class Client(client.Client):
    """`utf8`: the client has switched to UTF-8. A backend whose greeting asks for it is told `forwarded`; one of our
    own kind the time-to-live in any case, or a loop might not end."""

    def __init__(
        self, user: bytes, password: bytes, utf8: bool, starttls: bool = False, forwarded: "Forwarded | None" = None
    ) -> None:
        self._user = user
        self._password = password
        self._utf8 = utf8
        self._starttls = starttls
        self._forwarded = forwarded
        super().__init__(LineBuffer(MAX_REPLIES))

    def _talk(self) -> "Talk[None]":
        yield from self._arrive()
        if self._forwarded and b"[XCLIENT]" in self.greeting:
            yield from self._identify(self._forwarded)
        elif self._forwarded and OWN_NAME in self.greeting:
            yield from self._identify(Forwarded(ttl=self._forwarded.ttl))
        if self._utf8:
            yield from self._switch_to_utf8()
        accepted, verdict = yield from self._ask(b"USER " + self._user + b"\r\n", "USER reply")
        if accepted:
            accepted, verdict = yield from self._ask(b"PASS " + self._password + b"\r\n", "PASS reply")
        self.reply = Reply(accepted, verdict)
        yield b""

    def _arrive(self) -> "Talk[None]":
        """The greeting, and TLS where it begins behind that."""
        accepted, self.greeting = yield from self._ask(b"", "greeting")
        if not accepted:
            raise BackendFault("an error in place of a greeting", self.greeting, goodbye=True)
        if self._starttls:
            yield from self._secure()

    def _ask(self, command: bytes, state: str) -> "Talk[tuple[bool, bytes]]":
        """Send `command`. Returns whether it is accepted, and the reply."""
        self.state = state
        line = yield command
        accepted = line[:3].upper() == b"+OK"
        if not accepted and line[:4].upper() != b"-ERR":
            raise BackendFault(f"not a {state}", line)
        return accepted, line

    def _secure(self) -> "Talk[None]":
        accepted, reply = yield from self._ask(b"STLS\r\n", "STARTTLS reply")
        if not accepted:
            raise BackendFault("does not offer STARTTLS", reply)
        yield from self._start_tls()

    def _identify(self, forwarded: "Forwarded") -> "Talk[None]":
        """Say in whose name we come. Whatever the reply, it is passed over."""
        from .forwarding import xclient_command

        if command := xclient_command(forwarded):
            yield from self._ask(command + b"\r\n", "XCLIENT reply")

    def _switch_to_utf8(self) -> "Talk[None]":
        accepted, reply = yield from self._ask(b"UTF8\r\n", "UTF8 reply")
        if not accepted:
            raise BackendFault("an error in place of a UTF8 reply", reply)
