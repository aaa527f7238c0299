"""Sites that keep one set of accounts in different sources, as Courier's configuration files describe them.

    with every_source(directory, ACCOUNTS) as sources: sources["authmysql"].settings()

Each has Courier's own authdaemond beside it, which reads the same files.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path

from support import hashed

from proxyhelper.settings import Settings, load

from .databases import SUFFIX, Authdaemond, Mariadb, Postgres, Slapd, authdaemond, mariadb, postgres, slapd
from .mail import MAIL_UID
from .world import World, program, run


@dataclass(frozen=True)
class Kept:
    """An account as a source keeps it; `clear` is one whose password is there in cleartext, and nothing else."""

    name: str
    password: str
    mailhost: str = ""
    clear: bool = False
    disabled: bool = False
    home: str = "/nonexistent"
    maildir: str | None = None
    quota: str | None = None

    @property
    def options(self) -> dict[str, str]:
        pairs = {"mailhost": self.mailhost, "disableimap": "1" if self.disabled else ""}
        return {name: value for name, value in pairs.items() if value}

    @property
    def options_text(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.options.items())


@dataclass(frozen=True)
class Source:
    """A configuration directory, what the helper is told beside it, and Courier's daemon with the same files."""

    configuration: Path
    running: Authdaemond | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def settings(self, **changed: str) -> Settings:
        return load("imap", {**self.told, "PROXY_ACCOUNT_TIMEOUT": "2", **changed})

    @property
    def told(self) -> dict[str, str]:
        return {"PROXYHELPER_CONFDIR": str(self.configuration), **self.environment}

    @property
    def daemon(self) -> Authdaemond:
        assert self.running
        return self.running

    @property
    def module(self) -> str:
        return " ".join(self.settings().modules)

    def authtest(self, name: str, *password: str) -> dict[str, str]:
        """What Courier's tool says of the account, empty where it refuses it."""
        done = self.daemon.run("authtest", "-s", "imap", name, *password)
        text = done.stdout.decode(errors="surrogateescape")
        if done.returncode or "Authentication succeeded" not in text:
            return {}
        values = dict(re.findall(r"^ *([^:\n]+): (.*)$", text, re.M))
        return {name: "" if value == "(none)" else value for name, value in values.items()}


def userdb_of(accounts: Sequence[Kept]) -> str:
    """Accounts with cleartext are hashed as well: there is no other form."""
    lines = ""
    for account in accounts:
        fields = {"uid": MAIL_UID, "gid": MAIL_UID, "home": account.home, "mail": account.maildir}
        fields |= {"quota": account.quota, "systempw": hashed(account.password), "options": account.options_text}
        lines += f"{account.name}\t{'|'.join(f'{name}={value}' for name, value in fields.items() if value)}\n"
    return lines


def ldif_of(accounts: Sequence[Kept]) -> str:
    """Entries of Courier's class. `mail` cannot hold a name that is not ASCII: `uid` is the login name."""
    entries = ""
    for account in accounts:
        attributes: dict[str, object] = {"uid": account.name, "mail": "somebody@example.com"}
        attributes |= {"homeDirectory": account.home, "mailbox": account.maildir}
        attributes |= {"uidNumber": MAIL_UID, "gidNumber": MAIL_UID, "quota": account.quota}
        attributes["clearPassword" if account.clear else "userPassword"] = stored(account)
        attributes |= {"mailHost": account.mailhost, "disableimap": "1" if account.disabled else ""}
        attributes["description"] = dn_of(account).partition("=")[2].partition(",")[0]
        entries += f"dn: {dn_of(account)}\nobjectClass: account\nobjectClass: CourierMailAccount\n"
        for name, value in attributes.items():
            if value:
                entries += f"{name}:: {b64encode(str(value).encode()).decode()}\n"
        entries += "\n"
    return entries


def dn_of(account: Kept) -> str:
    """Of the name there is only the hash: it may hold anything."""
    return f"description={sha1(account.name.encode()).hexdigest()},{SUFFIX}"


def stored(account: Kept) -> str:
    return account.password if account.clear else hashed(account.password)


TABLE = """\
CREATE TABLE accounts (
    name varchar(200) {binary} PRIMARY KEY, hash varchar(200), clear varchar(200), uid integer NOT NULL,
    gid integer NOT NULL, home varchar(200) NOT NULL, maildir varchar(200), quota varchar(200), options varchar(200)
);
"""


