"""Real mail servers. Each context manager starts one in a given directory and yields when it answers.

    with dovecot(directory, "127.0.0.2", accounts) as server: ...
(Courier as a server: courier.py.)
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .mail import MAIL_UID, Account, fill_maildir, home_of
from .world import LogFile, program, run, running, wait_until

PORTS = {"imap": 143, "pop3": 110}


@dataclass(frozen=True)
class Server:
    """A mail server that answers on both ports of an address."""

    address: str
    log: LogFile


def answers(address: str, port: int) -> bool:
    """Whether a server greets there."""
    try:
        with socket.create_connection((address, port), timeout=5) as client:
            return client.recv(4096).startswith((b"* OK", b"+OK"))
    except OSError:
        return False


def wait_for_answers(address: str) -> None:
    """Return as soon as the server there greets on all ports."""
    for port in PORTS.values():
        wait_until(partial(answers, address, port), f"no server answers on {address}:{port}")


def _dovecot_version() -> tuple[int, int]:
    major, minor = run([program("dovecot"), "--version"]).decode().split(".")[:2]
    return int(major), int(minor)


@contextmanager
def file_monitor() -> Iterator[None]:
    """Gamin for all mailboxes: otherwise each of Courier's servers waits a second for one, or starts one that stays."""
    server = Path("/usr/libexec/gam_server")
    if not server.exists():
        yield
        return
    user = str(MAIL_UID)
    with running(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", str(server), "--notimeout"]):
        yield


DOVECOT = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = imap pop3
listen = {address}
ssl = no
first_valid_uid = 1
default_client_limit = 4000
default_process_limit = 1000
service anvil {{
  client_limit = 8000
}}
service stats {{
  client_limit = 8000
}}
service auth {{
  client_limit = 8000
}}
service imap-login {{
  inet_listener imap {{
    port = 143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = 110
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
protocol imap {{
  mail_max_userip_connections = 4000
}}
protocol pop3 {{
  mail_max_userip_connections = 4000
}}
"""

DOVECOT_2_3 = """\
service imap-login {{
  service_count = 0
}}
service pop3-login {{
  service_count = 0
}}
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = {directory}/passwd
}}
userdb {{
  driver = passwd-file
  args = {directory}/passwd
}}
"""

DOVECOT_2_4 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
service imap-login {{
  restart_request_count = unlimited
}}
service pop3-login {{
  restart_request_count = unlimited
}}
auth_allow_cleartext = yes
auth_mechanisms = plain login
mail_driver = maildir
mail_path = ~/Maildir
passdb passwd-file {{
  passwd_file_path = {directory}/passwd
}}
userdb passwd-file {{
  passwd_file_path = {directory}/passwd
}}
"""


@contextmanager
def dovecot(directory: Path, address: str, accounts: Iterable[Account]) -> Iterator[Server]:
    """Dovecot on ports 143 and 110, every account's Maildir filled with the known messages."""
    configuration = DOVECOT_2_4 + DOVECOT if _dovecot_version() >= (2, 4) else DOVECOT_2_3 + DOVECOT
    (directory / "conf").write_text(configuration.format(directory=directory, address=address))
    with (directory / "passwd").open("w") as passwd:
        for account in accounts:
            home = home_of(directory / "homes", account)
            fill_maildir(home / "Maildir")
            passwd.write(f"{account.name}:{{PLAIN}}{account.password}:{MAIL_UID}:{MAIL_UID}::{home}::\n")
    with running([program("dovecot"), "-F", "-c", str(directory / "conf")], output=directory / "output"):
        wait_for_answers(address)
        yield Server(address, LogFile(directory / "log"))
