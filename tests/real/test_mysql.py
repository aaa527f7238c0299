"""Accounts in a real MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import open_directory, wait_until

from proxyhelper.accounts.account import Account
from proxyhelper.accounts.mysql import accounts, find
from proxyhelper.failures import Temporary, WrongCredentials

from .databases import Mariadb, certificate, mariadb
from .sql_cases import AT_ONCE, HOSTILE, quick, saying, settings, silent, stopped

SCHEMA = r"""
CREATE TABLE users (id VARCHAR(200) PRIMARY KEY, crypt VARCHAR(200), clear VARCHAR(200), uid INT UNSIGNED, gid DECIMAL,
    home VARCHAR(200), name VARCHAR(200), maildir VARBINARY(200), quota TEXT, host VARCHAR(200), live INT DEFAULT 1)
    DEFAULT CHARSET utf8mb4;
INSERT INTO users VALUES ('u1@example.com', '{SHA}x', 'secret', 1000, 1001, '/home/u1', 'U', 'Mail', '5S', 'a.ex', 1),
    ('nobody@example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1),
    ('ümlaut@example.com', '', 'größe', 0, 0, '/home/ü', '', '', '', 'a.ex', 1),
    ('o''brien\\@example.com', 'x', '', 1, 1, '', '', '', '', '', 1),
    ('broken@example.com', 'x', '', 1, 1, '/home/a\r\nb', '', '', '', '', 1),
    ('gone@example.com', 'x', '', 1, 1, '', '', '', '', '', 0);
CREATE TABLE latin (id VARCHAR(200), crypt VARCHAR(200), uid INT, gid INT, home VARCHAR(200)) DEFAULT CHARSET latin1;
INSERT INTO latin VALUES ('jürgen', 'x', 1, 1, '/home/ü');
CREATE TABLE many (id VARCHAR(200)) SELECT CONCAT('m', seq, '@example.com') AS id, seq AS uid FROM seq_1_to_100000;
CREATE PROCEDURE one(name VARCHAR(200)) SELECT id, crypt, clear, uid, gid, home FROM users WHERE id = name;
"""
TABLE = """
MYSQL_USER_TABLE users
MYSQL_CRYPT_PWFIELD crypt
MYSQL_CLEAR_PWFIELD clear
MYSQL_MAILDIR_FIELD maildir
MYSQL_QUOTA_FIELD quota
MYSQL_AUXOPTIONS CONCAT("mailhost=", host)
MYSQL_WHERE_CLAUSE live = 1 OR live > 0
DEFAULT_DOMAIN example.com
"""
COLUMNS = "id, crypt, clear, uid, gid, home, maildir, quota, name, CONCAT('mailhost=', host)"
CLAUSES = [
    f"SELECT {COLUMNS} FROM users \\\n\tWHERE id = '$(local_part)@$(domain)' \\\n AND live",
    f"SELECT {COLUMNS} FROM users \\\nWHERE id LIKE '%@%' AND '$(service)' = 'imap' \\\n"
    "AND id = CONCAT('$(local_part)@', '$(domain)')",
    f'SELECT {COLUMNS} FROM users WHERE id = CONCAT("$(local_part)@", "$(domain)") AND live /* it\'s 100% */',
    f"SELECT {COLUMNS} FROM users WHERE id = CONCAT($(local_part), '@', $(domain)) AND live=1 -- it's",
    f"(SELECT {COLUMNS} FROM users WHERE id='$(local_part)@$(domain)') \\\n"
    f"UNION (SELECT {COLUMNS} FROM users WHERE id = 'x');",
    f"WITH found AS (SELECT * FROM users WHERE id = '$(local_part)@$(domain)') SELECT {COLUMNS} FROM found",
]
FORMS = [TABLE, *(f"MYSQL_SELECT_CLAUSE {clause}\nMYSQL_DEFAULT_DOMAIN example.com\n" for clause in CLAUSES)]


@pytest.fixture(scope="module")
def server() -> Iterator[Mariadb]:
    with open_directory() as directory, mariadb(directory, tls=True) as server:
        server.load(SCHEMA)
        yield server


def by_socket(server: Mariadb) -> str:
    who = f"MYSQL_USERNAME {server.user}\nMYSQL_PASSWORD {server.password}\n"
    return f"MYSQL_SERVER localhost\nMYSQL_SOCKET {server.socket}\nMYSQL_DATABASE {server.database}\n{who}"


def over_tcp(server: Mariadb, port: int | None = None) -> str:
    who = f"MYSQL_USERNAME {server.user}\nMYSQL_PASSWORD {server.password}\n"
    return f"MYSQL_SERVER {server.host}\nMYSQL_PORT {port or server.port}\nMYSQL_DATABASE {server.database}\n{who}"


def asked(directory: Path, text: str, name: str, **environment: str) -> Account:
    return find(settings(directory, "MYSQL", text, **environment), "imap", name)


@pytest.mark.parametrize("connection", [by_socket, over_tcp])
@pytest.mark.parametrize("form", FORMS)
def test_account(tmp_path: Path, server: Mariadb, connection, form: str) -> None:
    account = asked(tmp_path, connection(server) + form, "U1")
    assert (account.address, account.password, account.cleartext) == ("u1@example.com", b"{SHA}x", b"secret")
    assert (account.uid, account.gid, account.home, account.maildir) == (1000, 1001, "/home/u1", "Mail")
    assert (account.quota, account.options) == ("5S", {"mailhost": "a.ex"})


@pytest.mark.parametrize("form", FORMS)
def test_null_is_absent(tmp_path: Path, server: Mariadb, form: str) -> None:
    account = asked(tmp_path, by_socket(server) + form, "nobody@example.com")
    assert (account.password, account.cleartext, account.uid, account.gid) == (b"", b"", None, None)
    assert (account.home, account.maildir, account.quota, account.options) == ("", "", "", {})


@pytest.mark.parametrize("form", FORMS)
def test_names_and_values_beyond_ascii_and_with_quotes(tmp_path: Path, server: Mariadb, form: str) -> None:
    account = asked(tmp_path, by_socket(server) + form, "ümlaut@example.com")
    assert (account.cleartext, account.home, account.uid) == ("größe".encode(), "/home/ü", 0)
    assert asked(tmp_path, by_socket(server) + form, "o'brien\\").address == "o'brien\\@example.com"


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI,NO_BACKSLASH_ESCAPES"])
@pytest.mark.parametrize("form", [FORMS[0].replace('"', "'"), *FORMS[1:]])
def test_hostile_names_find_nobody_and_break_nothing(tmp_path: Path, server: Mariadb, mode: str, form: str) -> None:
    server.load(f"SET GLOBAL sql_mode = '{mode}';")
    try:
        text = by_socket(server) + form
        for name in HOSTILE:
            with pytest.raises(WrongCredentials):
                asked(tmp_path, text, name)
        assert asked(tmp_path, text, "u1").address == "u1@example.com"
        assert asked(tmp_path, text, "o'brien\\").address == "o'brien\\@example.com"
    finally:
        server.load("SET GLOBAL sql_mode = DEFAULT;")


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES"])
def test_names_arrive_as_typed(tmp_path: Path, server: Mariadb, mode: str) -> None:
    server.load(f"SET GLOBAL sql_mode = '{mode}';")
    try:
        text = by_socket(server) + "MYSQL_SELECT_CLAUSE SELECT '\\\\$(local_part)>', '\\\\', '', 1, 1, $(domain)\n"
        for name in HOSTILE:
            local_part, _, domain = name.partition("@")
            if name and all(not "\udc80" <= character <= "\udcff" for character in name):
                account = asked(tmp_path, text, name)
                assert (account.address, account.home) == (f"{account.password.decode()}{local_part}>", domain)
    finally:
        server.load("SET GLOBAL sql_mode = DEFAULT;")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["gone@example.com", "u1@elsewhere.example", "u1@example.org", "u3"])
def test_not_found(tmp_path: Path, server: Mariadb, form: str, name: str) -> None:
    form = form.replace("'$(local_part)@$(domain)')", "'$(local_part)@$(domain)' AND live=1)")
    with pytest.raises(WrongCredentials):
        asked(tmp_path, by_socket(server) + form.replace("= 'imap'", "= 'imap' AND live"), name)


def test_values_that_would_break_a_protocol(tmp_path: Path, server: Mariadb) -> None:
    with pytest.raises(Temporary, match=r"home of 'broken@example\.com' holds CR, LF or NUL"):
        asked(tmp_path, by_socket(server) + TABLE, "broken")


def test_character_set_of_the_client(tmp_path: Path, server: Mariadb) -> None:
    """With latin1 set, what is typed is latin1, and what comes back as well: as with Courier."""
    text = by_socket(server) + "MYSQL_USER_TABLE latin\nMYSQL_CRYPT_PWFIELD crypt\n"
    assert asked(tmp_path, text, "jürgen").home == "/home/ü"
    with pytest.raises(WrongCredentials):
        asked(tmp_path, text, "j😀")
    text += "MYSQL_CHARACTER_SET latin1\n"
    assert asked(tmp_path, text, "j\udcfcrgen").home == "/home/\udcfc"
    with pytest.raises(WrongCredentials):
        asked(tmp_path, text, "jürgen")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("MYSQL_PASSWORD ", "MYSQL_PASSWORD wrong", "refuses MYSQL_USERNAME or MYSQL_PASSWORD"),
        ("MYSQL_USERNAME ", "MYSQL_USERNAME wrong", "refuses MYSQL_USERNAME or MYSQL_PASSWORD"),
        ("MYSQL_DATABASE ", "MYSQL_DATABASE wrong", "refuses MYSQL_DATABASE"),
        ("MYSQL_SOCKET ", "MYSQL_SOCKET /nowhere", "MYSQL_SOCKET"),
        ("MYSQL_USER_TABLE ", "MYSQL_USER_TABLE wrong", "wrongusers"),
        ("MYSQL_WHERE_CLAUSE ", "MYSQL_WHERE_CLAUSE SELECT 'key' ", "syntax error"),
        ("MYSQL_CRYPT_PWFIELD ", "MYSQL_CRYPT_PWFIELD wrong", "wrongcrypt"),
        ("MYSQL_DATABASE ", "MYSQL_CHARACTER_SET klingon\nMYSQL_DATABASE ", "MYSQL_CHARACTER_SET"),
        ("MYSQL_DATABASE ", "MYSQL_PORT x\nMYSQL_DATABASE ", "MYSQL_PORT"),
        ("MYSQL_DATABASE ", "# ", "MYSQL_DATABASE is not set"),
        ("MYSQL_USERNAME ", "# ", "MYSQL_USERNAME is not set"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, server: Mariadb, old: str, new: str, named: str) -> None:
    with pytest.raises(Temporary, match=named) as caught:
        asked(tmp_path, (by_socket(server) + TABLE).replace(old, new), "u1")
    assert str(caught.value).startswith(str(tmp_path / "authmysqlrc: "))
    assert server.password not in str(caught.value)
    assert "'key'" not in str(caught.value)


def test_server_that_is_stopped(tmp_path: Path, server: Mariadb) -> None:
    with stopped(server.pid):
        for connection in (by_socket, over_tcp):
            with quick(), pytest.raises(Temporary, match="over 1 s"):
                asked(tmp_path, connection(server) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    assert asked(tmp_path, by_socket(server) + TABLE, "u1").uid == 1000


def test_server_that_accepts_and_never_answers(tmp_path: Path, server: Mariadb) -> None:
    with silent() as port, quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, over_tcp(server, port) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    text = by_socket(server).replace(str(server.socket), str(tmp_path / "s")) + TABLE
    with silent(tmp_path / "s"), quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, text, "u1", PROXY_ACCOUNT_TIMEOUT="1")


def test_statement_that_takes_too_long(tmp_path: Path, server: Mariadb) -> None:
    """It ends on the server as well."""
    text = by_socket(server) + TABLE.replace("live = 1 OR", "BENCHMARK(2000000000, MD5(home)) = 1 OR")
    with quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, text, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    clause = "SELECT 'u1', COUNT(*), '', 1, 1, '' FROM information_schema.processlist "
    still = f"MYSQL_SELECT_CLAUSE {clause} \\\n"
    still += "WHERE info LIKE 'S%BENCHMARK(2%' AND id <> CONNECTION_ID() AND '$(local_part)' > ''\n"
    wait_until(lambda: asked(tmp_path, by_socket(server) + still, "x").password == b"0", "it goes on", AT_ONCE)


def test_stored_procedure(tmp_path: Path, server: Mariadb) -> None:
    text = by_socket(server) + "MYSQL_SELECT_CLAUSE CALL one('$(local_part)@example.com')\n"
    assert asked(tmp_path, text, "u1").uid == 1000
    with pytest.raises(WrongCredentials):
        asked(tmp_path, text, "u1'")


def test_tls(tmp_path: Path, server: Mariadb) -> None:
    assert server.tls
    encrypted = "(SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher') > ''"
    text = over_tcp(server) + TABLE.replace("live = 1 OR live > 0", encrypted)
    with pytest.raises(WrongCredentials):
        asked(tmp_path, text, "u1")
    for more in (f"MYSQL_SSL_CACERT {server.tls.file}", "MYSQL_SSL_CIPHERS DEFAULT", "MYSQL_SSL_CIPHER DEFAULT"):
        assert asked(tmp_path, f"{text}{more}\n", "u1").uid == 1000
    stranger = certificate(tmp_path)
    with pytest.raises(Temporary, match=r"authmysqlrc: .*certificate verify failed"):
        asked(tmp_path, f"{text}MYSQL_SSL_CACERT {stranger.file}\n", "u1")
    with pytest.raises(Temporary, match="MYSQL_SSL_KEY"):
        asked(tmp_path, f"{text}MYSQL_SSL_CACERT /nowhere\n", "u1")


PACKET = (
    b"\x0a5.5.5-10.11.0-MariaDB\0" + b"\1\0\0\0" + b"saltsalt\0" + (0xF7FF).to_bytes(2, "little")
    + b"\x21\2\0" + b"\x3f\0" + b"\x15" + bytes(10) + b"saltsaltsalt\0" + b"mysql_native_password\0"
)  # fmt: skip
WITHOUT_TLS = len(PACKET).to_bytes(3, "little") + b"\0" + PACKET


def test_server_without_tls_hears_nothing_where_tls_is_set(tmp_path: Path, server: Mariadb) -> None:
    with saying(WITHOUT_TLS) as (port, heard), pytest.raises(Temporary, match=r"MYSQL_SSL_|TLS|SSL is required"):
        asked(tmp_path, over_tcp(server, port) + TABLE + "MYSQL_SSL_CIPHERS DEFAULT\n", "u1", PROXY_ACCOUNT_TIMEOUT="1")
    assert heard == []


@pytest.mark.parametrize("greeting", [b"* OK IMAP4rev1\r\n", b"\1\0\0\0\x0a", b"\0" * 64, b"\xff" * 64, b""])
def test_server_that_answers_nonsense(tmp_path: Path, server: Mariadb, greeting: bytes) -> None:
    with saying(greeting) as (port, _), quick(), pytest.raises(Temporary, match="authmysqlrc: "):
        asked(tmp_path, over_tcp(server, port) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")


def test_enumeration(tmp_path: Path, server: Mariadb) -> None:
    table = TABLE.replace("live = 1 OR live > 0", "home NOT LIKE '%\\n%'")
    listed = list(accounts(settings(tmp_path, "MYSQL", by_socket(server) + table)))
    assert [account.address for account in listed] == [
        *("gone@example.com", "o'brien\\@example.com", "u1@example.com", "ümlaut@example.com"),
    ]
    assert (listed[2].uid, listed[2].maildir, listed[2].options) == (1000, "Mail", {"mailhost": "a.ex"})
    assert not listed[2].cleartext


def test_enumeration_of_many_accounts_and_of_the_first(tmp_path: Path, server: Mariadb, recwarn) -> None:
    clause = "MYSQL_ENUMERATE_CLAUSE SELECT id, uid, uid, '/home' FROM many WHERE '$(local_part)$(domain)' = '**'\n"
    many = settings(tmp_path, "MYSQL", by_socket(server) + clause)
    assert sum(1 for _ in accounts(many)) == 100000
    few = accounts(many)
    assert next(few).address == "m1@example.com"
    few.close()
    assert not recwarn.list
