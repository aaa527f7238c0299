"""Logging in to an IMAP server: the client's half."""

from . import client
from .events import BackendFault, Reply
from .lines import CommandBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .client import Talk
    from .events import Forwarded

MAX_REPLIES = 1 << 20
"""Bytes a backend may say before it has let the user in; capability lines of real servers stay below 4 kB."""

ID_TAG = b"proxy0 "
LOGIN_TAG = b"proxy1 "
CAPABILITY_TAG = b"proxy2 "
STARTTLS_TAG = b"proxy3 "
STATUSES = ([b"OK"], [b"NO"], [b"BAD"], [b"BYE"], [b"PREAUTH"])
QUOTABLE = bytes(range(0x20, 0x7F))


class ResponseBuffer(CommandBuffer):
    """Gathers one response at a time. The text of a status response holds no literal, whatever it ends with."""

    def literal(self, line: bytes) -> "tuple[int, bool] | None":
        return None if _word(line) in STATUSES else super().literal(line)


class Client(client.Client):
    """With `ask_capability` a reply without a capability list is completed by one that is asked for. A backend that
    knows ID is told `forwarded`."""

    def __init__(
        self,
        user: bytes,
        password: bytes,
        ask_capability: bool,
        starttls: bool = False,
        forwarded: "Forwarded | None" = None,
    ) -> None:
        self._login = login_command(user, password)
        self._ask_capability = ask_capability
        self._starttls = starttls
        self._forwarded = forwarded
        super().__init__(ResponseBuffer(MAX_REPLIES))

    def _talk(self) -> "Talk[None]":
        yield from self._arrive()
        capabilities = listed(self.greeting)
        if self._starttls:
            capabilities = (yield from self._capabilities()) if self._forwarded else []
        if self._forwarded and b"ID" in capabilities:
            yield from self._identify(self._forwarded)
        self.reply = yield from self._log_in()
        yield b""

    def _arrive(self) -> "Talk[None]":
        """The greeting, and TLS where it begins behind that."""
        self.greeting = yield b""
        _check_greeting(self.greeting)
        if self._starttls:
            yield from self._secure(listed(self.greeting))

    def _ask(self, tag: bytes, command: "list[bytes]", state: str) -> "Talk[tuple[list[bytes], bytes]]":
        """Send a command in pieces, each but the first after a continuation request. Returns the untagged responses,
        and the tagged one without its tag."""
        self.state = state
        untagged: list[bytes] = []
        response = yield command.pop(0)
        while True:
            if response.startswith(b"* "):
                if _word(response) == [b"BYE"]:
                    raise BackendFault(f"goodbye in place of a {state}", response, goodbye=True)
                untagged.append(response)
                response = yield b""
            elif response.startswith(b"+") and command:
                response = yield command.pop(0)
            elif response.startswith(tag):
                return untagged, response[len(tag) :]
            else:
                raise BackendFault(f"not a {state}", response)

    def _secure(self, capabilities: "list[bytes]") -> "Talk[None]":
        if capabilities and b"STARTTLS" not in capabilities:
            raise BackendFault("does not offer STARTTLS")
        _, reply = yield from self._ask(STARTTLS_TAG, [STARTTLS_TAG + b"STARTTLS\r\n"], "STARTTLS reply")
        if _status(reply) != [b"OK"]:
            raise BackendFault("does not offer STARTTLS", reply)
        yield from self._start_tls()

    def _capabilities(self) -> "Talk[list[bytes]]":
        untagged, _ = yield from self._ask_for_capabilities()
        return [word for response in untagged for word in listed(response)]

    def _ask_for_capabilities(self) -> "Talk[tuple[list[bytes], bytes]]":
        return (yield from self._ask(CAPABILITY_TAG, [CAPABILITY_TAG + b"CAPABILITY\r\n"], "capability reply"))

    def _identify(self, forwarded: "Forwarded") -> "Talk[None]":
        """Say in whose name we come, and begin to log in with the same write, so that it costs no time. Whatever the
        reply, it is passed over."""
        from .forwarding import id_command

        if command := id_command(forwarded):
            yield from self._ask(ID_TAG, [ID_TAG + command + b"\r\n" + self._login[0]], "reply to ID")
            self._login[0] = b""

    def _log_in(self) -> "Talk[Reply]":
        untagged, verdict = yield from self._ask(LOGIN_TAG, self._login, "login reply")
        before = b"".join(untagged)
        if _status(verdict) == [b"NO"]:
            return Reply(False, verdict, before)
        if _status(verdict) != [b"OK"]:
            raise BackendFault("does not understand LOGIN", verdict)
        if not self._ask_capability or any(listed(response) for response in (b"* " + verdict, *untagged)):
            return Reply(True, verdict, before)
        untagged, _ = yield from self._ask_for_capabilities()
        capabilities = [response for response in untagged if _word(response) == [b"CAPABILITY"]]
        others = [response for response in untagged if _word(response) != [b"CAPABILITY"]]
        return Reply(True, verdict, before + b"".join(capabilities), b"".join(others))


def _check_greeting(greeting: bytes) -> None:
    words = greeting.upper().split(None, 2)[:2]
    if words == [b"*", b"PREAUTH"]:
        raise BackendFault("greets with PREAUTH, which would be somebody else's mailbox", greeting)
    if words != [b"*", b"OK"]:
        raise BackendFault("not a greeting", greeting, goodbye=words == [b"*", b"BYE"])


def listed(response: bytes) -> "list[bytes]":
    """The capabilities in `* OK [CAPABILITY …] …` or `* CAPABILITY …`, in capitals."""
    words = response.upper().partition(b"]")[0].split()
    if words[1:2] == [b"CAPABILITY"]:
        return words[2:]
    return words[3:] if words[2:3] == [b"[CAPABILITY"] else []


def _word(response: bytes) -> "list[bytes]":
    """The one behind the tag or star, in capitals."""
    return response.upper().split(None, 2)[1:2]


def _status(reply: bytes) -> "list[bytes]":
    return reply.upper().split(None, 1)[:1]


def login_command(user: bytes, password: bytes) -> "list[bytes]":
    """LOGIN in the pieces to be sent, each but the first after a continuation request."""
    pieces = [LOGIN_TAG + b"LOGIN"]
    for value in (user, password):
        if value.strip(QUOTABLE):
            pieces[-1] += b" {%d}\r\n" % len(value)
            pieces.append(value)
        else:
            pieces[-1] += b' "' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    pieces[-1] += b"\r\n"
    return pieces
