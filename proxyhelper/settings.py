"""Courier's files and the environment, read once into one Settings.

Precedence: environment, then file, then default. `imapd-ssl` is read before `imapd`, `pop3d-ssl` before `pop3d`,
so that the main file overrides; then `authdaemonrc`. All hold shell assignments: quotes and $NAME, nothing else.
"""

from .dialogue.greetings import CRAM_MECHANISMS, MECHANISMS
from .interpreter import posix
from .text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_DIRECTORY = "/etc/courier"
MAX_FILE = 1 << 20
INHERITED = -1
SHELL_SYNTAX = frozenset(";&|<>()`")
PLAIN_UNTIL = frozenset(" \t'\"\\$#") | SHELL_SYNTAX
PLAIN_IN_QUOTES_UNTIL = frozenset('"\\$`')
MAIN_FILES = {"imap": ("imapd-ssl", "imapd"), "pop3": ("pop3d-ssl", "pop3d")}
COMMON_FILE = "authdaemonrc"


class ConfigurationError(Exception):
    """A setting or file that cannot be used; the text names file, line and value; `setting` is its name, if any."""

    def __init__(self, reason: str, setting: str = "") -> None:
        super().__init__(reason)
        self.setting = setting


class Settings:
    """What the administrator configured for one protocol; never changed after `load`.

    protocol          "imap" or "pop3"
    directory         where the configuration and the userdb are
    exported          every assignment of the protocol's own files, for the local server's environment
    capabilities      IMAP's as configured, none for POP3
    mechanisms        SASL mechanisms that are offered
    modules           account modules in the order in which they are asked: authuserdb, authldap, …
    account_timeout   seconds for each thing that an account source is asked
    authdaemon        directory of authdaemond's socket
    ldap_tls          LDAPTLS_CACERT, LDAPTLS_CERT, LDAPTLS_KEY, LDAPTLS_REQCERT by the end of their names
    tls               the client's side of the connection is encrypted already
    login_allowed     TLS is there, or not required
    proxy             accounts with a mailhost elsewhere are proxied
    hostname          PROXY_HOSTNAME, or ""
    foreign           tell the client the backend's capabilities (IMAP_PROXY_FOREIGN)
    proxy_port        port of the backends, or 0: as getservbyname says
    proxy_user        user to relay as, or None: Courier's or nobody
    timeout           seconds to reach a backend and read its greeting
    fail_delay        seconds from a complete command to the reply that its credentials are wrong
    services          account service names by the port that the client connected to (AUTHSERVICE<port>)
    default_domain    DEFDOMAIN
    domain_separators DOMAINSEP
    default_options   DEFAULTOPTIONS
    maildir           MAILDIRPATH
    umask             umask of the local server (IMAP_UMASK), or INHERITED
    """

    __slots__ = (
        "account_timeout", "authdaemon", "capabilities", "default_domain", "default_options", "directory",
        "domain_separators", "exported", "fail_delay", "foreign", "hostname", "ldap_tls", "login_allowed", "maildir",
        "mechanisms", "modules", "protocol", "proxy", "proxy_port", "proxy_user", "services", "timeout", "tls", "umask",
    )  # fmt: skip

    def __init__(self, protocol: str, directory: str, exported: "dict[str, str]", values: "Values") -> None:
        upper = protocol.upper()
        self.protocol = protocol
        self.directory = directory
        self.exported = exported
        self.tls = values.environment_flag(f"{upper}_TLS")
        self.login_allowed = self.tls or not values.flag(f"{upper}_TLS_REQUIRED")
        self.capabilities = _capabilities(values, self.tls) if protocol == "imap" else []
        self.mechanisms = _mechanisms(values, protocol, self.tls)
        listed = values.text("PROXY_AUTHMODULES").split() or values.text("authmodulelist").split()
        self.modules = listed or ["authuserdb"]
        self.account_timeout = values.number("PROXY_ACCOUNT_TIMEOUT", 5, 1, 60)
        self.authdaemon = values.text("authdaemonvar") or "/run/courier/authdaemon"
        self.ldap_tls = values.starting_with("LDAPTLS_")
        self.proxy = values.flag(f"{upper}_PROXY")
        self.hostname = values.text("PROXY_HOSTNAME")
        self.foreign = protocol == "imap" and values.flag("IMAP_PROXY_FOREIGN")
        self.proxy_port = values.number(f"{upper}_PROXY_PORT", 0, 1, 65535)
        self.proxy_user = values.text("PROXY_USER") or None
        self.timeout = values.number("PROXY_TIMEOUT", 10, 1, 600)
        self.fail_delay = values.number("LOGIN_FAIL_DELAY", 5, 0, 60)
        self.services = values.starting_with("AUTHSERVICE")
        self.default_domain = values.text("DEFDOMAIN")
        self.domain_separators = values.text("DOMAINSEP")
        self.default_options = values.text("DEFAULTOPTIONS")
        self.maildir = values.text("MAILDIRPATH") or "Maildir"
        self.umask = values.number("IMAP_UMASK", INHERITED, 0, 0o777, base=8) if protocol == "imap" else INHERITED


