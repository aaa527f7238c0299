"""`proxyhelper accounts`: the account sources as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import click

from ..accounts import available
from ..accounts.listing import Listed, Record, length, of_source
from ..failures import Temporary
from ..routing import names_of_this_host, parse_mailhost, same_host, service_port
from ..settings import Settings
from .console import Site, clean, fail, json_option, print_json, progress, say, status_of

SHOWN = 10
THIS, OTHER, UNUSABLE = "this host", "another host", "cannot be a host"


@dataclass
class Census:
    """All accounts by their mailhost ("" for none), and what keeps a record from being one of them."""

    settings: Settings
    names: "dict[str, list[str]]" = field(default_factory=dict)
    first: "dict[str, tuple[str, int]]" = field(default_factory=dict)
    duplicates: "dict[str, list[tuple[str, int]]]" = field(default_factory=dict)
    broken: "list[Record | Listed]" = field(default_factory=list)

    def take(self, record: "Record | Listed") -> None:
        place = record.file, record.line
        if record.name and self.first.setdefault(record.name, place) != place:
            self.duplicates.setdefault(record.name, []).append(place)
        elif record.problem:
            self.broken.append(record)
        else:
            options = record.account(self.settings).options
            mailhost = options.get("mailhost", "").strip().lower().rstrip(".")
            self.names.setdefault(mailhost, []).append(record.name)

    @property
    def mailhosts(self) -> "list[tuple[str, list[str]]]":
        """The mailhosts and their accounts, those with the most first."""
        named = [(mailhost, names) for mailhost, names in self.names.items() if mailhost]
        return sorted(named, key=lambda entry: (-len(entry[1]), entry[0]))

    @property
    def without_mailhost(self) -> "list[str]":
        return self.names.get("", [])

    @property
    def total(self) -> int:
        return sum(map(len, self.names.values()))

    def kind(self, mailhost: str) -> str:
        """THIS, OTHER or UNUSABLE."""
        try:
            host, port = parse_mailhost(mailhost)
        except Temporary:
            return UNUSABLE
        usual = self.settings.proxy_port or service_port(self.settings.protocol)
        is_here = any(same_host(host, name) for name, _ in names_of_this_host(self.settings))
        return THIS if is_here and port in (None, usual) else OTHER


@click.command()
@json_option
@click.option("--list", "with_names", is_flag=True, help="Print the names of all accounts, too.")
@click.pass_obj
def accounts(site: Site, as_json: bool, with_names: bool) -> None:
    """Count the accounts of all sources by mailhost.

    Accounts without a mailhost, names that occur twice and lines that are no record are named. `proxyhelper check` says
    what else is wrong.
    """
    census = Census(site.settings("imap"))
    try:
        with progress("accounts", length(census.settings)) as read:
            for module in available(census.settings):
                for record in of_source(module, census.settings, read):
                    census.take(record)
    except Temporary as failure:
        fail(str(failure), status_of(failure))
    if as_json:
        print_json(_as_json(site, census, with_names))
    else:
        _print(site, census, with_names)


def _print(site: Site, census: Census, with_names: bool) -> None:
    width = len(str(census.total))
    sources = ", ".join(_source_name(site, module) for module in available(census.settings))
    click.echo(clean(f"{census.total} account{'s' * (census.total != 1)} in {sources}"))
    for mailhost, names in census.mailhosts:
        kind = census.kind(mailhost)
        click.echo(clean(f"  {len(names):{width}}  {mailhost}" + (f" ({kind})" if kind != OTHER else "")))
        if with_names:
            _print_names(names, width)
    if census.without_mailhost:
        click.echo(f"  {len(census.without_mailhost):{width}}  without a mailhost")
        _print_names(census.without_mailhost if with_names else _some(census.without_mailhost), width)
    for line in _some([*_duplicates(census)]):
        say("warning", line)
    for line in _some([f"{record.place}: {record.problem}" for record in census.broken]):
        say("warning", line)


def _source_name(site: Site, module: str) -> str:
    return site.userdb if module == "authuserdb" else module


def _print_names(names: "list[str]", width: int) -> None:
    for name in names:
        click.echo(" " * (width + 6) + clean(name))


def _some(lines: "list[str]") -> "list[str]":
    return [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else lines


def _duplicates(census: Census) -> Iterator[str]:
    for name, ignored in census.duplicates.items():
        places = ", ".join(_place(place) for place in ignored)
        yield f"{name}: {_place(census.first[name])} counts; ignored: {places}"


def _place(place: "tuple[str, int]") -> str:
    return f"{place[0]} line {place[1]}" if place[1] else place[0]


def _as_json(site: Site, census: Census, with_names: bool) -> "dict[str, object]":
    return {
        "sources": [_source_name(site, module) for module in available(census.settings)],
        "accounts": census.total,
        "mailhosts": [_mailhost_as_json(census, *entry, with_names) for entry in census.mailhosts],
        "without_mailhost": census.without_mailhost,
        "duplicates": [
            {"name": name, "counts": _place_as_json(census.first[name]), "ignored": [*map(_place_as_json, ignored)]}
            for name, ignored in census.duplicates.items()
        ],
        "broken": [
            {**_place_as_json((record.file, record.line)), "name": record.name, "problem": record.problem}
            for record in census.broken
        ],
    }


def _mailhost_as_json(census: Census, mailhost: str, names: "list[str]", with_names: bool) -> "dict[str, object]":
    entry: dict[str, object] = {"mailhost": mailhost, "is": census.kind(mailhost), "accounts": len(names)}
    return entry | {"names": names} if with_names else entry


def _place_as_json(place: "tuple[str, int]") -> "dict[str, object]":
    return {"file": place[0], "line": place[1]}
