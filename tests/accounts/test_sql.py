"""What the two SQL sources share: clauses with placeholders, settings, rows."""

import random

import pytest
from support import need

from proxyhelper.accounts import mysql, pgsql, sql
from proxyhelper.accounts.clause import Dialect, Value, statement
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, Values

MYSQL = Dialect(is_mysql=True, backslash=True)
MYSQL_PLAIN = Dialect(is_mysql=True, backslash=False)
PGSQL = Dialect(is_mysql=False, backslash=False)
PGSQL_OLD = Dialect(is_mysql=False, backslash=True)
DIALECTS = (MYSQL, MYSQL_PLAIN, PGSQL, PGSQL_OLD)
NAMED = {"local_part": "L", "domain": "D", "service": "S"}
HOSTILE = [
    *["'", "''", '"', "`", "\\", "\\'", "\\\\'", "'--", "' OR '1'='1", "'; DROP TABLE users; --", "/*", "*/", "#"],
    *["$(local_part)", "$(domain)'", "%s", "%(x)s", "%%", "%", "_", "$$", "$a$", ");", "E'", "U&'", "\x01", "\x7f"],
    *["ü", "名前", "😀", "\udcff", "\udc81'", "\udcbf\\'", "\udcbf'", "X'41'", "_latin1", "0x41", "NULL", "' '", "{}"],
]


def shape(parts):
    """The SQL, with ? where a value stands, and the values."""
    return "".join("?" if isinstance(part, Value) else part for part in parts), values(parts)


def values(parts):
    return [str(part) for part in parts if isinstance(part, Value)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("clause", "expected", "bound"),
    [
        ("a='$(local_part)' AND b='$(domain)'", "a=? AND b=?", ["L", "D"]),
        ("a IN('$(local_part)','x')", "a IN(?,'x')", ["L"]),
        ("a='$(local_part)@'", "a=?", ["L@"]),
        ("a='$(local_part)@$(domain)' OR s='$(service)'", "a=? OR s=?", ["L@D", "S"]),
        ("a LIKE '50%s %% $(local_part)%'", "a LIKE ?", ["50%s %% L%"]),
        ("a LIKE '%s' AND b='$(domain)'", "a LIKE '%s' AND b=?", ["D"]),
        ("a=$(local_part) AND 1", "a=? AND 1", ["L"]),
        ("lower($(local_part))", "lower(?)", ["L"]),
        ("a='it''s $(local_part)'", "a=?", ["it's L"]),
        ("a='it''s' AND b='$(domain)'", "a='it''s' AND b=?", ["D"]),
        ("a='' AND b='$(domain)'", "a='' AND b=?", ["D"]),
        ("'$(local_part)'", "?", ["L"]),
        ("a ='$(local_part)'AND b=1 -- it's a comment", "a =?AND b=1 -- it's a comment", ["L"]),
        ("/* it's */ a='$(local_part)'", "/* it's */ a=?", ["L"]),
        ("$1 $x $$ a", None, []),
        ("SELECT 1", "SELECT 1", []),
        ("", "", []),
    ],
)
def test_literals_with_placeholders_become_values(dialect, clause, expected, bound):
    if expected is None:
        expected = clause
        dialect = MYSQL
    assert shape(statement(clause, NAMED, dialect)) == (expected, bound)


@pytest.mark.parametrize(
    ("dialect", "clause", "expected", "bound"),
    [
        (MYSQL, 'a="$(local_part)"', "a=?", ["L"]),
        (MYSQL, 'a="say ""$(local_part)"" it\'s"', "a=?", ['say "L" it\'s']),
        (MYSQL, r"a='it\'s $(local_part)\n\\\%\q'", "a=?", ["it's L\n\\\\%q"]),
        (MYSQL_PLAIN, r"a='\' AND b='$(domain)\'", "a='\\' AND b=?", ["D\\"]),
        (MYSQL, "a=`it's` AND b='$(domain)'", "a=`it's` AND b=?", ["D"]),
        (MYSQL, "a=5--'x$(domain)'", "a=5--?", ["xD"]),
        (PGSQL, r"a='\' AND b='$(domain)\'", "a='\\' AND b=?", ["D\\"]),
        (PGSQL_OLD, r"a='it\'s $(domain)'", "a=?", ["it's D"]),
        (PGSQL, r"a=E'it\'s $(domain)\\'", "a=?", ["it's D\\"]),
        (PGSQL, r"a=e'\'' AND b='$(domain)'", "a=e'\\'' AND b=?", ["D"]),
        (PGSQL, r"a LIKE'\' AND b='$(domain)'", "a LIKE'\\' AND b=?", ["D"]),
        (PGSQL, "a=$$it's$$ AND b='$(domain)'", "a=$$it's$$ AND b=?", ["D"]),
        (PGSQL, "a=$q$it's $$ $q$ AND b='$(domain)'", "a=$q$it's $$ $q$ AND b=?", ["D"]),
        (PGSQL, """a="it's" AND b='$(domain)'""", """a="it's" AND b=?""", ["D"]),
        (PGSQL, "/* /* it's */ ' */ b='$(domain)'", "/* /* it's */ ' */ b=?", ["D"]),
        (PGSQL, "a#b AND b='$(domain)'", "a#b AND b=?", ["D"]),
        (PGSQL, "a$b$ AND b='$(domain)'", "a$b$ AND b=?", ["D"]),
    ],
)
def test_literals_of_a_dialect(dialect, clause, expected, bound):
    assert shape(statement(clause, NAMED, dialect)) == (expected, bound)


