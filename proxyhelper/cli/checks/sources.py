"""The account sources but for the userdb: their files, and whether they answer."""

import difflib
from collections.abc import Iterator

from ... import accounts
from ...accounts import rcfile
from ...failures import Temporary, WrongCredentials
from ...settings import Settings
from . import Finding

RC_FILES = {"authldap": "authldaprc", "authmysql": "authmysqlrc", "authpgsql": "authpgsqlrc"}
NOBODY = "proxyhelper-check@nobody.invalid"


def examine(settings: "dict[str, Settings]") -> "tuple[list[str], list[Finding]]":
    """The modules that answer, and the findings."""
    answering: list[str] = []
    return answering, list(_examine(settings, answering))


def _examine(settings: "dict[str, Settings]", answering: "list[str]") -> Iterator[Finding]:
    for one in list(settings.values())[:1]:  # both protocols have the same sources
        modules = accounts.available(one)
        if not modules:
            what = f"no account module is available here: {' '.join(one.modules)}"
            yield Finding("error", what, f"set PROXY_AUTHMODULES to one of {' '.join(accounts.SOURCES)}")
        for module in modules:
            if module in RC_FILES:
                yield from _judge_file(module, f"{one.directory}/{RC_FILES[module]}")
            finding = _ask(module, one)
            if finding.level != "error" or module == "authuserdb":  # whose records are gone through all the same
                answering.append(module)
            if module != "authuserdb":
                yield finding


def _judge_file(module: str, path: str) -> Iterator[Finding]:
    try:
        source = accounts.source(module)
        values = rcfile.load(path)
    except Temporary:
        return  # asking the source says so
    for setting in values:
        if setting in source.IGNORED:
            yield Finding("note", f"{setting} does nothing: {source.IGNORED[setting]}", "", path, 0, setting)
        elif setting not in source.KNOWN:
            close = difflib.get_close_matches(setting.upper(), source.KNOWN, 1, 0.75)
            remedy = f"is {close[0]} meant?" if close else "take the line out"
            yield Finding("warning", f"{setting} is unknown and does nothing", remedy, path, 0, setting)


def _ask(module: str, settings: Settings) -> Finding:
    """Look for somebody who is not there."""
    try:
        accounts.source(module).find(settings, settings.protocol, NOBODY)
    except WrongCredentials:
        return Finding("ok", f"{module} answers")
    except Temporary as failure:
        return Finding("error", f"{module}: {failure}", "nobody can log in until it answers")
    return Finding("warning", f"{module} finds {NOBODY}, who is nobody", "does a clause or filter let everybody in?")
