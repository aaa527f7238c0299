"""Where the time goes while an account is found: import, connect, query (the rest); in seconds on stdout.

Nothing is imported here that the helper has not imported by then: the drivers need much of the standard library, too.

    python -I -S shares.py DIRECTORY NAME       DIRECTORY is where proxyhelper is imported from
"""

import builtins
import gc
import sys
from time import perf_counter

CONNECT = {
    "ldap3": ["Connection.__init__", "strategy.sync.SyncStrategy.open", "Connection.start_tls", "Connection.bind"],
    "pymysql": ["Connection.__init__"],
    "psycopg2": ["connect"],
}
"""What connects, by driver."""

sys.path.insert(0, sys.argv[1])
import proxyhelper.session  # noqa: E402, F401
from proxyhelper import accounts, login, settings  # noqa: E402, F401

spent = {"import": 0.0, "connect": 0.0, "query": 0.0}
elsewhere: list[float] = []  # of each step that is under way, what went to steps within it


def timed(step, function):
    """The function, and the time it takes without the steps within it is added to its own step."""

    def run(*given, **named):
        began = perf_counter()
        elsewhere.append(0.0)
        try:
            return function(*given, **named)
        finally:
            took = perf_counter() - began
            spent[step] += took - elsewhere.pop()
            if elsewhere:
                elsewhere[-1] += took

    return run


def watched_import(*given, **named):
    """An import, timed with all that it brings in; a driver's functions are timed from then on."""
    builtins.__import__ = plain_import
    try:
        return timed("import", plain_import)(*given, **named)
    finally:
        for driver in CONNECT.keys() & sys.modules.keys():
            for function in CONNECT.pop(driver):
                watch(sys.modules[driver], function.split("."))
        builtins.__import__ = watched_import


def watch(owner, path):
    """Time a function of the module, or of what is in it, as connecting."""
    *path, name = path
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, timed("connect", getattr(owner, name)))


gc.disable()  # as the helper does
configured = settings.load("imap", settings.environment())
plain_import, builtins.__import__ = builtins.__import__, watched_import
source = accounts.source(configured.modules[0])
timed("query", source.find)(configured, "imap", sys.argv[2])
builtins.__import__ = plain_import
print(*(f"{step} {seconds}" for step, seconds in spent.items()), sep="\n")
