"""What `proxyhelper check` says about TLS: certificates, settings, mailhosts and listeners."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from real.certificates import Authority
from support import DEADLINE, Site, need, open_directory

from proxyhelper.dialogue.greetings import greeting
from proxyhelper.settings import load

DAY = timedelta(days=1)
LONG = 100 * DAY

Add = Callable[..., int]
Check = Callable[..., Any]
Greeter = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def pem(healthy: Site, authority: Authority, add: Add) -> Path:
    """The certificate and key of a site that offers STARTTLS."""
    path = healthy.directory / "imapd.pem"
    issue(authority, path, "DNS:mail.example.com", "DNS:*.mail.example.com")
    add("imapd", "IMAPDSTARTTLS=YES", f"TLS_CERTFILE={path}")
    return path


def issue(authority: Authority, path: Path, *names: str, start: timedelta = -DAY, end: timedelta = LONG) -> None:
    made = authority.issue("front", *names, start=start, end=end)
    write_private(path, made.both.read_text() + authority.ca.read_text())


def write_private(path: Path, text: str) -> None:
    path.touch()
    path.chmod(0o600)
    path.write_text(text)


# Certificates


def test_certificate_in_order(pem: Path, check: Check) -> None:
    report = check()
    assert report.wrong == []
    finding = report.one("mail.example.com, *.mail.example.com", "valid from")
    assert (finding.section, finding.level, finding.file) == ("certificates", "ok", str(pem))


@pytest.mark.parametrize(
    ("start", "end", "level", "words"),
    [
        (-9 * DAY, -DAY, "error", "expired on"),
        (DAY, LONG, "error", "not valid before"),
        (-DAY, 13 * DAY, "warning", "expires on"),
        (-DAY, 15 * DAY, "ok", "valid from"),
    ],
)
def test_dates(
    pem: Path, authority: Authority, check: Check, start: timedelta, end: timedelta, level: str, words: str
) -> None:
    issue(authority, pem, "DNS:mail.example.com", start=start, end=end)
    finding = check().one(words)
    assert (finding.section, finding.level, finding.file) == ("certificates", level, str(pem))


def test_self_signed(pem: Path, authority: Authority, check: Check) -> None:
    write_private(pem, authority.self_signed("alone", "DNS:mail.example.com").both.read_text())
    assert check().one("self-signed").level == "warning"


def test_name_in_the_subject_alone(pem: Path, authority: Authority, check: Check) -> None:
    issue(authority, pem)
    assert "for front, valid" in check().one("valid from").what


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666, 0o602])
def test_key_of_everybody(pem: Path, check: Check, mode: int) -> None:
    pem.chmod(mode)
    finding = check().one("private key", f"{mode:04o}")
    assert (finding.level, finding.file) == ("error", str(pem))
    subprocess.run(finding.remedy, shell=True, check=True)
    assert check().wrong == []
    assert stat.S_IMODE(pem.stat().st_mode) & 0o007 == 0


def test_key_in_a_file_of_its_own(pem: Path, authority: Authority, add: Add, check: Check) -> None:
    made = authority.issue("apart", "DNS:mail.example.com", end=LONG)
    key = pem.with_name("key.pem")
    write_private(pem, made.certificate.read_text() + authority.ca.read_text())
    write_private(key, made.key.read_text())
    add("imapd", f"TLS_PRIVATE_KEYFILE={key}")
    pem.chmod(0o644)
    key.chmod(0o640)
    assert check().wrong == []
    pem.chmod(0o664)
    assert (check().one("others may write").file, check().one("others may write").level) == (str(pem), "error")
    pem.chmod(0o644)
    key.chmod(0o644)
    assert check().one("private key").file == str(key)


def test_key_of_another_certificate(pem: Path, authority: Authority, check: Check) -> None:
    other = authority.issue("other", end=LONG)
    write_private(pem, pem.read_text().partition("-----BEGIN PRIVATE")[0] + other.key.read_text())
    finding = check().one("cannot be used", "mismatch")
    assert (finding.level, finding.file, finding.setting) == ("error", str(pem), "TLS_CERTFILE")


@pytest.mark.parametrize("text", ["", "rubbish\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_no_certificate_in_the_file(pem: Path, check: Check, text: str) -> None:
    pem.write_text(text)
    assert check().one("cannot be used").level == "error"


def test_key_with_a_password(pem: Path, check: Check) -> None:
    encrypt = ["openssl", "pkey", "-in", str(pem), "-aes256", "-passout", "pass:secret"]
    key = subprocess.run(encrypt, capture_output=True, text=True, check=True).stdout
    write_private(pem, pem.read_text().partition("-----BEGIN PRIVATE")[0] + key)
    finding = check().one("cannot be used")
    assert "without password" in finding.remedy


def test_certificate_that_is_not_there(pem: Path, check: Check) -> None:
    pem.unlink()
    finding = check().one("IMAPDSTARTTLS=YES", str(pem), "not there")
    assert (finding.level, finding.setting) == ("error", "TLS_CERTFILE")
    assert "STARTTLS is not offered" in finding.what
    assert "IMAPDSTARTTLS=NO" in finding.remedy


def test_key_that_is_not_there(pem: Path, add: Add, check: Check, entry: Callable[..., Path]) -> None:
    add("imapd", "TLS_PRIVATE_KEYFILE=/nonexistent/key.pem")
    finding = check(entry("imap")).one("/nonexistent/key.pem is not there", "STARTTLS is not offered")
    assert (finding.level, finding.setting) == ("error", "TLS_CERTFILE")


@pytest.mark.parametrize(("protocol", "name", "port"), [("imap", "IMAPDSTARTTLS", 143), ("pop3", "POP3_STARTTLS", 110)])
def test_certificate_without_starttls(
    pem: Path, add: Add, check: Check, entry: Callable[..., Path], protocol: str, name: str, port: int
) -> None:
    add(f"{protocol}d", f"TLS_CERTFILE={pem}", f"{name}=NO")
    plain, secure = entry(protocol), entry(protocol, port=2993, env="PROXY_TLS_WRAP=1")
    upper = protocol.upper()
    for entries in [plain], [plain, secure]:
        finding = check(*entries).one(f"{name} is not YES", f"no STARTTLS on port {port}")
        assert (finding.level, finding.setting) == ("warning", name)
    add(f"{protocol}d", f"{upper}_TLS_REQUIRED=1")
    assert check(plain, secure).one(f"{name} is not YES", "nobody can log in").level == "error"
    assert check(secure).all(f"{name} is not YES") == []
    for env in f"{upper}_TLS=1", f"{upper}_STARTTLS=YES":
        assert check(entry(protocol, env=env)).all("is not YES") == []


# What the certificate is for, and who says so


def test_issuer_that_nobody_knows(pem: Path, authority: Authority, check: Check) -> None:
    write_private(pem, authority.issue("front", "DNS:mail.example.com", end=LONG).both.read_text())
    finding = check().one("issued by the tests' own authority", "neither in this file nor in the system's store")
    assert (finding.level, finding.file) == ("warning", str(pem))
    assert "fullchain.pem" in finding.remedy
    assert check(env={"SSL_CERT_FILE": str(authority.ca)}).wrong == []


def test_issuer_that_nobody_knows_of_an_old_certificate(pem: Path, authority: Authority, check: Check) -> None:
    issue(authority, pem, "DNS:mail.example.com", start=-9 * DAY, end=-DAY)
    assert [finding.level for finding in check().wrong] == ["error"]
    write_private(pem, authority.issue("front", start=-9 * DAY, end=-DAY).both.read_text())
    assert check().one("issued by").level == "warning"


def test_chain_to_an_authority_that_stays_at_home(
    pem: Path, authority: Authority, check: Check, tmp_path: Path
) -> None:
    """Its own certificate need not be in the file: those who know it have it."""
    (tmp_path / "extensions").write_text("basicConstraints=critical,CA:TRUE\n")
    script = f"""
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=home -keyout key -out home
        openssl req -new -key {authority.directory}/ca.key -subj "/CN=the tests' own authority" -out request
        openssl x509 -req -in request -CA home -CAkey key -set_serial 1 -extfile extensions -out between
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    leaf = authority.issue("front", "DNS:mail.example.com", end=LONG).both.read_text()
    write_private(pem, leaf + (tmp_path / "between").read_text())
    assert check().wrong == []


