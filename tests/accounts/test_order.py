"""Account modules are asked in the order of the list: a refusal sends the search on, a source at fault ends it."""

from types import ModuleType

import pytest
from support import hashed

from proxyhelper import accounts
from proxyhelper.accounts.account import Account
from proxyhelper.accounts.proofs import Password, Response
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, Values

NOBODY = WrongCredentials("no such account")
DOWN = Temporary("the directory is down")
BROKEN = RuntimeError("a mistake in the source")


def settings(modules, directory="/nonexistent", **values):
    return Settings("imap", directory, {}, Values({}, {"authmodulelist": modules, **values}))


@pytest.fixture
def asked():
    """The sources that were asked, in order."""
    return []


@pytest.fixture
def sources(monkeypatch, asked):
    """Stand-ins for sources, by our names for them: what finding somebody gives or raises; `checked`: what its own
    check of a proof does. They need no driver."""
    monkeypatch.setattr(accounts, "DRIVERS", {})

    def stand_in(checked=None, **found):
        checked = checked or {}
        for name, outcome in (found | checked).items():
            source = ModuleType(f"proxyhelper.accounts.{name}")

            def answer(settings, service, user, proof=None, name=name, outcome=outcome):
                asked.append(name if proof is None else f"{name} checks")
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            source.find = answer
            if name in checked:
                source.authenticate = answer
            monkeypatch.setitem(__import__("sys").modules, source.__name__, source)

    return stand_in


def account(address, password="right", options=""):
    return Account(address, hashed(password).encode(), options={"from": options})


def authenticate(modules, password=b"right", **values):
    return accounts.authenticate(settings(modules, **values), "imap", "u1", Password(password))


def find(modules):
    return accounts.find(settings(modules), "imap", "u1")


ALL = "authuserdb authldap authmysql authpgsql authdaemon"


def test_every_module_has_its_source(sources, asked):
    names = ["userdb", "ldap", "mysql", "pgsql", "authdaemon"]
    sources(**dict.fromkeys(names, NOBODY))
    with pytest.raises(WrongCredentials, match=r"^no such account$"):
        authenticate(ALL)
    assert asked == names
    assert ALL.split() == list(accounts.SOURCES)


@pytest.mark.parametrize("modules", ["authldap authmysql authuserdb", "authmysql authuserdb authldap"])
def test_order_is_that_of_the_list(sources, asked, modules):
    sources(ldap=NOBODY, mysql=NOBODY, userdb=NOBODY)
    with pytest.raises(WrongCredentials):
        authenticate(modules)
    assert [f"auth{name}" for name in asked] == modules.split()


@pytest.mark.parametrize("modules", ["authldap authmysql", "authldap  authpam\tauthmysql authldap"])
@pytest.mark.parametrize("first", [NOBODY, account("first", "other"), Account("first", b"", options={})], ids=str)
def test_not_found_or_wrong_password_goes_on(sources, asked, modules, first):
    sources(ldap=first, mysql=account("second"))
    assert authenticate(modules).address == "second"
    assert asked == ["ldap", "mysql"]


def test_first_that_agrees_counts(sources, asked):
    sources(ldap=account("first"), mysql=account("second"))
    assert authenticate("authldap authmysql").address == "first"
    assert asked == ["ldap"]


@pytest.mark.parametrize("error", [DOWN, BROKEN], ids=["down", "broken"])
def test_source_at_fault_ends_the_search(sources, asked, error):
    sources(userdb=NOBODY, ldap=error, mysql=account("third"))
    for search in (authenticate, find):
        asked.clear()
        with pytest.raises(type(error)) as raised:
            search("authuserdb authldap authmysql")
        assert raised.value is error
        assert asked == ["userdb", "ldap"]


def test_source_at_fault_behind_the_right_one_does_not_matter(sources, asked):
    sources(ldap=account("first"), mysql=DOWN)
    assert authenticate("authldap authmysql").address == "first"
    assert find("authldap authmysql").address == "first"


def test_proof_that_cannot_be_checked_ends_the_search(sources, asked, monkeypatch):
    class Uncheckable(Password):
        def check(self, account):
            raise DOWN

    sources(ldap=account("first"), mysql=account("second"))
    with pytest.raises(Temporary):
        accounts.authenticate(settings("authldap authmysql"), "imap", "u1", Uncheckable(b"right"))
    assert asked == ["ldap"]


def test_source_that_checks_itself_is_not_asked_to_find(sources, asked):
    sources(checked={"authdaemon": account("daemon", "whatever")})
    assert authenticate("authdaemon").address == "daemon"
    assert asked == ["authdaemon checks"]


def test_source_that_checks_itself_and_refuses_goes_on(sources, asked):
    sources(checked={"ldap": WrongCredentials("wrong password")}, mysql=account("second"))
    assert authenticate("authldap authmysql").address == "second"
    assert asked == ["ldap checks", "mysql"]


def test_source_that_checks_itself_and_is_down_ends_the_search(sources, asked):
    sources(checked={"ldap": DOWN}, mysql=account("second"))
    with pytest.raises(Temporary):
        authenticate("authldap authmysql")
    assert asked == ["ldap checks"]


