"""Greet first: what is done before the client has its greeting, and what it needs is imported. `session` goes on; it
greets, too, where something comes before that: a PROXY header, TLS."""

from . import settings
from .dialogue.greetings import greeting
from .interpreter import posix

USAGE = """usage: proxyhelper-{protocol} [LOCAL-SERVER [ARGUMENT...]]

Serves the one {upper} client connected to standard input and output, as started by xinetd, systemd (Accept=yes) or
couriertcpd: reads its login, and hands it to the server that has the account's mailbox. LOCAL-SERVER is run for
mailboxes on this host; its last ARGUMENT is the default maildir. Settings come from the environment and from the files
of PROXYHELPER_CONFDIR (default /etc/courier).

  --help      show this
  --version   show the version
"""


def main(protocol: str, arguments: "list[str]") -> int:
    """Serve the client on fd 0 and 1 in `protocol` ("imap", "pop3"). Returns the exit status."""
    if arguments and arguments[0].startswith("-"):
        return _explain(protocol, arguments[0])
    environment = settings.environment()
    try:
        configured = settings.load(protocol, environment)
        if configured.greets_first():
            posix.write(1, greeting(protocol, configured.offer(configured.tls)))
    except Exception as error:
        from .fatal import give_up

        return give_up(protocol, environment, error)
    from .session import serve

    return serve(configured, arguments, environment)


def _explain(protocol: str, option: str) -> int:
    import sys

    from . import __version__

    if option == "--version":
        print(f"proxyhelper-{protocol} {__version__}", flush=True)
    elif option == "--help":
        print(USAGE.format(protocol=protocol, upper=protocol.upper()), end="", flush=True)
    else:
        if sys.stderr:  # not where it is the client's connection
            print(f"proxyhelper-{protocol}: there is no option {option}; see --help", file=sys.stderr, flush=True)
        return 64
    return 0
