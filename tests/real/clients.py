"""Python's own mail clients, each fetching the whole mailbox of an account."""

from __future__ import annotations

import imaplib
import poplib
import socket
from collections.abc import Callable
from functools import partial

from .mail import MESSAGES, Account
from .servers import PORTS
from .world import PATIENCE

CLIENT = "127.0.0.9"
"""The address that our clients come from."""


class Imap(imaplib.IMAP4):
    """imaplib's client, coming from CLIENT."""

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return connect(self.host, "imap")


class Pop3(poplib.POP3):
    """poplib's client, coming from CLIENT."""

    def _create_socket(self, timeout: float) -> socket.socket:
        return connect(self.host, "pop3")


def connect(address: str, protocol: str) -> socket.socket:
    """A connection from CLIENT."""
    return socket.create_connection((address, PORTS[protocol]), PATIENCE, source_address=(CLIENT, 0))


Client = Imap | Pop3


def port_of(client: Client) -> int:
    """The client's own port."""
    return int(client.sock.getsockname()[1])


def imap_login(address: str, account: Account) -> Imap:
    """A client that has logged in."""
    client = Imap(address)
    client.login(account.name, account.password)
    return client


def pop3_login(address: str, account: Account) -> Pop3:
    """A client that has logged in."""
    client = Pop3(address)
    client.user(account.name)
    client.pass_(account.password)
    return client


LOGIN: dict[str, Callable[[str, Account], Client]] = {"imap": imap_login, "pop3": pop3_login}


def log_out(client: Client) -> None:
    """End the session as its protocol wants it."""
    client.logout() if isinstance(client, Imap) else client.quit()


def check_mailbox(client: Client) -> None:
    """The client, logged in, finds the known messages byte for byte, and logs out."""
    if isinstance(client, Imap):
        assert client.select(readonly=True) == ("OK", [b"%d" % len(MESSAGES)])
        fetch = partial(imap_message, client)
    else:
        assert client.stat()[0] == len(MESSAGES)
        fetch = partial(pop3_message, client)
    for number, message in enumerate(MESSAGES, 1):
        assert fetch(number) == message
    log_out(client)


def imap_message(client: Imap, number: int) -> bytes:
    """A message of the selected mailbox."""
    (_, text), _ = client.fetch(str(number), "BODY.PEEK[]")[1]  # type: ignore[misc]
    assert isinstance(text, bytes)
    return text


def pop3_message(client: Pop3, number: int) -> bytes:
    """A message of the mailbox."""
    return b"\r\n".join([*client.retr(number)[1], b""])
