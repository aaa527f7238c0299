"""Does a password match what is stored? In constant time, for every form Courier stores.

crypt(3) strings in every form the C library knows, or a scheme in braces with base64: {MD5} {SHA} {SHA256} {SHA512}
{SSHA}; {MD5RAW} holds hexadecimal digits in Courier's own tools, base64 elsewhere; {CRYPT} a crypt(3) string.
"""

from ..failures import Temporary
from ..interpreter import compare_digest, crypt, digest

HASHES = {b"MD5": "md5", b"SHA": "sha1", b"SHA256": "sha256", b"SHA512": "sha512"}
SHA1_SIZE = 20


def matches(stored: bytes, given: bytes) -> bool:
    """Whether `given` is the password behind `stored`. An absent or empty stored password never matches."""
    if not stored or not given:
        return False
    if not (stored.startswith(b"{") and b"}" in stored):
        return _matches_crypt(stored, given)
    scheme, _, encoded = stored[1:].partition(b"}")
    scheme = scheme.upper()
    if scheme in HASHES:
        return compare_digest(digest(HASHES[scheme], given), _base64(encoded))
    if scheme == b"SSHA":
        decoded = _base64(encoded)
        return compare_digest(digest("sha1", given + decoded[SHA1_SIZE:]), decoded[:SHA1_SIZE])
    if scheme == b"MD5RAW":
        return _matches_md5raw(encoded, given)
    return scheme == b"CRYPT" and _matches_crypt(encoded, given)


def _matches_crypt(stored: bytes, given: bytes) -> bool:
    try:
        hashed = crypt(given, stored)
    except ImportError as error:
        raise Temporary(f"passwords of this form cannot be checked here: {error}") from None
    return bool(hashed) and not hashed.startswith(b"*") and compare_digest(hashed, stored)


def _matches_md5raw(encoded: bytes, given: bytes) -> bool:
    hashed = digest("md5", given)
    return compare_digest(hashed.hex().encode(), encoded.lower()) or compare_digest(hashed, _base64(encoded))


def _base64(encoded: bytes) -> bytes:
    """The decoded bytes, or b"" (which no hash equals) where they cannot be decoded."""
    from binascii import a2b_base64

    try:
        return a2b_base64(encoded)
    except ValueError:
        return b""
