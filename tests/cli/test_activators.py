"""Entries found in activators' files, as administrators write them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyhelper.cli.activators import Entry, find

IMAP = ["/opt/p/bin/python", "-I", "-S", "/opt/p/bin/proxyhelper-imap"]
POP3 = ["/opt/p/bin/python", "-I", "-S", "/opt/p/bin/proxyhelper-pop3"]
LOCAL = ["/usr/bin/imapd", "Maildir"]
COMMAND = " ".join([*IMAP, *LOCAL])
PLACES = ("xinetd.conf", "xinetd.d", "inetd.conf", "etc", "lib")

Found = Callable[[dict[str, str]], list[Entry]]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """The entries in files, given by path and text, with PLACES searched."""

    def search(files: dict[str, str]) -> list[Entry]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(os.fsencode(text))
        return find([str(tmp_path / place) for place in PLACES])

    return search


def xinetd(*lines: str, server: str = "/opt/p/bin/python", args: str = f"python {COMMAND.partition(' ')[2]}") -> str:
    attributes = (f"server = {server}", f"server_args = {args}", "flags = NAMEINARGS", *lines)
    return "\n".join(["service imap", "{", *(f"\t{line}" for line in attributes), "}", ""])


def test_xinetd(found: Found, tmp_path: Path) -> None:
    text = "# mail\n" + xinetd("port = 1143", "user=mail", "env = A=1 B=2=3", "env += PROXYHELPER_CONFDIR=/etc/p")
    environment = {"A": "1", "B": "2=3", "PROXYHELPER_CONFDIR": "/etc/p"}
    file = str(tmp_path / "xinetd.d/mail")
    assert found({"xinetd.d/mail": text}) == [
        Entry(file, 5, "xinetd", "imap", IMAP, LOCAL, "mail", 1143, environment),
    ]


@pytest.mark.parametrize(
    ("attribute", "address", "waits"),
    [("bind = 192.0.2.1", "192.0.2.1", False), ("interface = ::", "", False), ("wait = yes", "", True)],
)
def test_xinetd_address_and_wait(found: Found, attribute: str, address: str, waits: bool) -> None:
    (entry,) = found({"xinetd.conf": xinetd(attribute)})
    assert (entry.address, entry.waits) == (address, waits)


def test_xinetd_by_default(found: Found) -> None:
    (entry,) = found({"xinetd.conf": xinetd()})
    assert (entry.user, entry.port, entry.environment) == ("root", 143, {})


def test_xinetd_with_arguments_alone(found: Found) -> None:
    (entry,) = found({"xinetd.conf": xinetd(args="-I -S /opt/p/bin/proxyhelper-pop3").replace("NAMEINARGS", "NODELAY")})
    assert (entry.protocol, entry.program, entry.local_server) == ("pop3", POP3, [])


def test_xinetd_with_the_helper_as_server(found: Found) -> None:
    (entry,) = found({"xinetd.conf": "service imap\n{\n server = /opt/p/bin/proxyhelper-imap\n}"})
    assert (entry.line, entry.program, entry.local_server) == (3, ["/opt/p/bin/proxyhelper-imap"], [])


@pytest.mark.parametrize(
    "files",
    [
        {"xinetd.d/mail": xinetd("disable = yes")},
        {"xinetd.d/mail": xinetd("flags = NAMEINARGS DISABLE")},
        {"xinetd.d/mail": "#" + xinetd().replace("\n", "\n#")},
        {"xinetd.d/mail~": xinetd()},
        {"xinetd.d/mail.bak": xinetd()},
        {"xinetd.d/mail": xinetd(args="python -m http.server")},
        {"xinetd.d/mail": "service imap\n{\n"},
        {"xinetd.d/mail/directory": xinetd()},
        {"inetd.conf": f"# imap stream tcp nowait root {COMMAND}\nimap stream tcp\n\0\udcff\n"},
        {"etc/a.service.d/b.conf": "", "etc/a.service": "ExecStart\nExecStart=\n=\n[\n\\"},
        {"etc/a.service": "ExecStart=proxyhelper-imapd 'unclosed\n"},
        {"etc/.hidden.service": f"ExecStart={COMMAND}"},
        {},
    ],
)
def test_nothing_to_find(found: Found, files: dict[str, str]) -> None:
    assert found(files) == []


def test_inetd(found: Found, tmp_path: Path) -> None:
    text = f"""\
