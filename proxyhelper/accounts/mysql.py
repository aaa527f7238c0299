"""Accounts in MySQL or MariaDB, as Courier's authmysqlrc describes them.

What the client typed is sent as a hexadecimal literal of the connection's character set (_utf8mb4 X'…'): neither
sql_mode (NO_BACKSLASH_ESCAPES, ANSI_QUOTES) nor a character set can change where it ends.
"""

from ..failures import WrongCredentials
from ..text import encode
from . import sql
from .clause import Dialect

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..failures import Failure, Temporary
    from ..settings import Settings
    from .account import Account
    from .sql import Source

    Connection = Any  # pymysql's; its stubs know neither server_status nor a query in bytes

PREFIX = "MYSQL"
OWN = (
    "SERVER", "SOCKET", "PORT", "USERNAME", "PASSWORD", "SSL_KEY", "SSL_CERT", "SSL_CACERT", "SSL_CAPATH", "SSL_CIPHER",
    "SSL_CIPHERS",
)  # fmt: skip
KNOWN = ("DEFAULT_DOMAIN", *(f"{PREFIX}_{name}" for name in (*OWN, *sql.SHARED)))
IGNORED = {
    "MYSQL_OPT": "it sets flags of libmysqlclient, which is not used here",
    **{f"{PREFIX}_{name}": reason for name, reason in sql.NOT_APPLIED.items()},
}

DEFAULT_SOCKET = "/run/mysqld/mysqld.sock"
DEFAULT_CHARACTER_SET = "utf8mb4"
NO_BACKSLASH_ESCAPES = 512
"""Of the status flags that each answer of the server has."""
CREDENTIALS_REFUSED = {1045, 1698, 2054, 2059, 2061}
DATABASE_REFUSED = {1044, 1049}
LATE = {1969, 3024}
"""MariaDB's and MySQL's error for a statement that takes longer than it may."""
NOT_IN_CHARACTER_SET = {1267, 1270, 1271, 1300, 3854}
"""What comparing a column with characters that it cannot hold may end in."""
LOST = {2006, 2013, 2055}
UNREACHABLE = {2002, 2003, 2005}
SYNTAX_ERROR = 1064
NO_TLS = 2026
IN_CLEAR = (b"mysql_clear_password", b"dialog")


def find(settings: "Settings", service: str, name: str) -> "Account":
    """Raises WrongCredentials, Temporary."""
    source = sql.Source(settings, PREFIX)
    sql.check_name(name)
    with sql.connected(source, _connect, _leave, _failure_for(name)) as connection:
        query = sql.query_for(source, _dialect(connection), service, name)
        row = _first_row(connection, _with_deadline(source, connection, _rendered(connection, query)))
    return sql.account(source, row, settings.default_options)


def accounts(settings: "Settings") -> "Iterator[Account]":
    """Every account, row after row as the server sends them."""
    from pymysql.cursors import SSCursor

    source = sql.Source(settings, PREFIX)
    with sql.connected(source, _connect, _leave, _failure_for("")) as connection:
        cursor: Any = SSCursor(connection)
        cursor.execute(_rendered(connection, sql.query_for_all(source, _dialect(connection))))
        while row := cursor.fetchone():
            account = sql.listed(source, _bytes(row), settings.default_options)
            if account is not None:
                yield account
        cursor.close()


def _connect(source: "Source") -> "Connection":
    from pymysql.charset import charset_by_name

    character_set = source.text("CHARACTER_SET", DEFAULT_CHARACTER_SET)
    try:
        charset_by_name(character_set).encoding  # noqa: B018
    except Exception:  # AttributeError or KeyError, as the version has it
        raise source.failure(f"MYSQL_CHARACTER_SET {character_set!r} is not known to pymysql") from None
    server = source.text("SERVER", "localhost")
    by_socket = server == "localhost"
    tls = None if by_socket else _tls(source)
    return _connection_class(encrypted=tls is not None, is_private=by_socket or tls is not None)(
        host=server,
        port=source.number("PORT", 65535) or 3306,
        unix_socket=source.text("SOCKET", DEFAULT_SOCKET) if by_socket else None,
        user=encode(source.needed("USERNAME")),
        password=encode(source.text("PASSWORD")),
        database=encode(source.needed("DATABASE")),
        charset=character_set,
        use_unicode=False,
        conv={},
        ssl=tls,
        ssl_disabled=tls is None,
        connect_timeout=source.timeout,
        read_timeout=source.timeout,
        write_timeout=source.timeout,
        autocommit=None,
    )


