"""Accounts made with Courier's own tools: userdb and userdbpw as the document says, and makeuserdb."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from support import gdbm

from .activators import couriertcpd, front
from .clients import LOGIN, check_mailbox
from .conftest import FAR, HOSTNAME, NEAR, SETTINGS
from .courier import configure
from .mail import MAIL_UID, Account, fill_maildir, home_of
from .world import World, program, run

FRONT = "127.0.0.1"
ACCOUNTS = (NEAR, FAR)


@pytest.fixture
def configuration(area: Path) -> Path:
    """A configuration directory without accounts; NEAR has a mailbox."""
    directory = configure(area / "etc", [], area / "homes", PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
    fill_maildir(home_of(area / "homes", NEAR) / "Maildir")
    (directory / "userdb").unlink()
    return directory


def add(configuration: Path, account: Account, folder: str = "", form: str = "") -> None:
    """Make an account with Courier's tools."""
    home = configuration.parent / "homes" / account.name
    fields = [f"uid={MAIL_UID}", f"gid={MAIL_UID}", f"home={home}", f"mail={home}/Maildir"]
    userdb = shlex.join([program("userdb"), folder + account.name])
    password = f"printf '%s\\n' {shlex.quote(account.password)} | {program('userdbpw')} {form}"
    script = [
        f"{userdb} set {shlex.join(fields)}",
        f"{userdb} set options=mailhost={account.mailhost}",
        f"{password} | {userdb} set systempw",
    ]
    run(["sh", "-ec", "\n".join(script)], world=World(files={"/etc/courier": configuration}))


def in_a_file(configuration: Path) -> None:
    for account in ACCOUNTS:
        add(configuration, account, form="-md5")


def in_a_directory(configuration: Path) -> None:
    (configuration / "userdb").mkdir(0o700)
    for account, folder in zip(ACCOUNTS, ("here", "elsewhere"), strict=True):
        (configuration / "userdb" / folder).touch(0o600)
        add(configuration, account, folder=f"{folder}/")


def compiled(configuration: Path) -> None:
    """The text is older and empty: only the compiled files have the accounts."""
    gdbm()
    in_a_file(configuration)
    run([program("makeuserdb")], world=World(files={"/etc/courier": configuration}))
    (configuration / "userdb").write_text("")
    os.utime(configuration / "userdb", (1, 1))


@pytest.mark.parametrize("accounts", [in_a_file, in_a_directory, compiled])
def test_accounts(
    area: Path, configuration: Path, backends: None, accounts: Callable[[Path], None], protocol: str
) -> None:
    accounts(configuration)
    with front(couriertcpd, area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(configuration)}):
        for account in ACCOUNTS:
            check_mailbox(LOGIN[protocol](FRONT, account))
