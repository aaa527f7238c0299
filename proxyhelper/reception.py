"""A client until its login: the PROXY header in front of everything, TLS, greeting, dialogue."""

import time

from .activation import client_end
from .ends import Closed, TimedOut
from .interpreter import posix, socket
from .settings import ConfigurationError
from .text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .activation import Connection
    from .dialogue.events import Abuse, Forwarded, Login, Logout
    from .dialogue.imap import Server as ImapServer
    from .dialogue.pop3 import Server as Pop3Server
    from .log import Log
    from .settings import Settings
    from .tls import Channel, End

    Server = ImapServer | Pop3Server

LOGIN_SECONDS = 60.0
"""From the first to a complete login, as Courier gives."""
ANSWER_SECONDS = 5.0
"""For a client to take the reply to a login that failed."""
FAREWELL_SECONDS = 5.0
"""For a last word to a client that may not read."""
LOGOUT_SECONDS = 0.1
"""After LOGOUT, or where no TLS could be agreed upon, to read away what the client sent behind it."""
MAX_HOPS = 5
"""One proxy passes a login on with one hop less, and that which gets it with the last one refuses it. Dovecot's
number, so that both count the same way."""


def bid_farewell(end: "End", words: bytes, linger: float = 0.0) -> None:
    """Say `words` as the last thing, if the client will hear them; it has `linger` seconds (FAREWELL_SECONDS where 0)
    to end the connection."""
    try:
        end.send(words, time.monotonic() + FAREWELL_SECONDS)
    except (Closed, TimedOut):
        return
    end.finish(time.monotonic() + (linger or FAREWELL_SECONDS))


def farewell(protocol: str, kind: str) -> bytes:
    """What is said before the connection is closed (dialogue/server.py, FAREWELLS)."""
    return _server_class(protocol).FAREWELLS[kind]


def _server_class(protocol: str) -> "type[Server]":
    if protocol == "imap":
        from .dialogue.imap import Server as ImapServer

        return ImapServer
    from .dialogue.pop3 import Server as Pop3Server

    return Pop3Server


def new_challenge() -> bytes:
    """An unguessable one of its own for each CRAM exchange, in the form of a message id (RFC 2195)."""
    return b"<" + posix.urandom(16).hex().encode() + b"@" + encode(socket.gethostname()) + b">"


def new_name() -> str:
    """A session's, unlike any other's on all hosts."""
    return posix.urandom(8).hex()


