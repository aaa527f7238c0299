"""`proxyhelper entry`: what is printed and written, and what systemd-analyze says of it. tests/real uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import BIN, CHECKOUT, admin, need

from proxyhelper.cli.activators import find

CONTRIB = CHECKOUT / "contrib"
FILES = sorted(file for file in CONTRIB.glob("*/*") if file.is_file())
UNITS = [file for file in FILES if file.suffix in (".service", ".socket")]
LOCAL_SERVERS = {"imap": "/usr/bin/imapd", "pop3": "/usr/lib/courier/courier/courierpop3d"}
EXPOSURE = {"systemd-socket": 1.5, "systemd-socket-local": 4.0, "couriertcpd": 2.0, "couriertcpd-local": 4.0}
"""No more than this of 10. The figures are 1.1 to 3.7 with systemd 252; later ones look at more."""


def named(file: Path) -> str:
    return str(file.relative_to(CONTRIB))


def write(directory: Path, *arguments: str) -> list[Path]:
    """The files that the command writes."""
    told = admin("entry", *arguments, "--output", directory)
    assert told.returncode == 0, told.stderr
    return sorted(directory.iterdir())


def programs(protocol: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(BIN / f"proxyhelper-{protocol}")]


@pytest.mark.parametrize("local", [[], ["--local"]], ids=["proxy", "local"])
@pytest.mark.parametrize("activator", ["xinetd", "systemd", "couriertcpd"])
def test_this_installation(tmp_path: Path, activator: str, local: list[str]) -> None:
    place = tmp_path / ("xinetd.d" if activator == "xinetd" else "units")
    place.mkdir()
    write(place, activator, *local)
    for entry, protocol, port in zip(find([str(place)]), ("imap", "pop3"), (143, 110), strict=True):
        assert (entry.protocol, entry.program, entry.port, entry.tls) == (protocol, programs(protocol), port, False)
        assert entry.local_server == ([LOCAL_SERVERS[protocol], "Maildir"] if local else [])
        assert entry.user == ("root" if local else "proxyhelper")
    assert not any("/opt/" in file.read_text() for file in place.iterdir())


@pytest.mark.parametrize("local", [[], ["--local"]], ids=["proxy", "local"])
@pytest.mark.parametrize("activator", ["xinetd", "systemd", "couriertcpd"])
def test_tls_from_the_first_byte(tmp_path: Path, activator: str, local: list[str]) -> None:
    place = tmp_path / ("xinetd.d" if activator == "xinetd" else "units")
    place.mkdir()
    write(place, activator, "--imaps", "--pop3s", *local)
    for entry, protocol, port in zip(find([str(place)]), ("imap", "pop3"), (993, 995), strict=True):
        assert (entry.protocol, entry.program, entry.port, entry.tls) == (protocol, programs(protocol), port, True)
        assert entry.environment == {"PROXY_TLS_WRAP": "1"}
        assert entry.local_server == ([LOCAL_SERVERS[protocol], "Maildir"] if local else [])


@pytest.mark.parametrize(
    ("chosen", "units"),
    [
        ([], ["imap", "pop3"]),
        (["--imap"], ["imap"]),
        (["--imaps"], ["imaps"]),
        (["--pop3s", "--imap"], ["imap", "pop3s"]),
        (["--imap", "--pop3", "--imaps", "--pop3s"], ["imap", "pop3", "imaps", "pop3s"]),
    ],
)
def test_chosen_services(tmp_path: Path, chosen: list[str], units: list[str]) -> None:
    told = admin("entry", "couriertcpd", *chosen, "--output", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"proxyhelper-{unit}.service" for unit in units}
    assert told.stdout.splitlines()[-1].endswith(
        " ".join(["--now", *(f"proxyhelper-{unit}.service" for unit in units)])
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["xinetd"], ["/etc/xinetd.d/proxyhelper-imap", "/etc/xinetd.d/proxyhelper-pop3"]),
        (
            ["systemd", "--pop3", "--local"],
            ["/etc/systemd/system/proxyhelper-pop3.socket", "/etc/systemd/system/proxyhelper-pop3@.service"],
        ),
        (
            ["systemd", "--imaps"],
            ["/etc/systemd/system/proxyhelper-imaps.socket", "/etc/systemd/system/proxyhelper-imaps@.service"],
        ),
    ],
)
def test_several_files_printed(tmp_path: Path, arguments: list[str], names: list[str]) -> None:
    printed = admin("entry", *arguments).stdout
    assert re.findall("^# (/etc/.*)", printed, re.MULTILINE) == names
    files = write(tmp_path, *arguments)
    assert printed == "\n".join(f"# {name}\n{file.read_text()}" for name, file in zip(names, files, strict=True))


def test_one_file_printed(tmp_path: Path) -> None:
    (file,) = write(tmp_path, "xinetd", "--imap")
    assert admin("entry", "xinetd", "--imap").stdout == file.read_text()


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    imap, pop3 = write(tmp_path, "xinetd")
    text = imap.read_text()
    assert admin("entry", "xinetd", "-o", tmp_path).returncode == 0, "what is there is the same"
    imap.unlink()
    pop3.write_text("mine")
    told = admin("entry", "xinetd", "-o", tmp_path)
    assert told.returncode == 1
    assert str(pop3) in told.stderr
    assert not imap.exists()
    assert pop3.read_text() == "mine"
    assert admin("entry", "xinetd", "-o", tmp_path, "--force").returncode == 0
    assert imap.read_text() == text
    assert "service pop3" in pop3.read_text()


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "proxyhelper-imap").mkdir()
    for force in ([], ["--force"]):
        told = admin("entry", "xinetd", "-o", tmp_path, *force)
        assert (told.returncode, told.stdout) == (1, "")
        assert f"{tmp_path}/proxyhelper-imap: Is a directory" in told.stderr


@pytest.mark.parametrize("activator", ["xinetd", "systemd", "couriertcpd"])
def test_local_server_that_is_not_there(activator: str) -> None:
    told = admin("entry", activator, "--pop3", "--local")
    warned = f"no local server {LOCAL_SERVERS['pop3']}" in told.stderr
    assert warned != os.access(LOCAL_SERVERS["pop3"], os.X_OK)
    assert "warning" not in told.stdout


def run_copy(place: Path, *programs: str, activator: str = "xinetd") -> subprocess.CompletedProcess[str]:
    """`entry` from a copy of the package at a place of its own, where these programs are."""
    (place / "bin").mkdir(parents=True)
    shutil.copytree(CHECKOUT / "proxyhelper", place / "proxyhelper", ignore=shutil.ignore_patterns("__pycache__"))
    for program in programs:
        (place / "bin" / program).touch()
    code = "import sysconfig; sysconfig.get_path = lambda _: '/nonexistent'; from proxyhelper.cli import main; main()"
    command = [sys.executable, "-c", code, "entry", activator, "--imap"]
    return subprocess.run(command, cwd="/", env={"PYTHONPATH": str(place)}, capture_output=True, text=True, timeout=60)


def test_programs_beside_the_package(tmp_path: Path) -> None:
    told = run_copy(tmp_path, "proxyhelper-imap", "proxyhelper-pop3")
    assert f" {tmp_path}/bin/proxyhelper-imap\n" in told.stdout


def test_programs_that_the_unit_will_not_see(tmp_path: Path) -> None:
    need(tmp_path.is_relative_to("/tmp"), "a temporary directory in /tmp")
    told = run_copy(tmp_path, "proxyhelper-imap", "proxyhelper-pop3", activator="systemd")
    assert f"will not see {tmp_path}/bin/proxyhelper-" in told.stderr


def test_programs_that_are_nowhere(tmp_path: Path) -> None:
    told = run_copy(tmp_path, "proxyhelper-imap")
    assert (told.returncode, told.stdout) == (78, "")
    assert f"{tmp_path}/bin/proxyhelper-imap" in told.stderr
    assert "Traceback" not in told.stderr


def test_path_that_needs_quotes(tmp_path: Path) -> None:
    told = run_copy(tmp_path / "my programs", "proxyhelper-imap", "proxyhelper-pop3")
    assert (told.returncode, told.stdout) == (78, "")
    assert "quotes" in told.stderr


AS_POP3 = {
    "/usr/bin/imapd": "/usr/lib/courier/courier/courierpop3d",
    "courier-imap": "courier-pop",
    "imaplogin": "courierpop3login",
    "imap": "pop3",
    "IMAP": "POP3",
    "143": "110",
    "993": "995",
}
AS_TLS = {
    **{kept: kept for kept in ("bin/proxyhelper-imap", "/usr/bin/imapd")},
    "courier-imap": "courier-imap-ssl",
    "proxyhelper-imap": "proxyhelper-imaps",
    "service imap": "service imaps",
    "imapd": "imapd-ssl",
    "IMAP": "IMAPS",
    "143": "993",
}


@pytest.mark.parametrize("file", [file for file in FILES if "imap" in file.name], ids=named)
def test_pop3_is_as_imap(file: Path) -> None:
    assert (file.parent / file.name.replace("imap", "pop3")).read_text() == reworded(file, AS_POP3)


@pytest.mark.parametrize("file", [file for file in FILES if re.search(r"imap\b", file.name)], ids=named)
def test_imaps_is_as_imap(file: Path) -> None:
    lines = (file.parent / file.name.replace("imap", "imaps")).read_text().splitlines(keepends=True)
    about_tls = [line for line in lines if re.search("TLS_WRAP|TLS from the first byte", line)]
    assert [line for line in lines if line not in about_tls] == reworded(file, AS_TLS).splitlines(keepends=True)
    assert len(about_tls) == (0 if file.suffix == ".socket" else 2)


def reworded(file: Path, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda word: words[word[0]], file.read_text())


def analyze(*arguments: str | Path) -> str:
    need(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60).stdout


@pytest.mark.parametrize("local", [[], ["--local"]], ids=["proxy", "local"])
@pytest.mark.parametrize("activator", ["systemd", "couriertcpd"])
def test_systemd_has_nothing_to_say(tmp_path: Path, activator: str, local: list[str]) -> None:
    need(activator == "systemd" or shutil.which("couriertcpd", path="/usr/sbin") is not None, "couriertcpd")
    every = ["--imap", "--pop3", "--imaps", "--pop3s"]
    assert analyze("verify", *write(tmp_path, activator, *every, *local)) == ""


@pytest.mark.parametrize("file", [file for file in UNITS if file.suffix == ".service"], ids=named)
def test_exposure(file: Path) -> None:
    figure = re.search(r"exposure level for .*: ([\d.]+)", analyze("security", "--offline=yes", file))
    assert figure
    assert float(figure[1]) <= EXPOSURE[file.parent.name]
