"""`proxyhelper entry`: the files of contrib/, with the paths of this very installation put in."""

import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from .console import CONFIGURATION, NO, PROTOCOLS, clean, fail, say
from .installation import programs

CONTRIB = Path(__file__).with_name("contrib")
INTERPRETER = "/opt/proxyhelper/bin/python"  # these three as contrib/ has them
PROGRAM = "/opt/proxyhelper/bin/proxyhelper-"
COURIERTCPD = "/usr/sbin/couriertcpd"
USER = "proxyhelper"
SERVICES = (*PROTOCOLS, "imaps", "pop3s")

UNQUOTED = re.compile(r"[\w/.,@+=:~-]+", re.ASCII)  # what stands for itself in all of these files
LOCAL_SERVER = re.compile(rf"{PROGRAM}\w+[\s\\]+(/\S+)")
HIDDEN = re.compile(r"/(home|root|run/user|tmp|var/tmp)/")  # by ProtectHome and PrivateTmp


@dataclass(frozen=True)
class Activator:
    """Where its files are below contrib/, where they belong, and which units they make: {} is a service."""

    name: str
    contrib: str
    place: str
    unit: str = ""

    def entries(self, services: Sequence[str], local: bool) -> dict[str, str]:
        """File names and texts. Those for local mailboxes stand in for the others of their name."""
        directories = [CONTRIB / self.contrib, *([CONTRIB / f"{self.contrib}-local"] if local else [])]
        files = {file.name: file for directory in directories for file in sorted(directory.iterdir())}
        wanted = re.compile(rf"proxyhelper-({'|'.join(services)})\b")
        return {name: file.read_text() for name, file in files.items() if wanted.match(name)}

    def next_step(self, services: Sequence[str]) -> str:
        if not self.unit:
            return f"systemctl reload {self.name}"
        units = " ".join(self.unit.format(service) for service in services)
        return f"systemctl daemon-reload && systemctl enable --now {units}"


ACTIVATORS = {
    "xinetd": Activator("xinetd", "xinetd", "/etc/xinetd.d"),
    "systemd": Activator("systemd", "systemd-socket", "/etc/systemd/system", "proxyhelper-{}.socket"),
    "couriertcpd": Activator("couriertcpd", "couriertcpd", "/etc/systemd/system", "proxyhelper-{}.service"),
}


@click.command()
@click.argument("activator", type=click.Choice(list(ACTIVATORS)))
@click.option("--imap", is_flag=True, help="IMAP on port 143. [default: this and --pop3]")
@click.option("--pop3", is_flag=True, help="POP3 on port 110.")
@click.option("--imaps", is_flag=True, help="IMAP with TLS from the first byte, on port 993.")
@click.option("--pop3s", is_flag=True, help="POP3 with TLS from the first byte, on port 995.")
@click.option("--local", is_flag=True, help="For a host with mailboxes: runs as root, with Courier's server behind it.")
@click.option("-o", "--output", type=click.Path(exists=True, file_okay=False), help="Write files there.")
@click.option("--force", is_flag=True, help="Overwrite other files of the same names.")
def entry(activator: str, local: bool, output: "str | None", force: bool, **wanted: bool) -> None:
    """Print the entry with which ACTIVATOR starts this very installation, ready to save.

    Without --local it is for a host without mailboxes, and runs as the unprivileged user proxyhelper. Where there are
    several files, each is headed by its path.
    """
    services = [name for name in SERVICES if wanted[name]] or PROTOCOLS
    chosen = ACTIVATORS[activator]
    entries = chosen.entries(services, local)
    helpers = _usable_programs()
    for doubt in _doubts(chosen, entries, helpers):
        click.echo(click.style("warning: ", fg="yellow", bold=True) + clean(doubt), err=True)
    entries = {name: _adapted(text, helpers) for name, text in entries.items()}
    if output:
        _write(Path(output), entries, force)
        say("note", f"next, with the files in {chosen.place}: {chosen.next_step(services)}")
    elif len(entries) == 1:
        click.echo("".join(entries.values()), nl=False)
    else:
        click.echo("\n".join(f"# {chosen.place}/{name}\n{text}" for name, text in entries.items()), nl=False)


def _usable_programs() -> str:
    """This installation's; ends the command where their paths or the interpreter's cannot stand in an entry."""
    found = programs()
    for path in (sys.executable, found):
        if not UNQUOTED.fullmatch(path):
            fail(f"{path} would need quotes: install below a path of letters, digits, - and .", CONFIGURATION)
    return found


def _adapted(text: str, helpers: str) -> str:
    couriertcpd = _couriertcpd()
    if couriertcpd:
        text = text.replace(COURIERTCPD, couriertcpd)
        if b"noidentlookup" not in Path(couriertcpd).read_bytes():
            text = text.replace("-nodnslookup -noidentlookup ", "-nodnslookup ")
    return text.replace(INTERPRETER, sys.executable).replace(PROGRAM, helpers)


def _couriertcpd() -> "str | None":
    return shutil.which("couriertcpd", path=f"{os.path.dirname(COURIERTCPD)}:{os.environ.get('PATH', '')}")


def _doubts(activator: Activator, entries: Mapping[str, str], helpers: str) -> Iterator[str]:
    """What will keep the entries from working on this host as it is."""
    text = "\n".join(entries.values())
    for server in LOCAL_SERVER.findall(text):
        if not os.access(server, os.X_OK):
            yield f"there is no local server {server} here: name yours in its place"
    if activator.name == "couriertcpd" and not _couriertcpd():
        yield f"there is no {COURIERTCPD} here: install Courier's"
    if f"nologin {USER}" in text and not _is_user(USER):
        yield f"there is no user {USER} yet; the entry's comment tells how to make it"
    if "ProtectHome=yes" in text:
        for path in (sys.executable, os.path.realpath(sys.executable), helpers):
            if HIDDEN.match(path):
                yield f"the unit will not see {path}: take ProtectHome and PrivateTmp out, or install elsewhere"


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _write(directory: Path, entries: Mapping[str, str], force: bool) -> None:
    """Write all files, or none where one is there already with other contents."""
    try:
        for name, text in entries.items():
            if not force and (directory / name).exists() and (directory / name).read_text(errors="replace") != text:
                fail(f"{directory / name} is there already and differs: move it away, or use --force", NO)
        for name, text in entries.items():
            (directory / name).write_text(text)
            say("ok", f"wrote {directory / name}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", NO)
