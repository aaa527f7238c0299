"""What `proxyhelper demo` shows, step by step."""

import asyncio
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NoReturn

import click

from ... import accounts, routing, settings
from ...interpreter import crypt
from ...libcrypt import strongest_setting
from ..console import clean
from ..installation import programs
from .front import Front, fronting
from .mailboxes import Failed, Mailbox, connected

CERTIFY_SECONDS = 10.0
LOG_SECONDS = 5.0
"""For a helper to end when its client has."""

INTRODUCTION = """\
Mail accounts are split over several servers; their clients know one address only. All that you see here is real: it
runs on this host's loopback addresses and in a temporary directory, and is gone after Ctrl-C."""

SETTINGS = """\
IMAP_PROXY=1
IMAP_CAPABILITY="IMAP4rev1 UIDPLUS IDLE AUTH=PLAIN"
LOGIN_FAIL_DELAY=1
"""
CERTIFY = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=the-demo"
TLS_SETTINGS = """\
IMAPDSTARTTLS=YES
TLS_CERTFILE={directory}/certificate.pem
TLS_PRIVATE_KEYFILE={directory}/key.pem
"""
KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "PATH")
"""The helper has no settings from the environment of whoever runs the demo."""

CAPABILITIES = re.compile(r"\[CAPABILITY [^]]*\]")
COLOURS = {"C": "cyan", "S": "green", "ERR": "red", "CRIT": "red", "WARN": "yellow"}


async def tell(port: int, live: asyncio.Event) -> None:
    """The whole story, with the helper on `port` of 127.0.0.1 (0: any). Sets `live` when only the log is left to show,
    which goes on until cancelled. Raises Failed."""
    click.echo(INTRODUCTION)
    async with AsyncExitStack() as stack:
        alice = Mailbox("alice", "server A", "127.0.0.2")
        bob = Mailbox("bob", "server B", "127.0.0.3")
        carol = Mailbox("carol", "server C", "127.0.0.4")
        stack.callback(carol.release)
        servers = await start_servers(stack, alice, bob)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyhelper-demo-"))
        has_tls = certify(directory)
        configure(Path(directory), SETTINGS + TLS_SETTINGS.format(directory=directory) * has_tls, [alice, bob, carol])
        front = await start_front(stack, port, directory)

        for mailbox, title in ((alice, "4  Alice logs in there"), (bob, "5  Bob logs in at the same address")):
            heading(title)
            show_route(mailbox, directory, front.port)
            took = await log_in(front, mailbox, mailbox.password, expected=mailbox.subject)
            row("result", f"{mailbox.server} has answered: no other server has that message")
            row("", f"LOGIN took {took}, and {milliseconds(mailbox.login_seconds)} at {mailbox.server} itself")
        heading("6  A wrong password")
        took = await log_in(front, alice, "wrong", expected="[AUTHENTICATIONFAILED]")
        row("result", "refused, and logged as fail2ban expects it")
        row("", f"LOGIN took {took}: LOGIN_FAIL_DELAY is 1 second here, by default 5")
        heading("7  A server that is down")
        show_route(carol, directory, front.port)
        await log_in(front, carol, carol.password, expected="[UNAVAILABLE]")
        row("result", "the client hears that its password is not at fault, and the log says what is")

        suggest(front.port, directory, [alice, bob], has_tls)
        heading("The log of the helpers, as it comes, until Ctrl-C")
        live.set()
        await asyncio.gather(show_log(front), front.accepting, *servers)


async def start_servers(stack: AsyncExitStack, *mailboxes: Mailbox) -> "list[asyncio.Task[NoReturn]]":
    heading(f"1  Two IMAP servers start (pymap {importlib.metadata.version('pymap')}, in memory)")
    servers = []
    for mailbox in mailboxes:
        servers.append(await stack.enter_async_context(mailbox.serving()))
        row(mailbox.server, f"{mailbox.mailhost} has {mailbox.user} with one message, {mailbox.subject!r}")
    return servers


