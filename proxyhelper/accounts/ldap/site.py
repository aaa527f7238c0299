"""What authldaprc says: where the directory is, how an account is found, and what its attributes become."""

from ...failures import Temporary
from ...settings import is_true
from ...text import encode
from .. import rcfile
from ..account import MAX_ID, Account, is_id, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...settings import Settings
    from .session import Entry

KNOWN = (
    "LDAP_AUTHBIND", "LDAP_AUXOPTIONS", "LDAP_BASEDN", "LDAP_BINDDN", "LDAP_BINDPW", "LDAP_CLEARPW", "LDAP_CRYPTPW",
    "LDAP_DEREF", "LDAP_DOMAIN", "LDAP_EMAILMAP", "LDAP_EMAILMAP_ATTRIBUTE", "LDAP_EMAILMAP_BASEDN",
    "LDAP_EMAILMAP_MAIL", "LDAP_ENUMERATE_FILTER", "LDAP_FILTER", "LDAP_GID", "LDAP_GLOB_GID", "LDAP_GLOB_UID",
    "LDAP_HOMEDIR", "LDAP_INITBIND", "LDAP_MAIL", "LDAP_MAILDIR", "LDAP_MAILDIRQUOTA", "LDAP_MAILROOT",
    "LDAP_PROTOCOL_VERSION", "LDAP_TIMEOUT", "LDAP_TLS", "LDAP_UID", "LDAP_URI",
)  # fmt: skip
IGNORED = {
    "LDAP_DEFAULTDELIVERY": "nothing here delivers mail",
    "LDAP_FULLNAME": "nothing here shows an account's full name",
    "LDAP_MEMORY_LEAK": "it was about a fault of an old library",
}


DEREFERENCE = {"never": 0, "searching": 1, "finding": 2, "always": 3}
"""The values of LDAP_DEREF as RFC 4511 numbers them."""

MAX_TIMEOUT = 600
SAFE_IN_FILTER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@._-+")