@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("verify", ["NONE", "REQUIREPEER"])
def test_issuer_is_looked_for_whatever_is_served(
    pem: Path, authority: Authority, add: Add, check: Check, protocol: str, verify: str
) -> None:
    add("imapd", f"TLS_PROTOCOL={protocol}", f"TLS_VERIFYPEER={verify}", "TLS_TRUSTCERTS=/etc/ssl/certs")
    write_private(pem, authority.issue("front", end=LONG).both.read_text())
    assert check().one("issued by").level == "warning"


@pytest.mark.parametrize(("names", "noted"), [(["mail.example.com"], 1), (["front.example"], 0), (["*.example"], 0)])
def test_certificate_for_another_host(
    pem: Path, authority: Authority, check: Check, names: list[str], noted: int
) -> None:
    issue(authority, pem, *(f"DNS:{name}" for name in names))
    report = check()
    assert len(report.all("this host is front.example (PROXY_HOSTNAME)", level="note")) == noted
    assert report.wrong == []


def test_no_certificate_is_named(healthy: Site, add: Add, check: Check) -> None:
    add("pop3d-ssl", "POP3_STARTTLS=YES")
    assert check().one("POP3_STARTTLS=YES", "TLS_CERTFILE names none").level == "error"


def test_no_certificate_is_wanted(healthy: Site, add: Add, check: Check) -> None:
    add("imapd-ssl", "IMAPDSTARTTLS=NO", "TLS_CERTFILE=/nonexistent/imapd.pem")
    assert check().wrong == []


