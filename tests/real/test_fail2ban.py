"""fail2ban's own courier-auth filter over our lines, as they arrive through every sink."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import open_directory

from .activators import ACTIVATORS, Listener, front
from .clients import CLIENT, connect
from .conftest import Site
from .world import program, run, wait_until

STRANGER = "203.0.113.9"
FORGED = f"x, ip=[{STRANGER}]"
NAMES = [
    "near@example.com",
    FORGED,
    f"{FORGED}, port=[1]",
    f"ip=[{STRANGER}]",
    f"x], ip=[{STRANGER}",
    f"x\tip=[{STRANGER}]",
    f"x, method=PLAIN, ip=[{STRANGER}]",
    f"LOGIN FAILED, user=y, ip=[{STRANGER}]",
    f"\\x2c\\\\, ip=[{STRANGER}], ",
    f"x%2c%20ip=[{STRANGER}]",
    f"ü\u2028ü, ip=[{STRANGER}]",
]
STAMP = "Nov 22 10:00:00 mailserver"


def as_journalctl_shows(lines: list[str], ident: str) -> list[str]:
    """Lines of a service's stderr, as fail2ban has them from the journal."""
    return [f"{STAMP} {ident}[77]: {re.sub('^<[0-7]>', '', line)}" for line in lines]


@pytest.fixture(scope="module", params=["couriertcpd, courierlogger", "xinetd", "systemd"])
def listeners(request: pytest.FixtureRequest, site: Site) -> Iterator[dict[str, Listener]]:
    activator = ACTIVATORS[request.param]
    with open_directory() as directory, front(activator, directory, "127.0.0.1", site.environment) as started:
        yield started


def blamed(lines: list[str], area: Path) -> list[str]:
    """Whom fail2ban would ban for these lines of a log file."""
    file = area / "auth.log"
    file.write_text("".join(f"{line}\n" for line in lines))
    return run([program("fail2ban-regex"), "-o", "ip", str(file), "courier-auth"]).decode().split()


def fail_to_log_in(address: str, protocol: str, name: str) -> None:
    quoted = name.replace("\\", "\\\\")
    commands = {"imap": [f'a1 LOGIN "{quoted}" "wrong-guess"'], "pop3": [f"USER {name}", "PASS wrong-guess"]}
    with connect(address, protocol) as client, client.makefile("rwb") as wire:
        wire.readline()
        for command in commands[protocol]:
            wire.write(command.encode() + b"\r\n")
            wire.flush()
            reply = wire.readline()
        assert reply.startswith((b"a1 NO [AUTHENTICATIONFAILED]", b"-ERR [AUTH]"))


def test_filter_can_be_fooled(area: Path) -> None:
    line = f"{STAMP} imapd[77]: LOGIN FAILED, user={FORGED}, ip=[::ffff:{CLIENT}], port=[1]"
    assert blamed([line], area) == [STRANGER]


def test_only_the_client_is_blamed(listeners: dict[str, Listener], protocol: str, area: Path) -> None:
    log = listeners[protocol].log
    for name in NAMES:
        fail_to_log_in(listeners[protocol].address, protocol, name)
    wait_until(lambda: len(log.matching("LOGIN FAILED, user=")) == len(NAMES), "not every failure is logged")
    lines = log.lines()
    if any(line.startswith("<") for line in lines):
        lines = as_journalctl_shows(lines, {"imap": "imapd", "pop3": "pop3d"}[protocol])
    assert blamed(lines, area) == [CLIENT] * len(NAMES)
