"""What may stand in a userdb: names, fields, values. Raises click.UsageError, which never repeats a password."""

import re
from binascii import Error, a2b_base64

import click

from ..accounts.account import MAX_ID, parse_options
from ..accounts.passwords import HASHES, SHA1_SIZE
from ..failures import Temporary
from ..interpreter import crypt, digest
from ..login import could_be
from ..routing import parse_mailhost
from ..text import encode

NO_VALUE = re.compile("[|\n\r\0]")
DES = re.compile(rb"[./0-9A-Za-z]{12}[.26AEIMQUYcgkosw]")
HMAC = re.compile("[0-9a-f]{64,128}")
SCHEME = re.compile(rb"\{([A-Za-z0-9]+)\}(.*)")


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
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and 0 < int(value) <= MAX_ID):
        raise click.UsageError(f"{field}={value!r} is not a number from 1 to {MAX_ID}; no mailbox is served as root")


def _check_options(value: str) -> None:
    try:
        mailhost = parse_options(value, "").get("mailhost", "").strip()
        if mailhost:
            parse_mailhost(mailhost)
    except Temporary as failure:
        raise click.UsageError(str(failure)) from None


def _check_proof(field: str, value: str) -> None:
    if HMAC.fullmatch(value) if field.startswith("hmac-") else is_hash(encode(value)):
        return
    raise click.UsageError(
        f"what is given for {field} is no hash that this host can check. For a password itself: "
        "proxyhelper userdb passwd NAME"
    )


def is_hash(value: bytes) -> bool:
    """Whether `passwords.matches` can find any password to match this. Raises Temporary where there is no libcrypt."""
    scheme = SCHEME.fullmatch(value)
    if scheme is None:
        return _is_crypt(value)
    name, encoded = scheme[1].upper(), scheme[2]
    if name == b"CRYPT":
        return _is_crypt(encoded)
    if name == b"MD5RAW" and re.fullmatch(b"[0-9a-fA-F]{32}", encoded):
        return True
    try:
        size = len(a2b_base64(encoded))
    except Error:
        return False
    if name == b"SSHA":
        return size > SHA1_SIZE
    return size == {**{key: len(digest(HASHES[key], b"")) for key in HASHES}, b"MD5RAW": 16}.get(name)


def _is_crypt(value: bytes) -> bool:
    """The C library says: a hash is as long as any other of its setting. Two letters and more are a setting for DES."""
    try:
        hashed = crypt(b"-", value)
    except ImportError as error:
        raise Temporary(f"passwords of this form cannot be checked here: {error}") from None
    is_setting = bool(hashed) and not hashed.startswith(b"*") and len(hashed) == len(value)
    return is_setting and (value[:1] in (b"$", b"_") or bool(DES.fullmatch(value)))
