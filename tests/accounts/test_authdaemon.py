"""The authdaemon source against a daemon whose every byte is scripted. Courier's own: tests/real/test_sources.py."""

from __future__ import annotations

import pwd
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import DEADLINE

from proxyhelper import accounts
from proxyhelper.accounts import authdaemon
from proxyhelper.accounts.account import Account
from proxyhelper.accounts.proofs import Password, Response
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, load

FOUND = b"UID=1000\nGID=1001\nHOME=/home/u1\nADDRESS=u1@example.com\nPASSWD={SHA}x\nOPTIONS=mailhost=b,x\n.\n"


class Daemon:
    """A daemon that answers one request with the given pieces, each sent when the one before was read."""

    def __init__(self, directory: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(directory / "socket"))
        self.listener.listen()
        self.listener.settimeout(DEADLINE)
        self.request = b""
        self.released = threading.Event()

    def answer(self, *pieces: bytes, silent: bool = False) -> None:
        """The answer to the next request; `silent` keeps the connection open behind it."""
        self.thread = threading.Thread(target=self._serve, args=(pieces, silent), daemon=True)
        self.thread.start()

    def _serve(self, pieces: tuple[bytes, ...], silent: bool) -> None:
        client, _ = self.listener.accept()
        with client:
            client.settimeout(DEADLINE)
            self.request = client.recv(1 << 16)
            try:
                for piece in pieces:
                    client.sendall(piece)
            except OSError:
                pass  # the helper has had enough
            if silent:
                self.released.wait(DEADLINE)

    def close(self) -> None:
        self.released.set()
        if hasattr(self, "thread"):
            self.thread.join(DEADLINE)
        self.listener.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        "imap",
        {
            "PROXYHELPER_CONFDIR": str(tmp_path),
            "authdaemonvar": str(tmp_path),
            "PROXY_ACCOUNT_TIMEOUT": "1",
            "PROXY_AUTHMODULES": "authdaemon",
            "DEFAULTOPTIONS": "not=again",
        },
    )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path)
    yield one
    one.close()


def find(settings: Settings, name: str = "u1") -> Account:
    return accounts.find(settings, "imap", name)


def test_an_account(settings: Settings, daemon: Daemon) -> None:
    daemon.answer(FOUND)
    account = find(settings)
    assert daemon.request == b"PRE . imap u1\n"
    assert (account.address, account.uid, account.gid, account.home) == ("u1@example.com", 1000, 1001, "/home/u1")
    assert (account.password, account.cleartext, account.groups) == (b"{SHA}x", b"", [])
    assert account.options == {"mailhost": "b", "x": ""}


def test_lines_in_any_order_and_unknown_ones(settings: Settings, daemon: Daemon) -> None:
    lines = [*FOUND.splitlines(keepends=True)[:-1], b"NAME=Us\xc3\xa9r\n", b"QUOTA=10S\n", b"MAILDIR=m\n", b"NEW=1\n"]
    daemon.answer(b"".join(reversed(lines)) + b".\n")
    account = find(settings)
    assert (account.address, account.quota, account.maildir) == ("u1@example.com", "10S", "m")


def test_byte_by_byte(settings: Settings, daemon: Daemon) -> None:
    daemon.answer(*(bytes([byte]) for byte in FOUND))
    assert find(settings).address == "u1@example.com"


def test_the_end_is_enough(settings: Settings, daemon: Daemon) -> None:
    """A daemon that keeps the connection costs no time."""
    daemon.answer(FOUND, silent=True)
    assert find(settings).address == "u1@example.com"


def test_a_password(settings: Settings, daemon: Daemon) -> None:
    daemon.answer(FOUND.replace(b".\n", b"PASSWD2=p w\xff\n.\n"))
    account = accounts.authenticate(settings, "imap", "ü1", Password(b"p w\xff"))
    assert daemon.request == b"AUTH 20\nimap\nlogin\n\xc3\xbc1\np w\xff\n"
    assert account.cleartext == b"p w\xff"


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256"])
def test_a_response(settings: Settings, daemon: Daemon, mechanism: str) -> None:
    daemon.answer(FOUND)
    accounts.authenticate(settings, "pop3", "u1@default.example", Response(mechanism, b"<1@x>", b"u1 0123"))
    head, _, body = daemon.request.partition(b"\n")
    assert body.split(b"\n") == [
        b"pop3",
        mechanism.lower().encode(),
        b64encode(b"<1@x>"),
        b64encode(b"u1@default.example 0123"),
        b"",
    ]
    assert head == b"AUTH %d" % len(body)


def test_refused(settings: Settings, daemon: Daemon) -> None:
    daemon.answer(b"FA", b"IL\n", silent=True)
    with pytest.raises(WrongCredentials, match="no such account"):
        find(settings)
    daemon.close()


