"""Courier's files and the environment, read once into one Settings.

Precedence: environment, then file, then default. `imapd-ssl` is read before `imapd`, `pop3d-ssl` before `pop3d`,
so that the main file overrides; then `authdaemonrc`. All hold shell assignments: quotes and $NAME, nothing else.
"""

from .interpreter import posix
from .text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_DIRECTORY = "/etc/courier"
MAX_FILE = 1 << 20
SHELL_SYNTAX = frozenset(";&|<>()`")
PLAIN_UNTIL = frozenset(" \t'\"\\$#") | SHELL_SYNTAX
PLAIN_IN_QUOTES_UNTIL = frozenset('"\\$`')
MAIN_FILES = {"imap": ("imapd-ssl", "imapd"), "pop3": ("pop3d-ssl", "pop3d")}


class ConfigurationError(Exception):
    """A setting or file that cannot be used; the text names file, line and value."""


class Settings:
    """What the administrator configured for one protocol; never changed after `load`.

    protocol          "imap" or "pop3"
    directory         where the configuration and the userdb are
    exported          every assignment of the protocol's own files, for the local server's environment
    offered           IMAP: capabilities as configured; POP3: SASL mechanisms as configured
    tls               the client's side of the connection is encrypted already
    login_allowed     TLS is there, or not required
    proxy             accounts with a mailhost elsewhere are proxied
    hostname          PROXY_HOSTNAME, or ""
    foreign           tell the client the backend's capabilities (IMAP_PROXY_FOREIGN)
    proxy_port        port of the backends, or None: as getservbyname says
    proxy_user        user to relay as, or None: Courier's or nobody
    timeout           seconds to reach a backend and read its greeting
    fail_delay        seconds from a complete command to the reply that its credentials are wrong
    services          account service names by the port that the client connected to (AUTHSERVICE<port>)
    default_domain    DEFDOMAIN
    domain_separators DOMAINSEP
    default_options   DEFAULTOPTIONS
    maildir           MAILDIRPATH
    umask             umask of the local server (IMAP_UMASK), or None
    """

    __slots__ = (
        "default_domain", "default_options", "directory", "domain_separators", "exported", "fail_delay", "foreign",
        "hostname", "login_allowed", "maildir", "offered", "protocol", "proxy", "proxy_port", "proxy_user",
        "services", "timeout", "tls", "umask",
    )  # fmt: skip

    def __init__(self, protocol: str, directory: str, exported: "dict[str, str]", values: "Values") -> None:
        upper = protocol.upper()
        self.protocol = protocol
        self.directory = directory
        self.exported = exported
        self.tls = values.environment_flag(f"{upper}_TLS")
        self.login_allowed = self.tls or not values.flag(f"{upper}_TLS_REQUIRED")
        self.offered = _capabilities(values, self.tls) if protocol == "imap" else _mechanisms(values, self.tls)
        self.proxy = values.flag(f"{upper}_PROXY")
        self.hostname = values.text("PROXY_HOSTNAME")
        self.foreign = protocol == "imap" and values.flag("IMAP_PROXY_FOREIGN")
        self.proxy_port = values.number(f"{upper}_PROXY_PORT", None, 1, 65535)
        self.proxy_user = values.text("PROXY_USER") or None
        self.timeout = values.number("PROXY_TIMEOUT", None, 1, 600) or 10
        delay = values.number("LOGIN_FAIL_DELAY", None, 0, 60)
        self.fail_delay = 5 if delay is None else delay
        self.services = values.starting_with("AUTHSERVICE")
        self.default_domain = values.text("DEFDOMAIN")
        self.domain_separators = values.text("DOMAINSEP")
        self.default_options = values.text("DEFAULTOPTIONS")
        self.maildir = values.text("MAILDIRPATH") or "Maildir"
        self.umask = values.number("IMAP_UMASK", None, 0, 0o777, base=8) if protocol == "imap" else None


