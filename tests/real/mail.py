"""Accounts and the messages in their mailboxes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import hashed

MAIL_UID = pwd.getpwnam("mail").pw_uid
"""Owner of every mailbox: nobody's account, so that a server that gets in has become the account's user."""


@dataclass(frozen=True)
class Account:
    """A mail account as every server of a test knows it."""

    name: str
    password: str
    mailhost: str = ""
    options: str = ""

    @property
    def all_options(self) -> str:
        """The account options as Courier keeps them."""
        return ",".join(filter(None, (self.mailhost and f"mailhost={self.mailhost}", self.options)))


def message(subject: str, body: bytes) -> bytes:
    """A message as IMAP and POP3 carry it."""
    header = f"From: a@example.com\nTo: b@example.com\nSubject: {subject}\nMessage-ID: <{subject}@example.com>\n"
    return (header.encode() + b"Date: Mon, 01 Jan 2024 12:00:00 +0000\n\n" + body).replace(b"\n", b"\r\n")


MESSAGES = (
    message("plain", b"Hello.\n"),
    message("dots", b".\n..\n.leading\n...\nend\n"),
    message("8bit", b"Gr\xc3\xbc\xc3\x9fe, \xa4\xff\xfe and a tab\t.\n"),
    message("long", b"x" * 900 + b"\n" + b"- word" * 120 + b"\n"),
    message("protocol", b"* BYE\n+OK\na1 OK LOGIN Ok.\n* 1 FETCH (FLAGS ())\n)\n"),
    message("big", b"".join(b"%07d 0123456789abcdef 0123456789abcdef\n" % n for n in range(20_000))),
)


def fill_maildir(maildir: Path, messages: Sequence[bytes] = MESSAGES) -> None:
    """Make a maildir of MAIL_UID that holds the messages in this order, numbered from 1."""
    for part in (maildir, maildir / "cur", maildir / "new", maildir / "tmp"):
        part.mkdir(parents=True, exist_ok=True)
        os.chown(part, MAIL_UID, MAIL_UID)
    for number, text in enumerate(messages, 1):
        stored = text.replace(b"\r\n", b"\n")
        file = maildir / "cur" / f"{1_700_000_000 + number}.M{number}P1.mail,S={len(stored)}:2,S"
        file.write_bytes(stored)
        os.chown(file, MAIL_UID, MAIL_UID)


def home_of(homes: Path, account: Account) -> Path:
    """The home directory of an account on the server that keeps its homes there; made if need be."""
    home = homes / account.name
    if not home.exists():
        home.mkdir(parents=True)
        os.chown(home, MAIL_UID, MAIL_UID)
    return home


def write_userdb(file: Path, accounts: Iterable[Account], homes: Path) -> None:
    """Courier's userdb, with everyone's home below one directory."""
    file.touch(0o600)
    file.write_text("".join(_userdb_line(account, home_of(homes, account)) for account in accounts))


def _userdb_line(account: Account, home: Path) -> str:
    fields = {"uid": MAIL_UID, "gid": MAIL_UID, "home": home, "mail": home / "Maildir"}
    fields |= {"systempw": hashed(account.password), "options": account.all_options}
    return f"{account.name}\t{'|'.join(f'{name}={value}' for name, value in fields.items() if value)}\n"
