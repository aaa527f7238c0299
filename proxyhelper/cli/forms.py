"""The forms of stored passwords, for people: what accounts/passwords.py can check."""

import re
from binascii import Error, a2b_base64

from ..accounts.passwords import HASHES, SHA1_SIZE
from ..failures import Temporary
from ..interpreter import crypt, digest
from ..text import encode

SCHEME = re.compile(r"\{([A-Za-z0-9]+)\}(.*)", re.DOTALL)
SIZES = {**{scheme.decode(): len(digest(name, b"")) for scheme, name in HASHES.items()}, "MD5RAW": 16}
CRYPT_NAMES = {  # crypt(5)
    "$y$": "yescrypt",
    "$gy$": "gost-yescrypt",
    "$7$": "scrypt",
    "$2": "bcrypt",
    "$6$": "SHA-512 crypt",
    "$5$": "SHA-256 crypt",
    "$sha1": "SHA-1 crypt",
    "$md5": "SunMD5",
    "$1$": "MD5 crypt",
    "$3$": "NT hash",
    "_": "BSDi crypt",
}
TRADITIONAL = re.compile(r"[./0-9A-Za-z]{13}([./0-9A-Za-z]{11})*")
DES = re.compile(r"[./0-9A-Za-z]{12}[.26AEIMQUYcgkosw]")


def form_of(stored: str) -> str:
    """The name of the form that a password is stored in; "" where it is none that could be checked."""
    scheme = SCHEME.fullmatch(stored)
    if scheme is None:
        return _crypt_form(stored)
    name, encoded = scheme[1].upper(), scheme[2]
    if name == "CRYPT":
        return _crypt_form(encoded)
    return f"{{{name}}}" if _is_digest(name, encoded) else ""


def is_hash(stored: str) -> bool:
    """Whether any password at all can match this; the C library is asked about its own forms, which takes as long as a
    login. Raises Temporary where there is none."""
    scheme = SCHEME.fullmatch(stored)
    if scheme and scheme[1].upper() != "CRYPT":
        return bool(form_of(stored))
    return _is_crypt(scheme[2] if scheme else stored)


def _crypt_form(stored: str) -> str:
    for prefix, name in CRYPT_NAMES.items():
        if stored.startswith(prefix) and len(stored) > 13:
            return name
    return "traditional crypt" if TRADITIONAL.fullmatch(stored) else ""


def _is_digest(scheme: str, encoded: str) -> bool:
    if scheme == "MD5RAW" and re.fullmatch("[0-9a-fA-F]{32}", encoded):
        return True
    try:
        size = len(a2b_base64(encode(encoded)))
    except Error:
        return False
    return size >= SHA1_SIZE if scheme == "SSHA" else size == SIZES.get(scheme)


def _is_crypt(stored: str) -> bool:
    """The C library says: a hash is as long as any other of its setting. Two letters and more are a setting for DES."""
    try:
        hashed = crypt(b"-", encode(stored))
    except ImportError as error:
        raise Temporary(f"passwords of this form cannot be checked here: {error}") from None
    is_setting = bool(hashed) and not hashed.startswith(b"*") and len(hashed) == len(encode(stored))
    return is_setting and (stored[:1] in ("$", "_") or bool(DES.fullmatch(stored)))
