"""Courier's files and the environment, read once into one Settings.

Precedence: environment, then file, then default. `imapd-ssl` is read before `imapd`, `pop3d-ssl` before `pop3d`,
so that the main file overrides; then `authdaemonrc`. All hold shell assignments: quotes and $NAME, nothing else.
"""

from .dialogue.greetings import CRAM_MECHANISMS, MECHANISMS, Offer
from .interpreter import posix
from .text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_DIRECTORY = "/etc/courier"
MAX_FILE = 1 << 20
INHERITED = -1
SHELL_SYNTAX = frozenset(";&|<>()`")
PLAIN_UNTIL = frozenset(" \t'\"\\$#") | SHELL_SYNTAX
PLAIN_IN_QUOTES_UNTIL = frozenset('"\\$`')
DEFAULT_TLS_PROTOCOL = "TLSv1.2"
TLS_MODES = ("no", "starttls", "yes")
MAIN_FILES = {"imap": ("imapd-ssl", "imapd"), "pop3": ("pop3d-ssl", "pop3d")}
COMMON_FILE = "authdaemonrc"


class ConfigurationError(Exception):
    """A setting or file that cannot be used; the text names file, line and value; `setting` is its name, if any."""

    def __init__(self, reason: str, setting: str = "") -> None:
        super().__init__(reason)
        self.setting = setting


