"""Logins by account source, beside Courier's through authdaemond with the same database; and where their time goes.

The databases start when this is measured, and once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from real.courier import courier
from real.databases import SUFFIX, Mariadb, Postgres, mariadb, postgres, slapd
from real.mail import MAIL_UID
from support import PLACES, hashed

from .report import Row
from .stage import COURIER, OURS, READER, Stage
from .turns import Effort, in_turn, login, milliseconds

BOUND = 1.2
"""Of the login by authdaemon, against that by the userdb."""
OURS_BY_AUTHDAEMON = "127.0.0.16"
SHARES = str(Path(__file__).with_name("shares.py"))


@dataclass(frozen=True)
class Site:
    """Accounts in one place: where the helper asks it, where Courier does, and where the helper asks authdaemond."""

    module: str
    configuration: Path
    ours: str
    couriers: str
    ours_by_authdaemon: str


def figures(stage: Stage, effort: Effort) -> list[Row]:
    """The LOGIN command until its OK, by every source in turn; and which part of it is the driver's."""
    sites = [userdb_site(stage), *(database_site(stage, module) for module in DATABASES)]
    return [*logins(sites, effort.logins), *shares(stage, sites[1:], effort.processes)]


def logins(sites: list[Site], times: int) -> Iterator[Row]:
    addresses = [address for site in sites for address in (site.ours, site.couriers, site.ours_by_authdaemon)]
    taken = dict(zip(addresses, in_turn(times, *(login(address, READER) for address in addresses)), strict=True))

    def row(figure: str, one: str, other: str, whose: str, bound: float | None = None) -> Row:
        ours, theirs = taken[one], taken[other]
        return Row(f"login, {figure}", milliseconds(ours), milliseconds(theirs), whose, ours / theirs, bound)

    for site in sites:
        yield row(site.module, site.ours, site.couriers, "Courier")
    for site in sites:
        yield row(f"authdaemon: {site.module}", site.ours_by_authdaemon, site.couriers, "Courier")
    yield row("authdaemon", OURS_BY_AUTHDAEMON, OURS, "our userdb", BOUND)


def shares(stage: Stage, sites: list[Site], processes: int) -> Iterator[Row]:
    """What importing the driver, connecting and the rest take of finding the account, each time in a new process."""
    for site in sites:
        taken = [shares_in_a_process(stage, site) for _ in range(processes)]
        for share in taken[0]:
            yield Row(f"{site.module}: {share}", milliseconds(median(each[share] for each in taken)), "", "")


def shares_in_a_process(stage: Stage, site: Site) -> dict[str, float]:
    installed = next(place for place in PLACES if (place / "proxyhelper").is_dir())
    command = [stage.python, "-I", "-S", SHARES, str(installed), READER.name]
    environment = {"PROXYHELPER_CONFDIR": str(site.configuration)}
    said = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return {share: float(seconds) for share, seconds in map(str.split, said.stdout.splitlines())}


@cache
def userdb_site(stage: Stage) -> Site:
    ask_authdaemond(stage, OURS_BY_AUTHDAEMON, "courier")
    return Site("authuserdb", stage.configuration, OURS, COURIER, OURS_BY_AUTHDAEMON)


@cache
def database_site(stage: Stage, module: str) -> Site:
    """Start the database, fill it, and ask it in all three ways."""
    number = 10 * (2 + list(DATABASES).index(module))
    ours, couriers, ours_by_authdaemon = (f"127.0.0.{number + way}" for way in range(3))
    configuration = stage.site(f"{module}-etc")
    assignments = configuration / "authdaemonrc"
    assignments.write_text(assignments.read_text().replace("authuserdb", module))
    settings = "".join(f"{name}\t{value}\n" for name, value in DATABASES[module](stage).items())
    (configuration / f"{module}rc").write_text(f"{settings}##NAME: MARKER:0\n")
    stage.listen(ours, stage.helper, configuration)
    stage.servers.enter_context(courier(stage.room(f"{module}-courier"), couriers, configuration))
    ask_authdaemond(stage, ours_by_authdaemon, f"{module}-courier")
    return Site(module, configuration, ours, couriers, ours_by_authdaemon)


