"""What authldaprc says, and what becomes of it without a server; tests/real/test_ldap.py asks a real one."""

import ssl
import sys

import pytest

from proxyhelper.accounts import ldap
from proxyhelper.accounts.ldap import site as ldap_site
from proxyhelper.accounts.ldap.site import Site, escape, mapped, number, pairs
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, Values


class Entry:
    """An entry with the attributes that it is made of."""

    dn = "uid=u1,o=example"

    def __init__(self, **attributes):
        self.attributes = attributes

    def text(self, attribute):
        return self.attributes.get(attribute, "")

    def first(self, attribute):
        return self.text(attribute).encode()


@pytest.fixture
def site(tmp_path):
    """A Site of these settings, or a Temporary."""

    def make(text="", **values):
        (tmp_path / "authldaprc").write_text(
            "".join(
                f"{name}\t{value}\n" for name, value in {"LDAP_URI": "ldap://a", "LDAP_BASEDN": "o=e", **values}.items()
            )
            + text
        )
        return Site(Settings("imap", str(tmp_path), {}, Values({}, {"DEFAULTOPTIONS": "x=default,y=2"})))

    return make


def test_shipped_file_is_known():
    try:
        with open("/etc/courier/authldaprc") as file:
            lines = [line.strip("#\t ") for line in file]
    except OSError:
        pytest.skip("missing: Courier's authldaprc")
    shipped = {line.split()[0] for line in lines if line.startswith("LDAP_") and line.split()[0].isidentifier()}
    documented = {word for word in shipped if word not in ("LDAP_EMAIL_ATTRIBUTE", "LDAP_AUTHBIND")}
    assert documented <= {*ldap.KNOWN, *ldap.IGNORED}
    assert "LDAP_FULLNAME" in ldap.IGNORED


def test_driver_is_not_imported():
    code = "import sys, proxyhelper.accounts.ldap; print([name for name in sys.modules if name.startswith('ldap3')])"
    assert __import__("subprocess").check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("text", ["ldap://a,ldaps://b:1", "ldap://a, ldaps://b:1", "ldap://a  ldaps://b:1,"])
def test_several_uris(site, text):
    assert site(LDAP_URI=text).uris == ["ldap://a", "ldaps://b:1"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LDAP_URI", "", "LDAP_URI"),
        ("LDAP_URI", ",", "LDAP_URI"),
        ("LDAP_BASEDN", "", "LDAP_BASEDN"),
        ("LDAP_PROTOCOL_VERSION", "2", "set it to 3"),
        ("LDAP_DEREF", "sometimes", "never searching finding always"),
        ("LDAP_TIMEOUT", "soon", "number of seconds"),
        ("LDAP_TIMEOUT", "601", "number of seconds"),
        ("LDAP_TIMEOUT", "1000000001", "number of seconds"),
        ("LDAP_INITBIND", "1", "LDAP_BINDDN"),
    ],
)
def test_settings_that_cannot_be(site, name, value, said):
    with pytest.raises(Temporary, match=said):
        site(**{name: value})


def test_no_bind_password_in_what_is_said(site):
    with pytest.raises(Temporary) as raised:
        site(LDAP_INITBIND=1, LDAP_BINDPW="topsecret")
    assert "topsecret" not in str(raised.value)


@pytest.mark.parametrize(("value", "number"), [("never", 0), ("Searching", 1), ("finding", 2), ("ALWAYS", 3), ("", 0)])
def test_dereference(site, value, number):
    assert site(LDAP_DEREF=value).dereference == number


def test_defaults(site):
    assert (site().timeout, site(LDAP_TIMEOUT=0).timeout, site(LDAP_TIMEOUT=9).timeout) == (5, 5, 9)
    assert (site().binder, site().start_tls, site().authbind) == (None, False, False)
    assert site(LDAP_INITBIND=1, LDAP_BINDDN="cn=a, o=b", LDAP_BINDPW="p w").binder == ("cn=a, o=b", b"p w")
    assert site().attributes() == ["homeDir"]


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("u1@example.com", "u1@example.com"),
        ("*)(uid=*", r"\2a\29\28uid\3d\2a"),
        ("a\\b\0c d", r"a\5cb\00c\20d"),
        ("jürgen", r"j\c3\bcrgen"),
    ],
)
def test_escaping(value, escaped):
    assert escape(value.encode()) == escaped


def test_filters(site):
    assert site().filter_for("mail", b"u1") == "(mail=u1)"
    assert site(LDAP_FILTER="(objectClass=x)").filter_for("uid", b"u*") == r"(&(objectClass=x)(uid=u\2a))"
    assert site(LDAP_FILTER="objectClass=x").filter_for("uid", b"u1") == "(&(objectClass=x)(uid=u1))"
    assert site(LDAP_DOMAIN="e.com").filter_for("mail", b"u1") == "(mail=u1@e.com)"
    assert site(LDAP_DOMAIN="e.com").filter_for("mail", b"u1@f.com") == "(mail=u1@f.com)"


def test_filters_for_all(site):
    assert site().enumerate_filter == "(&(objectClass=*)(mail=*))"
    assert site(LDAP_FILTER="(a=b)", LDAP_MAIL="uid").enumerate_filter == "(&(a=b)(uid=*))"
    assert site(LDAP_FILTER="(a=b)", LDAP_ENUMERATE_FILTER="c=d").enumerate_filter == "(&(c=d)(mail=*))"


