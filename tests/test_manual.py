"""The manual pages and the README name what there is: each command, option, setting and exit status."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support import BIN, CHECKOUT, DEADLINE, Site, command, environment, need

from proxyhelper.cli import catalogue, console, main
from proxyhelper.settings import DEFAULT_DIRECTORY, Settings, Values

PAGES = sorted((CHECKOUT / "docs/man").iterdir())
COMMANDS = (CHECKOUT / "docs/man/proxyhelper.8").read_text()
SETTINGS = (CHECKOUT / "docs/man/proxyhelper.conf.5").read_text()
HELPER = (CHECKOUT / "docs/man/proxyhelper-imap.8").read_text()
README = (CHECKOUT / "README.md").read_text()

NAMES = [*catalogue.COMMON, *catalogue.OWN["imap"], *catalogue.OWN["pop3"], *catalogue.ENVIRONMENT_ONLY]
PREFIXED = f"{catalogue.SERVICE_PREFIX}<port>"
STATUSES = {0, console.NO, click.UsageError.exit_code, console.TEMPORARY, console.REFUSED, console.CONFIGURATION}


def section(page: str, macro: str, title: str) -> str:
    """The source of a section (Sh) or subsection (Ss), up to the next one."""
    found = re.search(rf"^\.{macro} {re.escape(title)}\b(.*?)(?=^\.S[hs] |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def options(described: click.Command) -> Iterator[str]:
    """Those of the command and its subcommands, without the help that all have."""
    for parameter in described.params:
        if isinstance(parameter, click.Option):
            yield from parameter.opts
    if isinstance(described, click.Group):
        for subcommand in described.commands.values():
            yield from options(subcommand)


def names_option(page: str, option: str) -> bool:
    return re.search(rf"^\.It.* Fl {re.escape(option[1:])}(?=\s)", page, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_nothing_wrong(page: Path) -> None:
    need(shutil.which("mandoc") is not None, "mandoc (Debian package mandoc)")
    found = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert found.stdout + found.stderr == ""


def test_each_program_has_its_page() -> None:
    programs = ["proxyhelper", *(file.name for file in (CHECKOUT / "bin").iterdir())]
    assert {page.name for page in PAGES} == {"proxyhelper.conf.5", *(f"{program}.8" for program in programs)}
    for program in programs:
        page = (CHECKOUT / f"docs/man/{program}.8").read_text()
        assert re.search(rf"^\.Nm {program}\b", section(page, "Sh", "NAME"), re.MULTILINE)


@pytest.mark.parametrize("name", main.commands)
def test_command_and_its_options(name: str) -> None:
    chosen = main.commands[name]
    text = section(COMMANDS, "Ss", name)
    assert re.search(rf"^\.Cm {name}\b", section(COMMANDS, "Sh", "SYNOPSIS"), re.MULTILINE)
    assert f"proxyhelper {name}" in README
    for option in options(chosen):
        where = section(COMMANDS, "Sh", "DESCRIPTION") if option in ("--json", "--entries") else text
        assert names_option(where, option), option
    for subcommand in getattr(chosen, "commands", {}):
        assert re.search(rf"^\.It Cm {subcommand}\b", text, re.MULTILINE), subcommand
        assert re.search(rf"^\.Cm {name} {subcommand}\b", section(COMMANDS, "Sh", "SYNOPSIS"), re.MULTILINE)


def test_options_of_all_commands() -> None:
    text = section(COMMANDS, "Sh", "DESCRIPTION")
    for parameter in main.params:
        for option in parameter.opts:
            assert names_option(text, option), option


def test_page_has_no_other_commands_and_options() -> None:
    described = re.findall(r"^\.Ss (?:Ic )?(\w+)", COMMANDS, re.MULTILINE)
    assert sorted(described) == sorted(main.commands)
    items = " ".join(re.findall(r"^\.It (Fl .*)", COMMANDS, re.MULTILINE))
    assert {f"-{name}" for name in re.findall(r"Fl (\S+)", items)} == {*options(main), "-h", "--help"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_setting_is_in_the_manual_and_the_readme(name: str) -> None:
    assert re.search(rf"^\.It Ev .*\b{name}\b", section(SETTINGS, "Ss", "Settings"), re.MULTILINE)
    assert re.search(rf"`{name}`", README)


def test_settings_by_port() -> None:
    assert f".It Ev {catalogue.SERVICE_PREFIX} Ns Ar port" in SETTINGS
    assert PREFIXED in README


def test_manual_has_no_other_settings() -> None:
    items = re.findall(r"^\.It Ev (.*)", section(SETTINGS, "Ss", "Settings"), re.MULTILINE)
    listed = {name for item in items for name in re.findall(r"\w+", item.partition(" Ns ")[0])}
    assert listed == {*NAMES, catalogue.SERVICE_PREFIX}


def test_defaults() -> None:
    settings = Settings("imap", DEFAULT_DIRECTORY, {}, Values({}, {}))
    for name, default in {
        "IMAP_PROXY": int(settings.proxy),
        "IMAP_PROXY_FOREIGN": int(settings.foreign),
        "IMAP_TLS_REQUIRED": int(settings.tls_required),
        "IMAP_PROXY_TLS": settings.proxy_tls,
        "PROXY_PROTOCOL": int(settings.proxy_protocol),
        "TLS_PROTOCOL": settings.tls_protocol,
        "TLS_VERIFYPEER": settings.verify_peer.upper(),
        "IMAP_CAPABILITY": " ".join(settings.offer(secure=False).capabilities),
        "LOGIN_FAIL_DELAY": settings.fail_delay,
        "MAILDIRPATH": settings.maildir,
        "PROXY_ACCOUNT_TIMEOUT": settings.account_timeout,
        "PROXY_TIMEOUT": settings.timeout,
        "PROXYHELPER_CONFDIR": settings.directory,
        "authdaemonvar": settings.authdaemon,
        "authmodulelist": " ".join(settings.modules),
    }.items():
        item = re.search(rf"^\.It Ev {name}\b(.*?)(?=^\.It |^\.El)", SETTINGS, re.MULTILINE | re.DOTALL)
        assert item, name
        assert f"\nDefault: {default}.\n" in item[1], name


def test_exit_statuses() -> None:
    items = re.findall(r"^\.It (\d+)$", section(COMMANDS, "Sh", "EXIT STATUS"), re.MULTILINE)
    assert [*map(int, items)] == sorted(STATUSES)
    for text in (README, main.help or ""):
        sentence = re.search(r"Exit status(?:es)?: (.*?cannot\s+be\s+used)\.", text, re.DOTALL)
        assert sentence
        assert [int(number) for number in re.findall(r"\b\d+\b", sentence[1])] == sorted(STATUSES)


def test_exit_statuses_of_the_helper(site: Site) -> None:
    items = re.findall(r"^\.It (\d+)$", section(HELPER, "Sh", "EXIT STATUS"), re.MULTILINE)
    site.set(PROXY_TIMEOUT="soon")
    cases = [["--version"], ["--unknown"], []]
    assert [*map(int, items)] == [run_helper(site, *arguments) for arguments in cases]


def run_helper(site: Site, *arguments: str) -> int:
    done = subprocess.run(
        command("imap", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(site, {}),
        timeout=DEADLINE,
    )
    return done.returncode


def test_pages_are_installed() -> None:
    need("PROXYHELPER_BIN" in os.environ, "an installation: PROXYHELPER_BIN")
    for page in PAGES:
        installed = BIN.parent / "share/man" / f"man{page.suffix[1:]}" / page.name
        assert installed.read_text() == page.read_text()
