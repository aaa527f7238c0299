"""Accounts in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import open_directory, wait_until

from proxyhelper.accounts.account import Account
from proxyhelper.accounts.pgsql import accounts, find
from proxyhelper.failures import Temporary, WrongCredentials

from .databases import Postgres, postgres
from .sql_cases import AT_ONCE, HOSTILE, quick, saying, settings, silent, stopped

SCHEMA = r"""
CREATE TABLE users (id VARCHAR(200) PRIMARY KEY, crypt CHAR(6), clear TEXT, uid INT, gid NUMERIC,
    home VARCHAR(200), name VARCHAR(200), maildir BYTEA, quota TEXT, host VARCHAR(200), live BOOLEAN DEFAULT true);
INSERT INTO users VALUES ('u1@example.com', '{SHA}x', 'secret', 1000, 1001, '/home/u1', 'U', 'Mail', '5S',
        'a.ex', true),
    ('nobody@example.com', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, true),
    ('ümlaut@example.com', '', 'größe', 0, 0, '/home/ü', '', '', '', 'a.ex', true),
    ('o''brien\@example.com', 'x', '', 1, 1, '', '', '', '', '', true),
    ('broken@example.com', 'x', '', 1, 1, E'/home/a\r\nb', '', '', '', '', true),
    ('gone@example.com', 'x', '', 1, 1, '', '', '', '', '', false);
