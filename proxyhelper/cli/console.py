"""What all commands say and how: colours on a terminal, exit statuses for scripts, and the site they are about."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import click

from ..failures import Failure
from ..routing import service_port
from ..settings import ConfigurationError, Settings, directory_in, load

NO = 1
USAGE = 2
TEMPORARY = 75  # these three as in sysexits.h
REFUSED = 77
CONFIGURATION = 78
STATUSES = {"credentials": NO, "temporary": TEMPORARY, "configuration": CONFIGURATION}

PROTOCOLS = ("imap", "pop3")
COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "error": "red"}

entries_option = click.option(
    "--entries",
    type=click.Path(exists=True),
    multiple=True,
    metavar="PATH",
    help="Look for activators' entries in this file or directory instead of the usual places.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class Site:
    """The host's configuration. `environment` is that of the command, with PROXYHELPER_CONFDIR as chosen."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        try:
            self.directory = directory_in(environment)
        except ConfigurationError as error:
            fail(str(error), CONFIGURATION)

    @property
    def userdb(self) -> str:
        return f"{self.directory}/userdb"

    def settings(self, protocol: str) -> Settings:
        """The settings of `protocol`; ends the command where they cannot be used."""
        try:
            return load(protocol, self.environment)
        except ConfigurationError as error:
            fail(str(error), CONFIGURATION)


def served_port(service: str, port: "int | None") -> str:
    """The port that clients of a service (imap, imaps, …) are taken to come to: `port`, else the usual one."""
    return str(port or service_port(service))


def clean(value: object) -> str:
    """A value from outside for a terminal: what cannot be printed (escape sequences!) becomes \\xNN or \\uNNNN."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in str(value)
    )


def say(kind: str, text: str) -> None:
    """A line headed by `kind`, a key of COLOURS."""
    click.echo(click.style(f"{kind:>7}", fg=COLOURS[kind], bold=True) + "  " + clean(text))


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def fail(text: str, status: int) -> NoReturn:
    """End the command with a line on stderr."""
    click.echo(click.style("error: ", fg="red", bold=True) + clean(text), err=True)
    sys.exit(status)


def status_of(failure: Failure) -> int:
    return STATUSES.get(failure.kind, REFUSED)


@contextmanager
def progress(what: str, length: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, shown on a terminal only. What it gives is to be told the length of each step."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda step: None
        return
    with click.progressbar(length=length, label=what, file=sys.stderr, show_pos=False) as bar:
        yield bar.update
    sys.stderr.write("\x1b[1A\x1b[2K")  # gone when done