class Settings:
    """What the administrator configured for one protocol; never changed after `load`."""

    # No docstring: each session would keep its 5 kB in memory.
    #
    # protocol          "imap" or "pop3"
    # directory         where the configuration and the userdb are
    # exported          every assignment of the protocol's own files, for the local server's environment
    # modules           account modules in the order in which they are asked: authuserdb, authldap, …
    # account_timeout   seconds for each thing that an account source is asked
    # authdaemon        directory of authdaemond's socket
    # ldap_tls          LDAPTLS_CACERT, LDAPTLS_CERT, LDAPTLS_KEY, LDAPTLS_REQCERT by the end of their names
    # tls               somebody in front (couriertls, stunnel) has done the client's TLS
    # tls_wrap          TLS from the first byte
    # tls_required      no login without TLS
    # starttls          TLS is offered to those who begin in clear: it is wanted, and the certificate can be read
    # certificate       TLS_CERTFILE
    # private_key       TLS_PRIVATE_KEYFILE, or "": in the certificate's file
    # tls_protocol      TLS_PROTOCOL, or what it is called for STARTTLS
    # ciphers           TLS_CIPHER_LIST, or "": Python's
    # trustcerts        TLS_TRUSTCERTS: file or directory of those who certify clients
    # verify_peer       clients' certificates: "none", "peer" (if there is one) or "requirepeer"
    # tls_external      field of a client certificate's subject that has the login name (TLS_EXTERNAL), or ""
    # proxy_tls         TLS towards backends: "no", "starttls" or "yes" (from the first byte)
    # proxy_cafile      who certifies backends, or "": the system's store
    # proxy_send        how backends are told of the client: "id" (ID, XCLIENT), "proxy-v2" or "no"
    # proxy_protocol    each connection begins with a PROXY header
    # proxy_protocol_from  networks that may send one
    # trusted           networks whose word about clients counts (PROXY_TRUSTED)
    # proxy             accounts with a mailhost elsewhere are proxied
    # hostname          PROXY_HOSTNAME, or ""
    # foreign           tell the client the backend's capabilities (IMAP_PROXY_FOREIGN)
    # proxy_port        port of the backends, or 0: as getservbyname says
    # proxy_user        user to relay as, or None: Courier's or nobody
    # timeout           seconds to reach a backend and read its greeting
    # fail_delay        seconds from a complete command to the reply that its credentials are wrong
    # services          account service names by the port that the client connected to (AUTHSERVICE<port>)
    # default_domain    DEFDOMAIN
    # domain_separators DOMAINSEP
    # default_options   DEFAULTOPTIONS
    # maildir           MAILDIRPATH
    # umask             umask of the local server (IMAP_UMASK), or INHERITED

    __slots__ = (
        "_values", "account_timeout", "authdaemon", "certificate", "ciphers", "default_domain", "default_options",
        "directory", "domain_separators", "exported", "fail_delay", "foreign", "hostname", "ldap_tls", "maildir",
        "modules", "private_key", "protocol", "proxy", "proxy_cafile", "proxy_port", "proxy_protocol",
        "proxy_protocol_from", "proxy_send", "proxy_tls", "proxy_user", "services", "starttls", "timeout", "tls",
        "tls_external", "tls_protocol", "tls_required", "tls_wrap", "trustcerts", "trusted", "umask", "verify_peer",
    )  # fmt: skip

    def __init__(self, protocol: str, directory: str, exported: "dict[str, str]", values: "Values") -> None:
        upper = protocol.upper()
        self.protocol = protocol
        self.directory = directory
        self.exported = exported
        self._values = values
        self._read_client_tls(values, upper)
        self._read_neighbours(values, upper)
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

    def _read_client_tls(self, values: "Values", upper: str) -> None:
        self.tls = values.environment_flag(f"{upper}_TLS")
        self.tls_wrap = values.environment_flag("PROXY_TLS_WRAP") and not self.tls
        self.tls_required = values.flag(f"{upper}_TLS_REQUIRED")
        self.certificate = values.text("TLS_CERTFILE")
        self.private_key = values.text("TLS_PRIVATE_KEYFILE")
        wanted = values.renamed(f"{upper}_STARTTLS", "IMAPDSTARTTLS" if upper == "IMAP" else "POP3_STARTTLS")
        self.starttls = (
            wanted[:1] in ("y", "Y")
            and is_readable(self.certificate)
            and (not self.private_key or is_readable(self.private_key))
        )
        of_starttls = not self.tls_wrap and values.renamed("TLS_PROTOCOL", "TLS_STARTTLS_PROTOCOL")
        self.tls_protocol = of_starttls or values.text("TLS_PROTOCOL") or DEFAULT_TLS_PROTOCOL
        self.ciphers = values.text("TLS_CIPHER_LIST")
        self.trustcerts = values.text("TLS_TRUSTCERTS")
        self.verify_peer = values.choice("TLS_VERIFYPEER", ("none", "peer", "requirepeer"))
        self.tls_external = values.text("TLS_EXTERNAL")

    def _read_neighbours(self, values: "Values", upper: str) -> None:
        """What stands in front of this program, and what behind it."""
        self.proxy_tls = values.choice(f"{upper}_PROXY_TLS", TLS_MODES)
        self.proxy_cafile = values.text("PROXY_CAFILE")
        self.proxy_send = values.choice(f"{upper}_PROXY_SEND", ("id", "proxy-v2", "no"))
        self.proxy_protocol = values.flag("PROXY_PROTOCOL")
        self.proxy_protocol_from = values.text("PROXY_PROTOCOL_FROM")
        self.trusted = values.text("PROXY_TRUSTED")

    def greets_first(self) -> bool:
        """Whether a client is greeted before anything is known about it."""
        if self.proxy_protocol or self.tls_wrap or (self.tls and self.tls_external):
            return False
        return self.protocol == "imap" or not self.trusted

    def offer(self, secure: bool, identity: str = "", trusted: bool = False) -> Offer:
        """What clients are offered; `secure`: behind TLS. `identity` is proved by the client's certificate."""
        mechanisms = _mechanisms(self._values, self.protocol, secure)
        return Offer(
            capabilities=_capabilities(self._values, secure) if self.protocol == "imap" else [],
            login_allowed=secure or not self.tls_required,
            mechanisms=[*mechanisms, "EXTERNAL"] if identity else mechanisms,
            starttls=self.starttls and not secure,
            trusted=trusted,
        )


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

    def renamed(self, in_environment: str, in_files: str) -> str:
        """A setting that Courier's start scripts rename on its way from the files to the environment."""
        value = self._environment.get(in_environment)
        return self.text(in_files) if value is None else value

    def choice(self, name: str, choices: "tuple[str, ...]") -> str:
        """One of `choices`, the first where it is not set."""
        value = self.text(name).strip()
        if value.lower() not in ("", *choices):
            raise ConfigurationError(f"setting {name}={value!r} must be one of {', '.join(choices)}", name)
        return value.lower() or choices[0]

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


def is_readable(path: str) -> bool:
    return posix.access(encode(path), posix.R_OK, effective_ids=True)


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