CREATE TABLE many AS SELECT 'm' || number || '@example.com' AS id, number AS uid FROM generate_series(1, 100000) number;
CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;
"""
OTHERS = r"""
CREATE TABLE latin (id VARCHAR(200), crypt VARCHAR(200), uid INT, gid INT, home VARCHAR(200));
INSERT INTO latin VALUES ('jürgen', 'x', 1, 1, '/home/ü');
"""
TABLE = """
PGSQL_USER_TABLE users
PGSQL_CRYPT_PWFIELD crypt
PGSQL_CLEAR_PWFIELD clear
PGSQL_MAILDIR_FIELD maildir
PGSQL_QUOTA_FIELD quota
PGSQL_AUXOPTIONS 'mailhost=' || host
PGSQL_WHERE_CLAUSE live OR NOT NOT live
DEFAULT_DOMAIN example.com
"""
COLUMNS = "id, crypt, clear, uid, gid, home, maildir, quota, name, 'mailhost=' || host"
CLAUSES = [
    f"SELECT {COLUMNS} FROM users \\\n\tWHERE id = '$(local_part)@$(domain)' \\\n AND live",
    f"SELECT {COLUMNS} FROM users \\\nWHERE id LIKE '%@%' AND '$(service)' = 'imap' AND live \\\n"
    "AND id = concat('$(local_part)@', '$(domain)')",
    f"SELECT {COLUMNS} FROM users WHERE id = E'$(local_part)' || '@' || e'$(domain)' AND live /* it's /* 100% */ */",
    f"SELECT {COLUMNS} FROM users WHERE id = concat($(local_part), $$@$$, $(domain)) AND live -- it's",
    f"(SELECT {COLUMNS} FROM users WHERE id='$(local_part)@$(domain)' AND live) \\\n"
    f"UNION (SELECT {COLUMNS} FROM users WHERE id = 'x');",
    f"WITH found AS (SELECT * FROM users WHERE id = '$(local_part)@$(domain)' AND live) SELECT {COLUMNS} FROM found",
]
FORMS = [TABLE, *(f"PGSQL_SELECT_CLAUSE {clause}\nPGSQL_DEFAULT_DOMAIN example.com\n" for clause in CLAUSES)]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with open_directory() as directory, postgres(directory, tls=True) as server:
        server.load(SCHEMA)
        for database in ("latin", "bytes"):
            replace(server, database=database).load(f"SET client_encoding = UTF8; {OTHERS}")
        yield server


def by_socket(server: Postgres, directory: Path | None = None, database: str = "") -> str:
    """With a conninfo."""
    return (
        f"PGSQL_CONNECTION host={directory or server.socket} \\\n\tport={server.port} \\\n\t"
        f"user={server.user} password='{server.password}' dbname={database or server.database}\n"
    )


def over_tcp(server: Postgres, port: int | None = None) -> str:
    """With the separate settings."""
    who = f"PGSQL_USERNAME {server.user}\nPGSQL_PASSWORD {server.password}\n"
    return f"PGSQL_HOST {server.host}\nPGSQL_PORT {port or server.port}\nPGSQL_DATABASE {server.database}\n{who}"


def with_options(server: Postgres, options: str) -> str:
    return over_tcp(server) + f"PGSQL_OPT {options}\n"


def asked(directory: Path, text: str, name: str, **environment: str) -> Account:
    return find(settings(directory, "PGSQL", text, **environment), "imap", name)


@pytest.mark.parametrize("connection", [by_socket, over_tcp])
@pytest.mark.parametrize("form", FORMS)
def test_account(tmp_path: Path, server: Postgres, connection, form: str) -> None:
    account = asked(tmp_path, connection(server) + form, "u1")
    assert (account.address, account.password, account.cleartext) == ("u1@example.com", b"{SHA}x", b"secret")
    assert (account.uid, account.gid, account.home, account.maildir) == (1000, 1001, "/home/u1", "Mail")
    assert (account.quota, account.options) == ("5S", {"mailhost": "a.ex"})


@pytest.mark.parametrize("form", FORMS)
def test_null_is_absent(tmp_path: Path, server: Postgres, form: str) -> None:
    account = asked(tmp_path, by_socket(server) + form, "nobody@example.com")
    assert (account.password, account.cleartext, account.uid, account.gid) == (b"", b"", None, None)
    assert (account.home, account.maildir, account.quota, account.options) == ("", "", "", {})


@pytest.mark.parametrize("form", FORMS)
def test_names_and_values_beyond_ascii_and_with_quotes(tmp_path: Path, server: Postgres, form: str) -> None:
    account = asked(tmp_path, by_socket(server) + form, "ümlaut@example.com")
    assert (account.cleartext, account.home, account.uid) == ("größe".encode(), "/home/ü", 0)
    assert asked(tmp_path, by_socket(server) + form, "o'brien\\").address == "o'brien\\@example.com"


STRINGS = ["on", "off"]
"""Of standard_conforming_strings."""


@pytest.mark.parametrize("standard", STRINGS)
@pytest.mark.parametrize("form", FORMS)
def test_hostile_names_find_nobody_and_break_nothing(
    tmp_path: Path, server: Postgres, standard: str, form: str
) -> None:
    text = with_options(server, f"-cstandard_conforming_strings={standard}") + form
    for name in HOSTILE:
        with pytest.raises(WrongCredentials):
            asked(tmp_path, text, name)
    assert asked(tmp_path, text, "u1").address == "u1@example.com"
    assert asked(tmp_path, text, "o'brien\\").address == "o'brien\\@example.com"


@pytest.mark.parametrize("standard", STRINGS)
def test_names_arrive_as_typed(tmp_path: Path, server: Postgres, standard: str) -> None:
    text = with_options(server, f"-cstandard_conforming_strings={standard}")
    text += "PGSQL_SELECT_CLAUSE SELECT '\\\\$(local_part)>', '\\\\', '', 1, 1, $(domain)\n"
    for name in HOSTILE:
        local_part, _, domain = name.partition("@")
        if name and all(not "\udc80" <= character <= "\udcff" for character in name):
            account = asked(tmp_path, text, name)
            assert (account.address, account.home) == (f"{account.password.decode()}{local_part}>", domain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["gone@example.com", "u1@elsewhere.example", "u1@example.org", "u3"])
def test_not_found(tmp_path: Path, server: Postgres, form: str, name: str) -> None:
    with pytest.raises(WrongCredentials):
        asked(tmp_path, by_socket(server) + form, name)


def test_values_that_would_break_a_protocol(tmp_path: Path, server: Postgres) -> None:
    with pytest.raises(Temporary, match=r"home of 'broken@example\.com' holds CR, LF or NUL"):
        asked(tmp_path, by_socket(server) + TABLE, "broken")


def test_character_sets(tmp_path: Path, server: Postgres) -> None:
    """What is typed, and what comes back, is in the client's character set, the database's if none is set."""
    form = "PGSQL_USER_TABLE latin\nPGSQL_CRYPT_PWFIELD crypt\n"
    latin, raw = (by_socket(server, database=database) + form for database in ("latin", "bytes"))
    as_utf8, as_latin1 = "PGSQL_CHARACTER_SET UTF8\n", "PGSQL_CHARACTER_SET LATIN1\n"
    assert asked(tmp_path, latin + as_utf8, "jürgen").home == "/home/ü"
    assert asked(tmp_path, latin, "j\udcfcrgen").home == "/home/\udcfc"
    assert asked(tmp_path, raw, "jürgen").home == "/home/ü"
    for text, name in ((latin + as_utf8, "j😀"), (latin, "jürgen"), (raw, "j\udcfcrgen"), (raw, "j😀")):
        with pytest.raises(WrongCredentials):
            asked(tmp_path, text, name)
    users = "PGSQL_USER_TABLE users\nPGSQL_CRYPT_PWFIELD crypt\nDEFAULT_DOMAIN example.com\n"
    assert asked(tmp_path, by_socket(server) + users + as_latin1, "\udcfcmlaut").home == "/home/\udcfc"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("password='", "password='wrong", "no connection by PGSQL_CONNECTION: .*password authentication failed"),
        ("user=", "user=wrong", "no connection by PGSQL_CONNECTION"),
        ("dbname=", "dbname=wrong", "no connection by PGSQL_CONNECTION: .*wrongmail"),
        ("host=", "host=/nowhere", "no connection by PGSQL_CONNECTION: .*/nowhere"),
        ("password='", "password=a secret='", "PGSQL_CONNECTION is no conninfo"),
        ("password='", "password=the-Database-$ecret b secret='", "PGSQL_CONNECTION is no conninfo"),
        ("PGSQL_USER_TABLE ", "PGSQL_USER_TABLE wrong", "wrongusers"),
        ("PGSQL_WHERE_CLAUSE ", "PGSQL_WHERE_CLAUSE SELECT 'key' ", "syntax error"),
        ("PGSQL_CRYPT_PWFIELD ", "PGSQL_CRYPT_PWFIELD wrong", "wrongcrypt"),
        ("PGSQL_USER_TABLE ", "PGSQL_CHARACTER_SET klingon\nPGSQL_USER_TABLE ", "klingon"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, server: Postgres, old: str, new: str, named: str) -> None:
    with pytest.raises(Temporary, match=named) as caught:
        asked(tmp_path, (by_socket(server) + TABLE).replace(old, new), "u1")
    assert str(caught.value).startswith(str(tmp_path / "authpgsqlrc: "))
    assert server.password not in str(caught.value)
    assert "'key'" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_separate_credentials_that_are_wrong(tmp_path: Path, server: Postgres) -> None:
    text = over_tcp(server).replace("PGSQL_PASSWORD ", "PGSQL_PASSWORD wrong") + TABLE
    with pytest.raises(Temporary, match=r"PGSQL_HOST, PGSQL_USERNAME or PGSQL_PASSWORD: .*authentication failed"):
        asked(tmp_path, text, "u1")


def test_conninfo_goes_before_the_separate_database(tmp_path: Path, server: Postgres) -> None:
    assert asked(tmp_path, by_socket(server) + TABLE + "PGSQL_DATABASE wrong\n", "u1").uid == 1000
    without = by_socket(server).replace("dbname=mail", "")
    assert asked(tmp_path, without + TABLE + "PGSQL_DATABASE mail\n", "u1").uid == 1000


def test_server_that_is_stopped(tmp_path: Path, server: Postgres) -> None:
    with stopped(server.pid):
        for connection in (by_socket, over_tcp):
            with quick(), pytest.raises(Temporary, match="over 1 s"):
                asked(tmp_path, connection(server) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    assert asked(tmp_path, by_socket(server) + TABLE, "u1").uid == 1000


def test_server_that_accepts_and_never_answers(tmp_path: Path, server: Postgres) -> None:
    with silent() as port, quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, over_tcp(server, port) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    text = by_socket(server, tmp_path) + TABLE
    with silent(tmp_path / f".s.PGSQL.{server.port}"), quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, text, "u1", PROXY_ACCOUNT_TIMEOUT="1")


@pytest.mark.parametrize("greeting", [b"* OK IMAP4rev1\r\n", b"R\0\0\0\x08\0\0\0\x63", b"\0" * 64, b"\xff" * 64, b""])
def test_server_that_answers_nonsense(tmp_path: Path, server: Postgres, greeting: bytes) -> None:
    with saying(greeting) as (port, _), quick(), pytest.raises(Temporary, match="authpgsqlrc: "):
        asked(tmp_path, over_tcp(server, port) + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1")


def test_second_host_of_a_conninfo(tmp_path: Path, server: Postgres) -> None:
    """After one that is not there, and after one that says nothing."""
    with silent() as port, quick():
        for first in (f"{tmp_path},{server.host} port={server.port}", f"127.0.0.1,127.0.0.1 port={port},{server.port}"):
            text = by_socket(server).replace(f"host={server.socket} \\\n\tport={server.port}", f"host={first}")
            assert asked(tmp_path, text + TABLE, "u1", PROXY_ACCOUNT_TIMEOUT="1").uid == 1000


def test_statement_that_takes_too_long(tmp_path: Path, server: Postgres) -> None:
    """It ends on the server as well, and the deadline is its own only: a pooler's connection keeps nothing of it."""
    text = by_socket(server) + TABLE.replace("live OR", "pg_sleep(30) IS NULL OR")
    with quick(), pytest.raises(Temporary, match="over 1 s"):
        asked(tmp_path, text, "u1", PROXY_ACCOUNT_TIMEOUT="1")
    clause = "SELECT 'u1', count(*), '', 1, 1, current_setting('statement_timeout') FROM pg_stat_activity"
    still = f"PGSQL_SELECT_CLAUSE {clause} \\\n"
    still += "WHERE query LIKE '%30) IS NULL%' AND state = 'active' AND query <> '$(domain)' \\\n"
    still += "AND pid <> pg_backend_pid()\n"
    wait_until(lambda: asked(tmp_path, by_socket(server) + still, "x").password == b"0", "it goes on", AT_ONCE)
    assert asked(tmp_path, by_socket(server) + still, "x").home == "5s"


