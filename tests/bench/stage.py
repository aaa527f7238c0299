"""Everything that is measured, listening side by side on port 143 (behind TLS: 993) of its own address."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from real.activators import listening
from real.certificates import Authority, Certificate
from real.courier import as_courier_starts, configure, courier, couriertcpd, local_server, part
from real.mail import Account
from real.servers import answers, dovecot
from real.world import BARE_ENVIRONMENT, World, running
from support import hashed, need, wait_until

from .client import NAME

DOVECOT = "127.0.0.2"
PUMP = "127.0.0.3"
OURS = "127.0.0.11"
BARE = "127.0.0.12"
COURIER = "127.0.0.13"
OURS_WITH_FEW = "127.0.0.14"
OURS_WITH_MANY = "127.0.0.15"

SECRET = "secret"
FEW, MANY = 100, 100_000
SETTINGS = {"IMAP_PROXY": "1", "PROXY_HOSTNAME": NAME}
READER = Account("reader@example.com", SECRET, mailhost=DOVECOT)
HEAVY = Account("heavy@example.com", SECRET, mailhost=PUMP)
PRINT_A_GREETING = "print('* OK [CAPABILITY IMAP4rev1] ready', flush=True)"


def numbered(number: int) -> Account:
    return Account(f"user{number:06d}@example.com", SECRET, mailhost=DOVECOT)


def middle_and_end(accounts: int) -> tuple[Account, Account]:
    return numbered(accounts // 2), numbered(accounts - 1)


@dataclass(frozen=True)
class Stage:
    """How to start what is measured."""

    directory: Path
    python: str
    program: str
    """The installed helper."""
    servers: ExitStack
    """Whatever has been started, until the end."""
    certificate: Certificate
    """For everyone who speaks TLS."""
    trust: ssl.SSLContext
    """Of clients, in that certificate."""

    @property
    def configuration(self) -> Path:
        return self.directory / "etc"

    @property
    def helper(self) -> list[str]:
        return [self.python, "-I", "-S", self.program, *local_server("imap")]

    @property
    def environment(self) -> dict[str, str]:
        return BARE_ENVIRONMENT | {"PROXYHELPER_CONFDIR": str(self.configuration)}

    def bare(self, code: str) -> list[str]:
        """The same Python, started the same way, for something else."""
        return [self.python, "-I", "-S", "-c", code]

    @property
    def peer(self) -> str:
        """Courier's own counterpart."""
        return str(part("usr/lib/courier/courier/imaplogin"))

    def room(self, name: str) -> Path:
        """A new directory."""
        (self.directory / name).mkdir()
        return self.directory / name

    def site(self, name: str, accounts: int = 0, **settings: str) -> Path:
        """A configuration directory, with numbered accounts or the two that everyone knows."""
        homes = self.directory / "homes"
        settings = SETTINGS | {"TLS_CERTFILE": str(self.certificate.both)} | settings
        configuration = configure(self.directory / name, [READER, HEAVY], homes, **settings)
        if accounts:
            write_userdb(configuration / "userdb", accounts)
        return configuration

    def listen(self, address: str, argv: list[str], configuration: Path, port: int = 143, **environment: str) -> None:
        """Run argv under couriertcpd."""
        command = as_courier_starts("imap", configuration, couriertcpd(address, port, argv))
        environment |= {"PROXYHELPER_CONFDIR": str(configuration)}
        listener = listening(self.room(f"{address}:{port}"), address, port, command, environment, World())
        self.servers.enter_context(listener)


def interpreter(directory: Path) -> str:
    """The Python that the programs in this directory were installed with."""
    beside = directory / "python"
    return str(beside if beside.exists() else sys.executable)


def write_userdb(file: Path, accounts: int) -> None:
    """A userdb of numbered accounts as a busy site has them."""
    password = hashed(SECRET)
    with file.open("w") as userdb:
        file.chmod(0o600)
        for number in range(accounts):
            account = numbered(number)
            home = f"home=/var/mail/user{number:06d}"
            rest = f"systempw={password}|options={account.all_options}"
            userdb.write(f"{account.name}\tuid=1000|gid=1000|{home}|{rest}\n")


@contextmanager
def assembled(directory: Path, bin_directory: Path) -> Iterator[Stage]:
    """Backends, Courier's proxy, the helper with three configuration directories, and a bare Python."""
    need(os.geteuid() == 0, "root, for port 143 and to become other users")
    program = bin_directory / "proxyhelper-imap"
    need(program.exists(), f"the installed program {program}")
    with ExitStack() as servers:
        (directory / "authority").mkdir()
        authority = Authority(directory / "authority")
        certificate = authority.issue("front", f"DNS:{NAME}")
        python = interpreter(bin_directory)
        stage = Stage(directory, python, str(program), servers, certificate, authority.trusting())
        known = [READER, *middle_and_end(FEW), *middle_and_end(MANY)]
        servers.enter_context(dovecot(stage.room("dovecot"), DOVECOT, known))
        servers.enter_context(running([sys.executable, str(Path(__file__).with_name("pump.py")), PUMP]))
        wait_until(lambda: answers(PUMP, 143), "the pump does not answer")
        servers.enter_context(courier(stage.room("courier"), COURIER, stage.site("courier-etc")))
        stage.listen(OURS, stage.helper, stage.site("etc"))
        stage.listen(OURS, stage.helper, stage.configuration, 993, PROXY_TLS_WRAP="1")
        stage.listen(BARE, stage.bare(PRINT_A_GREETING), stage.configuration)
        stage.listen(OURS_WITH_FEW, stage.helper, stage.site("few", FEW))
        stage.listen(OURS_WITH_MANY, stage.helper, stage.site("many", MANY))
        yield stage