def ask_authdaemond(stage: Stage, address: str, courier: str) -> None:
    """Have the helper listen there and ask the authdaemond in this room."""
    daemon = stage.directory / courier / "run/courier/authdaemon"
    configuration = stage.site(f"{address}-etc", PROXY_AUTHMODULES="authdaemon", authdaemonvar=str(daemon))
    stage.listen(address, stage.helper, configuration)


LDIF = f"""\
dn: mail={READER.name},{SUFFIX}
objectClass: inetOrgPerson
objectClass: CourierMailAccount
cn: reader
sn: reader
mail: {READER.name}
userPassword: {hashed(READER.password)}
homeDirectory: /var/mail/reader
uidNumber: {MAIL_UID}
gidNumber: {MAIL_UID}
mailHost: {READER.mailhost}
"""

SQL = f"""\
CREATE TABLE passwd (
    id varchar(128) PRIMARY KEY, crypt varchar(128), uid int, gid int, home varchar(255), name varchar(255),
    options varchar(255));
INSERT INTO passwd VALUES ('{READER.name}', '{hashed(READER.password)}', {MAIL_UID}, {MAIL_UID}, '/var/mail/reader',
    'reader', '{READER.all_options}');
"""


def ldap(stage: Stage) -> dict[str, str]:
    server = stage.servers.enter_context(slapd(stage.room("slapd")))
    server.load(LDIF)
    return {
        "LDAP_URI": server.uri,
        "LDAP_PROTOCOL_VERSION": "3",
        "LDAP_BASEDN": SUFFIX,
        "LDAP_BINDDN": server.user,
        "LDAP_BINDPW": server.password,
        "LDAP_TIMEOUT": "5",
        "LDAP_INITBIND": "1",
        "LDAP_MAIL": "mail",
        "LDAP_FILTER": "(objectClass=CourierMailAccount)",
        "LDAP_HOMEDIR": "homeDirectory",
        "LDAP_CRYPTPW": "userPassword",
        "LDAP_UID": "uidNumber",
        "LDAP_GID": "gidNumber",
        "LDAP_AUXOPTIONS": "mailHost=mailhost",
        "LDAP_DEREF": "never",
        "LDAP_TLS": "0",
    }


def mysql(stage: Stage) -> dict[str, str]:
    server = stage.servers.enter_context(mariadb(stage.room("mariadb")))
    where = {"SERVER": server.host, "PORT": str(server.port), "USERNAME": server.user, "PASSWORD": server.password}
    return table(server, "MYSQL", **where, OPT="0", DATABASE=server.database)


def pgsql(stage: Stage) -> dict[str, str]:
    server = stage.servers.enter_context(postgres(stage.room("postgres")))
    where = f"host={server.host} port={server.port} user={server.user} password={server.password}"
    return table(server, "PGSQL", CONNECTION=f"{where} dbname={server.database}")


def table(server: Mariadb | Postgres, prefix: str, **where: str) -> dict[str, str]:
    """The account in a table of the server, and the settings that say so."""
    server.load(SQL)
    fields = {"CRYPT_PW": "crypt", "UID_": "uid", "GID_": "gid", "LOGIN_": "id", "HOME_": "home", "NAME_": "name"}
    settings = {f"{name}FIELD": column for name, column in fields.items()} | {"AUXOPTIONS_FIELD": "options"}
    return {f"{prefix}_{name}": value for name, value in {**where, "USER_TABLE": "passwd", **settings}.items()}


DATABASES: dict[str, Callable[[Stage], dict[str, str]]] = {"authldap": ldap, "authmysql": mysql, "authpgsql": pgsql}