class Reception:
    """The client on fd 0 and 1: its `end`, the `channel` of its TLS, if that is ours, and the `server` half of our
    dialogue with it.

    `name` is the session's, in each line of the log and told to the backend; `hops` are how many proxies may still
    follow.
    """

    def __init__(
        self, connection: "Connection", settings: "Settings", journal: "Log", environment: "dict[str, str]"
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.log = journal
        self.end: End = client_end()
        self.channel: Channel | None = None
        self.server: Server
        self.name = new_name()
        self.hops = MAX_HOPS
        self._environment = environment
        self._waits_for_tls = settings.tls_wrap
        self._deadline = time.monotonic() + LOGIN_SECONDS
        journal.about(connection, self.name)

    def listener(self) -> "End | None":
        """The client, where it can be told something now: to one that waits for TLS, nothing can be said in clear."""
        return None if self._waits_for_tls else self.end

    def arrive(self) -> bool:
        """What comes before the first command; False where the client is sent away.

        Raises TimedOut, Closed, ConfigurationError."""
        if self.settings.proxy_protocol and not self._read_header():
            return False
        self.log.event("DEBUG", "Connection")
        if self.settings.tls_wrap and not self._wrap():
            return False
        if self.settings.tls:
            self.connection.secure = True
            self.log.secure()
        self._trusted = self._is_trusted()
        self._open_dialogue()
        if not self.settings.greets_first():
            self._greet()
        return True

    def next_login(self) -> "Login | None":
        """The next complete login, or None where the client leaves or is sent away. Raises TimedOut, Closed."""
        from .dialogue.events import Abuse, Forwarded, LoginRefused, Logout, StartTls

        while data := self.end.peek(self._deadline):
            taken, reply, event = self.server.feed(data)
            self.end.consume(taken)
            if isinstance(event, (Abuse, Logout)):
                self._end(event, reply)
                return None
            if isinstance(event, StartTls):
                if not self._start_tls(reply, injected=len(data) > taken):
                    return None
                continue
            if reply:
                self.end.send(reply, self._deadline)
            if isinstance(event, LoginRefused):
                but = "" if self.server.offer.starttls else ", but cannot be had here: see proxyhelper check"
                self.log.login("INFO", "LOGIN REFUSED", detail=f"TLS is required{but}")
            elif isinstance(event, Forwarded):
                self._believe(event)
            elif event:
                return event
        self.log.event("INFO", "DISCONNECTED")
        return None

    def answer(self, reply: bytes) -> None:
        """Reply to a login that failed. Raises TimedOut, Closed."""
        self.end.send(reply, time.monotonic() + ANSWER_SECONDS)

    def send_away(self, kind: str) -> None:
        """Say goodbye (dialogue/server.py, FAREWELLS), if the client can hear it."""
        if listener := self.listener():
            bid_farewell(listener, farewell(self.settings.protocol, kind))

    def leave(self, reply: bytes) -> None:
        """Say `reply` as the last thing, on what is left of fd 0 and 1."""
        bid_farewell(client_end(), reply)

    def forwarded(self) -> "Forwarded":
        """What a backend may know of this client."""
        from .dialogue.events import Forwarded

        peer, local = self.connection.peer, self.connection.local
        return Forwarded(peer.ip, peer.port, local.ip, local.port, self.name, self.hops - 1)

    def _read_header(self) -> bool:
        from .arrival import HEADER_SECONDS, Unwelcome, read_header

        balancer = self.connection.peer.ip
        soon = min(self._deadline, time.monotonic() + HEADER_SECONDS)
        try:
            read_header(self.end, self.connection, self.settings, soon)
        except (Unwelcome, TimedOut) as error:
            self.log.event("WARN", "DISCONNECTED", detail=f"PROXY protocol: {error}")
            return False
        self.log.about(self.connection, self.name)
        self.log.event("DEBUG", "PROXY", via=balancer)
        return True

    def _wrap(self) -> bool:
        """TLS from the first byte; whether it could be agreed upon. Raises TimedOut, Closed, ConfigurationError."""
        from .client_tls import new_channel

        return self._begin_tls(new_channel(self.settings, self.connection))

    def _start_tls(self, reply: bytes, injected: bool) -> bool:
        """TLS behind `reply`, or a refusal; whether the session goes on.

        What was sent in clear behind the command may be anybody's, who would have it carried out in the client's name:
        https://nostarttls.secvuln.info/ What a trusted proxy has told before it holds: Dovecot tells it there."""
        from .client_tls import new_channel

        if injected:
            self.log.event("WARN", "DISCONNECTED", detail="sent more in clear behind the command that begins TLS")
            self.end.finish(time.monotonic() + LOGOUT_SECONDS)
            return False
        try:
            channel = new_channel(self.settings, self.connection)
        except ConfigurationError as error:
            self.log.event("ERR", "CONFIGURATION", detail=str(error))
            self.end.send(self.server.refused("tls"), self._deadline)
            return True
        self.end.send(reply, self._deadline)
        if not self._begin_tls(channel):
            return False
        self._open_dialogue()
        return True

    def _begin_tls(self, channel: "Channel") -> bool:
        from .client_tls import agree
        from .tls import HandshakeFailed

        self._waits_for_tls = True
        try:
            self.end = agree(self.end, channel, self._deadline)
        except HandshakeFailed as failure:
            self.log.event("INFO", "DISCONNECTED", detail=f"TLS handshake failed: {failure}")
            return False
        self._waits_for_tls = False
        self.channel = channel
        self.connection.secure = True
        self.log.secure(channel.version(), channel.cipher())
        self.log.login("DEBUG", "TLS")
        return True

    def _open_dialogue(self) -> None:
        """From its beginning, with all that is known by now."""
        identity = self._identity()
        offer = self.settings.offer(self.connection.secure, identity, self._trusted)
        self.server = _server_class(self.settings.protocol)(offer, new_challenge, identity)

    def _identity(self) -> str:
        """The login name that the client's certificate proves, to us or to whoever has done its TLS; or ""."""
        field = self.settings.tls_external
        if field and self.settings.tls:
            return self._environment.get(f"TLS_SUBJECT_{field.upper()}", "")
        if not (field and self.channel):
            return ""
        from .tls import identity

        return identity(self.channel.peer_subject(), field)

    def _greet(self) -> None:
        from .dialogue.greetings import greeting

        self.end.send(greeting(self.settings.protocol, self.server.offer), self._deadline)

    def _is_trusted(self) -> bool:
        if not self.settings.trusted:
            return False
        from .arrival import is_trusted

        return is_trusted(self.connection.peer, self.settings)

    def _believe(self, told: "Forwarded") -> None:
        """What a proxy says of its client; the dialogue has passed on no more than it may say."""
        from .arrival import believe

        if told.ttl is not None:
            self.hops = min(self.hops, told.ttl)
        if told.session:
            self.name = told.session
        believe(told, self.connection)
        self.log.about(self.connection, self.name)

    def _end(self, event: "Abuse | Logout", words: bytes) -> None:
        from .dialogue.events import Abuse

        if isinstance(event, Abuse):
            self.log.event("INFO", "DISCONNECTED", detail=event.reason)
            bid_farewell(self.end, words)
        else:
            self.log.event("INFO", "LOGOUT")
            bid_farewell(self.end, words, LOGOUT_SECONDS)