@pytest.mark.parametrize(
    ("dialect", "clause"),
    [
        *[(dialect, clause) for dialect in DIALECTS for clause in (
            "a='$(newpass)'", "a='$()'", "a='$(local_part'", "a=$(local_part", "a='$(LOCAL_PART)'", "a='$( domain)'",
            "FROM t_$(domain)", "FROM $(domain)_t", "FROM a.$(domain)", "FROM $(domain).a", "@$(domain)",
            "-- $(local_part)", "/* $(local_part) */ a", "N'$(local_part)'", "x'$(local_part)'", "_utf8'$(local_part)'",
            "$(local_part)$(domain)", "'$(local_part)", "a='x' '$(local_part)'", "a='$(local_part)' 'x'",
            "U&'$(domain)'", "a='$(local_part)' '$(domain)'", "'x'$(local_part)", "$(local_part)'x'", "/* open",
            "a='$(local_part)' ''",
        )],
        (MYSQL, "a=`$(local_part)`"),
        (MYSQL, "a # $(local_part)"),
        (MYSQL, "a=\"x\" '$(local_part)'"),
        (MYSQL, "/*!50000 $(local_part) */"),
        (PGSQL, 'a="$(local_part)"'),
        (PGSQL, "a=$$ $(local_part) $$"),
        (PGSQL, "a=$tag$ $(local_part) $tag$"),
        (PGSQL, "a=$tag$ '$(local_part)'"),
        (PGSQL, r"a=E'\x41$(local_part)'"),
        (PGSQL, "/* /* */ $(local_part) */"),
    ],
)  # fmt: skip
def test_placeholders_that_cannot_be_made_safe_are_refused(dialect, clause):
    with pytest.raises(ValueError, match=r"placeholder|glued|closing|side by side|the character"):
        statement(clause, NAMED, dialect)


def test_nothing_that_a_client_types_changes_the_sql():
    """Clauses and names at random: the SQL stays, and each value is the template filled in once."""
    chance = random.Random(4)
    snippets = [
        "'$(local_part)'",
        "'x$(domain)y'",
        " $(service) ",
        "'it''s'",
        "'%s'",
        " /* ' */ ",
        "a=",
        " AND ",
        "(",
        "1",
    ]
    for _ in range(3000):
        clause = " = ".join(chance.choice(snippets) for _ in range(chance.randint(1, 6)))
        dialect = chance.choice(DIALECTS)
        typed = {name: "".join(chance.choice(HOSTILE) for _ in range(chance.randint(0, 5))) for name in NAMED}
        plain, hostile = statement(clause, NAMED, dialect), statement(clause, typed, dialect)
        assert shape(plain)[0] == shape(hostile)[0]
        known = {"L": typed["local_part"], "xDy": f"x{typed['domain']}y", "S": typed["service"]}
        assert values(hostile) == [known[value] for value in values(plain)]


def test_mysql_values_are_hexadecimal():
    class Connection:
        encoding, charset = "utf8", "utf8mb4"

    for name in HOSTILE:
        try:
            query = mysql._rendered(Connection, ["a=", Value(name), ""])
        except WrongCredentials:
            assert any("\udc80" <= character <= "\udcff" for character in name)
            continue
        assert query == f"a= _utf8mb4 X'{name.encode().hex()}' ".encode()


def source(tmp_path, text, prefix="MYSQL"):
    (tmp_path / f"auth{prefix.lower()}rc").write_text(text)
    return sql.Source(Settings("imap", str(tmp_path), {}, Values({}, {})), prefix)


TABLE = "MYSQL_USER_TABLE users\nMYSQL_CRYPT_PWFIELD crypt\n"


