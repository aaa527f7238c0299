"""What may stand in a userdb: names, fields, values. Raises click.UsageError, which never repeats a password."""

import re

import click

from ...accounts.account import MAX_ID, is_id, parse_options
from ...failures import Temporary
from ...login import could_be
from ...routing import parse_mailhost
from ...text import encode
from ..forms import is_hash

NO_VALUE = re.compile("[|\n\r\0]")
HMAC = re.compile("[0-9a-f]{64,128}")


def is_proof(field: str) -> bool:
    """Whether the field holds a password's hash."""
    return field.endswith("pw")


def check_name(name: str) -> None:
    if name.startswith("#") or not could_be(encode(name)):
        raise click.UsageError(f"{name!r} cannot be an account: it is empty, begins with # or has control characters")


def check_field(name: str) -> None:
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise click.UsageError(f"{name!r} cannot be a field's name: letters, digits, - and _ can")


def check_value(field: str, value: str) -> None:
    if NO_VALUE.search(value):
        raise click.UsageError(f"the value of {field} holds |, a line's end or NUL")
    if is_proof(field):
        _check_proof(field, value)
    elif field in ("uid", "gid"):
        _check_id(field, value)
    elif field == "options":
        _check_options(value)


def _check_id(field: str, value: str) -> None:
    if not (is_id(value) and int(value) > 0):
        raise click.UsageError(f"{field}={value!r} is not a number from 1 to {MAX_ID}; no mailbox is served as root")


def _check_options(value: str) -> None:
    try:
        mailhost = parse_options(value, "").get("mailhost", "").strip()
        if mailhost:
            parse_mailhost(mailhost)
    except Temporary as failure:
        raise click.UsageError(str(failure)) from None


def _check_proof(field: str, value: str) -> None:
    if HMAC.fullmatch(value) if field.startswith("hmac-") else is_hash(value):
        return
    raise click.UsageError(
        f"what is given for {field} is no hash that this host can check. For a password itself: "
        "proxyhelper userdb passwd NAME"
    )
