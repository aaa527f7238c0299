"""The document's main scenarios: hosts that share one configuration directory, every account reached through either."""

from __future__ import annotations

import imaplib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ADDRESS_SPACE_KB, command, open_directory

from . import activators
from .clients import LOGIN, check_mailbox, connect, imap_login
from .conftest import SETTINGS
from .courier import as_courier_starts, configure, courier, couriertcpd, local_server
from .mail import Account, fill_maildir, home_of
from .servers import PORTS
from .world import LogFile, World

ALICE = Account("alice@example.com", "alice-Secret", mailhost="servera.example.com")
BOB = Account("bob@example.com", "bob-Secret", mailhost="serverb.example.com")
CAROL = Account("carol@example.com", "carol-Secret", mailhost="ServerA.Example.com")
ACCOUNTS = (ALICE, BOB, CAROL)
ADDRESSES = {"servera.example.com": "127.0.0.12", "serverb.example.com": "127.0.0.13"}


def host_of(account: Account) -> str:
    """The name of the host that has the account's mailbox."""
    return account.mailhost.lower().rstrip(".")


@dataclass(frozen=True)
class Host:
    """One of the pool: its address, and its log for each protocol."""

    address: str
    logs: Mapping[str, LogFile]


Starter = Callable[[Path, str, Path, World], AbstractContextManager[Host]]


@contextmanager
def with_helper(directory: Path, name: str, configuration: Path, world: World, **environment: str) -> Iterator[Host]:
    """A host whose mail programs reach our helper."""
    environment["PROXYHELPER_CONFDIR"] = str(configuration)
    with activators.front(activators.couriertcpd, directory, ADDRESSES[name], environment, world) as listeners:
        yield Host(ADDRESSES[name], {protocol: listener.log for protocol, listener in listeners.items()})


@contextmanager
def named_by_setting(directory: Path, name: str, configuration: Path, world: World) -> Iterator[Host]:
    """A helper that is told its name by PROXY_HOSTNAME."""
    with with_helper(directory, name, configuration, world, PROXY_HOSTNAME=name) as host:
        yield host


@contextmanager
def named_by_system(directory: Path, name: str, configuration: Path, world: World) -> Iterator[Host]:
    """A helper on a host of that name."""
    with with_helper(directory, name, configuration, in_world_of(name, configuration, world)) as host:
        yield host


@contextmanager
def foreign(directory: Path, name: str, configuration: Path, world: World) -> Iterator[Host]:
    """A helper that knows its backends to differ from Courier's imapd."""
    world = in_world_of(name, configuration, world)
    with with_helper(directory, name, configuration, world, IMAP_PROXY_FOREIGN="1") as host:
        yield host


@contextmanager
def started_as_courier(directory: Path, name: str, configuration: Path, world: World) -> Iterator[Host]:
    """A helper with the settings in its environment, in Courier's place in its start script."""
    world = in_world_of(name, configuration, world)
    with ExitStack() as listeners:
        logs = {}
        for protocol, port in PORTS.items():
            (directory / protocol).mkdir(parents=True)
            argv = command(protocol, *local_server(protocol))
            listener = as_courier_starts(protocol, configuration, couriertcpd(ADDRESSES[name], port, argv))
            started = activators.listening(directory / protocol, ADDRESSES[name], port, listener, {}, world)
            logs[protocol] = listeners.enter_context(started).log
        yield Host(ADDRESSES[name], logs)


@contextmanager
def with_courier(directory: Path, name: str, configuration: Path, world: World) -> Iterator[Host]:
    """A host with Courier's own login programs."""
    with courier(directory, ADDRESSES[name], configuration, in_world_of(name, configuration, world)) as server:
        yield Host(server.address, dict.fromkeys(PORTS, server.log))


def in_world_of(name: str, configuration: Path, world: World) -> World:
    """The world of a host of that name, with the pool's configuration directory in Courier's place."""
    files = {**world.files, "/etc/courier": configuration}
    return World(hostname=name, files=files, address_space=ADDRESS_SPACE_KB)


@contextmanager
def pool(directory: Path, *starters: Starter) -> Iterator[dict[str, Host]]:
    """Two hosts with one identical configuration directory, each with the mailboxes of its own accounts only."""
    homes = directory / "homes"
    configuration = configure(directory / "etc", ACCOUNTS, homes, **SETTINGS)
    hosts = directory / "hosts"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in ADDRESSES.items()))
    servera, serverb = (
        starter(directory / name, name, configuration, _own_files(directory / name, name, homes, hosts))
        for name, starter in zip(ADDRESSES, starters, strict=True)
    )
    with servera as one, serverb as other:
        yield dict(zip(ADDRESSES, (one, other), strict=True))


def _own_files(directory: Path, name: str, homes: Path, hosts: Path) -> World:
    """The host's own home directories where its configuration says that all homes are, and the pool's names."""
    own_homes = directory / "homes"
    for account in ACCOUNTS:
        if host_of(account) == name:
            fill_maildir(home_of(own_homes, account) / "Maildir")
    return World(files={str(homes): own_homes, "/etc/hosts": hosts})


POOLS = {
    "PROXY_HOSTNAME": (named_by_setting, named_by_setting),
    "host names": (named_by_system, named_by_system),
    "Courier's start script": (started_as_courier, started_as_courier),
    "before Courier": (named_by_system, with_courier),
    "before Courier, foreign": (foreign, with_courier),
}


@pytest.fixture(scope="module", params=POOLS)
def hosts(request: pytest.FixtureRequest) -> Iterator[dict[str, Host]]:
    with open_directory() as directory, pool(directory, *POOLS[request.param]) as started:
        yield started


@pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
@pytest.mark.parametrize("entry", ADDRESSES)
def test_every_account_through_either(hosts: dict[str, Host], entry: str, account: Account, protocol: str) -> None:
    client = LOGIN[protocol](hosts[entry].address, account)
    check_mailbox(client)
    hosts[host_of(account)].logs[protocol].wait_for(f"LOGIN, user={account.name}, ")


def test_backend_is_logged(hosts: dict[str, Host], protocol: str) -> None:
    entry = hosts["servera.example.com"]
    check_mailbox(LOGIN[protocol](entry.address, BOB))
    wanted = re.escape(f"backend={BOB.mailhost}:{PORTS[protocol]}")
    entry.logs[protocol].wait_for(f"(?i)LOGOUT, user={BOB.name}, .*{wanted}")


ANNOUNCED = {"host names": 0, "before Courier": 0, "before Courier, foreign": 1}


@pytest.mark.parametrize(("hosts", "announced"), ANNOUNCED.items(), indirect=["hosts"], ids=ANNOUNCED)
def test_foreign_capabilities_are_announced(hosts: dict[str, Host], announced: int) -> None:
    with connect(hosts["servera.example.com"].address, "imap") as client, client.makefile("rb") as lines:
        lines.readline()
        client.sendall(f"a1 LOGIN {BOB.name} {BOB.password}\r\na2 LOGOUT\r\n".encode())
        said = [line.split()[:2] for line in lines]
    assert said[:-2].count([b"*", b"CAPABILITY"]) == announced
    assert said[-3:] == [[b"a1", b"OK"], [b"*", b"BYE"], [b"a2", b"OK"]]


def test_wrong_password(hosts: dict[str, Host]) -> None:
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap_login(hosts["servera.example.com"].address, Account(BOB.name, "wrong-guess"))
