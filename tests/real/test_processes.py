"""The processes of a session: who they are, and that they go."""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import open_directory

from .activators import Listener, couriertcpd, front
from .clients import LOGIN, log_out
from .conftest import FAR, NEAR, Site
from .mail import MAIL_UID, Account
from .world import wait_until

Front = dict[str, Listener]


@pytest.fixture(scope="module")
def listeners(site: Site, backends: None) -> Iterator[Front]:
    with open_directory() as directory, front(couriertcpd, directory, "127.0.0.1", site.environment) as started:
        yield started


def children(pid: int) -> list[int]:
    """The processes that this one has started, but for those that have ended."""
    started = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in started if not is_gone(child)]


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return status(pid)["State"][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def status(pid: int) -> dict[str, list[str]]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def session(listener: Listener) -> int:
    """The process of the only session there is."""
    wait_until(lambda: len(children(listener.pid)) == 1, "sessions of other tests have not ended")
    return children(listener.pid)[0]


def proxy_user() -> pwd.struct_passwd:
    """Courier's user, or nobody where there is none."""
    return next(user for name in ("courier", "nobody") for user in pwd.getpwall() if user.pw_name == name)


def test_relaying_helper_is_not_root(listeners: Front, protocol: str) -> None:
    client = LOGIN[protocol](listeners[protocol].address, FAR)
    who = status(session(listeners[protocol]))
    assert set(who["Uid"]) == {str(proxy_user().pw_uid)}
    assert set(who["Gid"] + who["Groups"]) == {str(proxy_user().pw_gid)}
    assert {int(who[kind][0], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    log_out(client)


def test_local_server_is_the_accounts_user(listeners: Front, site: Site, protocol: str) -> None:
    client = LOGIN[protocol](listeners[protocol].address, NEAR)
    process = session(listeners[protocol])
    who = status(process)
    assert set(who["Uid"] + who["Gid"]) == {str(MAIL_UID)}
    assert "0" not in who["Groups"]
    assert {int(who[kind][0], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert Path(f"/proc/{process}/cwd").readlink() == site.homes / NEAR.name / "Maildir"
    log_out(client)


@pytest.mark.parametrize("account", [FAR, NEAR], ids=lambda account: account.name)
def test_nothing_stays_of_a_client_that_vanishes(listeners: Front, protocol: str, account: Account) -> None:
    client = LOGIN[protocol](listeners[protocol].address, account)
    session(listeners[protocol])
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.file.close()
    client.sock.close()
    wait_until(lambda: not children(listeners[protocol].pid), "the session stays")
