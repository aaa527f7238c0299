"""crypt(3) by way of ctypes: where Python has no module for it, and for new settings."""

import ctypes

LIBCRYPT_NAMES = ("libcrypt.so.1", "libcrypt.so.2", None)  # None: the C library itself, as in musl


def strongest_setting() -> bytes:
    """A new setting for `crypt`, of the form that the C library prefers; SHA-512 where it does not say."""
    generate = getattr(_libcrypt(), "crypt_gensalt", None)  # libxcrypt has it
    if generate is not None:
        generate.restype = ctypes.c_char_p
        generate.argtypes = (ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int)
        setting = generate(None, 0, None, 0)
        if setting and not setting.startswith(b"*"):
            return bytes(setting)
    import secrets

    return b"$6$" + secrets.token_hex(8).encode()


def crypt_by_ctypes(password: bytes, setting: bytes) -> bytes:
    """As interpreter.crypt."""
    function = _libcrypt().crypt
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    return function(password, setting) or b""


def _libcrypt() -> "ctypes.CDLL":
    for name in LIBCRYPT_NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "crypt"):
            return library
    raise ImportError("no libcrypt")