def test_table_form_with_courier_s_defaults(tmp_path):
    asked = shape(sql.query_for(source(tmp_path, TABLE), MYSQL, "imap", "u1@example.com"))
    assert asked == ("SELECT id, crypt, '', uid, gid, home, '', '', '', '' FROM users WHERE id = ?", ["u1@example.com"])


EVERY = """
MYSQL_USER_TABLE users
MYSQL_LOGIN_FIELD c1
MYSQL_CRYPT_PWFIELD c2
MYSQL_CLEAR_PWFIELD c3
MYSQL_UID_FIELD c4
MYSQL_GID_FIELD c5
MYSQL_HOME_FIELD c6
MYSQL_MAILDIR_FIELD c7
MYSQL_QUOTA_FIELD c8
MYSQL_NAME_FIELD c9
MYSQL_AUXOPTIONS_FIELD CONCAT('a=', a)
MYSQL_WHERE_CLAUSE live=1 \\
  OR vip=1
DEFAULT_DOMAIN d.ex
"""


def test_table_form_with_every_setting(tmp_path):
    found, bound = shape(sql.query_for(source(tmp_path, EVERY), MYSQL, "imap", "u1"))
    columns = "c1, c2, c3, c4, c5, c6, c7, c8, '', CONCAT('a=', a)"
    assert " ".join(found.split()) == f"SELECT {columns} FROM users WHERE c1 = ? AND (live=1 OR vip=1)"
    assert bound == ["u1@d.ex"]


@pytest.mark.parametrize("prefix", ["MYSQL", "PGSQL"])
@pytest.mark.parametrize("name", ["AUXOPTIONS", "AUXOPTIONS_FIELD"])
def test_both_spellings_of_auxoptions(tmp_path, prefix, name):
    text = TABLE.replace("MYSQL", prefix) + f"{prefix}_{name} options\n"
    assert ", options FROM" in shape(sql.query_for(source(tmp_path, text, prefix), MYSQL, "imap", "u1"))[0]


@pytest.mark.parametrize("setting", ["DEFAULT_DOMAIN", "MYSQL_DEFAULT_DOMAIN"])
@pytest.mark.parametrize(
    ("name", "in_table", "in_clause"),
    [
        ("u1", ["u1@d.ex"], ["u1", "d.ex"]),
        ("u1@", ["u1@"], ["u1", "d.ex"]),
        ("u1@a.ex", ["u1@a.ex"], ["u1", "a.ex"]),
        ("u1@a@b", ["u1@a@b"], ["u1", "a@b"]),
        ("@a", ["@a"], ["", "a"]),
    ],
)
def test_default_domain(tmp_path, setting, name, in_table, in_clause):
    table = source(tmp_path, f"{TABLE}{setting} d.ex")
    assert values(sql.query_for(table, MYSQL, "imap", name)) == in_table
    clause = source(
        tmp_path, f"MYSQL_SELECT_CLAUSE SELECT 1 \\\n WHERE a='$(local_part)' AND b='$(domain)'\n{setting} d.ex"
    )
    assert values(sql.query_for(clause, MYSQL, "imap", name)) == in_clause


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("MYSQL_CRYPT_PWFIELD crypt", "MYSQL_USER_TABLE"),
        ("MYSQL_USER_TABLE users", "MYSQL_CLEAR_PWFIELD"),
        ("MYSQL_SELECT_CLAUSE SELECT 1", "MYSQL_SELECT_CLAUSE"),
        ("MYSQL_SELECT_CLAUSE SELECT '$(service)'", "MYSQL_SELECT_CLAUSE"),
        ("MYSQL_SELECT_CLAUSE SELECT '$(local_part)' FROM `$(domain)`", "MYSQL_SELECT_CLAUSE"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path, text, named):
    with pytest.raises(Temporary, match=f"authmysqlrc.*{named}"):
        sql.query_for(source(tmp_path, text), MYSQL, "imap", "u1")


def test_enumeration_by_table_and_by_clause(tmp_path):
    text = TABLE + "MYSQL_WHERE_CLAUSE a OR b\n"
    assert shape(sql.query_for_all(source(tmp_path, text), MYSQL)) == (
        "SELECT id, uid, gid, home, '', '' FROM users WHERE (a OR b)",
        [],
    )
    unsafe = text + "MYSQL_ENUMERATE_CLAUSE SELECT x WHERE '$(local_part)' '*' = 1"
    with pytest.raises(Temporary, match="MYSQL_ENUMERATE_CLAUSE"):
        sql.query_for_all(source(tmp_path, unsafe), MYSQL)
    text += "MYSQL_ENUMERATE_CLAUSE SELECT x WHERE a='$(local_part)' AND b='$(domain)' AND c='$(service)'"
    assert values(sql.query_for_all(source(tmp_path, text), MYSQL)) == ["*", "*", "enumerate"]
    with pytest.raises(Temporary, match="MYSQL_ENUMERATE_CLAUSE"):
        sql.query_for_all(source(tmp_path, "MYSQL_SELECT_CLAUSE SELECT '$(local_part)'"), MYSQL)


