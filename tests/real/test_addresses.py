"""One socket for IPv4 and IPv6, as couriertcpd listens where nobody gives it an address."""

from __future__ import annotations

import imaplib
import re
from collections.abc import Iterator

import pytest
from support import ADDRESS_SPACE_KB, open_directory
from support import command as helper

from .activators import Listener, Service, couriertcpd
from .conftest import FAR, NEAR, Site
from .courier import local_server
from .mail import Account
from .world import World

PORT = 8143
"""Not 143, which the backends have on addresses of their own."""


@pytest.fixture(scope="module")
def listener(site: Site, backends: None) -> Iterator[Listener]:
    argv = helper("imap", *local_server("imap"))
    with open_directory() as directory:
        service = Service(directory, "::", PORT, argv, site.environment, World(address_space=ADDRESS_SPACE_KB))
        with couriertcpd(service) as started:
            yield started


CLIENTS = {"127.0.0.1": "(::ffff:)?127.0.0.1", "::1": "::1"}
"""Where a client on this host connects to and comes from, and how it is logged: Courier's imapd as it is told."""


@pytest.mark.parametrize("account", [FAR, NEAR], ids=lambda account: account.name)
@pytest.mark.parametrize(("address", "logged"), CLIENTS.items())
def test_either_family(listener: Listener, account: Account, address: str, logged: str) -> None:
    with imaplib.IMAP4(address, PORT) as client:
        client.login(account.name, account.password)
        port = client.sock.getsockname()[1]
    for event in ("Connection", f"LOGIN, user={re.escape(account.name)}", f"LOGOUT, user={re.escape(account.name)}"):
        listener.log.wait_for(rf"{event}, ip=\[{logged}\], port=\[{port}\]")
