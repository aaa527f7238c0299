"""Where an account lives: on this host, or on a backend. COURIER.md's decision; no I/O but gethostname."""

from .failures import Temporary
from .interpreter import socket
from .settings import TLS_MODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .accounts.account import Account
    from .settings import Settings

SERVICE_PORTS = {"imap": 143, "pop3": 110, "imaps": 993, "pop3s": 995}


class Route:
    """Where to go. `host` is "" for this host; `reason` says why, for people. `tls`: towards a backend, as in
    Settings.proxy_tls. `is_missing`: the account should have a mailhost, and has none."""

    __slots__ = ("host", "is_missing", "port", "reason", "tls")

    def __init__(self, reason: str, host: str = "", port: int = 0, tls: str = "no", is_missing: bool = False) -> None:
        self.is_missing = is_missing
        self.host = host
        self.port = port
        self.reason = reason
        self.tls = tls


def decide(account: "Account", settings: "Settings", served_port: str) -> Route:
    """The route of `account` on the port that is served. Raises Temporary for account options that cannot be used."""
    if not settings.proxy:
        return Route(f"{settings.protocol.upper()}_PROXY is off")
    mailhost = account.options.get("mailhost", "").strip()
    if not mailhost:
        return Route("the account has no mailhost", is_missing=True)
    host, own_port = parse_mailhost(mailhost)
    tls = _tls_mode(account, settings)
    port = _usual_port(settings, tls)
    if own_port is None or str(own_port) in (str(port), served_port):
        for name, source in names_of_this_host(settings):
            if same_host(host, name):
                return Route(f"mailhost {host} is this host ({source})")
    return Route(f"mailhost {host} is another host", host, own_port or port, tls)


def _tls_mode(account: "Account", settings: "Settings") -> str:
    mode = account.options.get("mailhosttls", "").strip().lower() or settings.proxy_tls
    if mode not in TLS_MODES:
        raise Temporary(f"the account's option mailhosttls={mode!r} is none of {', '.join(TLS_MODES)}")
    return mode


def _usual_port(settings: "Settings", tls: str) -> int:
    """Of backends that are spoken to in this TLS mode. The site's own port is for the site's own mode."""
    wrapped = tls == "yes"
    if settings.proxy_port and wrapped == (settings.proxy_tls == "yes"):
        return settings.proxy_port
    return service_port(settings.protocol + "s" * wrapped)


def names_of_this_host(settings: "Settings") -> "list[tuple[str, str]]":
    """Names that a mailhost may give this host, and where each comes from."""
    names = [(settings.hostname, "PROXY_HOSTNAME")] if settings.hostname else []
    return [*names, (socket.gethostname(), "gethostname")]


def same_host(one: str, other: str) -> bool:
    return one.lower().rstrip(".") == other.lower().rstrip(".")


def service_port(protocol: str) -> int:
    """As getservbyname says; the assigned port where this host's list of services lacks it."""
    try:
        return socket.getservbyname(protocol, "tcp")
    except OSError:
        return SERVICE_PORTS[protocol]


def parse_mailhost(text: str) -> "tuple[str, int | None]":
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address as host and port. Raises Temporary."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise Temporary(f"mailhost {text!r} is not of the form host, host:port or [address]:port")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not _is_host(host):
        raise Temporary(f"mailhost {text!r} names no host")
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise Temporary(f"mailhost {text!r} has no usable port")
    return host, int(port)


def _is_host(text: str) -> bool:
    return 0 < len(text) < 256 and text.isascii() and text.isprintable() and not set(text) & set(" ,;/[]@")
