"""Real account sources. Each context manager starts one in a given directory and yields when it answers.

    with slapd(directory) as server: server.load(ldif)
    with mariadb(directory) as server: server.load(sql)
    with postgres(directory) as server: server.load(sql)
    with authdaemond(directory, configuration) as daemon: ...

All of them listen on a free port of 127.0.0.1 and on a unix socket (authdaemond on the latter alone).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from support import need

from .courier import AUTHDAEMOND
from .world import BARE_ENVIRONMENT, HERE, PATIENCE, World, is_listening, program, run, running, wait_until

ADDRESS = "127.0.0.1"
SUFFIX = "o=example,c=ex"
"""Courier's sample has c=com, which slapd refuses: a country has two letters."""
PASSWORD = "the-Database-$ecret"
"""Of every server's administrator."""

COURIER_SCHEMA = Path("/usr/share/doc/courier-authlib-ldap/authldap.schema")
POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Certificate:
    """A certificate that vouches for itself, for localhost and 127.0.0.1."""

    file: Path
    key: Path


def certificate(directory: Path, owner: str = "root") -> Certificate:
    """A new certificate, whose key only `owner` may read."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-out", str(made.file), "-keyout", str(made.key)]
    run([program("openssl"), "req", *kind, "-subj", "/CN=localhost", "-addext", names, *files])
    shutil.chown(made.key, owner)
    made.key.chmod(0o600)
    return made


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses."""
    with socket.create_server((ADDRESS, 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Database:
    """A server that answers: where, who its administrator is, and what it says in its log."""

    directory: Path
    port: int
    socket: Path
    user: str
    log: Path
    pid: int
    tls: Certificate | None
    password: str = PASSWORD
    host: str = ADDRESS

    def _file(self, text: str | bytes) -> str:
        file = self.directory / "loaded"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(file)


@dataclass(frozen=True)
class Slapd(Database):
    """A directory of SUFFIX; `user` is the administrator's DN."""

    tls_port: int = 0

    @property
    def uri(self) -> str:
        return f"ldap://{self.host}:{self.port}"

    @property
    def tls_uri(self) -> str:
        return f"ldaps://{self.host}:{self.tls_port}"

    @property
    def socket_uri(self) -> str:
        return f"ldapi://{quote(str(self.socket), safe='')}"

    def load(self, ldif: str | bytes, command: str = "ldapadd") -> None:
        """Add the entries, or make the changes with `ldapmodify`."""
        who = ["-x", "-H", self.socket_uri, "-D", self.user, "-w", self.password]
        run([program(command), *who, "-f", self._file(ldif)])


@dataclass(frozen=True)
class Mariadb(Database):
    """A MariaDB with the empty database `mail`."""

    database: str = "mail"

    def load(self, sql: str | bytes) -> None:
        who = [f"--socket={self.socket}", f"--user={self.user}", f"--password={self.password}"]
        options = ["--no-defaults", *who, "--default-character-set=utf8mb4", self.database]
        run([program("mariadb"), *options, "-e", f"source {self._file(sql)}"])


@dataclass(frozen=True)
class Postgres(Database):
    """A PostgreSQL with the empty database `mail`; `socket` is the directory of its socket."""

    database: str = "mail"

    def load(self, sql: str | bytes) -> None:
        who = ["-h", str(self.socket), "-p", str(self.port), "-U", self.user, "-d", self.database]
        options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "-f", self._file(sql)]
        environment = {"PGPASSWORD": self.password, "PGCLIENTENCODING": "UTF8"}
        run([program("psql"), *who, *options], environment=environment)


SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/misc.schema
include {schema}
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {directory}/pid
{tls}
database mdb
directory {directory}/data
dbnosync
suffix "{suffix}"
rootdn "{user}"
rootpw "{password}"
index uid,mail eq
"""

ROOT_ENTRY = f"dn: {SUFFIX}\nobjectClass: organization\no: example\n"


@contextmanager
def slapd(directory: Path, *, tls: bool = False) -> Iterator[Slapd]:
    """OpenLDAP with the shipped schemas; `mailHost` is that of misc.schema, as Courier's own has it commented out."""
    need(COURIER_SCHEMA.exists(), f"{COURIER_SCHEMA} of the package courier-authlib-ldap")
    own = certificate(directory) if tls else None
    port, tls_port, user = free_port(), free_port() if tls else 0, f"cn=administrator,{SUFFIX}"
    lines = [f"TLSCertificateFile {own.file}", f"TLSCertificateKeyFile {own.key}"] if own else []
    (directory / "data").mkdir()
    configuration = directory / "slapd.conf"
    values = {"schema": COURIER_SCHEMA, "suffix": SUFFIX, "user": user, "password": PASSWORD, "tls": "\n".join(lines)}
    configuration.write_text(SLAPD.format(directory=directory, **values))
    log, listening = directory / "slapd.log", directory / "ldapi"
    uris = [f"ldap://{ADDRESS}:{port}", f"ldapi://{quote(str(listening), safe='')}"]
    uris += [f"ldaps://{ADDRESS}:{tls_port}"] if own else []
    command = [program("slapd"), "-d", "none", "-f", str(configuration), "-h", " ".join(uris)]
    with running(command, output=log) as process:
        wait_for(process, lambda: is_listening(ADDRESS, port), log)
        server = Slapd(directory, port, listening, user, log, process.pid, own, tls_port=tls_port)
        server.load(ROOT_ENTRY)
        yield server


MARIADB_OPTIONS = {
    "user": "root",
    "character-set-server": "utf8mb4",
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-buffer-pool-size": "8M",
    "innodb-log-file-size": "4M",
    "innodb-fast-shutdown": "2",
    "performance-schema": "off",
    "skip-name-resolve": "on",
}


@contextmanager
def mariadb(directory: Path, *, tls: bool = False) -> Iterator[Mariadb]:
    """MariaDB, whose administrator may come by the socket and over TCP."""
    own = certificate(directory) if tls else None
    data, log, listening, port, user = directory / "data", directory / "log", directory / "socket", free_port(), "admin"
    options = [f"--{name}={value}" for name, value in {**MARIADB_OPTIONS, "datadir": str(data)}.items()]
    run(
        [
            program("mariadb-install-db"),
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            *options,
        ]
    )
    commands = directory / "init.sql"
    commands.write_text(
        f"CREATE USER '{user}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
        f"GRANT ALL ON *.* TO '{user}'@'%' WITH GRANT OPTION;\nCREATE DATABASE mail;\n"
    )
    options += [f"--socket={listening}", f"--port={port}", f"--bind-address={ADDRESS}", f"--init-file={commands}"]
    options += (
        [f"--pid-file={directory}/pid", f"--ssl-cert={own.file}", f"--ssl-key={own.key}"]
        if own
        else [f"--pid-file={directory}/pid"]
    )
    with running([program("mariadbd"), "--no-defaults", *options], output=log) as process:
        wait_for(process, lambda: is_listening(ADDRESS, port), log)
        yield Mariadb(directory, port, listening, user, log, process.pid, own)


POSTGRES_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "4MB",
    "max_connections": "50",
    "autovacuum": "off",
    "listen_addresses": ADDRESS,
}


