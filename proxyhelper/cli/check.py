"""`proxyhelper check`: what is wrong with this site, and what to do about it."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterable

import click

from ..settings import MAIN_FILES, Settings
from . import activators
from .checks import Finding, accounts, activation, assignments, certificates, files, mailhosts, sources
from .console import NO, PROTOCOLS, Site, clean, entries_option, json_option, print_json, say, served_port

SHOWN = 5
"""Findings of one remedy and level that a section shows; `--json` has all."""

Report = dict[str, list[Finding]]


@click.command()
@entries_option
@json_option
@click.pass_obj
def check(site: Site, entries: "tuple[str, ...]", as_json: bool) -> None:
    """Read the whole configuration for IMAP and POP3 and say what is wrong, where, and what to do.

    Reads the settings and certificates, looks at who may read the files, goes through all accounts, connects to every
    mailhost, with TLS where it is set, and tries what the entries of xinetd, inetd and systemd start. Run it as root:
    files that only root may read are part of it. The exit status is 1 where there are errors.
    """
    found = activators.find(entries or activators.PLACES)
    report: Report = {}
    for section, findings in _examine(site, found):
        report[section] = list(findings)
        if not as_json:
            _show(section, report[section])
    counts = Counter(finding.level for findings in report.values() for finding in findings)
    if as_json:
        _print(report, counts)
    else:
        _sum_up(site, counts)
    sys.exit(NO if counts["error"] else 0)


def _examine(site: Site, entries: "list[activators.Entry]") -> "Iterable[tuple[str, Iterable[Finding]]]":
    ports = {protocol: _ports(protocol, entries) for protocol in PROTOCOLS}
    settings, findings = assignments.examine(site, entries)
    yield "Settings", findings
    settings = {name: one for name, one in settings.items() if _is_served(site, one, entries)} or settings
    yield "Files", files.examine(site, settings)
    yield "Certificates", certificates.examine(site, settings, entries)
    modules, findings = sources.examine(settings)
    yield "Account sources", findings
    survey, findings = accounts.examine(site, settings, ports, modules)
    yield "Accounts", findings
    yield "Mailhosts", mailhosts.examine(survey, settings, ports)
    yield "Activators", activation.examine(site, entries, survey, settings)


def _is_served(site: Site, settings: Settings, entries: "list[activators.Entry]") -> bool:
    """Whether this host is meant to serve the protocol at all: one alone is a site, too."""
    protocol = settings.protocol
    return (
        settings.proxy
        or any(os.path.exists(f"{site.directory}/{name}") for name in MAIN_FILES[protocol])
        or any(entry.protocol == protocol for entry in entries)
    )


def _ports(protocol: str, entries: "list[activators.Entry]") -> "list[str]":
    """Where clients come to, those first that begin in clear: as the entries say, else the usual port."""
    ours = sorted((entry for entry in entries if entry.protocol == protocol), key=lambda entry: entry.tls)
    return [served_port(entry.service, entry.port) for entry in ours] or [served_port(protocol, None)]


def _show(section: str, findings: "list[Finding]") -> None:
    click.secho(section, bold=True)
    shown: Counter[tuple[str, str]] = Counter()
    for finding in findings or [Finding("ok", "nothing wrong")]:
        kind = finding.level, finding.remedy if finding.place else finding.what
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            _show_finding(finding)
    for (level, remedy), count in shown.items():
        if count > SHOWN:
            say(level, f"… and {count - SHOWN} more like these: {remedy}")


def _show_finding(finding: Finding) -> None:
    say(finding.level, f"{finding.place}: {finding.what}" if finding.place else finding.what)
    if finding.remedy:
        click.echo(" " * 9 + click.style("→ ", fg="cyan") + clean(finding.remedy))


def _sum_up(site: Site, counts: "Counter[str]") -> None:
    errors, warnings = counts["error"], counts["warning"]
    colour = "red" if errors else "yellow" if warnings else "green"
    text = f"{clean(site.directory)}: {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    click.secho(text, fg=colour, bold=True)


def _print(report: Report, counts: "Counter[str]") -> None:
    findings = [
        {"section": section.lower(), **dataclasses.asdict(finding)}
        for section, of_section in report.items()
        for finding in of_section
    ]
    print_json({"errors": counts["error"], "warnings": counts["warning"], "findings": findings})