def environment() -> "dict[str, str]":
    """The environment as the activator gave it: Python changes LC_CTYPE in its own (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            pairs = [entry.partition(b"=") for entry in file.readall().split(b"\0") if entry]
    except OSError:
        return {decode(name): decode(value) for name, value in posix.environ.items()}
    return {decode(name): decode(value) for name, _, value in pairs}


def load(protocol: str, environment: "Mapping[str, str]") -> Settings:
    """The settings of `protocol`. Raises ConfigurationError, naming file, line and value, where one cannot be used."""
    directory = environment.get("PROXYHELPER_CONFDIR") or DEFAULT_DIRECTORY
    exported: dict[str, str] = {}
    for name in MAIN_FILES[protocol]:
        read_assignments(f"{directory}/{name}", exported, environment)
    common: dict[str, str] = {}
    read_assignments(f"{directory}/authdaemonrc", common, environment)
    return Settings(protocol, directory, exported, Values(environment, {**common, **exported}))


class Values:
    """Settings by name, the environment before the files."""

    def __init__(self, environment: "Mapping[str, str]", files: "Mapping[str, str]") -> None:
        self._environment = environment
        self._files = files

    def text(self, name: str) -> str:
        value = self._environment.get(name)
        return self._files.get(name, "") if value is None else value

    def starting_with(self, prefix: str) -> "dict[str, str]":
        """Values by what follows `prefix` in their names."""
        every = {**self._files, **self._environment}
        return {name[len(prefix) :]: value for name, value in every.items() if name.startswith(prefix)}

    def flag(self, name: str) -> bool:
        return is_true(self.text(name))

    def environment_flag(self, name: str) -> bool:
        """A fact about this one connection, which no file can know."""
        return is_true(self._environment.get(name, ""))

    def number(self, name: str, default: "int | None", low: int, high: int, base: int = 10) -> "int | None":
        value = self.text(name).strip()
        if not value:
            return default
        try:
            number = int(value, base)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ConfigurationError(
                f"setting {name}={value!r} must be a number from {low:o} to {high:o} (octal)"
                if base == 8
                else f"setting {name}={value!r} must be a number from {low} to {high}"
            )
        return number


def is_true(value: str) -> bool:
    """Courier's truth, of settings and account options: a number other than 0, or t, T, y, Y and what follows."""
    value = value.strip()
    try:
        return int(value) != 0
    except ValueError:
        return value[:1] in ("t", "T", "y", "Y")


def _capabilities(values: Values, tls: bool) -> "list[str]":
    """IMAP_CAPABILITY and what other settings add to it, as Courier's imap/capability.C does."""
    listed = (tls and values.text("IMAP_CAPABILITY_TLS")) or values.text("IMAP_CAPABILITY") or "IMAP4rev1"
    capabilities = listed.split()
    if values.flag("IMAP_ACL"):
        capabilities += "ACL", "ACL2=UNION"
    if values.text("OUTBOX"):
        capabilities.append("XCOURIEROUTBOX=INBOX" + values.text("OUTBOX"))
    if values.flag("IMAP_MOVE_EXPUNGE_TO_TRASH"):
        capabilities.append("XMAGICTRASH")
    return capabilities


def _mechanisms(values: Values, tls: bool) -> "list[str]":
    return ((tls and values.text("POP3AUTH_TLS")) or values.text("POP3AUTH")).split()


def read_assignments(path: str, values: "dict[str, str]", environment: "Mapping[str, str]") -> None:
    """Add the assignments of the file at `path`, where it exists, to `values`. Raises ConfigurationError."""
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line or line[0] == "#":
            continue
        name, equals, value = line.strip().partition("=")
        if not name or name[0] == "#":
            continue
        try:
            if not (equals and name.isidentifier() and name.isascii()):
                raise ValueError("not a NAME=value assignment")
            values[name] = _expand(value, values, environment)
        except ValueError as error:
            raise ConfigurationError(f"{path} line {number}: {error}") from None


def _read(path: str) -> str:
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    try:
        data = posix.read(descriptor, MAX_FILE)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    finally:
        posix.close(descriptor)
    if len(data) == MAX_FILE or b"\0" in data:
        raise ConfigurationError(f"{path} is no configuration file: over {MAX_FILE} bytes, or with NUL bytes in it")
    return decode(data)


def _expand(text: str, values: "Mapping[str, str]", environment: "Mapping[str, str]") -> str:
    """The value of one shell word: quotes removed, $NAME replaced by earlier values. Raises ValueError."""
    if PLAIN_UNTIL.isdisjoint(text):
        return text
    if text[0] == text[-1] == '"' and len(text) > 1 and PLAIN_IN_QUOTES_UNTIL.isdisjoint(text[1:-1]):
        return text[1:-1]
    word = ""
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if quote == "'":
            if character == "'":
                quote = ""
            else:
                word += character
        elif character == "$":
            name, at = _variable(text, at)
            word += values.get(name, environment.get(name, "")) if name else "$"
        elif character == "\\" and (not quote or text[at : at + 1] in ("$", '"', "\\", "`")):
            word += text[at : at + 1]
            at += 1
        elif character == quote:
            quote = ""
        elif quote and character != "`":
            word += character
        elif character in "'\"":
            quote = character
        elif character in SHELL_SYNTAX:
            raise ValueError(f"shell syntax {character!r} is not read here; quote it, or move it to the start script")
        elif character in " \t":
            if not text[at:].lstrip().startswith("#") and text[at:].strip():
                raise ValueError("a value with blanks needs quotes")
            break
        else:
            word += character
    if quote:
        raise ValueError(f"no closing {quote}")
    return word


def _variable(text: str, at: int) -> "tuple[str, int]":
    """The name behind a `$` at text[at - 1], and where the text goes on."""
    braced = text[at : at + 1] == "{"
    start = at + braced
    end = start
    while end < len(text) and (text[end] == "_" or (text[end].isascii() and text[end].isalnum())):
        end += 1
    if text[at : at + 1] == "(" or (braced and text[end : end + 1] != "}"):
        raise ValueError("only $NAME and ${NAME} are read here")
    return text[start:end], end + braced
