"""`proxyhelper userdb`: the accounts of a text userdb, for sites without Courier's tools and beside them."""

import os
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from ...accounts import listing
from ...accounts.passwords import matches
from ...accounts.userdb import MAX_RECORD, OTHERS_READ_OR_WRITE, files, parse
from ...failures import Temporary
from ...interpreter import crypt
from ...libcrypt import strongest_setting
from ...login import could_be
from ...text import decode, encode
from ..console import NO, Site, clean, fail, json_option, print_json, say
from . import file as text_file
from .values import check_field, check_name, check_value, is_proof


@click.group()
def userdb() -> None:
    """Show and change accounts in the text userdb.

    A change is there as a whole or not at all; it and Courier's own `userdb` wait for each other.
    """


@userdb.command("set")
@click.argument("name")
@click.argument("fields", metavar="FIELD[=VALUE]...", nargs=-1, required=True)
@click.option("--file", metavar="FILE", help="The file for a new account, where the userdb is a directory.")
@click.pass_obj
def set_fields(site: Site, name: str, fields: "tuple[str, ...]", file: "str | None") -> None:
    """Set fields of the account NAME, which is made if there is none.

    The value of a FIELD without =VALUE is a line of standard input, asked for on a terminal. A password's hash is given
    only so:

    \b
    proxyhelper userdb set user@example.com options=mailhost=servera.example.com
    userdbpw -md5 | proxyhelper userdb set user@example.com systempw
    """
    check_name(name)
    for field in fields:
        _check_argument(field)
    _refuse_compiled_only(site.userdb)
    place = _place(site.userdb, name, file)
    values = dict(_value(name, field) for field in fields)
    text_file.edit(place, encode(name), lambda record: text_file.with_fields(record or b"", values))
    _report(site, place, f"{name}: {', '.join(values)} set")


@userdb.command()
@click.argument("name")
@click.argument("fields", metavar="FIELD...", nargs=-1, required=True)
@click.pass_obj
def unset(site: Site, name: str, fields: "tuple[str, ...]") -> None:
    """Remove fields from the account NAME."""
    for field in fields:
        check_field(field)
    before: dict[str, str] = {}

    def change(record: bytes) -> bytes:
        before.update(parse(record))
        return text_file.without_fields(record, fields)

    _edit(site, name, change, f"{name}: {', '.join(fields)} unset")
    if missing := [field for field in fields if field not in before]:
        say("note", f"not set before: {', '.join(missing)}")


@userdb.command()
@click.argument("name")
@json_option
@click.pass_obj
def show(site: Site, name: str, as_json: bool) -> None:
    """Print the account NAME: where it stands, and its fields. Of a password, only that there is one."""
    found = [record for record in listing.records(site.userdb) if record.name == name]
    if not found:
        fail(f"{site.userdb} has no account {name}", NO)
    first, *others = found
    fields = {field: _shown(field, value) for field, value in first.fields.items() if field}
    if as_json:
        ignored = [{"file": record.file, "line": record.line} for record in others]
        print_json(
            {"name": name, "file": first.file, "line": first.line, "fields": fields}
            | {"problem": first.problem, "ignored": ignored}
        )
        return
    click.echo(clean(f"{name}: {first.place}"))
    for field, value in fields.items():
        click.echo(clean(f"{field}={value}"))
    if first.problem:
        say("error", first.problem)
    for record in others:
        say("warning", f"{record.place} has {name}, too, and does not count")


@userdb.command("del")
@click.argument("name")
@click.pass_obj
def delete(site: Site, name: str) -> None:
    """Delete the account NAME. Every record of it, or the next one would count."""
    _edit(site, name, lambda record: None, f"{name}: deleted")
    while (place := _file_of(site.userdb, name)) is not None:
        text_file.edit(place, encode(name), lambda record: None)
        _report(site, place, f"{name}: another record deleted")


@userdb.command()
@click.argument("name")
@click.option("--imap", "field", flag_value="imappw", help="For IMAP only.")
@click.option("--pop3", "field", flag_value="pop3pw", help="For POP3 only.")
@click.pass_obj
def passwd(site: Site, name: str, field: "str | None") -> None:
    """Set the password of the account NAME.

    It is asked for twice on a terminal, else it is a line of standard input; it is hashed with the strongest form that
    the C library has. The backend that has the mailbox must know the same one.
    """
    field = field or "systempw"
    if _file_of(site.userdb, name) is None:
        _fail_without_account(site.userdb, name)
    hashed = _hash(_new_password(name))
    before: dict[str, str] = {}

    def change(record: bytes) -> bytes:
        before.update(parse(record))
        return text_file.with_fields(record, {field: hashed})

    _edit(site, name, change, f"{name}: {field} set")
    for other in ("imappw", "pop3pw"):
        if field == "systempw" and other in before:
            say("warning", f"the account has {other}, too, which counts for {other[:-2].upper()} in place of systempw")


