"""`proxyhelper lookup`."""

import click


@click.command()
def lookup() -> None:
    """To come."""