def test_emailmap():
    pattern = r"(&(userid=@user@)(realm=@realm@)(x=a\40b))"
    assert mapped(pattern, "u1@example.com") == r"(&(userid=u1)(realm=example.com)(x=a\40b))"
    assert mapped(pattern, "@user@@realm@") == r"(&(userid=)(realm=user@@realm@)(x=a\40b))"
    assert mapped(pattern, "a*@b)(c=d") == r"(&(userid=a\2a)(realm=b\29\28c\3dd)(x=a\40b))"
    assert mapped("(a=@other@x)", "u@r") == "(a=x)"


def test_pairs_of_auxoptions():
    text = "shared=sharedgroup,disableimap=disableimap,,mailHost=mailhost"
    assert pairs(text) == [("shared", "sharedgroup"), ("disableimap", "disableimap"), ("mailHost", "mailhost")]
    assert pairs("a=b, c=d ") == [("a", "b"), ("c", "d")]
    assert pairs("") == []


def test_ids():
    assert (number("0", "UID", ""), number("4294967294", "GID", "")) == (0, 4294967294)
    assert (number("root", "UID", ""), number("root", "GID", "")) == (0, 0)
    for text in ("-1", "4294967295", "nobody's", "٣", "99999999999"):
        with pytest.raises(Temporary, match="uidNumber of"):
            number(text, "UID", "uidNumber of the entry")


class TestAccount:
    def test_ids_of_its_own_go_before_everybodys(self, site):
        made = site(LDAP_GLOB_UID="root", LDAP_GLOB_GID=7, LDAP_UID="uidNumber", LDAP_GID="gidNumber")
        account = made.account("u1", Entry(uidNumber="1000"))
        assert (account.uid, account.gid) == (1000, 7)
        account = site().account("u1", Entry(uidNumber="1000"))
        assert (account.uid, account.gid) == (None, None)

    @pytest.mark.parametrize(
        ("root", "home", "expected"),
        [("/m", "u1", "/m/u1"), ("/m", "/home/u1", "/home/u1"), ("/m", "", ""), ("", "u1", "u1")],
    )
    def test_home(self, site, root, home, expected):
        assert site(LDAP_MAILROOT=root).account("u1", Entry(homeDir=home)).home == expected

    def test_cleartext_goes_before_hash(self, site):
        made = site(LDAP_CLEARPW="clear", LDAP_CRYPTPW="crypt")
        account = made.account("u1", Entry(clear="c", crypt="{MD5}x"))
        assert (account.cleartext, account.password) == (b"c", b"")
        account = made.account("u1", Entry(crypt="{MD5}x"))
        assert (account.cleartext, account.password) == (b"", b"{MD5}x")
        account = made.account("u1", Entry(clear="c", crypt="{MD5}x"), with_passwords=False)
        assert (account.cleartext, account.password) == (b"", b"")

    def test_options(self, site):
        made = site(LDAP_AUXOPTIONS="a=x,b=z,c=w")
        assert made.account("u1", Entry(a="1", b="2")).options == {"x": "1", "z": "2", "y": "2"}

    def test_an_attribute_is_one_option(self, site):
        with pytest.raises(Temporary, match="comma"):
            site(LDAP_AUXOPTIONS="a=group,b=disableimap").account("u1", Entry(a="g,disableimap=0", b="1"))


def test_unknown_settings_of_tls(tmp_path):
    from proxyhelper.accounts.ldap.transport import tls_context

    with pytest.raises(Temporary, match="LDAPTLS_REQCERT=sometimes"):
        tls_context({"REQCERT": "sometimes"})
    with pytest.raises(Temporary, match=f"LDAPTLS_CACERT={tmp_path}/none"):
        tls_context({"CACERT": f"{tmp_path}/none"})
    with pytest.raises(Temporary, match=f"LDAPTLS_CERT={tmp_path}/none"):
        tls_context({"CERT": f"{tmp_path}/none", "KEY": "k"})


@pytest.mark.parametrize(
    ("demand", "verified"),
    [("never", False), ("allow", False), ("try", True), ("demand", True), ("hard", True), ("NEVER", False), ("", True)],
)
def test_demanded_certificates(demand, verified):
    from proxyhelper.accounts.ldap.transport import tls_context

    context = tls_context({"REQCERT": demand})
    assert (context.verify_mode == ssl.CERT_REQUIRED, context.check_hostname) == (verified, verified)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("ldap://a.example", ("ldap", "a.example", None)),
        ("ldap://a.example:1389/", ("ldap", "a.example", 1389)),
        ("LDAPS://[::1]:1636", ("ldaps", "::1", 1636)),
        ("ldap:///", ("ldap", "localhost", None)),
        ("ldapi://%2Ftmp%2fx", ("ldapi", "ldapi://%2Ftmp%2Fx", None)),
        ("ldapi:///", ("ldapi", "ldapi://%2Frun%2Fslapd%2Fldapi", None)),
    ],
)
def test_uri(uri, parts):
    from proxyhelper.accounts.ldap.transport import parts_of

    assert parts_of(uri) == parts


@pytest.mark.parametrize("uri", ["a.example", "http://a.example", "ldap://a:b", "ldap://a:99999", "ldap://[::1"])
def test_what_is_no_uri(uri):
    from proxyhelper.accounts.ldap.transport import parts_of

    with pytest.raises(Temporary, match="LDAP_URI"):
        parts_of(uri)


def test_no_name_is_asked_for(site):
    made = site()
    with pytest.raises(WrongCredentials):
        ldap._in_turn(made, lambda server: server.entry_of(""))


def test_filter_of_a_name_has_nothing_that_a_filter_means():
    assert not set(map(chr, ldap_site.SAFE_IN_FILTER)) & set("\\*()\0&|!<>~=")
