"""Finding a record in a text userdb, a directory of them, or what makeuserdb made of them."""

import os

import pytest
from support import gdbm

from proxyhelper.accounts import userdb
from proxyhelper.accounts.userdb import lookup
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, Values

RECORD = "uid=1000|gid=1001|home=/home/u1|mail=/mail/u1|quota=5S|systempw=sys|pop3pw=pop|options=mailhost=a.example,x=1"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "userdb")


def find(path, service, name, default_options=""):
    settings = Settings("imap", os.path.dirname(path), {}, Values({}, {"DEFAULTOPTIONS": default_options}))
    return userdb.find(settings, service, name)


def write(path, text, mode=0o600):
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    os.chmod(path, mode)


def test_account(path):
    write(path, f"# comment\nu0\tuid=1\nu1@example.com\t{RECORD}\n")
    account = find(path, "imap", "u1@example.com", "mailhost=default,disableimap=1")
    assert (account.address, account.uid, account.gid, account.home) == ("u1@example.com", 1000, 1001, "/home/u1")
    assert (account.maildir, account.quota, account.password) == ("/mail/u1", "5S", b"sys")
    assert account.options == {"mailhost": "a.example", "x": "1", "disableimap": "1"}
    assert account.options_text() == "mailhost=a.example,x=1,disableimap=1"
    assert find(path, "pop3", "u1@example.com").password == b"pop"


def test_empty_password_of_a_service_is_none(path):
    write(path, "u1\timappw=|systempw=sys\n")
    assert find(path, "imap", "u1").password == b""


@pytest.mark.parametrize(
    "name",
    ["u2", "u", "u1@example.com\t", "1@example.com", "# comment", "", "uid=1000", "U1@EXAMPLE.COM", "u1@example.com\n"],
)
def test_names_that_are_not_there(path, name):
    write(path, f"# comment\t{RECORD}\nu1@example.com\t{RECORD}\nbroken line\n")
    with pytest.raises(WrongCredentials):
        find(path, "imap", name)


@pytest.mark.parametrize("text", ["u1\ta=b", "u1\ta=b\n", "u1\ta=b\r\n", "x\ty\nu1\ta=b\nu1\tc=d\n", "\n\nu1\ta=b\n"])
def test_first_record_counts_wherever_it_ends(path, text):
    write(path, text)
    assert lookup(path, b"u1") == b"a=b"


def test_records_across_the_pieces_read(path, monkeypatch):
    lines = [f"user{number}@example.com\tuid={number}|{'x' * (number % 90)}\n" for number in range(300)]
    write(path, "".join(lines))
    for chunk in (31, 64, 1000, 1 << 20):
        monkeypatch.setattr(userdb, "CHUNK", chunk)
        for line in lines[::7]:
            name, _, record = line.rstrip().partition("\t")
            assert lookup(path, name.encode()) == record.encode()
        assert lookup(path, b"user300@example.com") is None


def test_endless_record(path):
    write(path, b"u1\t" + b"x" * (1 << 20))
    with pytest.raises(Temporary):
        lookup(path, b"u1")


def test_directory(path):
    os.makedirs(f"{path}/sub", 0o700)
    os.chmod(path, 0o700)
    write(f"{path}/b", "u1\tfrom=b\nu2\tfrom=b\n")
    write(f"{path}/sub/c", "u3\tfrom=c\n")
    write(f"{path}/.hidden", "u4\tfrom=hidden\n")
    os.mkfifo(f"{path}/zz", 0o600)
    assert [lookup(path, name) for name in (b"u1", b"u3", b"u4")] == [b"from=b", b"from=c", None]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
@pytest.mark.parametrize("kind", ["file", "directory", "file in a directory"])
def test_others_may_not_read_or_write_it(path, mode, kind):
    if kind == "file":
        write(path, "u1\ta=b\n", mode)
    else:
        os.mkdir(path)
        write(f"{path}/users", "u1\ta=b\n", mode if kind == "file in a directory" else 0o600)
        os.chmod(path, 0o700 if kind == "file in a directory" else mode | 0o100)
    with pytest.raises(Temporary, match="others may read or write"):
        lookup(path, b"u1")


def test_no_userdb_at_all(path):
    with pytest.raises(Temporary, match=path):
        lookup(path, b"u1")


@pytest.mark.parametrize(
    "field", ["uid=root", "uid=-1", "uid=4294967295", "gid=99999999999", "options=a=b\rc", "home=/x\0y"]
)
def test_values_that_cannot_be(path, field):
    write(path, f"u1\t{field}\n")
    with pytest.raises(Temporary):
        find(path, "imap", "u1")


class TestCompiled:
    """`dbm.gnu` writes what makeuserdb writes; the real makeuserdb is in tests/real."""

    @pytest.fixture
    def compiled(self, path):
        gnu = gdbm()
        for name, record in (("", b"uid=1|mail=m"), ("shadow", b"systempw=x")):
            with gnu.open(f"{path}{name}.dat", "n", 0o600) as database:
                database[b"u1"] = record
        return path

    def test_both_parts(self, compiled):
        assert lookup(compiled, b"u1") == b"uid=1|mail=m|systempw=x"
        assert lookup(compiled, b"u2") is None

    def test_newer_text_counts(self, compiled):
        write(compiled, "u1\tfrom=text\n")
        os.utime(compiled, (0, 0))
        assert lookup(compiled, b"u1") == b"uid=1|mail=m|systempw=x"
        os.utime(compiled)
        os.utime(f"{compiled}.dat", (1, 1))
        assert lookup(compiled, b"u1") == b"from=text"

    def test_shadow_that_others_may_read(self, compiled):
        os.chmod(f"{compiled}shadow.dat", 0o644)
        with pytest.raises(Temporary, match="others may read"):
            lookup(compiled, b"u1")

    def test_without_dbm_gnu(self, compiled, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "dbm.gnu", None)
        with pytest.raises(Temporary, match=r"dbm\.gnu"):
            lookup(compiled, b"u1")
        write(compiled, "u1\tfrom=text\n")
        os.utime(compiled, (1, 1))
        assert lookup(compiled, b"u1") == b"from=text"

    def test_garbage(self, compiled):
        write(f"{compiled}.dat", b"garbage")
        with pytest.raises(Temporary, match="cannot read"):
            lookup(compiled, b"u1")
