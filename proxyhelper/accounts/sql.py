"""What MySQL and PostgreSQL share: the settings of authmysqlrc and authpgsqlrc, what is asked, and what a row means.

Courier's names begin with MYSQL or PGSQL in one file and the other, and mean the same but for the connection's.
"""

from contextlib import contextmanager

from ..failures import Failure, Temporary, WrongCredentials
from ..text import decode, encode
from .account import MAX_ID, Account, is_id, parse_options
from .clause import Value, statement
from .rcfile import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ..settings import Settings
    from .clause import Dialect

SHARED = (
    "USER_TABLE", "LOGIN_FIELD", "CRYPT_PWFIELD", "CLEAR_PWFIELD", "UID_FIELD", "GID_FIELD", "HOME_FIELD",
    "MAILDIR_FIELD", "QUOTA_FIELD", "AUXOPTIONS_FIELD", "AUXOPTIONS", "WHERE_CLAUSE", "SELECT_CLAUSE",
    "ENUMERATE_CLAUSE", "DATABASE", "CHARACTER_SET", "DEFAULT_DOMAIN",
)  # fmt: skip
"""Settings of either source that bear on an account, without the prefix. Plain DEFAULT_DOMAIN is one, too."""
NOT_APPLIED = {
    "NAME_FIELD": "nothing here shows an account's full name",
    "CHPASS_CLAUSE": "nothing here changes passwords",
    "DEFAULTDELIVERY": "nothing here delivers mail",
    "DEFAULTDELIVERY_FIELD": "nothing here delivers mail",
}
COLUMNS = ("username", "cryptpw", "clearpw", "uid", "gid", "home", "maildir", "quota", "fullname", "options")
REQUIRED = COLUMNS.index("home") + 1
ENUMERATED = ("username", "uid", "gid", "home", "maildir", "options")
EVERYBODY = "*"
"""The name, and the domain where none is set, for which Courier enumerates accounts."""
MAX_TEXT = 300


class Source:
    """An rc file and what it says, by the names without their prefix."""

    def __init__(self, settings: "Settings", prefix: str) -> None:
        self.prefix = prefix
        self.path = f"{settings.directory}/auth{prefix.lower()}rc"
        self.timeout = settings.account_timeout
        self.values = load(self.path)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(f"{self.prefix}_{name}") or default

    @property
    def default_domain(self) -> str:
        return self.values.get("DEFAULT_DOMAIN") or self.text("DEFAULT_DOMAIN")

    def needed(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise self.failure(f"{self.prefix}_{name} is not set")
        return value

    def failure(self, reason: object) -> Temporary:
        """`reason` with the file before it: in one line, and without the password of the file, should it hold it."""
        text, password = str(reason), self.text("PASSWORD")
        if password:
            text = text.replace(password, "…")
        return Temporary(f"{self.path}: {' '.join(text.split())[:MAX_TEXT]}")

    def number(self, name: str, high: int) -> int:
        value = self.text(name, "0")
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= high):
            raise self.failure(f"{self.prefix}_{name} is {value!r}, and must be a number from 0 to {high}")
        return int(value)


@contextmanager
def connected(
    source: Source,
    connect: "Callable[[Source], Any]",
    leave: "Callable[[Any], object]",
    failure: "Callable[[Source, Exception], Failure]",
) -> "Iterator[Any]":
    """A connection by `connect`, left by `leave`. What goes wrong on it, and is no Failure, is what `failure` makes of
    it: drivers let what they meet in nonsense through (IndexError, struct.error …)."""
    try:
        connection = connect(source)
        try:
            yield connection
        finally:
            leave(connection)
    except Failure:
        raise
    except Exception as error:
        raise failure(source, error) from None


def query_for(source: Source, dialect: "Dialect", service: str, name: str) -> "list[str]":
    """What finds the account `name`. Raises Temporary, naming the setting that cannot be used."""
    clause = source.text("SELECT_CLAUSE")
    if not clause:
        return _table_query(source, Value(_with_domain(name, source.default_domain)))
    if "$(local_part)" not in clause and "$(domain)" not in clause:
        raise source.failure(f"{source.prefix}_SELECT_CLAUSE holds no $(local_part): it finds the same for every name")
    local_part, _, domain = name.partition("@")
    return _from_clause(source, "SELECT_CLAUSE", dialect, local_part, domain or source.default_domain, service)


def query_for_all(source: Source, dialect: "Dialect") -> "list[str]":
    """What finds every account, in rows of ENUMERATED."""
    if source.text("ENUMERATE_CLAUSE"):
        domain = source.default_domain or EVERYBODY
        return _from_clause(source, "ENUMERATE_CLAUSE", dialect, EVERYBODY, domain, "enumerate")
    if not source.text("USER_TABLE"):
        raise source.failure(f"set {source.prefix}_ENUMERATE_CLAUSE, by which accounts are listed")
    where = source.text("WHERE_CLAUSE")
    return [f"SELECT {_fields(source, ENUMERATED)} FROM {source.needed('USER_TABLE')}{where and f' WHERE ({where})'}"]