def certify(directory: str) -> bool:
    """Make a self-signed certificate, where OpenSSL's command is installed."""
    files = ["-out", f"{directory}/certificate.pem", "-keyout", f"{directory}/key.pem"]
    try:
        subprocess.run([*CERTIFY.split(), *files], check=True, capture_output=True, timeout=CERTIFY_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def configure(directory: Path, text: str, mailboxes: Sequence[Mailbox]) -> None:
    """Write what a site has in /etc/courier; `text` is its imapd."""
    heading(f"2  The configuration is written: {directory}")
    (directory / "imapd").write_text(text)
    for line in text.splitlines():
        row("imapd", line)
    userdb = directory / "userdb"
    userdb.touch(mode=0o600)
    with userdb.open("w") as file:
        for mailbox in mailboxes:
            password, options = hashed(mailbox.password), f"options=mailhost={mailbox.mailhost}"
            file.write(f"{mailbox.user}\tsystempw={password}|{options}\n")
            row("userdb", f"{mailbox.user}  systempw={password[:8]}...|{options}")


def hashed(password: str) -> str:
    """As in /etc/shadow. Raises Failed."""
    try:
        return crypt(password.encode(), strongest_setting()).decode()
    except ImportError as error:
        raise Failed(f"passwords cannot be hashed here: {error}") from None


async def start_front(stack: AsyncExitStack, port: int, directory: str) -> Front:
    command = [sys.executable, "-I", "-S", programs() + "imap"]
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    try:
        front = await stack.enter_async_context(fronting(port, command, {**kept, "PROXYHELPER_CONFDIR": directory}))
    except OSError as error:
        raise Failed(f"cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}") from None
    heading(f"3  The helper stands in front: {front.address}:{front.port}")
    row("program", shlex.join(command))
    row("", "a process for each connection, as xinetd, systemd or couriertcpd would start it")
    return front


def show_route(mailbox: Mailbox, directory: str, port: int) -> None:
    """Where the helper on `port` will go, and why."""
    configured = settings.load("imap", {"PROXYHELPER_CONFDIR": directory})
    route = routing.decide(accounts.find(configured, "imap", mailbox.user), configured, str(port))
    row("route", f"{mailbox.user} is on {route.host}:{route.port}: {route.reason}")


async def log_in(front: Front, mailbox: Mailbox, password: str, expected: str) -> str:
    """Log in at the front, read the message as far as that goes, and show the log of it; the time to the reply to
    LOGIN. Raises Failed where no reply holds what is `expected`."""
    heard = []

    def tell(who: str, text: str) -> None:
        row(who, CAPABILITIES.sub("[CAPABILITY ...]", text))
        heard.append(text)

    started = time.monotonic()
    async with connected(front.address, front.port, tell) as client:
        reply = await client.command(f"LOGIN {mailbox.user} {password}")
        took = milliseconds(time.monotonic() - started)
        if " OK " in reply:
            await client.command("SELECT INBOX", "EXISTS")
            await client.command("FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]", "Subject:")
        await client.command("LOGOUT")
    for line in await front.finished_log(LOG_SECONDS):
        log_row(line)
    if not any(expected in line for line in heard):
        raise Failed(f"the replies should hold {expected!r}")
    return took


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def suggest(port: int, directory: str, mailboxes: Sequence[Mailbox], has_tls: bool) -> None:
    heading("Try it, in another terminal")
    for mailbox in mailboxes:
        url = f"imap://127.0.0.1:{port}/INBOX;MAILINDEX=1"
        paste(shlex.join(["curl", "-u", f"{mailbox.user}:{mailbox.password}", url]))
    paste(shlex.join([*this_command(), "-c", directory, "lookup", mailboxes[0].user]))
    if has_tls:
        paste(f"openssl s_client -quiet -crlf -starttls imap -connect 127.0.0.1:{port}", "# then as below")
    paste(f"telnet 127.0.0.1 {port}", "# or nc; then, line by line:")
    user, password = mailboxes[0].user, mailboxes[0].password
    for line in (f"a LOGIN {user} {password}", "b SELECT INBOX", "c FETCH 1 BODY[]", "d LOGOUT"):
        paste(f"    {line}")


def this_command() -> "list[str]":
    """How this program was started."""
    program = os.path.abspath(sys.argv[0])
    return [sys.executable, "-m", "proxyhelper"] if program.endswith(".py") else [program]


async def show_log(front: Front) -> None:
    while True:
        log_row(await front.log.get())


def heading(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def row(label: str, text: str) -> None:
    click.echo(f"  {click.style(f'{label:<8}', dim=True)}  {click.style(clean(text), fg=COLOURS.get(label))}")


def log_row(line: str) -> None:
    text = click.style(clean(line), fg=COLOURS.get(line.partition(":")[0], "magenta"))
    click.echo(f"  {click.style('log     ', dim=True)}  {text}")


def paste(command: str, note: str = "") -> None:
    click.echo(f"    {click.style(command, fg='cyan')}" + (f"    {note}" if note else ""))