def _connection_class(encrypted: bool, is_private: bool) -> "Any":
    """pymysql's, less trusting: before its version 1.2 it goes on in the clear where the server, or who stands between,
    has no TLS, and it sends the password in clear to whoever asks for it so."""
    from pymysql import connections
    from pymysql.constants import CLIENT
    from pymysql.err import OperationalError

    plain: Any = connections.Connection

    class Careful(plain):  # type: ignore[misc]
        def _get_server_information(self) -> None:
            super()._get_server_information()
            if encrypted and not self.server_capabilities & CLIENT.SSL:
                raise OperationalError(NO_TLS, "the server has no TLS, and a MYSQL_SSL_ setting asks for it")

        def _process_auth(self, plugin_name: bytes, auth_packet: object) -> object:
            if not is_private and plugin_name in IN_CLEAR:
                raise OperationalError(NO_TLS, "the server asks for MYSQL_PASSWORD in clear, and there is no TLS")
            return super()._process_auth(plugin_name, auth_packet)

    return Careful


def _tls(source: "Source") -> "ssl.SSLContext | None":
    """TLS, where the file has any of its settings. As libmysqlclient does it, with a CA the server's certificate must
    come from it, whatever name it has."""
    names = ("SSL_KEY", "SSL_CERT", "SSL_CACERT", "SSL_CAPATH", "SSL_CIPHER", "SSL_CIPHERS")
    key, certificate, ca, ca_path, cipher, ciphers = (source.text(name) for name in names)
    if not (key or certificate or ca or ca_path or cipher or ciphers):
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if ca or ca_path else ssl.CERT_NONE
    try:
        if ca or ca_path:
            context.load_verify_locations(ca or None, ca_path or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
        if cipher or ciphers:
            context.set_ciphers(cipher or ciphers)
    except OSError as error:  # ssl.SSLError is one
        raise source.failure(f"MYSQL_SSL_KEY, _CERT, _CACERT, _CAPATH or _CIPHER cannot be used: {error}") from None
    return context


def _dialect(connection: "Connection") -> Dialect:
    return Dialect(is_mysql=True, backslash=not connection.server_status & NO_BACKSLASH_ESCAPES)


def _rendered(connection: "Connection", query: "list[str]") -> bytes:
    codec, character_set = connection.encoding, connection.charset

    def literal(value: str) -> bytes:
        sql.in_codec(value, codec)
        return f"_{character_set} X'{encode(value).hex()}'".encode()

    return sql.rendered(query, literal)


def _with_deadline(source: "Source", connection: "Connection", query: bytes) -> bytes:
    """The query, which the server itself ends when it takes too long: MariaDB has a prefix for it, MySQL a setting."""
    if "MariaDB" in connection.get_server_info():
        return b"SET STATEMENT max_statement_time=%d FOR " % source.timeout + query
    from pymysql.err import MySQLError

    try:
        connection.cursor().execute(f"SET SESSION max_execution_time={source.timeout * 1000}")
    except MySQLError as error:
        if error.args[0] in LOST:
            raise
    return query


def _first_row(connection: "Connection", query: bytes) -> "list[bytes] | None":
    """As Courier takes it, whatever follows."""
    cursor = connection.cursor()
    cursor.execute(query)
    row = cursor.fetchone()
    return None if row is None else _bytes(row)


def _bytes(row: "tuple[Any, ...]") -> "list[bytes]":
    return [b"" if value is None else value for value in row]


def _leave(connection: "Connection") -> None:
    """Close without reading the rows that are still to come."""
    if connection._result is not None:
        connection._result.unbuffered_active = False
    if connection.open:
        connection.close()


def _failure_for(name: str) -> "Callable[[Source, Exception], Failure]":
    return lambda source, error: _failure(source, error, name)


def _failure(source: "Source", error: Exception, name: str) -> "Temporary | WrongCredentials":
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = f"{error.args[1] if code and len(error.args) > 1 else str(error) or type(error).__name__}"
    server = f"MySQL at {source.text('SERVER', 'localhost')}"
    if code in NOT_IN_CHARACTER_SET and not name.isascii():
        return WrongCredentials("no such account")
    if code in CREDENTIALS_REFUSED:
        return source.failure(f"{server} refuses MYSQL_USERNAME or MYSQL_PASSWORD: {text}")
    if code in DATABASE_REFUSED:
        return source.failure(f"{server} refuses MYSQL_DATABASE: {text}")
    if code in LATE or (code in LOST and "timed out" in text):
        return source.failure(f"{server} takes over {source.timeout} s (PROXY_ACCOUNT_TIMEOUT): {text}")
    if code in UNREACHABLE:
        return source.failure(f"no connection by MYSQL_SERVER, MYSQL_PORT or MYSQL_SOCKET: {text}")
    if code == SYNTAX_ERROR:
        text = "syntax error in the query"  # the server quotes it, and a key may stand in it
    return source.failure(f"{server}: {text} (error {code})" if code else f"{server}: {text}")
