"""Real mail servers. Each context manager starts one in a given directory and yields when it answers.

    with dovecot(directory, "127.0.0.2", accounts) as server: ...
    with dovecot(directory, "127.0.0.2", accounts, certificate, settings=trusting("127.0.0.1")) as server: ...
(Courier as a server: courier.py.)
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .certificates import Certificate
from .mail import MAIL_UID, Account, fill_maildir, home_of
from .world import LogFile, program, run, running, wait_until

PORTS = {"imap": 143, "pop3": 110}
TLS_PORTS = {"imap": 993, "pop3": 995}


@dataclass(frozen=True)
class Server:
    """A mail server that answers on both ports of an address."""

    address: str
    log: LogFile


def answers(address: str, port: int, preface: bytes = b"") -> bool:
    """Whether a server greets there, who has been sent the preface."""
    try:
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(preface)
            return client.recv(4096).startswith((b"* OK", b"+OK"))
    except OSError:
        return False


def wait_for_answers(address: str, preface: bytes = b"") -> None:
    """Return as soon as the server there greets on all ports."""
    for port in PORTS.values():
        wait_until(partial(answers, address, port, preface), f"no server answers on {address}:{port}")


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


DOVECOT_TLS = """\
ssl = yes
service imap-login {{
  inet_listener imaps {{
    port = 993
  }}
}}
service pop3-login {{
  inet_listener pop3s {{
    port = 995
  }}
}}
"""

DOVECOT_TLS_2_3 = """\
ssl_cert = <{certificate.certificate}
ssl_key = <{certificate.key}
"""

DOVECOT_TLS_2_4 = """\
ssl_server_cert_file = {certificate.certificate}
ssl_server_key_file = {certificate.key}
"""

PLAIN_ON_TLS_PORTS = """\
service imap-login {
  inet_listener imaps {
    port = 993
    ssl = no
  }
}
service pop3-login {
  inet_listener pop3s {
    port = 995
    ssl = no
  }
}
"""
"""Settings of a Dovecot that knows no TLS where clients expect it."""

BEHIND_HAPROXY = """\
haproxy_trusted_networks = 127.0.0.0/8
service imap-login {
  inet_listener imap {
    haproxy = yes
  }
  inet_listener imaps {
    haproxy = yes
  }
}
service pop3-login {
  inet_listener pop3 {
    haproxy = yes
  }
  inet_listener pop3s {
    haproxy = yes
  }
}
"""
"""Settings of a Dovecot whose clients begin with a PROXY header."""

HAPROXY_PREFACE = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"


def trusting(networks: str) -> str:
    """Settings of a Dovecot that believes what these say about their clients."""
    return f"login_trusted_networks = {networks}\n"


@contextmanager
def dovecot(
    directory: Path,
    address: str,
    accounts: Iterable[Account],
    certificate: Certificate | None = None,
    *,
    settings: str = "",
) -> Iterator[Server]:
    """Dovecot on ports 143 and 110, with a certificate on 993 and 995, too; every account's Maildir filled with the
    known messages."""
    new = _dovecot_version() >= (2, 4)
    configuration = (DOVECOT_2_4 if new else DOVECOT_2_3) + DOVECOT
    if certificate:
        configuration += DOVECOT_TLS + (DOVECOT_TLS_2_4 if new else DOVECOT_TLS_2_3)
    configuration = configuration.format(directory=directory, address=address, certificate=certificate) + settings
    (directory / "conf").write_text(configuration)
    with (directory / "passwd").open("w") as passwd:
        for account in accounts:
            home = home_of(directory / "homes", account)
            fill_maildir(home / "Maildir")
            passwd.write(f"{account.name}:{{PLAIN}}{account.password}:{MAIL_UID}:{MAIL_UID}::{home}::\n")
    command = [program("dovecot"), "-F", "-c", str(directory / "conf")]
    with running(command, output=directory / "output", stop=signal.SIGKILL):  # asked to end it takes a second
        wait_for_answers(address, HAPROXY_PREFACE if "haproxy = yes" in settings else b"")
        yield Server(address, LogFile(directory / "log"))
