"""`python -m proxyhelper`: the administrator's program."""

from .cli import main

main(prog_name="proxyhelper")