ROW = (
    b"u1@example.com",
    b"{SHA}x",
    b"clear",
    b"1000",
    b"1001",
    b"/home/u1",
    b"Mail",
    b"5S",
    b"U One",
    b"mailhost=a.ex",
)


def test_account_of_a_row(tmp_path):
    account = sql.account(source(tmp_path, TABLE), ROW, "mailhost=default,x=1")
    assert (account.address, account.password, account.cleartext) == ("u1@example.com", b"{SHA}x", b"clear")
    assert (account.uid, account.gid, account.home, account.maildir) == (1000, 1001, "/home/u1", "Mail")
    assert (account.quota, account.options) == ("5S", {"mailhost": "a.ex", "x": "1"})


def test_absent_values_and_missing_columns(tmp_path):
    account = sql.account(source(tmp_path, TABLE), (b"u1", b"", b"", b"", b"", b""), "")
    assert (account.password, account.cleartext, account.uid, account.gid) == (b"", b"", None, None)
    assert (account.home, account.maildir, account.quota, account.options) == ("", "", "", {})


@pytest.mark.parametrize("row", [None, (b"", *ROW[1:])])
def test_no_row_and_no_name_are_no_account(tmp_path, row):
    with pytest.raises(WrongCredentials):
        sql.account(source(tmp_path, TABLE), row, "")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("uid", value) for value in (b"-1", b"4294967295", b"1 ", b"1.0", b"x", "\u0661".encode(), b"99999999999")],
        *[(column, value) for column in sql.COLUMNS if column != "fullname" for value in (b"a\r", b"a\nb", b"\0")],
    ],
)
def test_values_that_cannot_be_used(tmp_path, column, value):
    row = [value if name == column else old for name, old in zip(sql.COLUMNS, ROW, strict=True)]
    with pytest.raises(Temporary, match=column) as caught:
        sql.account(source(tmp_path, TABLE), row, "")
    assert not any(character in str(caught.value) for character in "\r\n\0")


def test_too_few_columns(tmp_path):
    with pytest.raises(Temporary, match="MYSQL_SELECT_CLAUSE gives 5 columns"):
        sql.account(source(tmp_path, TABLE), ROW[:5], "")


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "a\rb"])
def test_names_that_no_column_holds(name):
    with pytest.raises(WrongCredentials):
        sql.check_name(name)


def test_failures_are_one_line_without_the_password(tmp_path):
    failure = source(tmp_path, "MYSQL_PASSWORD hush-hush\n").failure("first hush-hush\n\tand second")
    assert str(failure).endswith("authmysqlrc: first … and second")


def test_every_setting_of_the_shipped_files_is_known():
    for source_module, path in ((mysql, "/etc/courier/authmysqlrc"), (pgsql, "/etc/courier/authpgsqlrc")):
        try:
            with open(path) as file:
                words = [line.strip("# \t").split() for line in file]
        except OSError:
            need(False, path)
        prefix = source_module.PREFIX
        names = {line[0] for line in words if len(line) > 1 and line[0].startswith(f"{prefix}_") and line[0].isupper()}
        assert names <= {*source_module.KNOWN, *source_module.IGNORED}
        assert not {*source_module.KNOWN} & {*source_module.IGNORED}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [{}]),
        ({"host": "a"}, [{"host": "a"}]),
        ({"host": "a,b", "user": "u"}, [{"host": "a", "user": "u"}, {"host": "b", "user": "u"}]),
        ({"host": "a,b", "port": "1,2"}, [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}]),
        ({"host": "a,b", "port": "1"}, [{"host": "a", "port": "1"}, {"host": "b", "port": "1"}]),
        ({"host": "a,b", "hostaddr": "1"}, [{"host": "a,b", "hostaddr": "1"}]),
    ],
)
def test_hosts_of_a_conninfo_are_tried_in_turn(given, expected):
    assert pgsql._servers(given) == expected


@pytest.mark.parametrize("clause", ["SELECT e'a'\n$(local_part)", "SELECT $(local_part)\r'b'"])
def test_bare_placeholder_beside_a_string(clause):
    """PostgreSQL makes one string of two on lines of their own, by the first one's rules."""
    with pytest.raises(ValueError, match="side by side"):
        statement(clause, NAMED, PGSQL)