def _edit(site: Site, name: str, change: "Callable[[bytes], bytes | None]", done: str) -> None:
    """Change a record that is there, or end the command."""
    place = _file_of(site.userdb, name)
    if place is None:
        _fail_without_account(site.userdb, name)

    def change_existing(record: "bytes | None") -> "bytes | None":
        if record is None:  # somebody else was faster
            _fail_without_account(site.userdb, name)
        return change(record)

    text_file.edit(place, encode(name), change_existing)
    _report(site, place, done)


def _fail_without_account(path: str, name: str) -> NoReturn:
    _refuse_compiled_only(path)
    fail(f"{path} has no account {name}. To make one: proxyhelper userdb set {name} FIELD=VALUE...", NO)


def _refuse_compiled_only(path: str) -> None:
    """A text of one account would be newer than the compiled form, and hide all others."""
    if not os.path.exists(path) and os.path.exists(f"{path}.dat"):
        fail(f"there is only the compiled {path}.dat: get back the text {path} that it was made from", NO)


def _file_of(path: str, name: str) -> "str | None":
    """The text file that holds the account. Raises Temporary."""
    try:
        return next((file for file in files(path) if text_file.holds(file, encode(name))), None)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename == path:
            return None
        raise Temporary(f"cannot read {error.filename or path}: {error.strerror}") from None


def _place(path: str, name: str, chosen: "str | None") -> str:
    """The text file that holds the account or, for a new one, that is to hold it."""
    if not os.path.isdir(path):
        if chosen:
            raise click.UsageError(f"{path} is one file: leave out --file")
        return path
    if (place := _file_of(path, name)) is not None:
        if chosen and os.path.realpath(place) != os.path.realpath(os.path.join(path, chosen)):
            raise click.UsageError(f"{name} stands in {place}: leave out --file")
        return place
    if not chosen:
        raise click.UsageError(f"{path} is a directory, and has no account {name}: say --file FILE for a file in it")
    inside = os.path.relpath(os.path.join(path, chosen), path)
    if any(part.startswith(".") for part in inside.split("/")):
        raise click.UsageError(f"--file {chosen!r} is hidden or not in {path}: accounts are not looked for there")
    return os.path.join(path, inside)


def _check_argument(field: str) -> None:
    name, equals, value = field.partition("=")
    check_field(name)
    if equals and is_proof(name):
        raise click.UsageError(
            f"{name} is secret, and others on this host may see arguments. Say {name} alone and give the hash on "
            "standard input, or: proxyhelper userdb passwd NAME"
        )
    if equals:
        check_value(name, value)


def _value(account: str, field: str) -> "tuple[str, str]":
    """Name and value of FIELD[=VALUE], from standard input where it is not here."""
    name, equals, value = field.partition("=")
    if not equals:
        value = _ask(f"{account} {name}", hidden=is_proof(name)) if _on_terminal() else _line(f"the value of {name}")
        check_value(name, value)
    return name, value


def _new_password(name: str) -> bytes:
    if _on_terminal():
        password = encode(_ask(f"New password of {name}", hidden=True, twice=True))
    else:
        password = encode(_line("the password"))
    if not could_be(password):
        raise click.UsageError("a password has at least one character, and no control characters")
    return password


def _hash(password: bytes) -> str:
    """Raises Temporary where the C library does not hash it."""
    try:
        hashed = crypt(password, strongest_setting())
    except ImportError as error:
        raise Temporary(f"passwords cannot be hashed here: {error}") from None
    if not matches(hashed, password):
        raise Temporary("the C library does not hash this password: it may be too long")
    return decode(hashed)


def _ask(what: str, *, hidden: bool, twice: bool = False) -> str:
    again = "The same again" if twice else False
    try:
        return str(
            click.prompt(clean(what), "", hide_input=hidden, confirmation_prompt=again, show_default=False, err=True)
        )
    except UnicodeDecodeError:
        raise click.UsageError("what was typed is not in this terminal's character set") from None


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _line(what: str) -> str:
    line = sys.stdin.buffer.readline(MAX_RECORD) if sys.stdin else b""
    if not line:
        raise click.UsageError(f"standard input ended before {what}")
    return decode(line.removesuffix(b"\n"))


def _shown(field: str, value: str) -> str:
    if not is_proof(field):
        return value
    return "(set)" if value else "(empty)"


def _report(site: Site, file: str, done: str) -> None:
    say("ok", f"{done} ({file})")
    mode = os.stat(file).st_mode
    if mode & OTHERS_READ_OR_WRITE:
        say("warning", f"{file} has mode {stat.S_IMODE(mode):04o}: nobody can log in. Run: chmod go= {file}")
    if os.path.exists(f"{site.userdb}.dat"):
        say("note", f"Courier's own programs read {site.userdb}.dat, and see this after: makeuserdb")
