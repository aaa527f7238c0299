"""The interpreter's private modules, and what stands in for them where a version lacks one.

Each connection pays for every import: the public faces of these modules (`os`, `socket`, `signal`, `hashlib`, `hmac`)
cost 1 to 25 ms and up to a megabyte, the private ones next to nothing. No other room names a private module.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    import _ssl as ssl
    import signal
    import stat
    from types import ModuleType

__all__ = ["compare_digest", "crypt", "digest", "posix", "signal", "socket", "ssl", "stat"]

HASH_MODULES = {
    "md5": ("_md5", "hashlib"),
    "sha1": ("_sha1", "hashlib"),
    "sha256": ("_sha2", "_sha256", "hashlib"),  # _sha2 since Python 3.12
    "sha512": ("_sha2", "_sha512", "hashlib"),
}


def __getattr__(name: str) -> "ModuleType":
    """The modules `signal`, `socket`, `ssl` and `stat`, imported when they are first asked for."""
    if name not in ("signal", "socket", "ssl", "stat"):
        raise AttributeError(name)
    return __import__(f"_{name}")


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
        from .libcrypt import crypt_by_ctypes

        return crypt_by_ctypes(password, setting)
    except OSError:
        return b""