def test_starttls_is_yes_or_no(healthy: Site, add: Add, check: Check) -> None:
    number = add("imapd", "IMAPDSTARTTLS=1")
    finding = check().one("IMAPDSTARTTLS=1 counts as NO")
    assert (finding.level, finding.line) == ("warning", number)


def test_tls_required(pem: Path, add: Add, check: Check) -> None:
    add("imapd", "IMAP_TLS_REQUIRED=1")
    assert check().wrong == []
    pem.unlink()
    finding = check().one("nobody can log in")
    assert (finding.section, finding.level, finding.setting) == ("certificates", "error", "IMAP_TLS_REQUIRED")


def test_tls_required_and_done_in_front(healthy: Site, add: Add, check: Check, entry: Callable[..., Path]) -> None:
    add("imapd", "IMAP_TLS_REQUIRED=1")
    assert check(entry("imap")).one("nobody can log in").level == "error"
    assert check(entry("imap", env="IMAP_TLS=1")).all("nobody can log in") == []


def test_both_protocols_have_the_same(pem: Path, add: Add, check: Check) -> None:
    add("pop3d", "POP3_STARTTLS=YES", f"TLS_CERTFILE={pem}")
    assert check().one("valid from")
    pem.chmod(0o644)
    assert check().one("private key")


