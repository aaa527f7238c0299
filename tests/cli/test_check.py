"""`proxyhelper check`: every kind of finding, with its level, place and remedy."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from scripted import closed_port
from support import CHECKOUT, Site, admin, command, environment, need, open_directory

HASH = "$6$abcdefgh$yTn4BONsVt6e8cx0nYRnS.bGfvgnf6cQNcRtiXB3KD0xSqIsfwNiBh1x3LPhXQnO9QBrMHRPHpx0/6RtIgBGR/"

Add = Callable[..., int]
Check = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Greeter = Callable[..., AbstractContextManager[str]]


def test_nothing_wrong(healthy: Site, check: Check) -> None:
    report = check()
    assert (report.status, report.errors, report.warnings, report.wrong) == (0, 0, 0, [])
    assert [finding.section for finding in report.findings if finding.level == "ok"] == ["accounts", "mailhosts"]


# Settings


@pytest.mark.parametrize(
    ("file", "line", "setting", "said"),
    [
        ("imapd", "IMAP_PROXI=1", "IMAP_PROXI", "IMAP_PROXY"),
        ("imapd", "imap_proxy=1", "imap_proxy", "IMAP_PROXY"),
        ("pop3d", "PROXY_HOST=front.example", "PROXY_HOST", "PROXY_HOSTNAME"),
        ("pop3d-ssl", "POP3_TLS_REQUIERD=1", "POP3_TLS_REQUIERD", "POP3_TLS_REQUIRED"),
        ("authdaemonrc", "DEFAULTOPTION=", "DEFAULTOPTION", "DEFAULTOPTIONS"),
        ("authdaemonrc", "authmodulelits=authuserdb", "authmodulelits", "authmodulelist"),
        ("imapd", "POP3_PROXY=1", "POP3_PROXY", "belongs in pop3d"),
        ("pop3d", "IMAP_PROXY_PORT=144", "IMAP_PROXY_PORT", "belongs in imapd"),
        ("imapd", "daemons=5", "daemons", "belongs in authdaemonrc"),
        ("imapd", "XYZZY=1", "XYZZY", "take the line out"),
    ],
)
def test_setting_without_effect(
    healthy: Site, add: Add, check: Check, file: str, line: str, setting: str, said: str
) -> None:
    number = add(file, line)
    finding = check().one(setting, "unknown")
    assert (finding.section, finding.level, finding.setting) == ("settings", "warning", setting)
    assert (finding.file, finding.line) == (str(healthy.directory / file), number)
    assert said in finding.remedy


@pytest.mark.parametrize("value", ["on", "enabled", "ON", "-", "=1"])
def test_flag_that_is_none(healthy: Site, add: Add, check: Check, value: str) -> None:
    number = add("pop3d", f"POP3_PROXY={value}")
    finding = check().one("POP3_PROXY", "counts as 0")
    assert (finding.level, finding.line, finding.setting) == ("warning", number, "POP3_PROXY")
    assert "1 or 0" in finding.remedy


@pytest.mark.parametrize("value", ["1", "yes", "true", '"1"', "2"])
def test_flag_that_is_on(healthy: Site, add: Add, check: Check, value: str) -> None:
    add("pop3d", f"POP3_PROXY={value}")
    assert check().wrong == []


@pytest.mark.parametrize("value", ["0", "", "no", "false", "N"])
def test_flag_that_is_off(site: Site, add: Add, check: Check, value: str) -> None:
    add("pop3d", f"POP3_PROXY={value}")
    assert check().all("counts as 0") == []


def test_all_unusable_settings_at_once(healthy: Site, add: Add, check: Check) -> None:
    timeout = add("imapd", "PROXY_TIMEOUT=soon")
    umask = add("imapd", "IMAP_UMASK=999")
    port = add("pop3d", "POP3_PROXY_PORT=0")
    report = check()
    assert report.status == 1
    for setting, file, line, value in (
        ("PROXY_TIMEOUT", "imapd", timeout, "'soon'"),
        ("IMAP_UMASK", "imapd", umask, "'999'"),
        ("POP3_PROXY_PORT", "pop3d", port, "'0'"),
    ):
        finding = report.one(setting, value)
        assert (finding.level, finding.setting) == ("error", setting)
        assert (finding.file, finding.line) == (str(healthy.directory / file), line)
        assert finding.remedy


def test_unusable_setting_counts_once_where_both_read_it(healthy: Site, add: Add, check: Check) -> None:
    number = add("authdaemonrc", "PROXY_USER=nobody", "LOGIN_FAIL_DELAY=-1")
    for name in ("imapd", "pop3d"):
        file = healthy.directory / name
        file.write_text(file.read_text().replace("LOGIN_FAIL_DELAY=0\n", ""))
    finding = check().one("LOGIN_FAIL_DELAY")
    assert (finding.file, finding.line) == (str(healthy.directory / "authdaemonrc"), number)


def test_the_place_is_that_of_the_value_that_counts(healthy: Site, add: Add, check: Check) -> None:
    add("imapd-ssl", "PROXY_TIMEOUT=never")
    number = add("imapd", "PROXY_TIMEOUT=soon")
    add("authdaemonrc", "PROXY_TIMEOUT=later")
    finding = next(finding for finding in check().findings if "'soon'" in finding.what)
    assert (finding.file, finding.line) == (str(healthy.directory / "imapd"), number)


def test_unusable_setting_in_the_environment(healthy: Site, check: Check) -> None:
    finding = check(env={"PROXY_TIMEOUT": "0"}).one("PROXY_TIMEOUT='0'")
    assert (finding.level, finding.file, finding.setting) == ("error", "the environment", "PROXY_TIMEOUT")


def test_environment_is_told(healthy: Site, check: Check) -> None:
    finding = check(env={"IMAP_PROXY": "1"}).one("IMAP_PROXY", "environment")
    assert (finding.level, finding.setting) == ("note", "IMAP_PROXY")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no assignment", "not a NAME=value"),
        ("export IMAP_PROXY=1", "not a NAME=value"),
        ("IMAP_CAPABILITY=IMAP4rev1 IDLE", "quotes"),
        ("IMAP_CAPABILITY='IMAP4rev1", "no closing '"),
        ('IMAP_CAPABILITY="IMAP4rev1', 'no closing "'),
        ("IMAP_PROXY=`hostname`", "shell syntax"),
        ("IMAP_PROXY=$(hostname)", "only $NAME"),
        ("IMAP_PROXY=1;", "shell syntax"),
    ],
)
def test_unreadable_line(healthy: Site, add: Add, check: Check, line: str, reason: str) -> None:
    number = add("imapd", line)
    report = check()
    finding = report.one(reason, line)
    assert (finding.section, finding.level) == ("settings", "error")
    assert (finding.file, finding.line) == (str(healthy.directory / "imapd"), number)
    assert "service is closed" in finding.remedy
    assert report.status == 1


def test_unreadable_line_of_both_protocols_counts_once(healthy: Site, add: Add, check: Check) -> None:
    add("authdaemonrc", "no assignment")
    assert check().one("not a NAME=value").line == 2


def test_every_unreadable_line(healthy: Site, add: Add, check: Check) -> None:
    add("imapd", "one", "two", "three")
    assert len(check().all("not a NAME=value", level="error")) == 3


def test_one_protocol_broken_does_not_hide_the_other(healthy: Site, add: Add, check: Check) -> None:
    add("pop3d", "broken")
    report = check()
    assert report.one("IMAP", "answers").level == "ok"


def test_file_that_is_none(healthy: Site, check: Check) -> None:
    (healthy.directory / "imapd").unlink()
    (healthy.directory / "imapd").mkdir()
    finding = check().one("cannot read", "imapd")
    assert (finding.level, finding.file) == ("error", str(healthy.directory / "imapd"))


def test_file_with_nul(healthy: Site, check: Check) -> None:
    (healthy.directory / "pop3d").write_bytes(b"POP3_PROXY=1\0\n")
    assert check().one("NUL").level == "error"


@pytest.mark.parametrize("name", ["IMAP_TLS", "PROXYHELPER_CONFDIR"])
def test_setting_of_the_environment_in_a_file(healthy: Site, add: Add, check: Check, name: str) -> None:
    number = add("imapd", f"{name}=1")
    finding = check().one(name, "environment only")
    assert (finding.level, finding.line, finding.setting) == ("warning", number, name)


def test_service_names(healthy: Site, add: Add, check: Check) -> None:
    add("imapd", "AUTHSERVICE143=mail", "AUTHSERVICE=mail", "AUTHSERVICEimap=mail")
    assert [finding.setting for finding in check().wrong] == ["AUTHSERVICE", "AUTHSERVICEimap"]


def test_absent_modules(healthy: Site, write_file: Callable[..., Path], check: Check) -> None:
    write_file("authdaemonrc", 'authmodulelist="authuserdb authpam authcustom"')
    finding = check().one("authpam", "authcustom")
    assert (finding.level, finding.setting, finding.line) == ("warning", "authmodulelist", 1)
    assert "authuserdb" not in finding.what
    assert "PROXY_AUTHMODULES" in finding.remedy


def test_no_module_is_available(healthy: Site, write_file: Callable[..., Path], check: Check) -> None:
    write_file("authdaemonrc", 'authmodulelist="authpam"')
    finding = check().one("no account module is available")
    assert (finding.level, finding.section) == ("error", "account sources")


def test_capabilities_of_no_imap_server(healthy: Site, add: Add, check: Check) -> None:
    number = add("imapd", 'IMAP_CAPABILITY="UIDPLUS IDLE"')
    finding = check().one("IMAP4rev1")
    assert (finding.level, finding.setting) == ("error", "IMAP_CAPABILITY")
    assert (finding.file, finding.line) == (str(healthy.directory / "imapd"), number)


@pytest.mark.parametrize("user", ["nosuchuser", "root"])
def test_proxy_user(healthy: Site, add: Add, check: Check, user: str) -> None:
    number = add("imapd", f"PROXY_USER={user}")
    finding = check().one(f"PROXY_USER={user}")
    assert (finding.level, finding.setting) == ("error", "PROXY_USER")
    assert (finding.file, finding.line) == (str(healthy.directory / "imapd"), number)


def test_no_files_at_all(healthy: Site, check: Check) -> None:
    for name in ("imapd", "pop3d"):
        (healthy.directory / name).unlink()
    assert check().one("no imapd and no pop3d").level == "warning"


@pytest.mark.parametrize("setting", ["IMAP_PROXY", "POP3_PROXY"])
def test_proxy_is_off(site: Site, add: Add, check: Check, setting: str) -> None:
    site.account("u1", mailhost=closed_port(), home="/")
    site.account("u2", mailhost=closed_port(), home="/")
    number = add({"I": "imapd", "P": "pop3d"}[setting[0]], f"{setting}=0")
    finding = check().one(f"{setting} is off", "2 mailboxes")
    assert number
    assert (finding.level, finding.setting) == ("error", setting)
    assert f"{setting}=1" in finding.remedy


# Files


@pytest.mark.parametrize("name", ["", "imapd", "imapd-ssl", "pop3d", "pop3d-ssl", "authdaemonrc"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_others_may_write(healthy: Site, add: Add, check: Check, name: str, mode: int) -> None:
    path = healthy.directory / name
    if name:
        add(name)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | mode)
    finding = check().one("others may write")
    assert (finding.section, finding.level, finding.file) == ("files", "error", str(path))
    assert f"{stat.S_IMODE(path.stat().st_mode):04o}" in finding.what
    subprocess.run(finding.remedy, shell=True, check=True)
    assert check().wrong == []


@pytest.mark.parametrize("name", ["authldaprc", "authmysqlrc", "authpgsqlrc"])
@pytest.mark.parametrize(("mode", "wrong"), [(0o600, False), (0o640, False), (0o644, True), (0o666, True)])
def test_others_may_read_passwords(
    healthy: Site, write_file: Callable[..., Path], check: Check, name: str, mode: int, wrong: bool
) -> None:
    file = write_file(name, "MYSQL_PASSWORD secret-of-the-database")
    file.chmod(mode)
    report = check()
    assert "secret-of-the-database" not in report.text
    assert [finding.file for finding in report.wrong] == [str(file)] * wrong
    for finding in report.wrong:
        assert (finding.level, "password" in finding.what) == ("error", True)
        subprocess.run(finding.remedy, shell=True, check=True)
        assert check().wrong == []


def test_as_couriers_packages_install_them(healthy: Site, write_file: Callable[..., Path], check: Check) -> None:
    write_file("authldaprc", "LDAP_BINDPW secret").chmod(0o660)
    for finding in check().wrong:
        assert "others may read" not in finding.what, "nobody but its group may"
        subprocess.run(finding.remedy, shell=True, check=True)
    assert check().wrong == [], "each remedy helps"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o666])
def test_userdb_of_everybody(healthy: Site, check: Check, mode: int) -> None:
    healthy.userdb.chmod(mode)
    report = check()
    finding = report.one("is not used")
    assert (finding.section, finding.level, finding.file) == ("files", "error", str(healthy.userdb))
    assert f"{mode:04o}" in finding.what
    assert report.status == 1
    subprocess.run(finding.remedy, shell=True, check=True)
    assert check().wrong == []


def test_userdb_directory(healthy: Site, check: Check) -> None:
    healthy.userdb.rename(healthy.directory / "one")
    healthy.userdb.mkdir(0o700)
    (healthy.directory / "one").rename(healthy.userdb / "one")
    assert check().wrong == []
    (healthy.userdb / "one").chmod(0o644)
    assert check().one("is not used").file == str(healthy.userdb / "one")
    healthy.userdb.chmod(0o755)
    assert check().one("is not used").file == str(healthy.userdb)


def test_open_userdb_directory_beside_compiled_files(site: Site, check: Check) -> None:
    site.userdb.unlink()
    site.userdb.mkdir(0o755)
    for name in ("userdb.dat", "userdbshadow.dat"):
        (site.directory / name).write_bytes(b"")
        (site.directory / name).chmod(0o600)
    assert check().one("is not used").file == str(site.userdb)


def test_compiled_shadow_of_everybody(healthy: Site, check: Check) -> None:
    for name in ("userdb.dat", "userdbshadow.dat"):
        (healthy.directory / name).write_bytes(b"")
        (healthy.directory / name).chmod(0o644)
    assert check().one("is not used").file == str(healthy.directory / "userdbshadow.dat")


# Accounts


def test_no_userdb(site: Site, check: Check) -> None:
    site.userdb.unlink()
    finding = check().one("cannot read", str(site.userdb))
    assert (finding.section, finding.level) == ("accounts", "error")


def test_duplicates(healthy: Site, check: Check) -> None:
    healthy.accounts.append(healthy.accounts[0])
    healthy.write_userdb()
    finding = check().one("second time")
    assert (finding.level, finding.file, finding.line) == ("warning", str(healthy.userdb), 2)
    assert f"{healthy.userdb} line 1 counts" in finding.what


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("u2 uid=1", "no tab"),
        ("\tuid=1|gid=1", "no name"),
        ("u2\tuid=x|gid=1", "uid='x'"),
        ("u2\tuid=-1|gid=1", "uid='-1'"),
        ("u2\tuid=1|gid=4294967295", "gid='4294967295'"),
        ("u2\toptions=a=1\0", "NUL"),
        ("u2\tuid=1|gecos=" + "x" * 70_000, "over"),
    ],
)
def test_broken_record(healthy: Site, check: Check, line: str, reason: str) -> None:
    healthy.accounts.append(line + "\n")
    healthy.write_userdb()
    finding = check().one(reason)
    assert (finding.section, finding.level) == ("accounts", "error")
    assert (finding.file, finding.line) == (str(healthy.userdb), 2)
    assert finding.remedy


@pytest.mark.parametrize("mailhost", ["host name", "host:0", "host:x", "host:65536", "[::1", "[::1]x", "a/b", ":143"])
def test_mailhost_that_cannot_be_one(site: Site, check: Check, mailhost: str) -> None:
    site.account("u1", mailhost=mailhost)
    finding = check().one("u1: mailhost")
    assert (finding.level, finding.setting, finding.line) == ("error", "mailhost", 1)


def test_no_mailhost(site: Site, check: Check) -> None:
    site.account("u1", home="/")
    finding = check().one("u1 has no mailhost")
    assert (finding.level, finding.line) == ("warning", 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"uid": None}, "no uid"),
        ({"gid": None}, "no gid"),
        ({"uid": None, "gid": None}, "no uid and no gid"),
        ({"uid": "0"}, "uid or gid 0"),
        ({"gid": "0"}, "uid or gid 0"),
        ({"home": "/nonexistent/home"}, "'/nonexistent/home' is no directory"),
        ({"home": None}, "home"),
    ],
)
def test_account_here_that_cannot_be(site: Site, check: Check, fields: dict[str, str | None], reason: str) -> None:
    site.account("u1", mailhost="front.example", **{"home": "/", **fields})
    finding = check().one("u1", reason)
    assert (finding.level, finding.file, finding.line) == ("error", str(site.userdb), 1)


def test_account_here(site: Site, check: Check) -> None:
    site.account("u1", mailhost="FRONT.example.", home="/")
    assert check().wrong == []


def test_account_elsewhere_needs_no_user(site: Site, check: Check, imap_server: str) -> None:
    site.account("u1", mailhost=imap_server, options="disablepop3=1", uid=None, gid=None, home=None, mail=None)
    assert check().wrong == []


def test_no_password(healthy: Site, check: Check) -> None:
    healthy.account("u2", mailhost="front.example", systempw=None, imappw=HASH, home="/")
    finding = check().one("pop3pw", "systempw")
    assert (finding.level, finding.line) == ("note", 2)
    assert "userdb passwd" in finding.remedy


@pytest.mark.parametrize("stored", ["in-clear", "{NTLM}abc", "{SHA}", "x", "*", "!" + HASH])
def test_unknown_password_form(healthy: Site, check: Check, stored: str) -> None:
    healthy.account("u2", mailhost="front.example", home="/", systempw=stored)
    finding = check().one("u2", "unknown form")
    assert (finding.level, finding.line) == ("error", 2)
    assert len(stored) < 3 or stored not in finding.what + finding.remedy


def test_each_finding_about_an_account_once(site: Site, check: Check) -> None:
    site.account("u1", systempw="in-clear", uid=None)
    findings = check().wrong
    assert len(findings) == len({(finding.level, finding.what) for finding in findings}) == 3


def test_disabled_account_needs_nothing(site: Site, check: Check) -> None:
    site.account("u1", mailhost=closed_port(), options="disableimap=1,disablepop3=1", systempw="*")
    assert check().wrong == []


def test_account_for_tls_only_is_examined(site: Site, check: Check) -> None:
    """Somebody in front may do TLS."""
    site.account("u1", mailhost=closed_port(), options="disableinsecureimap=1,disablepop3=1")
    assert check().one("does not answer").level == "error"


# Mailhosts


def test_mailhost_that_does_not_resolve(site: Site, check: Check) -> None:
    site.account("u1", mailhost="no-such-host.invalid", options="disablepop3=1")
    finding = check().one("no-such-host.invalid:143", "resolve")
    assert (finding.section, finding.level, finding.setting) == ("mailhosts", "error", "mailhost")
    assert "name service" in finding.remedy


def test_closed_port(site: Site, check: Check) -> None:
    mailhost = closed_port()
    for name in ("u1", "u2"):
        site.account(name, mailhost=mailhost, options="disablepop3=1")
    finding = check().one(mailhost, "does not answer", "refused", "2 accounts")
    assert (finding.level, finding.setting) == ("error", "mailhost")


def test_silent_mailhost(site: Site, add: Add, check: Check) -> None:
    add("imapd", "PROXY_TIMEOUT=1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mailhost = "{}:{}".format(*listener.getsockname())
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        assert check().one(mailhost, "does not answer", "timed out").level == "error"


@pytest.mark.parametrize(
    "greeting",
    [b"+OK POP3\r\n", b"220 smtp\r\n", b"\x15\x03\x01\0\2\2\x0a\n", b"* BYE full\r\n", b"\x1b[2J\r\n", b"* OKAY\r\n"],
)
def test_wrong_greeting(site: Site, check: Check, greeting_with: Greeter, greeting: bytes) -> None:
    with greeting_with(greeting) as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        finding = check().one(mailhost, "does not greet")
    assert (finding.level, finding.setting) == ("error", "mailhost")


def test_preauthenticated_mailhost(site: Site, check: Check, greeting_with: Greeter) -> None:
    """The helper refuses it: it would be somebody else's mailbox."""
    with greeting_with(b"* PREAUTH somebody\r\n") as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        assert check().all(mailhost, level="error")


