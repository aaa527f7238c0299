"""Courier from its unpacked packages: its configuration directory, its local servers, and all of it as a server.

configure(directory, accounts, homes, IMAP_PROXY="1")       the configuration directory, Courier's own files adapted
local_server("imap")                                        argv for the helper: imapd and its default maildir
with courier(directory, "127.0.0.3", configuration): ...    couriertcpd with imaplogin and courierpop3login
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from support import need

from .mail import Account, write_userdb
from .servers import PORTS, Server, wait_for_answers
from .world import HERE, LogFile, World, program, run, running, wait_until

AUTHDAEMOND = ["sh", "-ec", "set -a; . /etc/courier/authdaemonrc; exec /usr/lib/courier/courier-authlib/authdaemond"]
FILES = ("imapd", "imapd-ssl", "pop3d", "pop3d-ssl")


def part(path: str) -> Path:
    """A file of Courier's IMAP and POP3 packages."""
    file = Path(os.environ.get("PROXYHELPER_COURIER", "/nonexistent"), path)
    need(file.exists(), f"Courier's {path} below PROXYHELPER_COURIER, where its packages are unpacked")
    return file


def local_server(protocol: str) -> list[str]:
    """Courier's imapd or courierpop3d with the default maildir."""
    server = {"imap": "usr/bin/imapd", "pop3": "usr/lib/courier/courier/courierpop3d"}[protocol]
    return [str(part(server)), "Maildir"]


def login_program(protocol: str) -> list[str]:
    """Courier's own counterpart of the helper: authenticates, then proxies or becomes the local server."""
    login = {"imap": "imaplogin", "pop3": "courierpop3login"}[protocol]
    return [str(part(f"usr/lib/courier/courier/{login}")), *local_server(protocol)]


def configure(directory: Path, accounts: Iterable[Account], homes: Path, **settings: str) -> Path:
    """Write a configuration directory: the files that Courier ships, with some settings of our own, and the userdb."""
    directory.mkdir(parents=True)
    for name in FILES:
        text = part(f"etc/courier/{name}").read_text()
        (directory / name).write_text(assign(text, settings))
    (directory / "authdaemonrc").write_text(
        'authmodulelist="authuserdb"\ndaemons=5\nauthdaemonvar=/run/courier/authdaemon\nDEFAULTOPTIONS=""\nLOGGEROPTS=""\n'
    )
    write_userdb(directory / "userdb", accounts, homes)
    return directory


def assign(text: str, settings: dict[str, str]) -> str:
    """Courier's settings file with these assignments in place of its own."""
    for name, value in settings.items():
        others = [line for line in text.splitlines() if not line.startswith(f"{name}=")]
        text = "\n".join([*others, f"{name}={shlex.quote(value)}", ""])
    return text


def as_courier_starts(protocol: str, configuration: Path, argv: Sequence[str]) -> list[str]:
    """The command in the environment that Courier's start script makes of its settings files."""
    first, second = (shlex.quote(str(configuration / name)) for name in FILES if name.startswith(protocol))
    own = "IMAP_STARTTLS=$IMAPDSTARTTLS; PROXY_HOSTNAME=$PROXY_HOSTNAME"
    return ["sh", "-ec", f'set -a; . {first}; . {second}; {own}; exec "$@"', "sh", *argv]


def couriertcpd(address: str, port: int, argv: Sequence[str]) -> list[str]:
    """Courier's own listener, without its limits."""
    options = [f"-address={address}", "-maxprocs=1000", "-maxperip=1000", "-nodnslookup"]
    if b"noidentlookup" in Path(program("couriertcpd")).read_bytes():  # newer ones do no such look-up
        options.append("-noidentlookup")
    return [program("couriertcpd"), *options, str(port), *argv]


@contextmanager
def courier(directory: Path, address: str, configuration: Path, world: World = HERE) -> Iterator[Server]:
    """Courier's IMAP and POP3 servers, with their settings and accounts from a configuration directory."""
    (directory / "run/courier/authdaemon").mkdir(parents=True)
    world = replace(world, files={**world.files, "/etc/courier": configuration, "/run": directory / "run"})
    run([program("makeuserdb")], world=world)
    with ExitStack() as servers:
        servers.enter_context(running(AUTHDAEMOND, world=world, output=directory / "authdaemond"))
        wait_until((directory / "run/courier/authdaemon/socket").exists, "authdaemond does not listen")
        for protocol, port in PORTS.items():
            listener = couriertcpd(address, port, login_program(protocol))
            command = as_courier_starts(protocol, configuration, listener)
            servers.enter_context(running(command, world=world, output=directory / "log"))
        wait_for_answers(address)
        yield Server(address, LogFile(directory / "log"))