def sql_of(accounts: Sequence[Kept], quoted: str) -> str:
    """Rows; `quoted` makes a string of hexadecimal digits. NULL stands for what an account has not."""
    text = ""
    for account in accounts:
        passwords = (None, account.password) if account.clear else (hashed(account.password), None)
        values = [account.name, *passwords, MAIL_UID, MAIL_UID]
        values += [account.home, account.maildir, account.quota, account.options_text or None]
        text += f"INSERT INTO accounts VALUES ({', '.join(literal(value, quoted) for value in values)});\n"
    return text


def literal(value: object, quoted: str) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    return quoted.format(str(value).encode().hex())


def authldaprc(server: Slapd, **changed: str) -> str:
    """The DNs are written with a blank, as in the file that Courier ships."""
    return rc_file(
        {
            "LDAP_URI": server.uri,
            "LDAP_PROTOCOL_VERSION": "3",
            "LDAP_BASEDN": SUFFIX.replace(",", ", "),
            "LDAP_BINDDN": server.user.replace(",", ", "),
            "LDAP_BINDPW": server.password,
            "LDAP_TIMEOUT": "2",
            "LDAP_INITBIND": "1",
            "LDAP_MAIL": "uid",
            "LDAP_HOMEDIR": "homeDirectory",
            "LDAP_MAILDIR": "mailbox",
            "LDAP_MAILDIRQUOTA": "quota",
            "LDAP_CRYPTPW": "userPassword",
            "LDAP_CLEARPW": "clearPassword",
            "LDAP_UID": "uidNumber",
            "LDAP_GID": "gidNumber",
            "LDAP_AUXOPTIONS": "mailHost=mailhost,disableimap=disableimap",
            "LDAP_ENUMERATE_FILTER": "(objectClass=CourierMailAccount)",
            "LDAP_DEREF": "never",
            "LDAP_TLS": "0",
        }
        | changed
    )


FIELDS = {
    "LOGIN_FIELD": "name",
    "CRYPT_PWFIELD": "hash",
    "CLEAR_PWFIELD": "clear",
    "UID_FIELD": "uid",
    "GID_FIELD": "gid",
    "HOME_FIELD": "home",
    "NAME_FIELD": "''",
    "MAILDIR_FIELD": "maildir",
    "QUOTA_FIELD": "quota",
    "AUXOPTIONS_FIELD": "options",
}
COLUMNS = "name, hash, clear, uid, gid, home, maildir, quota, '', options"
CLAUSES = {
    "CRYPT_PWFIELD": "authdaemond wants one even so",
    "SELECT_CLAUSE": f"SELECT {COLUMNS} \\\n    FROM accounts \\\n    WHERE name = '$(local_part)@$(domain)'",
    "ENUMERATE_CLAUSE": "SELECT name, uid, gid, home, maildir, options FROM accounts",
}


def authmysqlrc(server: Mariadb, form: dict[str, str], **changed: str) -> str:
    own = {
        "MYSQL_SERVER": server.host,
        "MYSQL_PORT": str(server.port),
        "MYSQL_OPT": "0",
        "MYSQL_USERNAME": server.user,
        "MYSQL_PASSWORD": server.password,
        "MYSQL_DATABASE": server.database,
        "MYSQL_CHARACTER_SET": "utf8mb4",
        "MYSQL_USER_TABLE": "accounts",
    }
    return rc_file(own | {f"MYSQL_{name}": value for name, value in form.items()} | changed)


def authpgsqlrc(server: Postgres, form: dict[str, str], **changed: str) -> str:
    own = {
        "PGSQL_CONNECTION": conninfo(server),
        "PGSQL_CHARACTER_SET": "UTF8",
        "PGSQL_USER_TABLE": "accounts",
    }
    return rc_file(own | {f"PGSQL_{name}": value for name, value in form.items()} | changed)


def conninfo(server: Postgres) -> str:
    """A connection string of libpq, over two lines."""
    place = f"host={server.host} port={server.port} dbname={server.database}"
    return f"{place} \\\n    user={server.user} password='{server.password}'"


def rc_file(values: dict[str, str]) -> str:
    """authdaemond wants the line at the end."""
    return "".join(f"{name}\t{value}\n" for name, value in values.items()) + "##NAME: MARKER:0\n"