def test_closes_in_place_of_a_greeting(site: Site, check: Check, greeting_with: Greeter) -> None:
    with greeting_with(b"") as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        assert check(env={"PROXY_TIMEOUT": "1"}).one(mailhost, "does not answer").level == "error"


def test_login_disabled(site: Site, check: Check, greeting_with: Greeter) -> None:
    with greeting_with(b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi\r\n") as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        assert check().one(mailhost, "LOGINDISABLED").level == "error"


def test_pop3_mailhost(site: Site, check: Check, greeting_with: Greeter) -> None:
    with greeting_with(b"+OK hi\r\n") as mailhost:
        site.account("u1", mailhost=mailhost, options="disableimap=1")
        report = check()
    assert report.wrong == []
    assert "POP3" in report.one(mailhost, "1 account").what


def test_mailhost_with_a_final_dot(site: Site, check: Check, imap_server: str) -> None:
    """As the helper resolves it."""
    _, _, port = imap_server.partition(":")
    site.account("u1", mailhost=f"localhost.:{port}", options="disablepop3=1")
    assert check().one("localhost.", "answers").level == "ok"


def test_strange_host_names(site: Site, check: Check) -> None:
    for number, mailhost in enumerate(["a..b", "x" * 70 + ".invalid", "%s%n", "$(reboot)", "\\", "-", "fe80::1%lo"]):
        site.account(f"u{number}", mailhost=mailhost, options="disablepop3=1")
    assert len(check().all("does not answer", level="error")) == 7


def test_dead_address_behind_a_living_one(site: Site, check: Check, greeting_with: Greeter) -> None:
    """Both addresses of the name are asked, whichever answers."""
    need(os.geteuid() == 0, "root, for a hosts file of its own")
    hosts = site.directory / "hosts"
    with greeting_with(b"* OK hi\r\n", "127.0.0.1") as mailhost:
        port = mailhost.partition(":")[2]
        site.account("u1", mailhost=f"twins.example:{port}", options="disablepop3=1")
        hosts.write_text("127.0.0.1 twins.example\n127.0.0.77 twins.example\n")
        bound = f'mount --bind {hosts} /etc/hosts; exec "$0" "$@"'
        done = check_within(["unshare", "--mount", "sh", "-ec", bound], site.directory)
    assert "127.0.0.77 does not answer" in done.stdout, done


def check_within(wrapper: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Check the site in this directory in a world that another command makes."""
    path = {} if "PROXYHELPER_BIN" in os.environ else {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "proxyhelper", "check", "--entries", "/dev/null"],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PROXYHELPER_CONFDIR": str(directory), **path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


def test_another_server_on_this_host(site: Site, check: Check, greeting_with: Greeter) -> None:
    need(os.geteuid() == 0, "root, for port 143")
    with greeting_with(b"* OK another\r\n", "127.0.0.55", 143):
        site.account("u1", mailhost="127.0.0.55", options="disablepop3=1")
        report = check()
    assert report.wrong == []
    assert "another server on this host" in report.one("127.0.0.55:143").what


def test_this_very_service_is_down(site: Site, check: Check) -> None:
    site.account("u1", mailhost="127.0.0.1", options="disablepop3=1")
    finding = check().one("127.0.0.1:143", "does not answer")
    assert "PROXY_HOSTNAME=127.0.0.1" in finding.remedy
    assert "front.example (PROXY_HOSTNAME)" in finding.remedy


# Activators


def test_no_entry(healthy: Site, check: Check) -> None:
    for protocol in ("imap", "pop3"):
        finding = check().one(f"proxyhelper-{protocol}")
        assert (finding.section, finding.level) == ("activators", "note")
        assert "proxyhelper entry" in finding.remedy


def helper_greeting(site: Site) -> bytes:
    done = subprocess.run(
        command("imap"), env=environment(site, {}), stdin=subprocess.DEVNULL, capture_output=True, timeout=10
    )
    return done.stdout


def test_entry_that_is_served(healthy: Site, check: Check, entry: Callable[..., Path], greeting_with: Greeter) -> None:
    with greeting_with(helper_greeting(healthy)) as front:
        report = check(entry("imap", port=int(front.rpartition(":")[2])))
    assert report.wrong == []
    finding = report.one("xinetd serves IMAP on port")
    assert (finding.level, Path(finding.file).name) == ("ok", "xinetd.imap")
    assert "server" in Path(finding.file).read_text().splitlines()[finding.line - 1]


def test_entry_that_is_not_served(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    finding = check(entry("imap", port=int(closed_port().rpartition(":")[2]))).one("nothing answers on port")
    assert finding.level == "warning"
    assert "start xinetd" in finding.remedy


def test_port_of_an_entry_is_taken(healthy: Site, check: Check, entry: Callable[..., Path], imap_server: str) -> None:
    finding = check(entry("imap", port=int(imap_server.rpartition(":")[2]))).one("not the helper answers")
    assert finding.level == "error"


def test_entry_that_waits(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    path = entry("imap")
    path.write_text(path.read_text().replace("{\n", "{\nwait = yes\n"))
    assert check(path).one("listening socket").level == "error"


def test_two_entries_of_one_port(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    path = entry("imap")
    other = path.with_name("xinetd.other")
    other.write_text(path.read_text())
    assert check(path, other).one("is claimed by", str(path)).file == str(other)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (["/nonexistent/python", "/nonexistent/proxyhelper-imap"], "No such file"),
        (["/nonexistent/proxyhelper-imap"], "No such file"),
        (["/usr/bin/python3", "-I", "-S", "/nonexistent/proxyhelper-imap"], "exit status 2"),
        (["/dev/null/proxyhelper-imap"], "Not a directory"),
        (["/etc/\0/proxyhelper-imap"], "null"),
    ],
)
def test_program_that_does_not_start(
    healthy: Site, check: Check, entry: Callable[..., Path], program: list[str], reason: str
) -> None:
    finding = check(entry("imap", program=program)).one("does not start")
    assert (finding.section, finding.level) == ("activators", "error")
    assert reason in finding.what
    assert "proxyhelper entry xinetd" in finding.remedy


@pytest.mark.parametrize(
    ("server", "mode", "reason"),
    [("", 0, "not a program"), ("server", 0o644, "not a program"), ("relative/imapd", 0, "not an absolute path")],
)
def test_local_server_that_cannot_run(
    site: Site, tmp_path: Path, check: Check, entry: Callable[..., Path], server: str, mode: int, reason: str
) -> None:
    path = server if "/" in server else str(tmp_path / "server")
    if mode:
        (tmp_path / "server").write_text("#!/bin/sh\n")
        (tmp_path / "server").chmod(mode)
    report = check(entry("imap", path, "Maildir"))
    assert report.one("local server", reason).level == "warning", "as nobody's mailbox is here"
    site.account("u1", mailhost="front.example", home="/")
    finding = check(entry("imap", path, "Maildir")).one("local server", reason)
    assert (finding.level, Path(finding.file).name) == ("error", "xinetd.imap")


def test_no_local_server_for_accounts_here(site: Site, check: Check, entry: Callable[..., Path]) -> None:
    site.account("u1", mailhost="front.example", home="/")
    finding = check(entry("imap")).one("no local server", "on this host: 1")
    assert finding.level == "error"
    assert "proxyhelper entry xinetd" in finding.remedy


def test_accounts_here_need_root(site: Site, check: Check, entry: Callable[..., Path]) -> None:
    site.account("u1", mailhost="front.example", home="/")
    finding = check(entry("imap", "/bin/true", "Maildir", user="nobody")).one("only root")
    assert finding.level == "error"


def test_user_that_does_not_exist(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    finding = check(entry("imap", user="nosuchuser")).one("nosuchuser")
    assert finding.level == "error"


def test_user_that_cannot_read(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    need(os.geteuid() == 0, "root, to become the entry's user")
    with open_directory() as directory:
        moved = directory / "etc"
        healthy.directory.rename(moved)
        healthy.directory.symlink_to(moved)
        unreadable = check(entry("imap", user="nobody")).one("nobody", "cannot read", "userdb")
        assert unreadable.level == "error"
        os.chown(moved / "userdb", 65534, 65534)
        assert check(entry("imap", user="nobody")).all("cannot read") == []
        for name in ("authdaemonrc", "imapd"):
            (moved / name).chmod(0o600)
            assert check(entry("imap", user="nobody")).one("cannot read", name).level == "error"
            (moved / name).chmod(0o644)


def test_program_that_the_user_cannot_start(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    need(os.geteuid() == 0, "root, to become the entry's user")
    with open_directory() as directory:
        private = directory / "private"
        private.mkdir(0o700)
        (private / "proxyhelper-imap").symlink_to(command("imap")[-1])
        program = [*command("imap")[:-1], str(private / "proxyhelper-imap")]
        assert check(entry("imap", program=program)).all("does not start") == []
        assert check(entry("imap", program=program, user="nobody")).one("does not start").level == "error"


# What it looks like


def test_alike_findings_are_folded(site: Site, check: Check, run: Run, no_entries: Path) -> None:
    for number in range(9):
        site.account(f"u{number}", mailhost="front.example", home="/", systempw="in-clear")
    assert len(check().all("unknown form")) == 9
    shown = run("check", "--entries", no_entries).stdout
    assert shown.count("unknown form") == 5
    assert "and 4 more" in shown


def test_sections_in_text(healthy: Site, run: Run, no_entries: Path) -> None:
    done = run("check", "--entries", no_entries)
    lines = done.stdout.splitlines()
    sections = [line for line in lines if line and not line.startswith(" ")]
    assert sections[:-1] == [
        "Settings",
        "Files",
        "Certificates",
        "Account sources",
        "Accounts",
        "Mailhosts",
        "Activators",
    ]
    assert sections[-1] == f"{healthy.directory}: 0 errors, 0 warnings"
    assert (done.returncode, done.stderr) == (0, "")


def test_text_tells_place_and_remedy(healthy: Site, add: Add, run: Run, no_entries: Path) -> None:
    number = add("imapd", "PROXY_TIMEOUT=soon", "IMAP_PROXI=1") - 1
    done = run("check", "--entries", no_entries)
    assert f"error  {healthy.directory / 'imapd'} line {number}: setting PROXY_TIMEOUT='soon'" in done.stdout
    assert "is IMAP_PROXY meant?" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("1 error, 1 warning")
    assert done.returncode == 1


HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\tuid=\x1b[31mx",
    "u2\x1b[1m\tsystempw=in-clear|options=mailhost=\x1b[5mhost",
    "\udcff\udcfe\u202eu3\tsystempw=\x1b[0m|options=mailhost=no-such-host.invalid",
    "u4\r\x9b31m\toptions=mailhost=front.example|uid=1|gid=1|home=/\x1b[31m/nowhere",
    "no tab \x1b[31m",
    "u5;$(reboot)`reboot`\tsystempw=in-clear|options=mailhost=front.example",
)


def write_hostile(site: Site) -> None:
    site.userdb.write_bytes("".join(f"{line}\n" for line in HOSTILE).encode("utf-8", "surrogateescape"))


def test_hostile_userdb_on_a_terminal(
    site: Site, on_terminal: Callable[..., tuple[int, str]], no_entries: Path
) -> None:
    write_hostile(site)
    status, shown = on_terminal("check", "--entries", no_entries)
    assert status == 1
    assert "Traceback" not in shown
    for raw in ("\x1b[2J", "\x1b]0;", "\x07", "\x1b[31mx", "\x1b[5m", "\x9b", "\u202e", "\udcff", "\x1b[31m/"):
        assert raw not in shown
    assert "\\x1b[2J" in shown


def test_hostile_userdb_in_a_pipe(site: Site, check: Check, run: Run, no_entries: Path) -> None:
    write_hostile(site)
    shown = run("check", "--entries", no_entries).stdout
    assert not [character for character in shown if not character.isprintable() and character != "\n"]
    report = check()
    assert report.text.isascii()
    assert all("reboot" not in finding.remedy for finding in report.findings), "somebody might paste it"


@pytest.mark.parametrize(
    "line",
    [
        f"u2\tsystempw={HASH}x|options=mailhost=front.example|uid=1|gid=1|home=/",
        f"u2 systempw={HASH}|options=mailhost=front.example",
        f"u2 systempw={HASH}|options=mailhost=front.example\tx",
        f"u2\tuid=x|systempw={HASH}",
        f"u2\tsystempw={HASH}\0",
    ],
)
def test_no_hash_is_shown(healthy: Site, check: Check, run: Run, no_entries: Path, line: str) -> None:
    healthy.accounts.append(line + "\n")
    healthy.write_userdb()
    for text in (check().text, run("check", "--entries", no_entries).stdout):
        assert HASH[:12] not in text
        assert "{SHA}" not in text


def test_colours_on_a_terminal(healthy: Site, on_terminal: Callable[..., tuple[int, str]], no_entries: Path) -> None:
    assert "\x1b[" in on_terminal("check", "--entries", no_entries)[1]
    plain = on_terminal("check", "--entries", no_entries, env={"NO_COLOR": "1"})[1]
    assert "\x1b[3" not in plain
    assert "nothing wrong" in plain


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding(healthy: Site, add: Add, run: Run, no_entries: Path, encoding: str) -> None:
    add("imapd", "IMAP_PROXI=1")
    done = run("check", "--entries", no_entries, env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    assert "is IMAP_PROXY meant?" in done.stdout


# Whatever there is in place of the files


def replace_by_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def replace_by_directory(file: Path) -> None:
    file.unlink()
    file.mkdir(0o700)
    (file / "loop").symlink_to(".")


def replace_by_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def replace_by_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def replace_by_bytes(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 4096)


def replace_by_socket(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(file.parent)  # a socket's path is short
        listener.bind(file.name)
        os.chdir(before)


def replace_by_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


STRANGE = [
    replace_by_fifo,
    replace_by_directory,
    replace_by_loop,
    replace_by_dangling_link,
    replace_by_bytes,
    replace_by_socket,
    replace_by_device,
]


@pytest.mark.parametrize("replace", STRANGE)
def test_strange_userdb(site: Site, check: Check, replace: Callable[[Path], None]) -> None:
    replace(site.userdb)
    report = check(within=20)
    assert [finding for finding in report.wrong if finding.section == "accounts"]


@pytest.mark.parametrize("replace", [strange for strange in STRANGE if strange is not replace_by_fifo])
@pytest.mark.parametrize("name", ["imapd", "authdaemonrc"])
def test_strange_settings_file(healthy: Site, check: Check, replace: Callable[[Path], None], name: str) -> None:
    replace(healthy.directory / name)
    report = check(within=20)
    assert report.errors or replace is replace_by_dangling_link


def test_settings_file_is_a_fifo(healthy: Site, check: Check) -> None:
    replace_by_fifo(healthy.directory / "imapd")
    assert check(within=20).errors


def test_empty_userdb(site: Site, check: Check) -> None:
    assert [finding for finding in check().findings if finding.section == "accounts"], "that nobody can log in"


def test_relative_directory(healthy: Site, no_entries: Path) -> None:
    done = admin("check", "--entries", no_entries, env={"PROXYHELPER_CONFDIR": "etc"})
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 78)
    assert "absolute" in done.stdout + done.stderr


def test_directory_of_the_environment(healthy: Site, no_entries: Path) -> None:
    done = admin("check", "--entries", no_entries, env={"PROXYHELPER_CONFDIR": str(healthy.directory)})
    assert done.stdout.endswith(f"{healthy.directory}: 0 errors, 0 warnings\n")


def test_directory_that_is_none(site: Site, no_entries: Path, tmp_path: Path) -> None:
    assert admin("-c", tmp_path / "none", "check").returncode == 2
    done = admin("check", "--entries", no_entries, env={"PROXYHELPER_CONFDIR": str(tmp_path / "none")})
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("mode", [0o700, 0o744, 0o711])
def test_directory_that_others_cannot_read(healthy: Site, mode: int) -> None:
    need(os.geteuid() == 0, "root, to become another user")
    with open_directory() as directory:
        moved = directory / "etc"
        healthy.directory.rename(moved)
        moved.chmod(mode)
        done = check_within(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], moved)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1
    assert "ermission denied" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_closed_descriptor(healthy: Site, closed: str) -> None:
    done = check_within(["sh", "-c", f'exec "$0" "$@" {closed}'], healthy.directory)
    assert done.returncode == 0
    assert done.stdout.endswith("0 errors, 0 warnings\n")


def test_many_accounts(site: Site, check: Check) -> None:
    """Time grows no faster than the number of accounts."""

    def seconds(count: int) -> float:
        line = "user{}@example.com\tuid=1000|gid=1000|home=/|systempw={}|options=mailhost=front.example\n"
        site.accounts = [line.format(number, HASH) for number in range(count)]
        site.write_userdb()
        started = time.monotonic()
        assert check().one(f"{count} accounts").level == "ok"
        return time.monotonic() - started

    few = seconds(4_000)
    assert seconds(20_000) < 6 * few
