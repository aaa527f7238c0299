"""The accounts: every record, and the way each would take."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...accounts import listing, userdb
from ...accounts.account import Account
from ...failures import Temporary
from ...login import with_domain
from ...routing import Route, decide, names_of_this_host, parse_mailhost, same_host
from ...settings import Settings, is_true
from ...text import decode
from ..console import Site, progress
from ..forms import form_of
from . import Finding

Entry = listing.Record | listing.Listed


@dataclass
class Survey:
    """Where the accounts are.

    elsewhere   accounts by protocol, host and port of their backends, and TLS towards them (as Route.tls)
    here        accounts by protocol whose mailbox is on this host
    """

    elsewhere: "Counter[tuple[str, str, int, str]]" = field(default_factory=Counter)
    here: "Counter[str]" = field(default_factory=Counter)


class Surveyor:
    """Goes through the records; `findings` gathers what is wrong with them."""

    def __init__(self, settings: "dict[str, Settings]", ports: "dict[str, list[str]]") -> None:
        self.survey = Survey()
        self.findings: list[Finding] = []
        self._settings = settings
        self._ports = ports
        self._routes: dict[tuple[str, str, str], Route | Temporary] = {}
        self._first: dict[str, str] = {}
        self._unproxied: Counter[str] = Counter()
        self._of_record: list[Finding] = []

    def take(self, record: Entry) -> None:
        self._of_record = []
        self._take_once(record)
        self.findings += dict.fromkeys(self._of_record)  # once, where both protocols find the same

    def _take_once(self, record: Entry) -> None:
        if record.problem:
            self._add("error", record, f"{record.name or 'a line'}: {record.problem}", "mend or delete the line")
            return
        if first := self._first.get(record.name):
            self._add("warning", record, f"{record.name} stands a second time; {first} counts", "delete one of them")
            return
        self._first[record.name] = record.place
        for settings in self._settings.values():
            self._take(record, settings)

    def finish(self) -> None:
        count = len(self._first)
        level = "ok" if count else "warning"
        self.findings.append(Finding(level, f"{count} account{'s' * (count != 1)}"))
        for protocol, count in self._unproxied.items():
            name = f"{protocol.upper()}_PROXY"
            what = f"{name} is off: {count} mailboxes whose mailhost is another host are looked for on this one"
            remedy = f"set {name}=1"
            self.findings.append(Finding("error", what, remedy, setting=name))

    def _take(self, record: Entry, settings: Settings) -> None:
        protocol = settings.protocol
        account = record.account(settings)
        if is_true(account.options.get(f"disable{protocol}", "")):
            return
        if with_domain(record.name, settings) != record.name:
            what = (
                f"{record.name} is never looked for: DEFDOMAIN makes {with_domain(record.name, settings)} of that name"
            )
            self._add("warning", record, what, "give it the name with its domain")
        if isinstance(record, listing.Listed):
            pass  # no password is listed
        elif not account.password:
            what = f"{record.name} has neither {protocol}pw nor systempw: no login"
            self._add("note", record, what, "proxyhelper userdb passwd NAME")
        elif not form_of(decode(account.password)):
            what = f"{record.name}: the password is stored in an unknown form"
            self._add("error", record, what, "proxyhelper userdb passwd NAME")
        route = self._route(account, settings)
        if isinstance(route, Temporary):
            option = "mailhosttls" if "mailhosttls" in str(route) else "mailhost"
            self._add("error", record, f"{record.name}: {route}", f"mend the option {option}", option)
        elif route.host:
            self.survey.elsewhere[protocol, route.host, route.port, route.tls] += 1
        else:
            self._take_here(record, account, settings, route)

    def _take_here(self, record: Entry, account: Account, settings: Settings, route: Route) -> None:
        if not settings.proxy and _is_elsewhere(account, settings):
            self._unproxied[settings.protocol] += 1
            return
        self.survey.here[settings.protocol] += 1
        if route.is_missing:
            self._add("warning", record, f"{record.name} has no mailhost: it is looked for on this host", "set one")
        lacking = [name for name in ("uid", "gid") if getattr(account, name) is None]
        if lacking:
            what = f"{record.name} is on this host ({route.reason}), and has no {' and no '.join(lacking)}"
            self._add("error", record, what, "set them, or a mailhost elsewhere")
        elif not (account.uid and account.gid):
            self._add("error", record, f"{record.name}: no mailbox is served as uid or gid 0", "give it its own")
        elif not os.path.isdir(account.home):
            what = f"{record.name} is on this host ({route.reason}), and its home {account.home!r} is no directory"
            self._add("error", record, what, "make it, or set a mailhost elsewhere")

    def _route(self, account: Account, settings: Settings) -> "Route | Temporary":
        key = settings.protocol, account.options.get("mailhost", ""), account.options.get("mailhosttls", "")
        if key not in self._routes:
            try:
                self._routes[key] = decide(account, settings, self._ports[settings.protocol][0])
            except Temporary as failure:
                self._routes[key] = failure
        return self._routes[key]

    def _add(self, level: str, record: Entry, what: str, remedy: str, setting: str = "") -> None:
        self._of_record.append(Finding(level, what, remedy, record.file, record.line, setting))


def _is_elsewhere(account: Account, settings: Settings) -> bool:
    """Whether the account's mailhost is another host, be proxying on or off."""
    try:
        host, _ = parse_mailhost(account.options.get("mailhost", "").strip())
    except Temporary:
        return False
    return not any(same_host(host, name) for name, _ in names_of_this_host(settings))


def examine(
    site: Site, settings: "dict[str, Settings]", ports: "dict[str, list[str]]", modules: "list[str]"
) -> "tuple[Survey, list[Finding]]":
    """`ports`: what clients come to, by protocol; `modules`: those that answer."""
    surveyor = Surveyor(settings, ports)
    for one in list(settings.values())[:1]:  # both protocols have the same sources
        for module in modules:
            try:
                _survey(surveyor, module, one)
            except (Temporary, OSError) as failure:
                remedy = "its accounts cannot log in until it can" if os.geteuid() == 0 else "run this command as root"
                surveyor.findings.append(Finding("error", str(failure), remedy))
        if "authuserdb" in modules:
            surveyor.findings += _forms(site)
    surveyor.finish()
    return surveyor.survey, surveyor.findings


def _survey(surveyor: Surveyor, module: str, settings: Settings) -> None:
    with progress("accounts", listing.length(settings) if module == "authuserdb" else 0) as read:
        for record in listing.of_source(module, settings, read):
            surveyor.take(record)


def _forms(site: Site) -> Iterator[Finding]:
    """Compiled or text: which one counts."""
    text, compiled = site.userdb, f"{site.userdb}.dat"
    if not os.path.exists(compiled) or not os.path.exists(text):
        return
    try:
        is_newer = userdb.compiled_is_newer(text)
    except (Temporary, OSError):
        return  # the files' section has said so
    if is_newer:
        yield Finding("note", f"accounts are read from {compiled}, which is newer than {text}")
    else:
        what = f"{text} is newer than {compiled} or Python has no dbm.gnu: accounts are read from the text"
        yield Finding("note", what, "makeuserdb, for Courier's own programs")