class Site:
    """What authldaprc says. Raises Temporary where it cannot be used."""

    def __init__(self, settings: "Settings") -> None:
        self.file = f"{settings.directory}/authldaprc"
        self._values = rcfile.load(self.file)
        self._default_options = settings.default_options
        self.tls_options = settings.ldap_tls
        self._check_version()
        self.uris = self._required("LDAP_URI").replace(",", " ").split()
        self.base = self._required("LDAP_BASEDN")
        self.timeout = self._timeout(settings.account_timeout)
        self.start_tls = is_true(self._text("LDAP_TLS"))
        self.authbind = is_true(self._text("LDAP_AUTHBIND"))
        self.binder = self._binder()
        self.dereference = self._dereference()
        self.mail = self._text("LDAP_MAIL", "mail")
        self.auxoptions = pairs(self._text("LDAP_AUXOPTIONS"))
        self.emailmap = parenthesized(self._text("LDAP_EMAILMAP"))
        self.emailmap_base = self._text("LDAP_EMAILMAP_BASEDN", self.base)
        self.emailmap_attribute = self._text("LDAP_EMAILMAP_ATTRIBUTE", "handle")
        self.emailmap_mail = self._text("LDAP_EMAILMAP_MAIL", self.mail)
        self._filter = parenthesized(self._text("LDAP_FILTER"))
        self._domain = self._text("LDAP_DOMAIN")
        every = parenthesized(self._text("LDAP_ENUMERATE_FILTER")) or self._filter or "(objectClass=*)"
        self.enumerate_filter = f"(&{every}({self.mail}=*))"

    def filter_for(self, attribute: str, name: bytes) -> str:
        """The filter that finds the entry whose `attribute` is `name`."""
        domain = f"@{self._domain}" if self._domain and b"@" not in name else ""
        match = f"({attribute}={escape(name)}{escape(encode(domain))})"
        return f"(&{self._filter}{match})" if self._filter else match

    def attributes(self, *more: str) -> "list[str]":
        """Those that an account is made of."""
        settings = ("HOMEDIR", "MAILDIR", "MAILDIRQUOTA", "CLEARPW", "CRYPTPW", "UID", "GID")
        names = [*more, *map(self._attribute, settings), *(attribute for attribute, _ in self.auxoptions)]
        return list(dict.fromkeys(filter(None, names)))

    def account(self, name: str, entry: "Entry", with_passwords: bool = True) -> Account:
        """The account that `entry` is. Of two passwords the cleartext counts. Raises Temporary."""
        cleartext, password = map(entry.first, map(self._attribute, ("CLEARPW", "CRYPTPW")))
        options = [(option, entry.text(attribute)) for attribute, option in self.auxoptions]
        return Account(
            name,
            password if with_passwords and not cleartext else b"",
            cleartext=cleartext if with_passwords else b"",
            uid=self._id("UID", entry),
            gid=self._id("GID", entry),
            home=self._home(entry.text(self._attribute("HOMEDIR"))),
            maildir=entry.text(self._attribute("MAILDIR")),
            quota=entry.text(self._attribute("MAILDIRQUOTA")),
            options=parse_options(
                ",".join(f"{option}={_single(value)}" for option, value in options if value), self._default_options
            ),
        )

    def _text(self, name: str, default: str = "") -> str:
        return self._values.get(name) or default

    def _required(self, name: str) -> str:
        value = self._text(name)
        if not value.strip(", "):
            raise Temporary(f"{self.file} has no {name}")
        return value

    def _attribute(self, setting: str) -> str:
        """The attribute that LDAP_<setting> names, or ""."""
        return self._text(f"LDAP_{setting}", "homeDir" if setting == "HOMEDIR" else "")

    def _timeout(self, default: int) -> int:
        value = self._text("LDAP_TIMEOUT", "0")
        if not (value.isascii() and value.isdigit() and int(value[:9]) <= MAX_TIMEOUT):
            raise Temporary(f"{self.file}: LDAP_TIMEOUT {value} is not a number of seconds up to {MAX_TIMEOUT}")
        return int(value) or default

    def _binder(self) -> "tuple[str, bytes] | None":
        if not is_true(self._text("LDAP_INITBIND")):
            return None
        return self._required("LDAP_BINDDN"), encode(self._required("LDAP_BINDPW"))

    def _dereference(self) -> int:
        value = self._text("LDAP_DEREF", "never")
        if value.lower() not in DEREFERENCE:
            raise Temporary(f"{self.file}: LDAP_DEREF {value} is none of {' '.join(DEREFERENCE)}")
        return DEREFERENCE[value.lower()]

    def _check_version(self) -> None:
        version = self._text("LDAP_PROTOCOL_VERSION", "3")
        if version not in ("0", "3"):
            raise Temporary(f"{self.file}: LDAP_PROTOCOL_VERSION {version} is not spoken here: set it to 3")

    def _id(self, kind: str, entry: "Entry") -> "int | None":
        """The entry's own id, or else everybody's, or None."""
        attribute = self._attribute(kind)
        own = entry.text(attribute) if attribute else ""
        if own:
            return number(own, kind, f"{attribute} of the entry {entry.dn!r}")
        everybodys = self._text(f"LDAP_GLOB_{kind}")
        return number(everybodys, kind, f"LDAP_GLOB_{kind}") if everybodys else None

    def _home(self, home: str) -> str:
        root = self._text("LDAP_MAILROOT")
        return f"{root}/{home}" if root and home and not home.startswith("/") else home


def escape(value: bytes) -> str:
    """A value for a filter (RFC 4515); what is escaped without need does no harm."""
    return "".join(chr(byte) if byte in SAFE_IN_FILTER else f"\\{byte:02x}" for byte in value)


def parenthesized(text: str) -> str:
    """A filter with the parentheses that Courier's library does without around a lone one."""
    return f"({text})" if text and not text.startswith("(") else text


def pairs(text: str) -> "list[tuple[str, str]]":
    """LDAP_AUXOPTIONS: attributes, and the names of the options that they become."""
    halves = (pair.partition("=") for pair in text.split(","))
    return [(attribute.strip(), option.strip()) for attribute, _, option in halves if attribute.strip()]


def mapped(emailmap: str, name: str) -> str:
    """LDAP_EMAILMAP for `name`. As with Courier, a word between two @ that is neither user nor realm falls away."""
    user, _, realm = name.partition("@")
    values = {"user": escape(encode(user)), "realm": escape(encode(realm))}
    outside_and_between = emailmap.split("@")
    return "".join(values.get(part, "") if at % 2 else part for at, part in enumerate(outside_and_between))


def number(text: str, kind: str, where: str) -> int:
    """A uid or gid by number or name. Raises Temporary."""
    if is_id(text):
        return int(text)
    import grp
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid if kind == "UID" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise Temporary(f"{where}: {text!r} is neither a number up to {MAX_ID} nor a name on this host") from None


def _single(value: str) -> str:
    """The value of one option, which is no other's. Raises Temporary."""
    if "," in value:
        raise Temporary(f"an attribute of LDAP_AUXOPTIONS holds a comma, {value!r}: it would be another option")
    return value