def test_tls(tmp_path: Path, server: Postgres) -> None:
    assert server.tls
    encrypted = "(SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
    text = TABLE.replace("live OR NOT NOT live", encrypted)
    verified = by_socket(server).replace(f"host={server.socket}", "host=localhost sslmode=verify-full sslrootcert={}")
    assert asked(tmp_path, verified.format(server.tls.file) + text, "u1").uid == 1000
    with pytest.raises(Temporary, match=r"no connection by PGSQL_CONNECTION: .*certificate"):
        asked(tmp_path, verified.format("/nowhere") + text, "u1")
    with pytest.raises(WrongCredentials):
        asked(tmp_path, by_socket(server) + text, "u1")


def test_enumeration(tmp_path: Path, server: Postgres) -> None:
    table = TABLE.replace("live OR NOT NOT live", "home NOT LIKE '%b'")
    listed = list(accounts(settings(tmp_path, "PGSQL", by_socket(server) + table)))
    listed.sort(key=lambda account: account.address)
    assert [account.address for account in listed] == [
        *("gone@example.com", "o'brien\\@example.com", "u1@example.com", "ümlaut@example.com"),
    ]
    assert (listed[2].uid, listed[2].maildir, listed[2].options) == (1000, "Mail", {"mailhost": "a.ex"})
    assert not listed[2].cleartext


def test_enumeration_of_many_accounts_and_of_the_first(tmp_path: Path, server: Postgres, recwarn) -> None:
    clause = "PGSQL_ENUMERATE_CLAUSE SELECT id, uid, uid, '/home' FROM many WHERE '$(local_part)$(domain)' = '**'\n"
    many = settings(tmp_path, "PGSQL", by_socket(server) + clause)
    assert sum(1 for _ in accounts(many)) == 100000
    few = accounts(many)
    assert next(few).address == "m1@example.com"
    few.close()
    assert not recwarn.list
