"""Networks that a setting names: `192.0.2.0/24, 2001:db8::/32 ::1`."""

from .interpreter import socket

MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address mapped into IPv6 begins with (RFC 4291 section 2.5.5.2)."""


class Networks:
    """The networks and single addresses of a text, in which blanks or commas stand between them.

    ::ffff:192.0.2.1 is 192.0.2.1, and ::ffff:192.0.2.0/120 is 192.0.2.0/24; no IPv4 address is in any other IPv6
    network, ::/0 included. Bits behind a network's prefix may have any value. Raises ValueError, which names the part
    that is no network."""

    __slots__ = ("_networks",)

    def __init__(self, text: str) -> None:
        self._networks = [_network(part) for part in text.replace(",", " ").split()]

    def __contains__(self, ip: str) -> bool:
        """Whether an address is in one of them; what is no address is in none."""
        try:
            address = _packed(ip)
        except ValueError:
            return False
        return any(_prefix(address, spare) == prefix for spare, prefix in self._networks)


def _network(part: str) -> "tuple[int, tuple[int, int]]":
    """How many bits at the end of an address do not count, and the prefix in front of them."""
    ip, slash, length = part.partition("/")
    try:
        address = _packed(ip)
        spare = (128 if ":" in ip else 32) - _number(length) if slash else 0
    except ValueError as error:
        raise ValueError(f"{part!r} is no address or network: {error}") from None
    if not 0 <= spare <= 8 * len(address):
        raise ValueError(f"{part!r} is no network: {ip} cannot have a prefix of {length} bits")
    return spare, _prefix(address, spare)


def _packed(ip: str) -> bytes:
    """4 or 16 bytes. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip).removeprefix(MAPPED)
    except (OSError, ValueError):
        raise ValueError(f"{ip!r} is no address") from None


def _prefix(address: bytes, spare: int) -> "tuple[int, int]":
    """Unequal for addresses of two families, whatever their bits."""
    return len(address), int.from_bytes(address, "big") >> spare


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number of bits")
    return int(text)