NONSENSE = {
    "nothing": [],
    "half a line": [b"UID=1"],
    "half an answer": [FOUND[:-2]],
    "no address": [b"UID=1\nGID=1\n.\n"],
    "only the end": [b".\n"],
    "no field": [b"hello\n" + FOUND],
    "FAIL behind fields": [FOUND[:-2] + b"FAIL\n"],
    "a value with CR": [FOUND.replace(b"home/u1", b"home/u1\r")],
    "a value with NUL": [FOUND.replace(b"home/u1", b"home/u1\0")],
    "one field twice": [b"ADDRESS=other\n" + FOUND],
    "an id that is no number": [FOUND.replace(b"UID=1000", b"UID=-1")],
    "an id too great": [FOUND.replace(b"UID=1000", b"UID=4294967295")],
    "nobody's USERNAME": [FOUND.replace(b"UID=1000", b"USERNAME=nobody-at-all")],
    "another protocol": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
}


@pytest.mark.parametrize("pieces", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("ask", [find, lambda s: accounts.authenticate(s, "imap", "u1", Password(b"secret-x"))])
def test_nonsense(settings: Settings, daemon: Daemon, pieces: list[bytes], ask: Callable[[Settings], object]) -> None:
    daemon.answer(*pieces)
    with pytest.raises(Temporary) as raised:
        ask(settings)
    assert "authdaemon" in str(raised.value)
    assert "secret-x" not in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("pieces", [(), (FOUND[:-2],)], ids=["at once", "in the middle"])
def test_silence(settings: Settings, daemon: Daemon, pieces: tuple[bytes, ...]) -> None:
    daemon.answer(*pieces, silent=True)
    with pytest.raises(Temporary, match="does not answer within 1 s"):
        find(settings)


def test_trickling(settings: Settings, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the whole answer, whatever trickles in."""
    clock = iter(range(100))
    monkeypatch.setattr(authdaemon.time, "monotonic", lambda: next(clock) * 0.4)
    monkeypatch.setattr(authdaemon, "CHUNK", 1)
    daemon.answer(FOUND)
    with pytest.raises(Temporary, match="does not answer within 1 s"):
        find(settings)


@pytest.mark.parametrize("piece", [b"x" * 1000, b"A=1\n" * 250], ids=["no end of a line", "no end of lines"])
def test_too_much(settings: Settings, daemon: Daemon, piece: bytes) -> None:
    daemon.answer(*[piece] * 1000, silent=True)
    with pytest.raises(Temporary, match="over 65536 bytes"):
        find(settings)


def test_nobody_listens(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Temporary, match="No such file"):
        find(settings)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    with pytest.raises(Temporary, match="refused"):
        find(settings)


def test_a_path_too_long() -> None:
    with pytest.raises(Temporary, match="too long"):
        find(load("imap", {"authdaemonvar": "/" + "x" * 200, "PROXY_AUTHMODULES": "authdaemon"}))


@pytest.mark.parametrize("name", ["", " u1", "u1\nx", "u1\0", "u1\r", "x" * 10_000])
def test_names_that_cannot_be_sent(settings: Settings, name: str) -> None:
    """There is no daemon: it is not asked."""
    with pytest.raises(WrongCredentials):
        find(settings, name)


@pytest.mark.parametrize("password", [b"a\nb", b"a\0b", b"a\r", b"x" * 10_000])
def test_passwords_that_cannot_be_sent(settings: Settings, password: bytes) -> None:
    with pytest.raises(WrongCredentials):
        accounts.authenticate(settings, "imap", "u1", Password(password))


@pytest.mark.parametrize("gid", [b"", b"GID=12\n"])
def test_a_user_of_this_host(settings: Settings, daemon: Daemon, gid: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As authpam gives them."""
    monkeypatch.setattr(authdaemon.posix, "getgrouplist", lambda user, gid: [gid, 7] if user == "mail" else [])
    daemon.answer(b"USERNAME=mail\n" + gid + b"HOME=/h\nADDRESS=mail\n.\n")
    account = find(settings)
    entry = pwd.getpwnam("mail")
    wanted = 12 if gid else entry.pw_gid
    assert (account.uid, account.gid, account.home) == (entry.pw_uid, wanted, "/h")
    assert account.groups == [wanted, 7]


def test_listing(settings: Settings, daemon: Daemon) -> None:
    lines = b"# authuserdb\n\nu1\t1000\t1001\t/home/u1\tm\tmailhost=b,x=1\n# authldap\n\n\xc3\xbc2\t\t\t\t\t\n.\n"
    daemon.answer(*(bytes([byte]) for byte in lines), silent=True)
    first, second = authdaemon.accounts(settings)
    assert daemon.request == b"ENUMERATE\n"
    assert (first.address, first.uid, first.gid, first.home, first.maildir) == ("u1", 1000, 1001, "/home/u1", "m")
    assert first.options == {"mailhost": "b", "x": "1"}
    assert (second.address, second.uid, second.options) == ("ü2", None, {})


def test_a_long_listing(settings: Settings, daemon: Daemon) -> None:
    daemon.answer(b"".join(b"u%d\t1\t1\t/h\t\t\n" % number for number in range(20_000)) + b".\n")
    assert sum(1 for account in authdaemon.accounts(settings)) == 20_000


@pytest.mark.parametrize("answer", [b"", b"u1\t1\t1\t/h\t\t\n", b"FAIL\n", b"u1\t1\n.\n", b"x" * 100_000])
def test_a_listing_that_is_none(settings: Settings, daemon: Daemon, answer: bytes) -> None:
    daemon.answer(answer)
    with pytest.raises(Temporary):
        list(authdaemon.accounts(settings))
