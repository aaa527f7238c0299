"""One line per fact, in Courier's form, to whichever sink the activator gave us.

    INFO: LOGIN FAILED, user=u1@example.com, ip=[::ffff:192.0.2.1], port=[53176], protocol=IMAP

fail2ban's `courier-auth` filter reads up to the first `ip=[…]`, so whatever else is said comes after it, and no value
a client sent holds a comma, bracket, blank or control character.
"""

from .descriptors import POLLOUT, S_IFCHR, S_IFMT, is_ready, same_file
from .interpreter import posix
from .text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .activation import Connection

PRIORITIES = {"CRIT": 2, "ERR": 3, "WARN": 4, "INFO": 6, "DEBUG": 7}  # syslog(3), as courierlogger maps them
MAX_VALUE = 256
PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b",[]\\")

STALLED_SECONDS = 1.0
"""A reader of stderr that takes nothing for so long loses the line: mail does not wait for its log."""

STDERR, JOURNAL, SYSLOG = "stderr", "journal", "syslog"


def escape(value: str, extra: bytes = b"") -> str:
    """A value from outside as one unforgeable word: other bytes than PLAIN and `extra` become \\xNN."""
    data = encode(value)
    shown = "".join(chr(byte) if byte in PLAIN or byte in extra else f"\\x{byte:02x}" for byte in data[:MAX_VALUE])
    return shown if len(data) <= MAX_VALUE else shown + "..."


def sentence(value: str) -> str:
    """A text from outside for the end of a line, where blanks and punctuation cannot mislead."""
    return escape(value, b" ,[]")


def where(error: BaseException) -> str:
    """Type and place of an error; not its text, which may hold anything."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename} line {trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


def choose_sink(environment: "Mapping[str, str]") -> str:
    """Where log lines go. Where stderr is the client's connection (inetd, xinetd), it is pointed at /dev/null at once:
    nothing but the protocol may reach the client."""
    try:
        error = posix.fstat(2)
    except OSError:
        _silence_stderr()
        return SYSLOG
    if error.st_mode & S_IFMT != S_IFCHR and (same_file(2, 0) or same_file(2, 1)):
        _silence_stderr()
        return SYSLOG
    if environment.get("JOURNAL_STREAM") == f"{error.st_dev}:{error.st_ino}":
        return JOURNAL
    return STDERR


def _silence_stderr() -> None:
    null = posix.open("/dev/null", posix.O_RDWR)
    if null == 2:
        posix.set_inheritable(2, True)  # a local server finds it open
        return
    posix.dup2(null, 2)
    posix.close(null)


class Log:
    """The log of one connection. `ident` is the syslog ident fail2ban knows: imapd, pop3d, imapd-ssl, pop3d-ssl."""

    def __init__(self, sink: str, protocol: str, tls: bool) -> None:
        self.sink = sink
        self.ident = f"{protocol}d-ssl" if tls else f"{protocol}d"
        self.protocol = protocol.upper()
        self.address = ""
        self.secured: dict[str, str] = {}

    def about(self, connection: "Connection", session: str) -> None:
        """From now on each line says which client and session it is about."""
        who = f"ip=[{connection.peer.log_form()}], port=[{connection.peer.port}]"
        self.address = f", {who}, session={escape(session)}"

    def secure(self, version: str = "", cipher: str = "") -> None:
        """From now on each line about a login says, as Courier's, that the client is behind TLS, and by what."""
        self.secured = {"starttls" if self.protocol == "IMAP" else "stls": "1"}
        if version:
            self.secured.update(tls=version, cipher=cipher)

    def event(self, level: str, event: str, user: "str | None" = None, detail: str = "", **fields: object) -> None:
        """`event[, user=…], ip=[…], port=[…][, field=value…][: detail]`; fields and user are escaped, so is detail."""
        who = "" if user is None else f", user={escape(user)}"
        more = "".join(f", {name}={escape(str(value))}" for name, value in fields.items())
        self._write(level, event + who + self.address + more + (f": {sentence(detail)}" if detail else ""))

    def login(self, level: str, event: str, user: "str | None" = None, detail: str = "", **fields: object) -> None:
        self.event(level, event, user, detail, protocol=self.protocol, **fields, **self.secured)

    def _write(self, level: str, line: str) -> None:
        if self.sink == SYSLOG:
            import syslog

            syslog.openlog(self.ident, syslog.LOG_PID, syslog.LOG_MAIL)
            syslog.syslog(PRIORITIES[level], line)
            return
        prefix = f"<{PRIORITIES[level]}>" if self.sink == JOURNAL else f"{level}: "
        try:
            if is_ready(2, POLLOUT, STALLED_SECONDS):
                posix.write(2, f"{prefix}{line}\n".encode())
        except OSError:
            pass  # nowhere is left to say it
