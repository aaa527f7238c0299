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
    assert "XCOURIEROUTBOX=INBOX.ssl" in settings.offer(secure=False).capabilities
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
    assert (settings.proxy, settings.offer(secure=False).capabilities, settings.umask) == (False, [], INHERITED)


def test_defaults(files):
    settings = load("imap", files())
    assert (settings.timeout, settings.fail_delay, settings.maildir) == (10, 5, "Maildir")
    assert (settings.proxy, settings.tls, settings.tls_wrap, settings.starttls) == (False, False, False, False)
    assert (settings.tls_protocol, settings.verify_peer) == ("TLSv1.2", "none")
    assert (settings.proxy_tls, settings.proxy_send, settings.proxy_protocol, settings.trusted) == (
        "no",
        "id",
        False,
        "",
    )
    offer = settings.offer(secure=False)
    assert (offer.capabilities, offer.mechanisms) == (["IMAP4rev1"], ["PLAIN", "LOGIN"])
    assert (offer.login_allowed, offer.starttls, offer.trusted) == (True, False, False)


def test_zero_delay_is_no_default(files):
    assert load("imap", {**files(), "LOGIN_FAIL_DELAY": "0"}).fail_delay == 0


def test_capabilities(files):
    environment = files(
        imapd='IMAP_CAPABILITY="IMAP4rev1 IDLE"\nIMAP_CAPABILITY_TLS="$IMAP_CAPABILITY AUTH=PLAIN"\n'
        "IMAP_ACL=1\nIMAP_MOVE_EXPUNGE_TO_TRASH=1"
    )
    settings = load("imap", environment)
    expected = ["IMAP4rev1", "IDLE", "ACL", "ACL2=UNION", "XMAGICTRASH"]
    assert settings.offer(secure=False).capabilities == expected
    assert settings.offer(secure=True).capabilities == [*expected[:2], "AUTH=PLAIN", *expected[2:]]


def test_tls_is_a_fact_of_the_environment_only(files):
    environment = files(imapd="IMAP_TLS=1\nPROXY_TLS_WRAP=1")
    assert (load("imap", environment).tls, load("imap", environment).tls_wrap) == (False, False)
    assert load("imap", {**environment, "IMAP_TLS": "1"}).tls
    assert load("imap", {**environment, "PROXY_TLS_WRAP": "1"}).tls_wrap
    both = load("imap", {**environment, "IMAP_TLS": "1", "PROXY_TLS_WRAP": "1"})
    assert (both.tls, both.tls_wrap) == (True, False), "couriertls has begun it"


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_required_tls(files, protocol):
    settings = load(protocol, files(imapd="IMAP_TLS_REQUIRED=1", pop3d="POP3_TLS_REQUIRED=1"))
    assert not settings.offer(secure=False).login_allowed
    assert settings.offer(secure=True).login_allowed


def test_what_is_offered_to_whom(files):
    settings = load("imap", files())
    offer = settings.offer(secure=True, identity="u1", trusted=True)
    assert (offer.mechanisms, offer.starttls, offer.trusted) == (["PLAIN", "LOGIN", "EXTERNAL"], False, True)


@pytest.mark.parametrize(
    ("protocol", "setting", "first"),
    [
        ("imap", "", True),
        ("imap", "PROXY_TRUSTED=::1", True),
        ("pop3", "PROXY_TRUSTED=::1", False),
        ("imap", "PROXY_PROTOCOL=1", False),
        ("pop3", "PROXY_PROTOCOL=1", False),
    ],
)
def test_greeting_that_can_come_first(files, protocol, setting, first):
    """Before anything is known of the client."""
    environment = files(imapd=setting, pop3d=setting)
    assert load(protocol, environment).greets_first() is first
    assert not load(protocol, {**environment, "PROXY_TLS_WRAP": "1"}).greets_first()
    assert load(protocol, {**environment, f"{protocol.upper()}_TLS": "1"}).greets_first() is first


@pytest.mark.parametrize(
    ("setting", "choices"),
    [
        ("TLS_VERIFYPEER", "none, peer, requirepeer"),
        ("IMAP_PROXY_TLS", "no, starttls, yes"),
        ("IMAP_PROXY_SEND", "id, proxy-v2, no"),
    ],
)
def test_choices_are_checked(files, setting, choices):
    with pytest.raises(ConfigurationError, match=f"setting {setting}='x' must be one of {choices}"):
        load("imap", files(imapd=f"{setting}=x"))
    for choice in choices.upper().split(", "):
        load("imap", files(imapd=f"{setting}={choice}"))


@pytest.mark.parametrize(
    ("in_file", "env", "starttls", "wrapped"),
    [
        ("", {}, "TLSv1.2", "TLSv1.2"),
        ("TLS_PROTOCOL=A", {}, "A", "A"),
        ("TLS_STARTTLS_PROTOCOL=B", {}, "B", "TLSv1.2"),
        ("TLS_PROTOCOL=A\nTLS_STARTTLS_PROTOCOL=B", {}, "B", "A"),
        ("TLS_PROTOCOL=A\nTLS_STARTTLS_PROTOCOL=B", {"TLS_PROTOCOL": "C"}, "C", "C"),
    ],
)
def test_protocol_of_tls(files, in_file, env, starttls, wrapped):
    environment = {**files(imapd=in_file), **env}
    assert load("imap", environment).tls_protocol == starttls
    assert load("imap", {**environment, "PROXY_TLS_WRAP": "1"}).tls_protocol == wrapped


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
    def offered(environment, secure):
        return load(protocol, environment).offer(secure).mechanisms

    assert offered(files(), secure=False) == ["PLAIN", "LOGIN"]
    plain, tls = "CRAM-SHA256 x CRAM-MD5", "cram-sha1"
    environment = files(
        imapd=f'IMAP_CAPABILITY="AUTH={plain.replace(" ", " AUTH=")}"\nIMAP_CAPABILITY_TLS="AUTH={tls}"',
        pop3d=f'POP3AUTH="{plain}"\nPOP3AUTH_TLS="{tls}"',
    )
    assert offered(environment, secure=False) == ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA256"]
    assert offered(environment, secure=True) == ["PLAIN", "LOGIN", "CRAM-SHA1"]
    empty = {**environment, "IMAP_CAPABILITY_TLS": "", "POP3AUTH_TLS": ""}
    assert offered(empty, secure=True) == ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-SHA256"]


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
