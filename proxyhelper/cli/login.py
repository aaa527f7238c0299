"""`proxyhelper login`."""

import click


@click.command()
def login() -> None:
    """To come."""
