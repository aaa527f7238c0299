"""`proxyhelper …`, for the administrator. It may use every room of the house; no room uses it."""

import io
import os
import sys

import click

from .. import __version__
from ..failures import Temporary
from . import accounts, check, demo, entry, login, lookup, userdb
from .console import TEMPORARY, Site, fail


class Commands(click.Group):
    """What no command foresees ends it with a line all the same."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except Temporary as failure:
            fail(str(failure), TEMPORARY)
        except BrokenPipeError:
            raise  # click ends quietly
        except OSError as error:
            fail(str(error), TEMPORARY)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option(
    "-c",
    "--confdir",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Configuration directory. [default: PROXYHELPER_CONFDIR, else /etc/courier]",
)
@click.pass_context
def main(context: click.Context, confdir: "str | None") -> None:
    """Look after proxyhelper, the IMAP/POP3 login proxy.

    Exit status: 0 done; 1 no (errors found, no such account, wrong password); 2 wrong usage; 75 something is at fault
    for the time being; 77 refused by policy; 78 the configuration cannot be used.
    """
    if "NO_COLOR" in os.environ:
        context.color = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # in a locale without arrows
    environment = dict(os.environ)
    if confdir:
        environment["PROXYHELPER_CONFDIR"] = confdir
    context.obj = Site(environment)


for command in (check.check, lookup.lookup, login.login, accounts.accounts, userdb.userdb, entry.entry, demo.demo):
    main.add_command(command)
