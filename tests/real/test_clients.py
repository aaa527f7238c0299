"""Mail clients that nobody here wrote, fetching known messages byte for byte: from a backend, and from this host."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import open_directory

from .activators import couriertcpd, front
from .clients import LOGIN, check_mailbox, connect, imap_login, imap_message, log_out
from .conftest import FAR, FARTHER, NEAR, Site
from .mail import MESSAGES, Account, message
from .world import program, run

FRONT = "127.0.0.1"
USER = pwd.getpwnam("nobody").pw_uid


@pytest.fixture(scope="module", autouse=True)
def listeners(site: Site, backends: None) -> Iterator[None]:
    with open_directory() as directory, front(couriertcpd, directory, FRONT, site.environment):
        yield


@pytest.fixture(params=[FAR, NEAR], ids=lambda account: account.name)
def account(request: pytest.FixtureRequest) -> Account:
    assert isinstance(request.param, Account)
    return request.param


@pytest.fixture
def area(area: Path) -> Path:
    """The directory of the client's user."""
    os.chown(area, USER, USER)
    return area


def fetch(area: Path, command: str, *arguments: str) -> None:
    """Run a mail client as an ordinary user."""
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    run([*user, program(command), *arguments], environment={"HOME": str(area), "FETCHMAILHOME": str(area)})


def write_settings(file: Path, text: str) -> str:
    """Write a settings file that only the client's user may read; its name."""
    file.touch(0o600)
    file.write_text(text)
    os.chown(file, USER, USER)
    return str(file)


def check_files(directory: Path, *added: bytes) -> None:
    """The files are the known messages as stored on Unix, but for header fields that the client has added."""
    stored = sorted(without_fields(added, file.read_bytes()) for file in directory.iterdir())
    assert stored == sorted(text.replace(b"\r\n", b"\n") for text in MESSAGES)


def without_fields(names: tuple[bytes, ...], text: bytes) -> bytes:
    """The message without these fields of its header."""
    header, _, body = text.partition(b"\n\n")
    fields = re.split(rb"\n(?![ \t])", header)
    return b"\n".join(field for field in fields if field.partition(b":")[0] not in names) + b"\n\n" + body


CURL = {"login": [], "LOGIN": ["--login-options", "AUTH=LOGIN"], "PLAIN": ["--login-options", "AUTH=PLAIN"]}
CURL["PLAIN, initial response"] = [*CURL["PLAIN"], "--sasl-ir"]


@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_curl(area: Path, account: Account, protocol: str, options: list[str]) -> None:
    place = {"imap": "INBOX;MAILINDEX={}", "pop3": "{}"}[protocol]
    targets = []
    for number in range(1, len(MESSAGES) + 1):
        targets += ["-o", str(area / str(number)), f"{protocol}://{FRONT}/{place.format(number)}"]
    fetch(area, "curl", "-sS", *options, "--user", f"{account.name}:{account.password}", *targets)
    assert tuple((area / str(number)).read_bytes() for number in range(1, len(MESSAGES) + 1)) == MESSAGES


MBSYNC = """\
IMAPAccount account
Host {address}
User {name}
Pass "{password}"
SSLType None
AuthMechs {mechanism}

IMAPStore far
Account account

MaildirStore near
Inbox {directory}/mail
Path {directory}/

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync Pull
SyncState {directory}/
"""


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
def test_mbsync(area: Path, account: Account, mechanism: str) -> None:
    password = account.password.replace("\\", "\\\\").replace('"', '\\"')
    settings = {"address": FRONT, "name": account.name, "password": password, "mechanism": mechanism}
    file = write_settings(area / "mbsyncrc", MBSYNC.format(directory=area, **settings))
    fetch(area, "mbsync", "-c", file, "-a")
    check_files(area / "mail/cur", b"X-TUID")


GETMAIL = """\
[retriever]
type = Simple{protocol}Retriever
server = {address}
username = {name}
password = {password}
[destination]
type = Maildir
path = {directory}/mail/
[options]
read_all = true
delivered_to = false
received = false
verbose = 0
"""


def test_getmail(area: Path, account: Account, protocol: str) -> None:
    for part in ("mail", "mail/cur", "mail/new", "mail/tmp"):
        (area / part).mkdir()
        os.chown(area / part, USER, USER)
    settings = {"address": FRONT, "name": account.name, "password": account.password, "protocol": protocol.upper()}
    write_settings(area / "getmailrc", GETMAIL.format(directory=area, **settings))
    fetch(area, "getmail", f"--getmaildir={area}", "--rcfile=getmailrc")
    check_files(area / "mail/new", b"Return-Path", b"X-getmail-retrieved-from-mailbox")


FETCHMAIL = """\
poll {address} protocol {protocol}
user '{name}' password '{password}' sslproto '' fetchall keep no rewrite
mda "{directory}/deliver"
"""


def test_fetchmail(area: Path, account: Account, protocol: str) -> None:
    (area / "deliver").write_text(f'#!/bin/sh\nexec cat >"$(mktemp {area}/mail/XXXXXX)"\n')
    (area / "deliver").chmod(0o755)
    (area / "mail").mkdir()
    os.chown(area / "mail", USER, USER)
    password = account.password.replace("\\", "\\\\")
    settings = {"address": FRONT, "name": account.name, "password": password, "protocol": protocol}
    file = write_settings(area / "fetchmailrc", FETCHMAIL.format(directory=area, **settings))
    fetch(area, "fetchmail", "--silent", "-f", file)
    check_files(area / "mail", b"Received", b"Return-Path")


def test_upload(account: Account) -> None:
    """The other way: what imaplib appends is what it then fetches, every byte of a megabyte."""
    uploaded = message("uploaded", b"".join(b"%07d up up up up\n" % n for n in range(50_000)))
    client = imap_login(FRONT, account)
    client.create("INBOX.Uploaded")
    assert client.append("INBOX.Uploaded", "", "", uploaded)[0] == "OK"
    _, (count,) = client.select("INBOX.Uploaded")
    assert imap_message(client, int(count or 0)) == uploaded
    log_out(client)


def test_idle() -> None:
    """What happens in a mailbox reaches a client that waits for it."""
    other = imap_login(FRONT, FAR)
    other.create("INBOX.Idle")
    name, password = FAR.name, FAR.password.replace("\\", "\\\\").replace('"', '\\"')
    with connect(FRONT, "imap") as client, client.makefile("rb") as lines:
        client.sendall(f'a1 LOGIN {name} "{password}"\r\na2 SELECT INBOX.Idle\r\na3 IDLE\r\n'.encode())
        assert any(line.startswith(b"+ ") for line in lines)
        other.append("INBOX.Idle", "", "", MESSAGES[0])
        assert any(line.endswith(b" EXISTS\r\n") for line in lines)
        client.sendall(b"DONE\r\na4 LOGOUT\r\n")
        assert any(line.startswith(b"a4 OK ") for line in lines)
    log_out(other)


def test_many_at_once(protocol: str) -> None:
    """Accounts here and elsewhere, thirty sessions at the same time."""
    clients = [LOGIN[protocol](FRONT, account) for _ in range(10) for account in (FAR, FARTHER, NEAR)]
    with ThreadPoolExecutor(len(clients)) as at_once:
        assert len(list(at_once.map(check_mailbox, clients))) == len(clients)
