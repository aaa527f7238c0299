"""`proxyhelper lookup`: an account, its way, and why."""

import sys

import click

from .. import accounts
from ..accounts.account import Account
from ..failures import Failure, WrongCredentials
from ..login import check_options, with_domain
from ..routing import Route, decide
from ..settings import ConfigurationError, Settings, is_true, load
from ..text import decode
from .console import PROTOCOLS, Site, clean, fail, json_option, print_json, served_port, status_of
from .forms import form_of

TLS_MODES = {"no": "", "starttls": " with STARTTLS", "yes": " with TLS"}


class Misconfigured(Failure):
    """The settings of a protocol cannot be used."""

    kind = "configuration"


class Found:
    """What one protocol makes of a name: its account, its route, or why there is none."""

    def __init__(self, site: Site, protocol: str, name: str, port: str) -> None:
        self.protocol = protocol
        self.name = name
        self.account: Account | None = None
        self.route: Route | None = None
        self.failure: Failure | None = None
        self.only_behind_tls = ""
        try:
            settings = load(protocol, site.environment)
            self.name = with_domain(name, settings)
            self.account = accounts.find(settings, settings.services.get(port) or protocol, self.name)
            self.route = decide(self.account, settings, port)
            check_options(self.account, settings, secure=True)
            self.only_behind_tls = _why_only_behind_tls(self.account, settings)
            if not _is_provable(self.account, settings):
                raise WrongCredentials("the account has no password for this service")
        except Failure as failure:
            self.failure = failure
        except ConfigurationError as error:
            self.failure = Misconfigured(str(error))


def _why_only_behind_tls(account: Account, settings: Settings) -> str:
    """The setting or account option that refuses logins in clear, or ""."""
    if settings.tls_required:
        return f"{settings.protocol.upper()}_TLS_REQUIRED"
    option = f"disableinsecure{settings.protocol}"
    return option if is_true(account.options.get(option, "")) else ""


def _is_provable(account: Account, settings: Settings) -> bool:
    """Whether there is a password to be right; a source that checks proofs itself need not show it."""
    checks_itself = any(hasattr(accounts.source(module), "authenticate") for module in accounts.available(settings))
    return checks_itself or bool(account.password or account.cleartext)


@click.command()
@click.argument("user")
@click.option("--port", type=click.IntRange(1, 65535), help="The port that clients come to. [default: the usual one]")
@json_option
@click.pass_obj
def lookup(site: Site, user: str, port: "int | None", as_json: bool) -> None:
    """Show the account of USER (never the password), where IMAP and POP3 clients of it are sent, and why.

    The exit status is 0 where at least one of them would be let in with the right password.
    """
    found = [Found(site, protocol, user, served_port(protocol, port)) for protocol in PROTOCOLS]
    if as_json:
        print_json({one.protocol: _as_json(one) for one in found})
    else:
        _show(found)
    failures = [one.failure for one in found if one.failure]
    sys.exit(status_of(failures[0]) if len(failures) == len(found) else 0)


def _show(found: "list[Found]") -> None:
    account = next((one.account for one in found if one.account), None)
    if account is None:
        fail(f"{found[0].name}: {found[0].failure}", status_of(found[0].failure or Failure()))
    for name, value in _fields(account).items():
        click.echo(f"{name:<10}{clean(value)}")
    for one in found:
        click.echo(click.style(f"{one.protocol.upper():<10}", bold=True) + clean(_way(one)))


def _fields(account: Account) -> "dict[str, object]":
    """What an account has, without what proves it."""
    fields = {
        "address": account.address,
        "password": _form(account),
        "uid": account.uid,
        "gid": account.gid,
        "home": account.home,
        "maildir": account.maildir,
        "quota": account.quota,
        "options": account.options_text(),
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _form(account: Account) -> str:
    if account.cleartext:
        return "in cleartext"
    return form_of(decode(account.password)) or "in an unknown form" if account.password else "none"


def _way(one: Found) -> str:
    if one.failure:
        return f"no login: {one.failure}"
    assert one.route
    to = "to the local server"
    if one.route.host:
        to = f"to {one.route.host} port {one.route.port}{TLS_MODES[one.route.tls]}"
    only = f"; only for clients behind TLS ({one.only_behind_tls})" if one.only_behind_tls else ""
    return f"{to}: {one.route.reason}{only}"


def _as_json(one: Found) -> "dict[str, object]":
    route = one.route and {name: getattr(one.route, name) for name in ("host", "port", "tls", "reason")}
    return {
        "account": one.account and _fields(one.account),
        "route": route,
        "only_behind_tls": one.only_behind_tls,
        "failure": one.failure and {"kind": one.failure.kind, "reason": str(one.failure)},
    }
