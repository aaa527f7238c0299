"""Courier's files and the environment become Settings."""

import subprocess

import pytest

from proxyhelper.settings import INHERITED, ConfigurationError, is_true, load, read_assignments


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, text in contents.items():
            (tmp_path / name.replace("_", "-")).write_text(text)
        return {"PROXYHELPER_CONFDIR": str(tmp_path)}

    return write


ASSIGNMENTS = {
    "A=1": "1",
    "A=": "",
    'A=""': "",
    'A="x y"': "x y",
    "A='x $B \"y'": 'x $B "y',
    'A="$B z"': "b z",
    'A="${B}z"': "bz",
    "A=$B/$NONE/x": "b//x",
    'A="x \\" \\$B \\\\ \\x"': 'x " $B \\ \\x',
    "A=x\\ y": "x y",
    "A=x # comment": "x",
    'A="x" ': "x",
    "A='x'\"y\"z": "xyz",
    "A=x#y": "x#y",
    "A=Trash:7": "Trash:7",
    'A="$"': "$",
    "A=$": "$",
}


@pytest.mark.parametrize("line", ASSIGNMENTS)
def test_values_are_what_a_shell_makes_of_them(line, tmp_path):
    file = tmp_path / "imapd"
    file.write_text(f"## comment\n\nB=b\n  # more\n{line}\n")
    values = {}
    read_assignments(str(file), values, {})
    assert values["A"] == ASSIGNMENTS[line]
    shell = subprocess.run(["sh", "-c", f'. {file}; printf %s "$A"'], capture_output=True, text=True, check=True)
    assert shell.stdout == ASSIGNMENTS[line]


@pytest.mark.parametrize(
    "line",
    [
        "A=`id`",
        "A=$(id)",
        "A=x; B=y",
        "A=x y",
        "export A=x",
        "A",
        "unset B",
        "A='x",
        'A="x',
        "A=${B:-x}",
        "A = x",
        "if true",
        "A=x&",
        "1A=x",
        "A=x>y",
        "A=x\\",
    ],
)
def test_other_shell_syntax_is_refused_with_its_place(line, tmp_path):
    file = tmp_path / "imapd"
    file.write_text(f"B=b\n{line}\n")
    with pytest.raises(ConfigurationError, match="imapd line 2: "):
        read_assignments(str(file), {}, {})


def test_precedence(files):
    environment = files(
        imapd_ssl="IMAP_PROXY=0\nOUTBOX=.ssl\nPROXY_HOSTNAME=ssl", imapd="IMAP_PROXY=1\nPROXY_HOSTNAME=main"
    )
    settings = load("imap", environment)
    assert (settings.proxy, settings.hostname) == (True, "main")
    assert "XCOURIEROUTBOX=INBOX.ssl" in settings.capabilities
    assert load("imap", {**environment, "PROXY_HOSTNAME": "env", "IMAP_PROXY": ""}).hostname == "env"
    assert not load("imap", {**environment, "IMAP_PROXY": ""}).proxy
    assert load("imap", environment).exported == {"IMAP_PROXY": "1", "OUTBOX": ".ssl", "PROXY_HOSTNAME": "main"}


def test_each_protocol_has_its_own(files):
    environment = files(
        imapd="IMAP_PROXY=1\nIMAP_UMASK=027", pop3d='POP3_PROXY=0\nPOP3AUTH="PLAIN CRAM-MD5"\nIMAP_UMASK=077'
    )
    assert load("imap", environment).proxy
    assert load("imap", environment).umask == 0o27
    settings = load("pop3", environment)
    assert (settings.proxy, settings.capabilities, settings.umask) == (False, [], INHERITED)


def test_defaults(files):
    settings = load("imap", files())
    assert (settings.timeout, settings.fail_delay, settings.maildir) == (10, 5, "Maildir")
    assert (settings.capabilities, settings.proxy, settings.login_allowed, settings.tls) == (
        ["IMAP4rev1"],
        False,
        True,
        False,
    )


def test_zero_delay_is_no_default(files):
    assert load("imap", {**files(), "LOGIN_FAIL_DELAY": "0"}).fail_delay == 0