imap stream tcp nowait root:mail {IMAP[0]} python {COMMAND.partition(" ")[2]}
127.0.0.1:1110 stream tcp6 nowait.400 courier /opt/p/bin/proxyhelper-pop3 proxyhelper-pop3
"""
    file = str(tmp_path / "inetd.conf")
    assert found({"inetd.conf": text}) == [
        Entry(file, 1, "inetd", "imap", IMAP, LOCAL, "root", 143),
        Entry(file, 2, "inetd", "pop3", ["/opt/p/bin/proxyhelper-pop3"], [], "courier", 1110, address="127.0.0.1"),
    ]


SERVICE = f"""\
[Service]
; ExecStart=/none
ExecStart=-{" ".join(IMAP[:2])} \\
# a comment between
    {" ".join(IMAP[2:])} \\
    /usr/bin/imapd "Mail dir"
Environment="A=b c" D=e
User=courier
"""
SOCKET = "[Socket]\nListenStream=/run/imap\nListenStream=[::]:143\n"


def test_systemd(found: Found, tmp_path: Path) -> None:
    local = ["/usr/bin/imapd", "Mail dir"]
    assert found({"etc/mail@.service": SERVICE, "etc/mail.socket": SOCKET}) == [
        Entry(
            str(tmp_path / "etc/mail@.service"), 3, "systemd", "imap", IMAP, local, "courier", 143,
            {"A": "b c", "D": "e"},
        ),
    ]  # fmt: skip


def test_systemd_drop_ins(found: Found, tmp_path: Path) -> None:
    drop_in = (
        f"ExecStart=\nExecStart=@{POP3[0]} python {' '.join(POP3[1:])} 100%%\nUser=\nEnvironment=\nEnvironment=X=1\n"
    )
    (entry,) = found(
        {
            "lib/mail@.service": SERVICE,
            "lib/mail.socket": SOCKET,
            "lib/mail@.service.d/b.conf": "User=hidden\n",
            "etc/mail@.service.d/b.conf": drop_in,
            "lib/mail@.service.d/a.conf": "Environment=LOST=1\n",
            "etc/mail.socket.d/a.conf": "ListenStream=\nListenStream=127.0.0.1:1110",
        }
    )
    file = str(tmp_path / "etc/mail@.service.d/b.conf")
    assert entry == Entry(file, 2, "systemd", "pop3", POP3, ["100%"], "root", 1110, {"X": "1"}, "127.0.0.1")


def test_systemd_precedence(found: Found) -> None:
    (entry,) = found({"lib/mail@.service": SERVICE, "etc/mail@.service": f"ExecStart={COMMAND}"})
    assert (entry.user, entry.local_server) == ("root", LOCAL)


def test_masked_unit(found: Found, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/mail@.service").symlink_to("/dev/null")
    assert found({"lib/mail@.service": SERVICE}) == []


@pytest.mark.parametrize(("argument", "port"), [("143", 143), ("127.0.0.1.1143,1144", 1143), ("imap", None)])
def test_couriertcpd(found: Found, argument: str, port: int | None) -> None:
    command = f"/usr/sbin/couriertcpd -address=0 -maxprocs=40 {argument} {COMMAND}"
    (entry,) = found({"etc/mail.service": f"ExecStart={command}\n"})
    assert (entry.activator, entry.program, entry.local_server, entry.port) == ("systemd", IMAP, LOCAL, port)


def test_couriertls(found: Found) -> None:
    command = f"/usr/sbin/couriertcpd -address=0 993 /usr/bin/couriertls -server -tcpd {COMMAND}"
    (entry,) = found({"etc/mail.service": f"ExecStart={command}\n"})
    assert (entry.program, entry.local_server, entry.port) == (IMAP, LOCAL, 993)
    assert (entry.service, entry.tls, entry.wraps) == ("imaps", True, False)


@pytest.mark.parametrize(("value", "tls"), [("1", True), ("yes", True), ("0", False), ("", False)])
@pytest.mark.parametrize("activator", ["xinetd", "systemd"])
def test_tls_from_the_first_byte(found: Found, activator: str, value: str, tls: bool) -> None:
    setting = f"PROXY_TLS_WRAP={value}"
    unit = f"Environment={setting}\nExecStart={COMMAND}\n"
    files = {"xinetd.d/mail": xinetd(f"env = {setting}")} if activator == "xinetd" else {"etc/mail.service": unit}
    (entry,) = found(files)
    assert (entry.tls, entry.wraps, entry.service) == (tls, tls, "imaps" if tls else "imap")


def test_unreadable_file(found: Found, tmp_path: Path) -> None:
    (tmp_path / "xinetd.conf").symlink_to("xinetd.conf")
    os.mkfifo(tmp_path / "inetd.conf")
    assert len(found({"xinetd.d/mail": xinetd()})) == 1


def test_a_place_named_twice(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/mail.service").write_text(f"ExecStart={COMMAND}")
    (tmp_path / "lib").symlink_to("usr")
    assert len(find([str(tmp_path / "usr"), str(tmp_path / "lib")])) == 1