def rendered(query: "list[str]", literal: "Callable[[str], bytes]") -> bytes:
    """The query in bytes, with each Value as `literal` writes it."""
    return b"".join(b" " + literal(part) + b" " if isinstance(part, Value) else encode(part) for part in query)


def check_name(name: str) -> None:
    """Raises WrongCredentials for a name that no column holds."""
    if not name or any(character in name for character in "\r\n\0"):
        raise WrongCredentials("no such account")


def in_codec(text: str, codec: str) -> str:
    """What `text` is to a server that takes its bytes for `codec`: they reach it as the client typed them."""
    try:
        return encode(text).decode(codec)
    except UnicodeError:
        raise WrongCredentials("no such account") from None


def account(source: Source, row: "Sequence[bytes] | None", default_options: str) -> Account:
    """The account of a row, whose absent values are b"". Raises WrongCredentials, Temporary."""
    if row is None:
        raise WrongCredentials("no such account")
    if len(row) < REQUIRED:
        columns = ", ".join(COLUMNS)
        raise source.failure(
            f"{source.prefix}_SELECT_CLAUSE gives {len(row)} columns; the first {REQUIRED} of {columns} are needed"
        )
    return _account(source, dict(zip(COLUMNS, row, strict=False)), default_options)


def listed(source: Source, row: "Sequence[bytes]", default_options: str) -> "Account | None":
    """The account of a row of the enumeration; None for one without a name. Raises Temporary."""
    if not row or not row[0]:
        return None
    return _account(source, dict(zip(ENUMERATED, row, strict=False)), default_options)


def _account(source: Source, fields: "dict[str, bytes]", default_options: str) -> Account:
    if not fields["username"]:
        raise WrongCredentials("no such account")  # Courier takes a row without a name for none
    for column, value in fields.items():
        if any(character in value for character in b"\r\n\0") and column != "fullname":
            raise source.failure(f"{column} of {decode(fields['username'])!r} holds CR, LF or NUL")
    texts = {column: decode(value) for column, value in fields.items()}
    return Account(
        texts["username"],
        fields.get("cryptpw", b""),
        cleartext=fields.get("clearpw", b""),
        uid=_number(source, texts, "uid"),
        gid=_number(source, texts, "gid"),
        home=texts.get("home", ""),
        maildir=texts.get("maildir", ""),
        quota=texts.get("quota", ""),
        options=parse_options(texts.get("options", ""), default_options),
    )


def _number(source: Source, texts: "dict[str, str]", column: str) -> "int | None":
    value = texts.get(column, "")
    if not value:
        return None
    if not is_id(value):
        raise source.failure(f"{column} of {texts['username']!r} is {value!r}: not a number from 0 to {MAX_ID}")
    return int(value)


def _with_domain(name: str, default_domain: str) -> str:
    return name if "@" in name or not default_domain else f"{name}@{default_domain}"


def _table_query(source: Source, name: Value) -> "list[str]":
    """The form without a SELECT clause; WHERE_CLAUSE in parentheses, so that an OR in it cannot widen it."""
    table, login, where = source.needed("USER_TABLE"), _fields(source, ("username",)), source.text("WHERE_CLAUSE")
    if not source.text("CRYPT_PWFIELD") and not source.text("CLEAR_PWFIELD"):
        raise source.failure(f"neither {source.prefix}_CRYPT_PWFIELD nor {source.prefix}_CLEAR_PWFIELD is set")
    return [f"SELECT {_fields(source, COLUMNS)} FROM {table} WHERE {login} = ", name, where and f" AND ({where})"]


def _fields(source: Source, columns: "tuple[str, ...]") -> str:
    """The SQL for columns; '' where Courier has no default for what is not set."""
    fields = {
        "username": source.text("LOGIN_FIELD", "id"),
        "cryptpw": source.text("CRYPT_PWFIELD"),
        "clearpw": source.text("CLEAR_PWFIELD"),
        "uid": source.text("UID_FIELD", "uid"),
        "gid": source.text("GID_FIELD", "gid"),
        "home": source.text("HOME_FIELD", "home"),
        "maildir": source.text("MAILDIR_FIELD"),
        "quota": source.text("QUOTA_FIELD"),
        "options": source.text("AUXOPTIONS_FIELD") or source.text("AUXOPTIONS"),
    }
    return ", ".join(fields.get(column) or "''" for column in columns)


def _from_clause(
    source: Source, setting: str, dialect: "Dialect", local_part: str, domain: str, service: str
) -> "list[str]":
    values = {"local_part": local_part, "domain": domain, "service": service}
    try:
        return statement(source.text(setting), values, dialect)
    except ValueError as error:
        raise source.failure(f"{source.prefix}_{setting}: {error}") from None