@contextmanager
def postgres(directory: Path, *, tls: bool = False) -> Iterator[Postgres]:
    """PostgreSQL, which wants a password on the socket and over TCP."""
    need(os.geteuid() == 0 and POSTGRES.is_dir(), f"root, and PostgreSQL in {POSTGRES}")
    programs = max(POSTGRES.iterdir(), key=lambda version: float(version.name)) / "bin"
    account = pwd.getpwnam("postgres")
    as_postgres = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    own = certificate(directory, "postgres") if tls else None
    data, log, port, user, secret = directory / "data", directory / "log", free_port(), "admin", directory / "secret"
    for made in (data, directory / "sockets"):
        made.mkdir(0o700 if made == data else 0o755)
        shutil.chown(made, account.pw_uid, account.pw_gid)
    secret.write_text(PASSWORD)
    how = ["-A", "scram-sha-256", "-U", user, f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
    run([*as_postgres, str(programs / "initdb"), "-D", str(data), *how, "--no-instructions"])
    settings = {**POSTGRES_OPTIONS, "port": str(port), "unix_socket_directories": str(directory / "sockets")}
    if own:
        settings |= {"ssl": "on", "ssl_cert_file": str(own.file), "ssl_key_file": str(own.key)}
    command = [str(programs / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())]
    with running(
        [*as_postgres, *command], output=log, stop=signal.SIGINT
    ) as process:  # fast: clients are not waited for
        wait_for(process, lambda: b"ready" in read(data / "postmaster.pid"), log)
        server = Postgres(directory, port, directory / "sockets", user, log, process.pid, own, database="postgres")
        server.load("CREATE DATABASE mail;")
        yield replace(server, database="mail")


@dataclass(frozen=True)
class Authdaemond:
    """Courier's daemon: `socket_directory` is its authdaemonvar as seen from here, `world` where its tools find it."""

    socket_directory: Path
    world: World
    log: Path
    pid: int

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """Run one of Courier's tools (authtest, authenumerate) to its end."""
        return subprocess.run(
            self.world.command([program(command[0]), *command[1:]]),
            env=BARE_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
        )


@contextmanager
def authdaemond(directory: Path, configuration: Path, world: World = HERE) -> Iterator[Authdaemond]:
    """Courier's authdaemond with `configuration` (authdaemonrc, authldaprc …) in place of /etc/courier."""
    sockets, log = directory / "run/courier/authdaemon", directory / "authdaemond"
    sockets.mkdir(parents=True)
    world = replace(world, files={**world.files, "/etc/courier": configuration, "/run": directory / "run"})
    with running(AUTHDAEMOND, world=world, output=log) as process:
        wait_for(process, (sockets / "socket").exists, log)
        yield Authdaemond(sockets, world, log, process.pid)


def wait_for(server: subprocess.Popen[bytes], is_ready: Callable[[], object], log: Path) -> None:
    """Return as soon as the server is ready; fail with its log where it ends before."""
    wait_until(lambda: is_ready() or server.poll() is not None, f"{server.args} does not listen", 30)
    assert server.poll() is None, f"{server.args} has ended:\n{log.read_text(errors='replace')}"


def read(file: Path) -> bytes:
    """What is in the file, if there is one."""
    return file.read_bytes() if file.exists() else b""
