"""`proxyhelper accounts`."""

import click


@click.command()
def accounts() -> None:
    """To come."""
