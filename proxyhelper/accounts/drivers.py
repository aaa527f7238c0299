"""Where the drivers of databases are found."""

import sys


def import_driver(name: str) -> None:
    """Import a database driver. Raises ImportError.

    With -I -S, and our own place taken out of sys.path again, the interpreter looks for modules in the standard library
    only: here are added the places of this package, of the environment that the interpreter was started from, and of
    Debian's packages, in this order."""
    version = "python{}.{}".format(*sys.version_info)
    package = __file__.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
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