def test_capabilities(files):
    environment = files(
        imapd='IMAP_CAPABILITY="IMAP4rev1 IDLE"\nIMAP_CAPABILITY_TLS="$IMAP_CAPABILITY AUTH=PLAIN"\n'
        "IMAP_ACL=1\nIMAP_MOVE_EXPUNGE_TO_TRASH=1"
    )
    assert load("imap", environment).capabilities == ["IMAP4rev1", "IDLE", "ACL", "ACL2=UNION", "XMAGICTRASH"]
    assert "AUTH=PLAIN" in load("imap", {**environment, "IMAP_TLS": "1"}).capabilities


def test_tls_is_a_fact_of_the_environment_only(files):
    environment = files(imapd="IMAP_TLS=1\nIMAP_TLS_REQUIRED=1")
    assert not load("imap", environment).login_allowed
    assert load("imap", {**environment, "IMAP_TLS": "1"}).login_allowed


def test_service_of_a_port(files):
    environment = {**files(), "AUTHSERVICE8143": "webmail"}
    assert load("imap", environment).services == {"8143": "webmail"}


def test_account_sources(files):
    plain = load("imap", files())
    assert (plain.modules, plain.authdaemon) == (["authuserdb"], "/run/courier/authdaemon")
    assert (plain.account_timeout, plain.ldap_tls) == (5, {})
    environment = files(
        imapd="PROXY_ACCOUNT_TIMEOUT=9",
        authdaemonrc="authmodulelist='authldap authuserdb'\nauthdaemonvar=/x\nLDAPTLS_CACERT=/y\nLDAPTLS_REQCERT=never",
    )
    settings = load("imap", environment)
    assert (settings.modules, settings.authdaemon) == (["authldap", "authuserdb"], "/x")
    assert settings.account_timeout == 9
    assert settings.ldap_tls == {"CACERT": "/y", "REQCERT": "never"}


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_mechanisms(files, protocol):
    assert load(protocol, files()).mechanisms == ["PLAIN", "LOGIN"]
    plain, tls = "CRAM-SHA256 x CRAM-MD5", "cram-sha1"
    environment = files(
        imapd=f'IMAP_CAPABILITY="AUTH={plain.replace(" ", " AUTH=")}"\nIMAP_CAPABILITY_TLS="AUTH={tls}"',
        pop3d=f'POP3AUTH="{plain}"\nPOP3AUTH_TLS="{tls}"',
    )
    assert load(protocol, environment).mechanisms == ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA256"]
    with_tls = {**environment, f"{protocol.upper()}_TLS": "1"}
    assert load(protocol, with_tls).mechanisms == ["PLAIN", "LOGIN", "CRAM-SHA1"]
    empty = {**with_tls, "IMAP_CAPABILITY_TLS": "", "POP3AUTH_TLS": ""}
    assert load(protocol, empty).mechanisms == ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA256"]


def test_options_of_authdaemonrc(files):
    assert load("imap", files(authdaemonrc='DEFAULTOPTIONS="disableimap=1"')).default_options == "disableimap=1"


@pytest.mark.parametrize(
    "setting",
    [
        "PROXY_TIMEOUT=x",
        "PROXY_TIMEOUT=0",
        "PROXY_ACCOUNT_TIMEOUT=0",
        "PROXY_ACCOUNT_TIMEOUT=61",
        "LOGIN_FAIL_DELAY=-1",
        "IMAP_PROXY_PORT=65536",
        "IMAP_UMASK=9",
        "IMAP_UMASK=1000",
    ],
)
def test_numbers_are_checked(files, setting):
    name, _, value = setting.partition("=")
    with pytest.raises(ConfigurationError, match=f"{name}='{value}' must be a number"):
        load("imap", files(imapd=setting))


def test_files_that_cannot_be(files, tmp_path):
    environment = files(imapd="A=1\0")
    with pytest.raises(ConfigurationError, match="imapd"):
        load("imap", environment)
    (tmp_path / "imapd").unlink()
    (tmp_path / "imapd").mkdir()
    with pytest.raises(ConfigurationError, match="imapd"):
        load("imap", environment)


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        ("1", True),
        ("2", True),
        ("-1", True),
        ("t", True),
        ("True", True),
        ("y", True),
        ("YES", True),
        ("0", False),
        ("", False),
        ("n", False),
        ("no", False),
        ("00", False),
        ("1abc", True),
        ("0x", False),
        ("+2", True),
    ],
)
def test_truth(value, truth):
    assert is_true(value) is truth
