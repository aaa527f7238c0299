"""Other proxies that speak TLS with clients: nginx's mail proxy, and Dovecot's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from real.certificates import Certificate
from real.mail import Account
from real.servers import dovecot
from real.world import is_listening, program, running
from support import need, wait_until

from . import processes

MAIL_MODULE = Path("/usr/lib/nginx/modules/ngx_mail_module.so")

NGINX = """\
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/log;
events {{}}
http {{
    access_log off;
    map $http_auth_user $backend {{
{backends}
    }}
    server {{
        listen {first}:80;
        add_header Auth-Status OK;
        add_header Auth-Server $backend;
        add_header Auth-Port 143;
        return 204;
    }}
}}
mail {{
    auth_http {first}:80/;
    ssl_certificate {certificate.certificate};
    ssl_certificate_key {certificate.key};
    ssl_protocols TLSv1.2 TLSv1.3;
{servers}
}}
"""

SERVER = "    server {{ listen {address}:993 ssl; protocol imap; {own} }}"


@contextmanager
def nginx_proxy(
    directory: Path, settings: Mapping[str, str], certificate: Certificate, accounts: Iterable[Account]
) -> Iterator[int]:
    """nginx on port 993 of each address, with the settings that stand beside it there; the process that does it all."""
    need(MAIL_MODULE.exists(), "nginx's mail module (package libnginx-mod-mail)")
    first = next(iter(settings))
    backends = "\n".join(f'        "{account.name}" {account.mailhost};' for account in accounts)
    servers = "\n".join(SERVER.format(address=address, own=own) for address, own in settings.items())
    configuration = NGINX.format(
        module=MAIL_MODULE,
        directory=directory,
        first=first,
        backends=backends,
        servers=servers,
        certificate=certificate,
    )
    (directory / "conf").write_text(configuration)
    command = [program("nginx"), "-e", str(directory / "log"), "-c", str(directory / "conf")]
    with running(command, output=directory / "output") as process:
        wait_until(lambda: is_listening(first, 993) or process.poll() is not None, "nginx does not listen")
        assert process.poll() is None, f"nginx has ended: {(directory / 'output').read_text()}"
        wait_until(lambda: processes.children(process.pid, "nginx"), "nginx has no worker")
        (worker,) = processes.children(process.pid, "nginx")
        yield worker


@contextmanager
def dovecot_proxy(
    directory: Path, address: str, certificate: Certificate, accounts: Iterable[Account]
) -> Iterator[int]:
    """Dovecot on port 993, for accounts that are elsewhere; the process that does it all."""
    with dovecot(directory, address, [], certificate):
        (directory / "passwd").write_text("".join(map(_elsewhere, accounts)))
        master = int((directory / "run/master.pid").read_text())
        (login,) = processes.children(master, "imap-login")
        yield login


def _elsewhere(account: Account) -> str:
    return f"{account.name}:{{PLAIN}}{account.password}::::::proxy=y host={account.mailhost}\n"
