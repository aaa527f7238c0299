"""Stored passwords by their forms, for people: what accounts/passwords.py can check."""

import re

from ..accounts.passwords import HASHES

SCHEMES = {scheme.decode() for scheme in HASHES} | {"SSHA", "MD5RAW"}
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


def form_of(stored: str) -> str:
    """The name of the form that a password is stored in; "" where it is none that could be checked."""
    if braced := re.match(r"\{([^}]*)\}(?=.)", stored):
        scheme = braced[1].upper()
        if scheme != "CRYPT":
            return f"{{{scheme}}}" if scheme in SCHEMES else ""
        stored = stored[braced.end() :]
    for prefix, name in CRYPT_NAMES.items():
        if stored.startswith(prefix) and len(stored) > 13:
            return name
    return "traditional crypt" if TRADITIONAL.fullmatch(stored) else ""
