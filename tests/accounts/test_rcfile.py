"""authldaprc, authmysqlrc, authpgsqlrc, as Courier's authconfigfile reads them."""

import os
import re
from pathlib import Path

import pytest
from support import need

from proxyhelper.accounts.rcfile import load, parse
from proxyhelper.failures import Temporary


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A b", {"A": "b"}),
        ("A b\n", {"A": "b"}),
        ("A b\r\n", {"A": "b"}),
        ("A\tb\n", {"A": "b"}),
        ("A \t \tb\n", {"A": "b"}),
        (" \tA b\n", {"A": "b"}),
        ("A b \t \n", {"A": "b"}),
        ("A b c  d\n", {"A": "b c  d"}),
        ("A b\tc\n", {"A": "b\tc"}),
        ("A 'b' \"c\" $d # e\n", {"A": "'b' \"c\" $d # e"}),
        ("A=b\n", {"A=b": ""}),
        ("A\n", {"A": ""}),
        ("A \t\n", {"A": ""}),
        ("a b\nA c\n", {"a": "b", "A": "c"}),
        ("# A b\n#A b\n \t# A b\n##NAME: MARKER:0\n", {}),
        ("\n\n  \n\t\nA b\n\n", {"A": "b"}),
        ("A#b c\n", {"A#b": "c"}),
        ("A a wörd\n", {"A": "a wörd"}),
    ],
    ids=repr,
)
def test_lines(text, values):
    assert parse(text) == values


def test_of_two_of_one_name_the_first_counts():
    assert parse("A b\nB x\nA c\nA\n") == {"A": "b", "B": "x"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A b\\\nc\nB d\n", "b c"),
        ("A b \\\n c\nB d\n", "b c"),
        ("A b \\ \t\n\tc\nB d\n", "b c"),
        ("A b \\\r\n c\r\nB d\r\n", "b c"),
        ("A b \\\n c \\\n d\nB d\n", "b c d"),
        ("A b \\\n# c\nB d\n", "b # c"),
        ("A b \\\n# c \\\nd\nB d\n", "b # c d"),
        ("A b \\\n\nB d\n", "b"),
        ("A b \\\n \t\nB d\n", "b"),
        ("A b \\\\\nc\nB d\n", "b \\ c"),
        ("A b\\c\nB d\n", "b\\c"),
        ("# a comment does not go on \\\nA b\nB d\n", "b"),
        ("A \\\nb\nB d\n", "b"),
    ],
    ids=repr,
)
def test_line_that_goes_on(text, words):
    """By the words of it: how many blanks stand between them means nothing in SQL."""
    values = parse(text)
    assert values["A"].split() == words.split()
    assert values == {"A": values["A"], "B": "d"}


@pytest.mark.parametrize("text", ["B d\nA b\\", "B d\nA b\\\n", "B d\nA b \\\n\n", "B d\nA b \\\n "])
def test_file_that_ends_in_a_line_that_goes_on(text):
    assert parse(text) == {"A": "b", "B": "d"}


def test_select_clause_of_couriers_sample():
    text = (
        "PGSQL_SELECT_CLAUSE\tSELECT popbox.local_part,\t\t\t\\\n"
        "\t\t\t'{MD5}' || popbox.password_hash,\t\\\n"
        "\t\t\tCONCAT('$(local_part)', '%')\t\\\n"
        "\t\t\tFROM popbox   \\\n"
        "#\t\t\tnot a comment   \\\n"
        "\t\t\tWHERE x = '$(domain)'\n"
        "# a comment\n"
        "PGSQL_PORT 5432\n"
    )
    values = parse(text)
    assert values["PGSQL_PORT"] == "5432"
    assert " ".join(values["PGSQL_SELECT_CLAUSE"].split()) == (
        "SELECT popbox.local_part, '{MD5}' || popbox.password_hash, CONCAT('$(local_part)', '%') FROM popbox "
        "# not a comment WHERE x = '$(domain)'"
    )


SHIPPED = {
    "authldaprc": {
        "LDAP_URI": "ldaps://ldap.example.com, ldaps://backup.example.com",
        "LDAP_BASEDN": "o=example, c=com",
        "LDAP_BINDPW": "toto",
        "LDAP_CRYPTPW": "userPassword",
        "LDAP_CLEARPW": "clearPassword",
        "LDAP_TLS": "0",
    },
    "authmysqlrc": {"MYSQL_USERNAME": "admin", "MYSQL_OPT": "0", "MYSQL_LOGIN_FIELD": "id", "MYSQL_HOME_FIELD": "home"},
    "authpgsqlrc": {
        "PGSQL_CONNECTION": "host=pgsql.example.com port=5400 user=admin password=admin",  # over four lines
        "PGSQL_DATABASE": "template1",
        "PGSQL_HOME_FIELD": "home",
    },
}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_courier_ships(name):
    shipped = Path("/etc/courier", name)
    need(os.access(shipped, os.R_OK), f"Courier's {shipped}, readable")
    values = load(str(shipped))
    assert {setting: " ".join(values[setting].split()) for setting in SHIPPED[name]} == SHIPPED[name]
    family = next(iter(SHIPPED[name])).partition("_")[0]
    assert all(re.fullmatch(rf"{family}_[A-Z_]+", setting) for setting in values)
    assert not [value for value in values.values() if "#" in value or "\\" in value]


def test_file_that_is_not_there(tmp_path):
    path = str(tmp_path / "authldaprc")
    with pytest.raises(Temporary, match=f"^{path} is not there"):
        load(path)


def test_file_that_is_empty(tmp_path):
    (tmp_path / "authldaprc").write_text("")
    with pytest.raises(Temporary, match="empty"):
        load(str(tmp_path / "authldaprc"))


@pytest.mark.parametrize("kind", ["directory", "FIFO", "too long"])
def test_what_is_no_file_of_settings(tmp_path, kind):
    path = tmp_path / "authldaprc"
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.write_bytes(b"A b\n" * (1 << 19))
    with pytest.raises(Temporary, match=str(path)):
        load(str(path))


def test_text_of_any_bytes(tmp_path):
    (tmp_path / "authldaprc").write_bytes(b"A w\xf6rd\n")
    assert load(str(tmp_path / "authldaprc")) == {"A": "w\udcf6rd"}
