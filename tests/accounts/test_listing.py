"""Every record of a userdb: where it stands, what is wrong with it, and that it is the one a lookup finds."""

import os
import resource
import time

import pytest
from support import gdbm

from proxyhelper.accounts import userdb
from proxyhelper.accounts.listing import MAX_LINE, records, size
from proxyhelper.accounts.userdb import CHUNK, lookup, parse
from proxyhelper.failures import Temporary
from proxyhelper.text import encode


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "userdb")


def write(path, text, mode=0o600):
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    os.chmod(path, mode)


def test_records_of_a_file(path):
    write(path, "# comment\tx=1\n\nu1\tuid=1|options=mailhost=a\r\nu2\tsystempw=x")
    assert [(record.line, record.name, record.fields, record.problem) for record in records(path)] == [
        (3, "u1", {"uid": "1", "options": "mailhost=a"}, ""),
        (4, "u2", {"systempw": "x"}, ""),
    ]


@pytest.mark.parametrize(
    ("line", "name", "problem"),
    [
        (b"u1 uid=1", "", "no tab"),
        (b"\tuid=1", "", "no name"),
        (b"u1\thome=/\0", "u1", "NUL"),
        (b"u1\tuid=root", "u1", "uid='root' is not a number"),
        (b"u1\tgid=4294967295", "u1", "gid='4294967295' is not a number"),
        (b"u1\toptions=a=b\rc", "u1", "CR"),
        (b"u1\t" + b"x" * MAX_LINE, "u1", "over 65536 bytes"),
        (b"x" * 3 * MAX_LINE, "", "no tab"),
        (b"u1\t" + b"\r" * MAX_LINE + b"x", "u1", "over 65536 bytes"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_lines_that_are_no_record(path, line, name, problem, end):
    write(path, b"u0\ta=b\n" + line + end)
    first, second = records(path)
    assert first.problem == ""
    assert (second.name, second.line) == (name, 2)
    assert problem in second.problem


def test_lines_around_the_longest(path):
    for length in range(MAX_LINE - 3, MAX_LINE + 3):
        write(path, b"u1\t" + b"x" * (length - 4) + b"\nu2\ta=b\n")
        first, second = records(path)
        assert bool(first.problem) == (length > MAX_LINE)
        assert (second.name, second.line, second.problem) == ("u2", 2, "")


def test_names_that_are_not_utf8(path):
    write(path, b"\xff\xfe\toptions=\xff\n")
    (record,) = records(path)
    assert encode(record.name) == b"\xff\xfe"
    assert encode(record.fields["options"]) == b"\xff"


def test_first_in_order_is_what_a_lookup_finds(path):
    os.makedirs(f"{path}/b/sub", 0o700)
    os.chmod(path, 0o700)
    names = [f"u{number % 7}" for number in range(40)]
    for place in ("c", "a", "b/z", "b/sub/x"):
        write(f"{path}/{place}", "".join(f"{name}\tin={place}{at}\n" for at, name in enumerate(names)))
    write(f"{path}/.hidden", "u9\tin=hidden\n")
    os.mkfifo(f"{path}/zz", 0o600)
    found = {}
    for record in records(path):
        found.setdefault(record.name, record)
    assert len(found) == 7
    for name, record in found.items():
        assert record.fields == parse(lookup(path, name.encode()))
        assert (record.file, record.line) == (f"{path}/a", names.index(name) + 1)


def test_bytes_are_told_as_they_are_read(path):
    write(path, "".join(f"user{number}\tuid=1\n" for number in range(40000)))
    told = []
    assert len(list(records(path, told.append))) == 40000
    assert sum(told) == size(path) == os.path.getsize(path)
    assert max(told) < 2 * CHUNK


@pytest.mark.parametrize("list_all", [records, size])
def test_no_userdb_at_all(path, list_all):
    with pytest.raises(Temporary, match=f"cannot read {path}: No such file"):
        list(list_all(path))


def test_unreadable_file_is_named(path):
    os.mkdir(path, 0o700)
    os.symlink("nowhere", f"{path}/broken")
    with pytest.raises(Temporary, match=f"{path}/broken"):
        list(records(path))


def test_others_may_read_it_and_it_is_listed(path):
    write(path, "u1\ta=b\n", 0o644)
    assert [record.name for record in records(path)] == ["u1"]


class TestCompiled:
    @pytest.fixture
    def compiled(self, path):
        gnu = gdbm()
        for name, entries in (
            ("", {b"u1": b"uid=1|mail=m", b"u2": b"uid=x"}),
            ("shadow", {b"u1": b"systempw=x", b"u3": b"imappw=y"}),
        ):
            with gnu.open(f"{path}{name}.dat", "n", 0o600) as database:
                for key, value in entries.items():
                    database[key] = value
        return path

    def test_both_parts(self, compiled):
        told = []
        found = {record.name: record for record in records(compiled, told.append)}
        assert sorted(found) == ["u1", "u2", "u3"]
        for name, record in found.items():
            assert record.fields == parse(lookup(compiled, name.encode()))
            assert (record.file, record.line, record.place) == (f"{compiled}.dat", 0, f"{compiled}.dat")
        assert "uid='x'" in found["u2"].problem
        assert sum(told) == size(compiled)

    def test_text_counts_where_there_is_one(self, compiled):
        write(compiled, "u9\ta=b\n")
        assert [record.place for record in records(compiled)] == [f"{compiled} line 1"]

    def test_without_dbm_gnu(self, compiled, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "dbm.gnu", None)
        with pytest.raises(Temporary, match=r"dbm\.gnu"):
            list(records(compiled))

    def test_garbage(self, compiled):
        write(f"{compiled}.dat", b"garbage")
        with pytest.raises(Temporary, match="cannot read"):
            list(records(compiled))


def test_100000_accounts(path):
    line = f"uid=1000|gid=1000|home=/home/u|systempw=$6${'x' * 95}|options=mailhost=server1.example.com,disablepop3=1"
    write(path, "".join(f"user{number}@example.com\t{line}\n" for number in range(100_000)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert sum(record.problem == "" for record in records(path)) == 100_000
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192
    assert not userdb.lookup(path, b"nobody")
