"""What a proxy has told us of its client, in fields of IMAP's ID and of POP3's XCLIENT."""

from .events import Forwarded
from .forwarding import ID_NAMES, XCLIENT_NAMES, well_formed


def read_id(fields: "dict[bytes, bytes]", trusted: bool) -> "Forwarded | None":
    """What the fields of an ID command tell."""
    return _read(fields, ID_NAMES, trusted)


def _read(fields: "dict[bytes, bytes]", names: "tuple[bytes, ...]", trusted: bool) -> "Forwarded | None":
    """What `fields` tell under `names`, or None where that is nothing. Of a client that is not trusted only the ttl is
    taken, which can but refuse it."""
    *told, ttl = well_formed(fields.get(name, b"").decode("latin-1") for name in names)
    if not trusted:
        told = [""] * len(told)
    if not ttl and not any(told):
        return None
    ip, port, local_ip, local_port, session = told
    return Forwarded(ip, port, local_ip, local_port, session, int(ttl) if ttl else None)


def read_xclient(argument: bytes, trusted: bool) -> "tuple[Forwarded | None, bool]":
    """What an XCLIENT command tells, and whether it is allowed to tell all that it names."""
    words = (word.partition(b"=") for word in argument.split())
    fields = {name.upper(): value for name, _, value in words}
    return _read(fields, XCLIENT_NAMES, trusted), trusted or fields.keys().isdisjoint(XCLIENT_NAMES[:-1])
