"""Where this installation's helper programs are."""

import os
import sys
import sysconfig
from pathlib import Path

import click


def program(protocol: str) -> str:
    """The absolute path of `proxyhelper-imap` or `-pop3`: beside the command that runs, else among the scripts of this
    Python, else the checkout's. Raises ClickException where there is none."""
    name = f"proxyhelper-{protocol}"
    places = (
        Path(os.path.abspath(sys.argv[0])).parent,
        Path(sysconfig.get_path("scripts")),
        Path(__file__).parents[2] / "bin",
    )
    for place in places:
        if os.access(place / name, os.R_OK):
            return str(place / name)
    looked = ", ".join(map(str, places))
    raise click.ClickException(f"{name} is not installed: looked in {looked}; install proxyhelper with pip")
