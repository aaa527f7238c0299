"""Where this installation's helper programs are."""

import os
import sys
import sysconfig
from pathlib import Path

from .console import CONFIGURATION, PROTOCOLS, fail


def programs() -> str:
    """The absolute paths of `proxyhelper-imap` and `-pop3` up to the protocol: beside the command that runs, else among
    the scripts of this Python, else the checkout's. Ends the command where they are nowhere."""
    places = (Path(sys.argv[0]).parent, Path(sysconfig.get_path("scripts")), Path(__file__).parents[2] / "bin")
    beginnings = [os.path.abspath(place / "proxyhelper-") for place in places]
    found = [one for one in beginnings if all(os.access(one + protocol, os.R_OK) for protocol in PROTOCOLS)]
    if not found:
        looked = ", ".join(f"{beginning}imap" for beginning in beginnings)
        fail(f"none of {looked} is there: reinstall with pip", CONFIGURATION)
    return found[0]