def configured(directory: Path, modules: str, files: dict[str, str]) -> Path:
    """A configuration directory with the files, for the helper and for authdaemond."""
    directory.mkdir(parents=True)
    settings = {"authmodulelist": modules, "daemons": 2, "authdaemonvar": "/run/courier/authdaemon"}
    settings |= {"DEFAULTOPTIONS": "", "LOGGEROPTS": "", "DEBUG_LOGIN": 0}
    text = "".join(f'{name}="{value}"\n' for name, value in settings.items())
    for name, content in {"authdaemonrc": text, **files}.items():
        (directory / name).write_text(content, newline="")
        (directory / name).chmod(0o600)
    if "userdb" in files:
        run([program("makeuserdb")], world=World(files={"/etc/courier": directory}))
    return directory


@contextmanager
def source(directory: Path, modules: str, files: dict[str, str]) -> Iterator[Source]:
    """The helper's own modules, with authdaemond beside them."""
    configuration = configured(directory / "etc", modules, files)
    with authdaemond(directory, configuration) as daemon:
        yield Source(configuration, daemon, {"authdaemonvar": str(daemon.socket_directory)})


@dataclass(frozen=True)
class Servers:
    """A directory and two databases that keep the same accounts."""

    ldap: Slapd
    mysql: Mariadb
    pgsql: Postgres

    def add(self, accounts: Sequence[Kept]) -> None:
        self.ldap.load(ldif_of(accounts))
        self.mysql.load(sql_of(accounts, "CONVERT(x'{}' USING utf8mb4)"))
        without_nul = [account for account in accounts if "\0" not in account.mailhost]
        self.pgsql.load(sql_of(without_nul, "convert_from('\\x{}', 'UTF8')"))

    def remove(self, accounts: Sequence[Kept]) -> None:
        for account in accounts:
            self.ldap.load(f"dn: {dn_of(account)}\nchangetype: delete\n", "ldapmodify")
            for server in (self.mysql, self.pgsql):
                server.load(f"DELETE FROM accounts WHERE name = '{account.name}';")


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        for name in ("ldap", "mysql", "pgsql"):
            (directory / name).mkdir()
        ldap = stack.enter_context(slapd(directory / "ldap"))
        mysql = stack.enter_context(mariadb(directory / "mysql"))
        pgsql = stack.enter_context(postgres(directory / "pgsql"))
        mysql.load(TABLE.format(binary="COLLATE utf8mb4_bin"))
        pgsql.load(TABLE.format(binary=""))
        yield Servers(ldap, mysql, pgsql)


def files_of(servers: Servers, accounts: Sequence[Kept]) -> dict[str, tuple[str, dict[str, str]]]:
    """By the name of a source: its module and its files."""
    mysql, pgsql = servers.mysql, servers.pgsql
    return {
        "authuserdb": ("authuserdb", {"userdb": userdb_of(accounts)}),
        "authldap": ("authldap", {"authldaprc": authldaprc(servers.ldap)}),
        "authmysql": ("authmysql", {"authmysqlrc": authmysqlrc(mysql, FIELDS)}),
        "authmysql, SELECT": ("authmysql", {"authmysqlrc": authmysqlrc(mysql, CLAUSES)}),
        "authpgsql": ("authpgsql", {"authpgsqlrc": authpgsqlrc(pgsql, FIELDS)}),
        "authpgsql, SELECT": ("authpgsql", {"authpgsqlrc": authpgsqlrc(pgsql, CLAUSES)}),
    }


SOURCES = ("authuserdb", "authldap", "authmysql", "authmysql, SELECT", "authpgsql", "authpgsql, SELECT", "authdaemon")


@contextmanager
def every_source(directory: Path, servers: Servers, accounts: Sequence[Kept]) -> Iterator[dict[str, Source]]:
    """SOURCES by their names. "authdaemon" asks the one that has authpgsql."""
    with ExitStack() as stack:
        made = {
            name: stack.enter_context(source(directory / name.replace(", ", "-"), *what))
            for name, what in files_of(servers, accounts).items()
        }
        asked = made["authpgsql"]
        made["authdaemon"] = Source(
            asked.configuration, asked.daemon, {**asked.environment, "PROXY_AUTHMODULES": "authdaemon"}
        )
        yield made
