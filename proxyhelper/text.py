"""Bytes from outside as text and back, whatever the locale: UTF-8, other bytes kept as surrogates."""


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def words(error: BaseException) -> str:
    """What went wrong, as people say it."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error)