def environment() -> "dict[str, str]":
    """The environment as the activator gave it: Python changes LC_CTYPE in its own (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            pairs = [entry.partition(b"=") for entry in file.readall().split(b"\0") if entry]
    except OSError:
        return {decode(name): decode(value) for name, value in posix.environ.items()}
    return {decode(name): decode(value) for name, _, value in pairs if name}


def load(protocol: str, environment: "Mapping[str, str]") -> Settings:
    """The settings of `protocol`. Raises ConfigurationError, naming file, line and value, where one cannot be used."""
    directory = directory_in(environment)
    exported: dict[str, str] = {}
    for name in MAIN_FILES[protocol]:
        read_assignments(f"{directory}/{name}", exported, environment)
    common: dict[str, str] = {}
    read_assignments(f"{directory}/{COMMON_FILE}", common, environment)
    return Settings(protocol, directory, exported, Values(environment, {**common, **exported}))


def directory_in(environment: "Mapping[str, str]") -> str:
    """The configuration directory. Raises ConfigurationError."""
    directory = environment.get("PROXYHELPER_CONFDIR") or DEFAULT_DIRECTORY
    if not directory.startswith("/"):
        raise ConfigurationError(f"PROXYHELPER_CONFDIR={directory} is not an absolute path")
    return directory


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

    def number(self, name: str, default: int, low: int, high: int, base: int = 10) -> int:
        value = self.text(name).strip()
        if not value:
            return default
        try:
            number = int(value, base)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            bounds = f"{low:o} to {high:o} (octal)" if base == 8 else f"{low} to {high}"
            raise ConfigurationError(f"setting {name}={value!r} must be a number from {bounds}", name)
        return number


def is_true(value: str) -> bool:
    """Courier's truth, of settings and account options: a number other than 0, or t, T, y, Y, whatever follows."""
    value = value.strip()
    digits = value.lstrip("+-")
    number = digits[: len(digits) - len(digits.lstrip("0123456789"))]
    return number.strip("0") != "" if number else value[:1] in ("t", "T", "y", "Y")


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


def _mechanisms(values: Values, protocol: str, tls: bool) -> "list[str]":
    """Those that are always offered, and the CRAM ones that the settings list."""
    name = "IMAP_CAPABILITY" if protocol == "imap" else "POP3AUTH"
    listed = ((tls and values.text(f"{name}_TLS")) or values.text(name)).upper().split()
    prefix = "AUTH=" if protocol == "imap" else ""
    return [*MECHANISMS, *(mechanism for mechanism in CRAM_MECHANISMS if prefix + mechanism in listed)]


def read_assignments(path: str, values: "dict[str, str]", environment: "Mapping[str, str]") -> None:
    """Add the assignments of the file at `path`, where it exists, to `values`. Raises ConfigurationError."""
    for number, line in lines(path):
        try:
            assign(line, values, environment)
        except ValueError as error:
            raise ConfigurationError(f"{path} line {number}: {error}") from None


def lines(path: str) -> "Iterator[tuple[int, str]]":
    """The lines of the file at `path`, where it exists, that say something, by their numbers. Raises
    ConfigurationError."""
    for number, line in enumerate(read(path).split("\n"), 1):
        if line and line[0] != "#":
            line = line.strip()
            if line and line[0] != "#":
                yield number, line


def assign(line: str, values: "dict[str, str]", environment: "Mapping[str, str]") -> str:
    """Add the assignment in `line` to `values`; its name. Raises ValueError."""
    name, equals, value = line.partition("=")
    if not (equals and name.isidentifier() and name.isascii()):
        raise ValueError("not a NAME=value assignment")
    values[name] = _expand(value, values, environment)
    return name


def read(path: str) -> str:
    """The text of the file at `path`, "" where there is none. Raises ConfigurationError."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)  # a FIFO must not hold us
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
    if PLAIN_UNTIL.isdisjoint(text):  # as most values are, and the rest costs time before the greeting
        return text
    if text[0] == text[-1] == '"' and len(text) > 1 and PLAIN_IN_QUOTES_UNTIL.isdisjoint(text[1:-1]):
        return text[1:-1]
    word = ""
    quoted = False
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == '"':
            quoted = not quoted
        elif character == "$":
            name, at = _variable(text, at)
            word += values.get(name, environment.get(name, "")) if name else "$"
        elif character == "\\":
            escaped = text[at : at + 1]
            if not escaped:
                raise ValueError("a line that goes on in the next is not read here")
            word += escaped if not quoted or escaped in '$"\\`' else "\\" + escaped
            at += 1
        elif character in SHELL_SYNTAX and (not quoted or character == "`"):
            raise ValueError(f"shell syntax {character!r} is not read here; quote it, or move it to the start script")
        elif character == "'" and not quoted:
            end = text.find("'", at)
            if end < 0:
                raise ValueError("no closing '")
            word += text[at:end]
            at = end + 1
        elif character in " \t" and not quoted:
            _check_tail(text[at:].strip())
            break
        else:
            word += character
    if quoted:
        raise ValueError('no closing "')
    return word


def _check_tail(tail: str) -> None:
    if tail and not tail.startswith("#"):
        raise ValueError("a value with blanks needs quotes")


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
