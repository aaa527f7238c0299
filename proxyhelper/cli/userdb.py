"""`proxyhelper userdb`."""

import click


@click.group()
def userdb() -> None:
    """To come."""
