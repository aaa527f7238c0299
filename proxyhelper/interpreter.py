"""The interpreter's private modules, and what stands in for them where a version lacks one.

Each connection pays for every import: the public faces of these modules (`os`, `socket`, `signal`, `hashlib`, `hmac`)
cost 1 to 25 ms and up to a megabyte, the private ones next to nothing. No other room names a private module.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import _ssl as ssl
    import ctypes
    import signal
    import stat
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["compare_digest", "crypt", "decode_certificate", "digest", "posix", "signal", "socket", "ssl", "stat"]

HASH_MODULES = {
    "md5": ("_md5", "hashlib"),
    "sha1": ("_sha1", "hashlib"),
    "sha256": ("_sha2", "_sha256", "hashlib"),  # _sha2 since Python 3.12
    "sha512": ("_sha2", "_sha512", "hashlib"),
}
LIBCRYPT_NAMES = ("libcrypt.so.1", "libcrypt.so.2", None)  # None: the C library itself, as in musl


def __getattr__(name: str) -> "ModuleType":
    """The modules `signal`, `socket`, `ssl` and `stat`, imported when they are first asked for."""
    if name not in ("signal", "socket", "ssl", "stat"):
        raise AttributeError(name)
    return __import__(f"_{name}")


def import_driver(name: str) -> None:
    """Import a database driver. Raises ImportError.

    With -I -S, and our own place taken out of sys.path again, the interpreter looks for modules in the standard library
    only: here are added the places of this package, of the environment that the interpreter was started from, and of
    Debian's packages, in this order."""
    import sys

    version = "python{}.{}".format(*sys.version_info)
    package = __file__.rpartition("/")[0].rpartition("/")[0]
    environment = sys.executable.rpartition("/")[0].rpartition("/")[0]
    for place in (
        package,
        f"{environment}/lib/{version}/site-packages",
        f"/usr/local/lib/{version}/dist-packages",
        "/usr/lib/python3/dist-packages",
    ):
        if place not in sys.path:
            sys.path.append(place)
    __import__(name)


def decode_certificate(path: str) -> "dict[str, Any]":
    """The first certificate in a PEM file, as SSLSocket.getpeercert() has it. Raises OSError."""
    import _ssl

    decode: Callable[[str], dict[str, Any]] = getattr(_ssl, "_test_decode_cert")  # noqa: B009  as typeshed lacks it
    return decode(path)


def compare_digest(one: bytes, other: bytes) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    from _operator import _compare_digest

    return bool(_compare_digest(one, other))


def digest(name: str, data: bytes) -> bytes:
    """The hash `name` (a key of HASH_MODULES) of `data`."""
    for module in HASH_MODULES[name]:
        try:
            new = getattr(__import__(module), name)
        except ImportError:
            continue
        return bytes(new(data).digest())
    raise ImportError(f"no module for {name}")


def crypt(password: bytes, setting: bytes) -> bytes:
    """crypt(3) of a password without NUL; b"" where the C library refuses the setting.

    `_crypt` left the standard library with Python 3.13, and takes only UTF-8; elsewhere libcrypt is called by ctypes.
    """
    try:
        import _crypt  # type: ignore[import-not-found,unused-ignore]

        return str(_crypt.crypt(password.decode(), setting.decode())).encode()
    except (ImportError, UnicodeDecodeError):
        return _crypt_by_ctypes(password, setting)
    except OSError:
        return b""


def strongest_setting() -> bytes:
    """A new setting for `crypt`, of the form that the C library prefers; SHA-512 where it does not say."""
    import ctypes
    import secrets

    generate = getattr(_libcrypt(), "crypt_gensalt", None)  # libxcrypt has it
    if generate is not None:
        generate.restype = ctypes.c_char_p
        generate.argtypes = (ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int)
        setting = generate(None, 0, None, 0)
        if setting and not setting.startswith(b"*"):
            return bytes(setting)
    return b"$6$" + secrets.token_hex(8).encode()


def _crypt_by_ctypes(password: bytes, setting: bytes) -> bytes:
    import ctypes

    function = _libcrypt().crypt
    function.restype = ctypes.c_char_p
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    return function(password, setting) or b""


def _libcrypt() -> "ctypes.CDLL":
    import ctypes

    for name in LIBCRYPT_NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "crypt"):
            return library
    raise ImportError("no libcrypt")
