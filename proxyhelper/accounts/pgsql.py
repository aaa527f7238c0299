"""Accounts in PostgreSQL, as Courier's authpgsqlrc describes them.

What the client typed is quoted by libpq, which knows the server's character set and string syntax.
"""

from ..failures import Temporary, WrongCredentials
from . import sql
from .clause import Dialect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..failures import Failure
    from ..settings import Settings
    from .account import Account
    from .sql import Source

    Connection = Any  # psycopg2's, whose stubs know no parameters as a dictionary

PREFIX = "PGSQL"
SEPARATE = {"HOST": "host", "PORT": "port", "USERNAME": "user", "PASSWORD": "password", "OPT": "options"}
"""Settings that stand in for PGSQL_CONNECTION, and what they are in a conninfo."""
KNOWN = ("DEFAULT_DOMAIN", *(f"{PREFIX}_{name}" for name in ("CONNECTION", *SEPARATE, *sql.SHARED)))
IGNORED = {f"{PREFIX}_{name}": reason for name, reason in sql.NOT_APPLIED.items()}

LATE = "57014"
NOT_IN_CHARACTER_SET = {"22021", "22P05"}
SYNTAX_ERROR = "42601"
ROWS_AT_ONCE = 2000


def find(settings: "Settings", service: str, name: str) -> "Account":
    """Raises WrongCredentials, Temporary."""
    source = sql.Source(settings, PREFIX)
    sql.check_name(name)
    with sql.connected(source, _connect, _leave, _failure_for(name)) as connection:
        connection.autocommit = True
        query = _rendered(connection, sql.query_for(source, _dialect(connection), service, name))
        row = _first_row(connection, b"SET LOCAL statement_timeout = %d; " % (source.timeout * 1000) + query)
    return sql.account(source, row, settings.default_options)


def accounts(settings: "Settings") -> "Iterator[Account]":
    """Every account, some at a time as a cursor of the server gives them."""
    source = sql.Source(settings, PREFIX)
    with sql.connected(source, _connect, _leave, _failure_for("")) as connection:
        cursor = connection.cursor(name="accounts")
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(_rendered(connection, sql.query_for_all(source, _dialect(connection))))
        for row in cursor:
            account = sql.listed(source, _bytes(connection, row), settings.default_options)
            if account is not None:
                yield account


def _connect(source: "Source") -> "Connection":
    """A connection to the first server of the conninfo that answers in time."""
    from psycopg2 import Error, connect
    from psycopg2.extensions import encodings, set_wait_callback

    encodings["SQLASCII"] = "latin_1"  # bytes as they are: Python's ascii knows only half of them
    set_wait_callback(_waiting(source))
    *others, last = _servers(_parameters(source))
    for parameters in others:
        try:
            return connect(**parameters)
        except (Error, Temporary):
            pass
    return connect(**last)


def _parameters(source: "Source") -> "dict[str, Any]":
    """PGSQL_CONNECTION, or the separate settings, in libpq's names."""
    from psycopg2 import Error
    from psycopg2.extensions import parse_dsn

    separate = {theirs: source.text(ours) for ours, theirs in SEPARATE.items() if source.text(ours)}
    try:
        parameters = {**separate, **parse_dsn(source.text("CONNECTION"))}
    except Error:  # its text quotes what may be the password
        raise source.failure("PGSQL_CONNECTION is no conninfo: write NAME=value NAME='value with blanks' …") from None
    if source.text("DATABASE"):
        parameters.setdefault("dbname", source.text("DATABASE"))
    parameters.setdefault("gssencmode", "disable")  # libpq would look for root's Kerberos tickets below /tmp
    if source.text("CHARACTER_SET"):
        parameters["client_encoding"] = source.text("CHARACTER_SET")
    return parameters


def _servers(parameters: "dict[str, Any]") -> "list[dict[str, Any]]":
    """Parameters for each host of a list: libpq keeps its deadline for a host only where it may block."""
    columns: dict[str, list[str]] = {
        name: parameters[name].split(",") for name in ("host", "hostaddr", "port") if name in parameters
    }
    count = max((len(values) for name, values in columns.items() if name != "port"), default=1)
    if any(len(values) not in (1, count) or (len(values) == 1 and name != "port") for name, values in columns.items()):
        return [parameters]
    each = ({name: values[at % len(values)] for name, values in columns.items()} for at in range(count))
    return [{**parameters, **own} for own in each]


def _waiting(source: "Source") -> "Callable[[Connection], None]":
    """What psycopg2 calls wherever it would block: it ends after the deadline even if the server says nothing."""
    from select import POLLIN, POLLOUT, poll
    from time import monotonic

    from psycopg2.extensions import POLL_OK, POLL_READ

    def wait(connection: "Connection") -> None:
        end = monotonic() + source.timeout
        while (state := connection.poll()) != POLL_OK:
            ready = poll()
            ready.register(connection.fileno(), POLLIN if state == POLL_READ else POLLOUT)
            left = end - monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise source.failure(f"PostgreSQL takes over {source.timeout} s (PROXY_ACCOUNT_TIMEOUT)")

    return wait


def _dialect(connection: "Connection") -> Dialect:
    standard = connection.get_parameter_status("standard_conforming_strings")
    return Dialect(is_mysql=False, backslash=standard == "off")


def _rendered(connection: "Connection", query: "list[str]") -> bytes:
    from psycopg2.extensions import QuotedString

    codec = _codec(connection)

    def literal(value: str) -> bytes:
        quoted = QuotedString(sql.in_codec(value, codec))
        quoted.prepare(connection)
        return quoted.getquoted()

    return sql.rendered(query, literal)


def _codec(connection: "Connection") -> str:
    from psycopg2.extensions import encodings

    return encodings[connection.encoding]


def _first_row(connection: "Connection", query: bytes) -> "list[bytes] | None":
    """As Courier takes it, whatever follows."""
    cursor = connection.cursor()
    cursor.execute(query)
    row = cursor.fetchone()
    return None if row is None else _bytes(connection, row)


def _bytes(connection: "Connection", row: "tuple[Any, ...]") -> "list[bytes]":
    """The values as the server sent them."""
    codec = _codec(connection)
    return [_value(value, codec) for value in row]


def _value(value: "Any", codec: str) -> bytes:
    if value is None:
        return b""
    return bytes(value) if isinstance(value, memoryview) else str(value).encode(codec)


def _leave(connection: "Connection") -> None:
    connection.close()


def _failure_for(name: str) -> "Callable[[Source, Exception], Failure]":
    return lambda source, error: _failure(source, error, name)


def _failure(source: "Source", error: Exception, name: str) -> "Temporary | WrongCredentials":
    state = getattr(error, "pgcode", None)
    text = getattr(getattr(error, "diag", None), "message_primary", None) or str(error) or type(error).__name__
    if state in NOT_IN_CHARACTER_SET and not name.isascii():
        return WrongCredentials("no such account")
    if state == LATE:
        return source.failure(f"PostgreSQL takes over {source.timeout} s (PROXY_ACCOUNT_TIMEOUT): {text}")
    if state == SYNTAX_ERROR:
        text = "syntax error in the query"  # the server quotes it, and a key may stand in it
    if state is None:
        settings = "PGSQL_CONNECTION" if source.text("CONNECTION") else "PGSQL_HOST, PGSQL_USERNAME or PGSQL_PASSWORD"
        return source.failure(f"no connection by {settings}: {text}")
    return source.failure(f"PostgreSQL: {text} (SQLSTATE {state})")
