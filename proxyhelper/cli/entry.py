"""`proxyhelper entry`."""

import click


@click.command()
def entry() -> None:
    """To come."""
