"""What can happen in a dialogue, besides that more bytes are needed."""


class Cram:
    """A challenge and the client's response to it (RFC 2195), both as they were before base64. `mechanism` is
    "CRAM-MD5" or the like."""

    __slots__ = ("challenge", "mechanism", "response")

    def __init__(self, mechanism: str, challenge: bytes, response: bytes) -> None:
        self.mechanism = mechanism
        self.challenge = challenge
        self.response = response


class Login:
    """The client has said who it is, and proved it: by a password or `cram`, neither yet looked at, or, where
    `external`, by its certificate, which has been."""

    __slots__ = ("cram", "external", "password", "user")

    def __init__(self, user: bytes, password: bytes, cram: "Cram | None" = None, external: bool = False) -> None:
        self.user = user.decode("utf-8", "surrogateescape")
        self.password = password
        self.cram = cram
        self.external = external


class StartTls:
    """The client wants TLS. The reply lets it begin; where that cannot be, `refused("tls")` is sent in its place."""

    __slots__ = ()


class Forwarded:
    """What a proxy tells of its own client; "" and None where it does not.

    ip, port              the client's address: characters that addresses are made of, a port from 1 to 65535
    local_ip, local_port  the address that the client has come to
    session               its name for the session, of up to 64 printable characters
    ttl                   how many proxies may still follow, 0 to 255
    """

    __slots__ = ("ip", "local_ip", "local_port", "port", "session", "ttl")

    def __init__(
        self,
        ip: str = "",
        port: str = "",
        local_ip: str = "",
        local_port: str = "",
        session: str = "",
        ttl: "int | None" = None,
    ) -> None:
        self.ip = ip
        self.port = port
        self.local_ip = local_ip
        self.local_port = local_port
        self.session = session
        self.ttl = ttl


class Logout:
    """The client has said goodbye, and been answered."""

    __slots__ = ()


class LoginRefused:
    """The client tried to log in where that needs TLS, and has been told so."""

    __slots__ = ()


class Abuse:
    """The client went over a bound, and has been told that the connection ends."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Reply:
    """A backend's answer to a login, for the client to read.

    before    untagged lines ahead of the verdict (IMAP)
    verdict   the reply line without its tag: b"OK [CAPABILITY …] Logged in\\r\\n", b"-ERR [IN-USE] …\\r\\n"
    after     every byte that came behind the verdict
    accepted  the backend let the user in
    """

    __slots__ = ("accepted", "after", "before", "verdict")

    def __init__(self, accepted: bool, verdict: bytes, before: bytes = b"", after: bytes = b"") -> None:
        self.accepted = accepted
        self.before = before
        self.verdict = verdict
        self.after = after


class BackendFault(Exception):
    """The backend said something that ends the attempt, without a word about the user.

    `said` is what it said, whole; it may repeat what was sent to it, the password too. `goodbye`: it has ended
    the connection.
    """

    def __init__(self, reason: str, said: bytes = b"", goodbye: bool = False) -> None:
        super().__init__(reason)
        self.said = said
        self.goodbye = goodbye


TYPE_CHECKING = False
if TYPE_CHECKING:
    Event = Login | StartTls | Forwarded | Logout | LoginRefused | Abuse
