"""Logging in to an IMAP server: the client's half."""

from .events import BackendFault, Reply
from .lines import CommandBuffer, TooLong

MAX_REPLIES = 1 << 20
"""Bytes a backend may say before it has let the user in; capability lines of real servers stay below 4 kB."""

LOGIN_TAG = b"proxy1"
CAPABILITY_TAG = b"proxy2"
STATUSES = ([b"OK"], [b"NO"], [b"BAD"], [b"BYE"], [b"PREAUTH"])
QUOTABLE = bytes(range(0x20, 0x7F))


class ResponseBuffer(CommandBuffer):
    """Gathers one response at a time. The text of a status response holds no literal, whatever it ends with."""

    def literal(self, line: bytes) -> "tuple[int, bool] | None":
        return None if line.upper().split(None, 2)[1:2] in STATUSES else super().literal(line)


class Client:
    """Feed it what the backend sends; it returns what to send, and has a `reply` once the backend has decided.

    `state` names what it waits for: "greeting", "login reply" or "capability reply". With `ask_capability` a reply
    without a capability list is completed by one that is asked for. Raises BackendFault.
    """

    def __init__(self, user: bytes, password: bytes, ask_capability: bool) -> None:
        self.state = "greeting"
        self.reply: Reply | None = None
        self._to_send = login_command(user, password)
        self._ask_capability = ask_capability
        self._responses = ResponseBuffer(MAX_REPLIES)
        self._received = 0
        self._before = bytearray()
        self._between = bytearray()  # said between the login's own reply and that to CAPABILITY
        self._verdict = b""

    def feed(self, data: bytes) -> bytes:
        self._received += len(data)
        to_send = b""
        while data and self.reply is None:
            try:
                taken, response = self._responses.take(data)
            except TooLong:
                raise BackendFault(f"over {MAX_REPLIES} bytes in its {self.state}") from None
            data = data[taken:]
            if response is not None:
                to_send += self._take(response)
        if self.reply is not None:
            self.reply.after += data
        elif self._received > MAX_REPLIES:
            raise BackendFault(f"over {MAX_REPLIES} bytes in its {self.state}")
        return to_send

    def _take(self, response: bytes) -> bytes:
        if self.state == "greeting":
            return self._take_greeting(response)
        if response.startswith(b"+") and self.state == "login reply" and self._to_send:
            return self._to_send.pop(0)
        if response.startswith(b"* "):
            return self._take_untagged(response)
        tag, _, verdict = response.partition(b" ")
        if tag != (LOGIN_TAG if self.state == "login reply" else CAPABILITY_TAG):
            raise BackendFault(f"not a {self.state}", response)
        return self._take_verdict(verdict) if self.state == "login reply" else self._finish()

    def _take_greeting(self, greeting: bytes) -> bytes:
        words = greeting.upper().split(None, 2)[:2]
        if words == [b"*", b"PREAUTH"]:
            raise BackendFault("greets with PREAUTH, which would be somebody else's mailbox", greeting)
        if words != [b"*", b"OK"]:
            raise BackendFault("not a greeting", greeting, goodbye=words == [b"*", b"BYE"])
        self.state = "login reply"
        return self._to_send.pop(0)

    def _take_untagged(self, response: bytes) -> bytes:
        word = response[2:].split(None, 1)[0:1]
        if word and word[0].upper() == b"BYE":
            raise BackendFault(f"goodbye in place of a {self.state}", response, goodbye=True)
        if self.state == "login reply" or (word and word[0].upper() == b"CAPABILITY"):
            self._before += response
        else:
            self._between += response
        return b""

    def _take_verdict(self, verdict: bytes) -> bytes:
        words = verdict.upper().split(None, 2)
        status = words[0] if words else b""
        self._verdict = verdict
        if status == b"NO":
            self.reply = Reply(False, verdict, bytes(self._before))
        elif status != b"OK":
            raise BackendFault("does not understand LOGIN", verdict)
        elif not self._ask_capability or self._knows_capability(words[1:2]):
            self._finish()
        else:
            self.state = "capability reply"
            return CAPABILITY_TAG + b" CAPABILITY\r\n"
        return b""

    def _knows_capability(self, word: "list[bytes]") -> bool:
        return word == [b"[CAPABILITY"] or b"* CAPABILITY " in self._before.upper()

    def _finish(self) -> bytes:
        self.reply = Reply(True, self._verdict, bytes(self._before), bytes(self._between))
        return b""


def login_command(user: bytes, password: bytes) -> "list[bytes]":
    """LOGIN in the pieces to be sent, each but the first after a continuation request."""
    pieces = [LOGIN_TAG + b" LOGIN"]
    for value in (user, password):
        if value.strip(QUOTABLE):
            pieces[-1] += b" {%d}\r\n" % len(value)
            pieces.append(value)
        else:
            pieces[-1] += b' "' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    pieces[-1] += b"\r\n"
    return pieces