@pytest.mark.parametrize(
    ("suffix", "wrong"),
    [
        ("mail.example.com", False),
        ("imap.mail.example.com", False),
        ("a.b.mail.example.com", True),
        ("other.example.com", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
    ],
)
def test_certificate_for_a_name_or_address(pem: Path, check: Check, suffix: str, wrong: bool) -> None:
    special = Path(f"{pem}.{suffix}")
    write_private(special, pem.read_text())
    report = check()
    assert len(report.all("valid from")) == 2
    assert [(finding.file, finding.level) for finding in report.wrong] == [(str(special), "warning")] * wrong
    assert all(suffix in finding.what for finding in report.wrong)


def test_what_lies_beside_it(pem: Path, check: Check) -> None:
    for name in ("bak", "old", "dpkg-dist", "~"):
        Path(f"{pem}.{name}").write_text("rubbish")
    assert check().wrong == []


def test_broken_certificate_for_a_name(pem: Path, check: Check) -> None:
    special = Path(f"{pem}.mail.example.com")
    write_private(special, "rubbish")
    assert check().one("cannot be used").file == str(special)


# Settings


def test_unusable_settings_all_at_once(pem: Path, add: Add, check: Check) -> None:
    lines = {
        "TLS_STARTTLS_PROTOCOL": add("imapd", "TLS_STARTTLS_PROTOCOL=SSL23"),
        "TLS_PROTOCOL": add("imapd", "TLS_PROTOCOL=TLSv9"),
        "TLS_CIPHER_LIST": add("imapd", "TLS_CIPHER_LIST=NO:SUCH"),
        "TLS_TRUSTCERTS": add("imapd", "TLS_VERIFYPEER=PEER", "TLS_TRUSTCERTS=/nonexistent"),
    }
    report = check()
    for setting, number in lines.items():
        (finding,) = [finding for finding in report.wrong if finding.setting == setting]
        assert (finding.level, finding.section, finding.line) == ("error", "settings", number)
    assert len(report.wrong) == len(lines)


def test_names_in_certificates_that_nobody_asks_for(pem: Path, add: Add, authority: Authority, check: Check) -> None:
    number = add("imapd", "TLS_EXTERNAL=emailaddress")
    finding = check().one("TLS_EXTERNAL does nothing")
    assert (finding.level, finding.setting, finding.line) == ("warning", "TLS_EXTERNAL", number)
    add("imapd", "TLS_VERIFYPEER=PEER", f"TLS_TRUSTCERTS={authority.ca}")
    assert check().wrong == []


@pytest.mark.parametrize("text", ["/nonexistent", "/etc/hostname"])
def test_authorities_of_backends(healthy: Site, add: Add, check: Check, text: str) -> None:
    number = add("imapd", f"PROXY_CAFILE={text}")
    finding = check().one("PROXY_CAFILE", text)
    assert (finding.level, finding.setting, finding.line) == ("error", "PROXY_CAFILE", number)


@pytest.mark.parametrize("setting", ["PROXY_TRUSTED", "PROXY_PROTOCOL_FROM"])
def test_networks_that_are_none(healthy: Site, add: Add, check: Check, setting: str) -> None:
    number = add("imapd", f"{setting}='192.0.2.1, 192.0.2.0/33'")
    finding = check().one(setting, "192.0.2.0/33")
    assert (finding.level, finding.setting, finding.line) == ("error", setting, number)


def test_proxy_protocol_from_nobody(healthy: Site, add: Add, check: Check) -> None:
    number = add("imapd", "PROXY_PROTOCOL=1")
    finding = check().one("PROXY_PROTOCOL_FROM names nobody")
    assert (finding.level, finding.setting, finding.line) == ("error", "PROXY_PROTOCOL", number)
    add("imapd", "PROXY_PROTOCOL_FROM=192.0.2.1")
    assert check().wrong == []


def test_balancers_whose_header_nobody_reads(healthy: Site, add: Add, check: Check, entry: Callable[..., Path]) -> None:
    add("authdaemonrc", "PROXY_PROTOCOL_FROM=192.0.2.1")
    finding = check().one("PROXY_PROTOCOL_FROM does nothing")
    assert (finding.section, finding.level, finding.setting) == ("settings", "warning", "PROXY_PROTOCOL_FROM")
    assert check(entry("imap", env="PROXY_PROTOCOL=1")).all("does nothing") == []
    add("pop3d", "PROXY_PROTOCOL=1")
    assert check().all("does nothing") == []


@pytest.mark.parametrize("store", ["/etc/ssl/certs", "/etc/ssl/certs/", "/etc/ssl/certs/ca-certificates.crt"])
def test_everybody_with_a_certificate_may_log_in(pem: Path, add: Add, check: Check, store: str) -> None:
    need(os.path.exists(store), store)
    number = add("imapd", "TLS_EXTERNAL=emailaddress", "TLS_VERIFYPEER=PEER", f"TLS_TRUSTCERTS={store}")
    finding = check().one("TLS_EXTERNAL with the system's store")
    assert (finding.level, finding.setting, finding.line) == ("error", "TLS_TRUSTCERTS", number)
    add("imapd", "TLS_VERIFYPEER=NONE")
    assert check().all("the system's store") == []


@pytest.mark.parametrize("setting", ["TLS_PROTOCOL", "TLS_STARTTLS_PROTOCOL"])
def test_old_tls(pem: Path, add: Add, check: Check, setting: str) -> None:
    number = add("imapd", f"{setting}=TLSv1.1+")
    finding = check().one(f"{setting}=TLSv1.1+", "security level")
    assert (finding.level, finding.setting, finding.line) == ("warning", setting, number)
    add("imapd", "TLS_CIPHER_LIST=DEFAULT:@SECLEVEL=0")
    assert check().wrong == []


@pytest.mark.parametrize("setting", ["IMAP_PROXY_TLS", "IMAP_PROXY_SEND", "TLS_VERIFYPEER"])
def test_choices(healthy: Site, add: Add, check: Check, setting: str) -> None:
    number = add("imapd", f"{setting}=maybe")
    finding = check().one(setting, "'maybe'")
    assert (finding.level, finding.setting, finding.line) == ("error", setting, number)


# Mailhosts

GREETING = {"imap": b"* OK hi\r\n", "pop3": b"+OK hi\r\n"}
OTHER = {"imap": "disablepop3=1", "pop3": "disableimap=1"}


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trusting(site: Site, add: Add, authority: Authority) -> Site:
    add("authdaemonrc", f"PROXY_CAFILE={authority.ca}")
    return site


@pytest.mark.parametrize("tls", ["starttls", "yes"])
def test_mailhost_behind_tls(
    trusting: Site, add: Add, check: Check, greeting_with: Greeter, authority: Authority, protocol: str, tls: str
) -> None:
    """By the site's setting, and by the account's option."""
    add(f"{protocol}d", f"{protocol.upper()}_PROXY_TLS={tls}")
    certificate = authority.issue("backend", "IP:127.0.0.1").both
    with (
        greeting_with(GREETING[protocol], tls=tls, certificate=certificate) as secure,
        greeting_with(GREETING[protocol]) as clear,
    ):
        trusting.account("u1", mailhost=secure, options=OTHER[protocol])
        trusting.account("u2", mailhost=clear, options=f"mailhosttls=no,{OTHER[protocol]}")
        report = check()
    assert report.wrong == []
    assert "TLSv1.3" in report.one(secure, "answers").what
    assert "TLS" not in report.one(clear, "answers").what


@pytest.mark.parametrize("tls", ["starttls", "yes"])
@pytest.mark.parametrize(
    ("names", "trusted", "reason", "remedy"),
    [
        (["IP:127.0.0.2"], True, "mismatch", "have it certified for 127.0.0.1, or make the mailhost a name"),
        (["IP:127.0.0.1"], False, "issuer", "name its authority in PROXY_CAFILE"),
    ],
)
def test_mailhost_whose_certificate_is_refused(
    site: Site,
    add: Add,
    check: Check,
    greeting_with: Greeter,
    authority: Authority,
    tls: str,
    names: list[str],
    trusted: bool,
    reason: str,
    remedy: str,
) -> None:
    if trusted:
        add("authdaemonrc", f"PROXY_CAFILE={authority.ca}")
    with greeting_with(GREETING["imap"], tls=tls, certificate=authority.issue("backend", *names).both) as mailhost:
        site.account("u1", mailhost=mailhost, options=f"disablepop3=1,mailhosttls={tls}")
        report = check()
    finding = report.one(mailhost, "no TLS", reason)
    assert (finding.section, finding.level) == ("mailhosts", "error")
    assert remedy in finding.remedy
    assert report.wrong == [finding]


def test_mailhost_whose_certificate_has_expired(
    trusting: Site, check: Check, greeting_with: Greeter, authority: Authority
) -> None:
    certificate = authority.issue("backend", "IP:127.0.0.1", start=-9 * DAY, end=-DAY).both
    with greeting_with(GREETING["imap"], tls="yes", certificate=certificate) as mailhost:
        trusting.account("u1", mailhost=mailhost, options="disablepop3=1,mailhosttls=yes")
        assert check().one("expired").remedy == "renew it on the backend"


def test_mailhost_whose_certificate_is_self_signed(
    site: Site, check: Check, greeting_with: Greeter, authority: Authority
) -> None:
    certificate = authority.self_signed("alone", "IP:127.0.0.1").both
    with greeting_with(GREETING["imap"], tls="yes", certificate=certificate) as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1,mailhosttls=yes")
        assert check().one("no TLS").remedy == "name that certificate in PROXY_CAFILE"


def test_mailhost_whose_authority_comes_along(
    site: Site, check: Check, greeting_with: Greeter, authority: Authority, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    issue(authority, chain, "IP:127.0.0.1")
    with greeting_with(GREETING["imap"], tls="yes", certificate=chain) as mailhost:
        site.account("u1", mailhost=mailhost, options="disablepop3=1,mailhosttls=yes")
        assert check().one("no TLS").remedy == "name its authority in PROXY_CAFILE"


def test_mailhosts_are_not_to_blame_for_our_settings(site: Site, add: Add, check: Check, imap_server: str) -> None:
    add("authdaemonrc", "PROXY_CAFILE=/nonexistent")
    site.account("u1", mailhost=imap_server, options="disablepop3=1,mailhosttls=yes")
    report = check()
    assert [finding.setting for finding in report.wrong] == ["PROXY_CAFILE"]
    finding = report.one(imap_server, "is not tried", "PROXY_CAFILE")
    assert (finding.section, finding.level, finding.remedy) == ("mailhosts", "note", "")


def test_mailhost_that_waits_for_what_it_understands(site: Site, add: Add, check: Check) -> None:
    add("imapd", "PROXY_TIMEOUT=1", "IMAP_PROXY_TLS=yes")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mailhost = "{}:{}".format(*listener.getsockname())
        site.account("u1", mailhost=mailhost, options="disablepop3=1")
        assert "begin in clear? Then set IMAP_PROXY_TLS" in check().one(mailhost, "timed out").remedy


@pytest.mark.parametrize(("tls", "reason"), [("starttls", "does not offer STARTTLS"), ("yes", "wrong version number")])
def test_mailhost_without_tls(site: Site, check: Check, greeting_with: Greeter, tls: str, reason: str) -> None:
    with greeting_with(b"* OK [CAPABILITY IMAP4rev1] hi\r\n") as mailhost:
        site.account("u1", mailhost=mailhost, options=f"disablepop3=1,mailhosttls={tls}")
        report = check()
    finding = report.one(mailhost, "no TLS", reason)
    assert finding.level == "error"
    assert "mailhosttls" in finding.remedy
    assert ("begin in clear" in finding.remedy) == (tls == "yes")
    assert report.wrong == [finding]


def test_certificate_for_the_name_of_the_mailhost(
    trusting: Site, check: Check, greeting_with: Greeter, authority: Authority
) -> None:
    certificate = authority.issue("backend", "DNS:localhost").both
    with greeting_with(GREETING["imap"], tls="yes", certificate=certificate) as address:
        port = address.partition(":")[2]
        trusting.account("u1", mailhost=f"localhost.:{port}", options="disablepop3=1,mailhosttls=yes")
        trusting.account("u2", mailhost=address, options="disablepop3=1,mailhosttls=yes")
        report = check()
    assert report.all(f"localhost.:{port}", "TLSv1.3", level="ok")
    assert report.one("no TLS").what.startswith(f"IMAP {address}")


def test_login_disabled_before_starttls(
    trusting: Site, check: Check, greeting_with: Greeter, authority: Authority
) -> None:
    certificate = authority.issue("backend", "IP:127.0.0.1").both
    said = b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi\r\n"
    with greeting_with(said, tls="starttls", certificate=certificate) as mailhost:
        trusting.account("u1", mailhost=mailhost, options="disablepop3=1,mailhosttls=starttls")
        assert check().wrong == []


def test_proxy_header_is_sent(site: Site, add: Add, check: Check, imap_server: str) -> None:
    add("imapd", "IMAP_PROXY_SEND=proxy-v2")
    site.account("u1", mailhost=imap_server, options="disablepop3=1")
    report = check()
    assert report.wrong == []
    assert report.one("proxy-v2 and no TLS").level == "note"
    assert "login_trusted_networks" in report.one("proxy-v2 and no TLS").remedy
    add("imapd", "IMAP_PROXY_TLS=starttls")
    assert check().all("proxy-v2 and no TLS") == []


def test_mailhosttls_that_is_none(site: Site, check: Check) -> None:
    site.account("u0", mailhost="127.0.0.1", options="disablepop3=1,mailhosttls=no")
    site.account("u1", mailhost="127.0.0.1", options="disablepop3=1,mailhosttls=perhaps")
    finding = check().one("u1", "'perhaps'")
    assert (finding.level, finding.setting) == ("error", "mailhosttls")


@pytest.mark.parametrize(
    ("networks", "trusted"),
    [("", False), ("192.0.2.0/24", False), ("127.0.0.1", True), ("::ffff:127.0.0.0/104", True)],
)
def test_mailhosts_that_are_not_trusted(healthy: Site, check: Check, networks: str, trusted: bool) -> None:
    healthy.account("u2", mailhost="127.0.0.1:9", options="disablepop3=1")
    report = check(env={"PROXY_TRUSTED": networks})
    found = report.all("not in PROXY_TRUSTED")
    assert [(finding.level, finding.setting) for finding in found] == [("warning", "PROXY_TRUSTED")] * (not trusted)
    assert all("if these run proxyhelper" in finding.remedy for finding in found)


# Listeners


def helper_greeting(site: Site, secure: bool) -> bytes:
    settings = load("imap", {"PROXYHELPER_CONFDIR": str(site.directory)})
    return greeting("imap", settings.offer(secure))


@pytest.mark.parametrize(("tls", "env", "service"), [("starttls", "", "IMAP"), ("yes", "PROXY_TLS_WRAP=1", "IMAPS")])
def test_entry_that_is_served(
    healthy: Site,
    pem: Path,
    add: Add,
    check: Check,
    entry: Callable[..., Path],
    greeting_with: Greeter,
    tls: str,
    env: str,
    service: str,
) -> None:
    add("imapd", 'IMAP_CAPABILITY_TLS="IMAP4rev1 ENABLE"')
    said = helper_greeting(healthy, secure=tls == "yes")
    with greeting_with(said, tls=tls, certificate=pem) as front:
        report = check(entry("imap", port=int(front.rpartition(":")[2]), env=env))
    assert report.wrong == []
    assert report.one(f"xinetd serves {service} on port", "with TLSv1.3").level == "ok"


def test_entry_that_serves_no_tls(
    healthy: Site, pem: Path, check: Check, entry: Callable[..., Path], greeting_with: Greeter
) -> None:
    with greeting_with(helper_greeting(healthy, secure=False)) as front:
        report = check(entry("imap", port=int(front.rpartition(":")[2]), env="PROXY_TLS_WRAP=1"))
        assert report.one("no TLS on port").level == "error"
        report = check(entry("imap", port=int(front.rpartition(":")[2])))
        assert report.one("no TLS on port").level == "error"


def test_another_server_behind_tls(pem: Path, check: Check, entry: Callable[..., Path], greeting_with: Greeter) -> None:
    with greeting_with(GREETING["imap"], tls="yes", certificate=pem) as front:
        report = check(entry("imap", port=int(front.rpartition(":")[2]), env="PROXY_TLS_WRAP=1"))
    assert report.one("not the helper answers").level == "error"


def test_entry_without_certificate(healthy: Site, check: Check, entry: Callable[..., Path]) -> None:
    finding = check(entry("imap", env="PROXY_TLS_WRAP=1")).one("PROXY_TLS_WRAP=1, but no certificate")
    assert finding.level == "error"
    assert "or take that entry away" in finding.remedy
    assert "STARTTLS" not in finding.remedy


@pytest.mark.parametrize(("protocol", "port", "option"), [("imap", 993, "--imaps"), ("pop3", 995, "--pop3s")])
def test_entry_for_tls_in_clear(
    healthy: Site, pem: Path, check: Check, entry: Callable[..., Path], protocol: str, port: int, option: str
) -> None:
    finding = check(entry(protocol, port=port)).one(f"clients of port {port} begin with TLS")
    assert (finding.section, finding.level) == ("activators", "error")
    assert option in finding.remedy
    for env in "PROXY_TLS_WRAP=1", f"{protocol.upper()}_TLS=1":
        assert check(entry(protocol, port=port, env=env)).all("begin with TLS") == []


@contextmanager
def asking_for_certificates(certificate: Path, authorities: Path) -> Iterator[int]:
    """A port, behind TLS from the first byte, for those who have a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authorities))
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as client, contextlib.suppress(OSError):
            client.settimeout(DEADLINE)
            context.wrap_socket(client, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        yield listener.getsockname()[1]
        thread.join(DEADLINE)


def test_entry_that_asks_for_certificates(
    pem: Path, add: Add, authority: Authority, check: Check, entry: Callable[..., Path]
) -> None:
    add("imapd", "TLS_VERIFYPEER=REQUIREPEER", f"TLS_TRUSTCERTS={authority.ca}")
    with asking_for_certificates(pem, authority.ca) as port:
        report = check(entry("imap", port=port, env="PROXY_TLS_WRAP=1"))
    assert report.wrong == []
    assert report.one("asks for a client certificate").level == "ok"


@pytest.mark.parametrize("setting", ["PROXY_CAFILE", "TLS_TRUSTCERTS"])
def test_authorities_that_the_user_cannot_read(
    healthy: Site, pem: Path, add: Add, authority: Authority, check: Check, entry: Callable[..., Path], setting: str
) -> None:
    need(os.geteuid() == 0, "root, to become the entry's user")
    with open_directory() as directory:
        path, certificate = directory / "ca.pem", directory / "imapd.pem"
        write_private(path, authority.ca.read_text())
        write_private(certificate, pem.read_text())
        add("imapd", "TLS_VERIFYPEER=PEER", f"TLS_TRUSTCERTS={authority.ca}", f"TLS_CERTFILE={certificate}")
        add("imapd", f"{setting}={path}")
        finding = check(entry("imap", user="nobody")).one("its user nobody cannot read", str(path))
        assert (finding.section, finding.level) == ("activators", "error")
        subprocess.run(finding.remedy, shell=True, check=True)
        assert check(entry("imap", user="nobody")).all("cannot read", str(path)) == []


@pytest.mark.parametrize("env", ["", "PROXY_TLS_WRAP=1"])
def test_key_that_the_user_cannot_read(
    healthy: Site, pem: Path, add: Add, check: Check, entry: Callable[..., Path], env: str
) -> None:
    need(os.geteuid() == 0, "root, to become the entry's user")
    with open_directory() as directory:
        path = directory / "imapd.pem"
        write_private(path, pem.read_text())
        add("imapd", f"TLS_CERTFILE={path}")
        moved = directory / "etc"
        healthy.directory.rename(moved)
        healthy.directory.symlink_to(moved)
        os.chown(moved / "userdb", 65534, 65534)
        finding = check(entry("imap", user="nobody", env=env)).one("nobody", "cannot read", path.name)
        assert (finding.section, finding.level) == ("activators", "error")
        subprocess.run(finding.remedy, shell=True, check=True)
        assert check(entry("imap", user="nobody", env=env)).all("cannot read") == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_plain_port_counts(site: Site, entry: Callable[..., Path], run: Callable[..., Any]) -> None:
    """Where both are served, a mailhost with the port of either is this very service."""
    site.account("u1", mailhost="front.example:2143", options="disablepop3=1", home="/")
    secure = entry("imap", port=2993, env="PROXY_TLS_WRAP=1")
    plain = entry("imap", "/bin/true", "Maildir", port=2143)
    found = json.loads(run("check", "--json", "--entries", secure, "--entries", plain).stdout)["findings"]
    assert not [finding for finding in found if finding["section"] == "mailhosts"]