def test_response_goes_on_to_a_source_with_cleartext(sources, asked):
    """As with Courier: authuserdb refuses CRAM, authmysql may know the password."""
    challenge, answer = b"<1896.697170952@postoffice.reston.mci.net>", b"tim b913a602c7eda7a495b4e6e7334d3890"
    sources(userdb=account("first"), mysql=Account("tim", b"", cleartext=b"tanstaaftanstaaf", options={}))
    proof = Response("CRAM-MD5", challenge, answer)
    assert accounts.authenticate(settings("authuserdb authmysql"), "imap", "tim", proof).address == "tim"
    assert asked == ["userdb", "mysql"]


def test_refusals_are_told_each_once(sources):
    sources(userdb=NOBODY, ldap=account("x", "other"), mysql=NOBODY, pgsql=account("y", "other"))
    with pytest.raises(WrongCredentials, match=r"^no such account; wrong password$"):
        authenticate("authuserdb authldap authmysql authpgsql")
    sources(ldap=NOBODY)
    with pytest.raises(WrongCredentials, match=r"^no such account$"):
        find("authuserdb authldap authmysql")


def test_find_takes_the_first_that_has_the_name(sources, asked):
    sources(userdb=NOBODY, ldap=account("second", "other"), mysql=account("third"))
    assert find("authuserdb authldap authmysql").address == "second"
    assert asked == ["userdb", "ldap"]


@pytest.mark.parametrize("search", [authenticate, find])
def test_none_that_is_available(search, asked):
    with pytest.raises(Temporary, match="authpam authcustom"):
        search("authpam authcustom")
    assert asked == []


@pytest.mark.parametrize(
    ("listed", "available", "unavailable"),
    [
        ("authuserdb", ["authuserdb"], []),
        ("authuserdb authpam authldap", ["authuserdb", "authldap"], ["authpam"]),
        ("authpam authpipe", [], ["authpam", "authpipe"]),
        ("authpam authldap authpam authldap", ["authldap"], ["authpam"]),
        ("userdb AUTHLDAP", [], ["userdb", "AUTHLDAP"]),
    ],
)
def test_available_or_not_each_once(listed, available, unavailable):
    assert accounts.available(settings(listed)) == available
    assert accounts.unavailable(settings(listed)) == unavailable


@pytest.mark.parametrize("empty", ["", " "])
def test_list_and_what_goes_before_it(empty):
    both = {"authmodulelist": "authuserdb authpam", "PROXY_AUTHMODULES": "authdaemon"}
    for values, modules in (
        (both, ["authdaemon"]),
        (both | {"PROXY_AUTHMODULES": empty}, ["authuserdb", "authpam"]),
        ({"PROXY_AUTHMODULES": "\tauthmysql  authldap "}, ["authmysql", "authldap"]),
        ({"authmodulelist": empty}, ["authuserdb"]),
        ({}, ["authuserdb"]),
    ):
        assert Settings("imap", "/", {}, Values({}, values)).modules == modules
        assert Settings("pop3", "/", {}, Values(values, {})).modules == modules
    assert Settings("imap", "/", {}, Values({"PROXY_AUTHMODULES": "authldap"}, both)).modules == ["authldap"]


def test_a_source_is_imported_when_its_turn_comes(sources, monkeypatch):
    sources(userdb=account("first"))
    monkeypatch.setitem(__import__("sys").modules, "proxyhelper.accounts.ldap", None)  # importing it is an error
    assert authenticate("authuserdb authldap").address == "first"
    with pytest.raises(ImportError):
        authenticate("authuserdb authldap", b"wrong")


def test_driver_that_is_not_installed_ends_the_search(sources, asked, monkeypatch):
    sources(userdb=NOBODY, ldap=account("second"), mysql=account("third"))
    monkeypatch.setattr(accounts, "DRIVERS", {"authldap": "ldap3_of_no_world"})
    for search in (authenticate, find):
        asked.clear()
        with pytest.raises(Temporary, match="authldap needs the Python module ldap3_of_no_world"):
            search("authuserdb authldap authmysql")
        assert asked == ["userdb"]


def test_no_userdb_goes_on(sources, tmp_path):
    """Courier's authuserdb knows nobody then; lists that begin with it are common."""
    sources(ldap=account("second"))
    chosen = settings("authuserdb authldap", str(tmp_path))
    assert accounts.authenticate(chosen, "imap", "u1", Password(b"right")).address == "second"
    for modules in ("authuserdb", "authuserdb authpam"):
        with pytest.raises(Temporary, match="userdb"):
            accounts.find(settings(modules, str(tmp_path)), "imap", "u1")


def test_userdb_at_fault_ends_the_search(sources, asked, tmp_path):
    (tmp_path / "userdb").write_text("u1\tuid=1\n")
    (tmp_path / "userdb").chmod(0o644)
    sources(ldap=account("second"))
    with pytest.raises(Temporary, match="0644"):
        accounts.authenticate(settings("authuserdb authldap", str(tmp_path)), "imap", "u1", Password(b"right"))
    assert asked == []
