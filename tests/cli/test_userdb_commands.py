"""`proxyhelper userdb`: what it writes, what it refuses, and that a file is never half changed."""

import fcntl
import json
import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted import log_in
from support import CHECKOUT, admin, hashed, wait_until

from proxyhelper.accounts.passwords import matches
from proxyhelper.accounts.userdb import lookup, parse
from proxyhelper.cli.userdb import file as userdb_file
from proxyhelper.failures import Temporary
from proxyhelper.interpreter import crypt
from proxyhelper.libcrypt import strongest_setting

LINES = b"# comment\tx=1\r\n\nbroken line\nu0\ta=b|c|=d||a=e\r\n\xff\xfe\thome=/\xff\n"
LINES += b"u1\tuid=1000|home=/h|x=1|home=/2\nu9\tz="
PASSWORD = "geheim Wört|x"
COMMAND = [sys.executable, "-m", "proxyhelper"]
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | (
    {} if "PROXYHELPER_BIN" in os.environ else {"PYTHONPATH": str(CHECKOUT)}
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "userdb"


@pytest.fixture
def run(tmp_path):
    """Run `proxyhelper userdb ARGUMENTS`; it exits with `status`, and shows no traceback."""

    def run(*arguments, status=0, **options):
        done = admin("-c", tmp_path, "userdb", *arguments, **options)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def lines(path):
    path.write_bytes(LINES)
    path.chmod(0o600)
    return path


def fields(path, name):
    return parse(lookup(str(path), name.encode()))


def visible(directory):
    return sorted(file.name for file in directory.iterdir() if file.name != f".lock.{directory.name}")


class TestSet:
    def test_new_userdb(self, path, run):
        output = run("set", "u1@example.com", "uid=1000", "options=mailhost=servera.example.com", "home=")
        assert "uid, options, home set" in output
        assert path.read_text() == "u1@example.com\tuid=1000|options=mailhost=servera.example.com|home=\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert visible(path.parent) == [".lock.userdb", "userdb"]

    @pytest.mark.parametrize(
        ("name", "assignment", "before", "after"),
        [
            ("u0", "c=2", b"a=b|c|=d||a=e", b"a=b|c=2|=d|a=e"),
            ("u0", "a=2", b"a=b|c|=d||a=e", b"a=2|c|=d"),
            ("u1", "home=/3", b"home=/h|x=1|home=/2", b"home=/3|x=1"),
            ("u1", "gid=5", b"x=1|home=/2", b"x=1|home=/2|gid=5"),
            ("u9", "z=1", b"z=", b"z=1"),
            ("new", "a=1", b"z=", b"z=\nnew\ta=1\n"),
            ("broken line", "a=1", b"z=", b"z=\nbroken line\ta=1\n"),
            ("=d", "a=1", b"z=", b"z=\n=d\ta=1\n"),
        ],
    )
    def test_all_else_stays(self, lines, run, name, assignment, before, after):
        run("set", name, assignment)
        assert LINES.count(before) == 1
        assert lines.read_bytes() == LINES.replace(before, after)

    def test_same_again_writes_nothing(self, lines, run):
        before = lines.stat()
        run("set", "u9", "z=")
        assert (lines.stat().st_ino, lines.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_values_from_standard_input(self, path, run):
        run("set", "u1", "home", "uid=5", "mail", text="/home/u1\n/mail/u1\n")
        assert fields(path, "u1") == {"home": "/home/u1", "uid": "5", "mail": "/mail/u1"}

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["", "a=1"], "cannot be an account"),
            (["#u", "a=1"], "cannot be an account"),
            (["u\tx", "a=1"], "cannot be an account"),
            (["u\nx", "a=1"], "cannot be an account"),
            (["u1"], "Missing argument"),
            (["u1", "a b=1"], "field's name"),
            (["u1", "=1"], "field's name"),
            (["u1", "a|b=1"], "field's name"),
            (["u1", "home=a|b"], "holds |"),
            (["u1", "home=a\nb"], "line's end"),
            (["u1", "home=a\rb"], "line's end"),
            (["u1", "uid=root"], "not a number"),
            (["u1", "uid=0"], "served as root"),
            (["u1", "gid=4294967295"], "not a number from 1 to 4294967294"),
            (["u1", "uid=٣"], "not a number"),
            (["u1", "options=mailhost=a/b"], "names no host"),
            (["u1", "options=x=1, mailhost=host:0"], "no usable port"),
            (["u1", "home"], "standard input ended before the value of home"),
            (["u1", "home=x", "--file", "users"], "leave out --file"),
        ],
    )
    def test_refused(self, lines, run, arguments, reason):
        output = run("set", *arguments, status=2)
        assert reason in output
        assert lines.read_bytes() == LINES
        assert visible(lines.parent) == ["userdb"]

    def test_escape_sequences_do_not_reach_the_terminal(self, lines, run):
        assert "\x1b" not in run("set", "u\x1b[2J", "a=1", status=2)
        assert "\x1b" not in run("set", "u1", "options=mailhost=\x1b[2J", status=2)
        run("set", "u1", "home=\x1b[2J")
        assert "home=\\x1b[2J" in run("show", "u1")


HASHES = {
    "yescrypt": crypt(b"x", b"$y$j75$saltsalt$").decode(),
    "bcrypt": crypt(b"x", b"$2b$04$abcdefghijklmnopqrstuu").decode(),
    "SHA-512": crypt(b"x", b"$6$rounds=1000$salt$").decode(),
    "MD5": "$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0",
    "DES": "bwBet41QmmZVE",
    "{CRYPT}": "{CRYPT}$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0",
    "{sha}": "{sha}" + hashed("x")[5:],
    "{MD5}": "{MD5}CY9rzUYh03PK3k6DJie09g==",
    "{MD5RAW}": "{MD5RAW}e52d98c459819a11775936d8dfbb7929",
    "{SSHA}": "{SSHA}MTIzNDU2Nzg5MDEyMzQ1Njc4OTBzYWx0",
}
CLEARTEXT = """
    hunter2 password12345 {PLAIN}hunter2 {MD5}hunter2 {SHA}hunter2 {SSHA}MTIzNDU2Nzg5MDEyMzQ1Njc4OQ== {CRYPT}hunter2
    {MD5RAW}hunter2 $1$hunter2 $6$hunter2 $hunter2 _hunter2 {MD5 * *0 !$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0 Pässwört
"""


class TestHashes:
    @pytest.mark.parametrize("form", HASHES)
    def test_from_standard_input(self, path, run, form):
        output = run("set", "u1", "systempw", text=HASHES[form] + "\n")
        assert fields(path, "u1") == {"systempw": HASHES[form]}
        assert HASHES[form] not in output + run("show", "u1") + run("show", "u1", "--json")
        assert "systempw=(set)" in run("show", "u1")

    @pytest.mark.parametrize("value", [*CLEARTEXT.split(), "", "$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0\r"])
    def test_cleartext_is_refused_and_not_repeated(self, lines, run, value):
        output = run("set", "u1", "systempw", text=value + "\n", status=2)
        assert not value or value not in output
        assert lines.read_bytes() == LINES

    def test_hash_for_cram(self, path, run):
        run("set", "u1", "hmac-md5pw", text="cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56\n")
        run("set", "u1", "hmac-sha1pw", text="secret\n", status=2)
        assert list(fields(path, "u1")) == ["hmac-md5pw"]

    @pytest.mark.parametrize("value", ["hunter2", HASHES["SHA-512"], ""])
    def test_never_as_an_argument(self, lines, run, value):
        output = run("set", "u1", f"imappw={value}", status=2)
        assert "userdb passwd NAME" in output
        assert not value or value not in output
        assert lines.read_bytes() == LINES


class TestPasswd:
    @pytest.mark.parametrize(("option", "field"), [([], "systempw"), (["--imap"], "imappw"), (["--pop3"], "pop3pw")])
    def test_from_standard_input(self, lines, run, option, field):
        output = run("passwd", *option, "u1", text=PASSWORD + "\n")
        stored = fields(lines, "u1")[field]
        assert matches(stored.encode(), PASSWORD.encode())
        assert stored.startswith(strongest_setting().decode()[:3])
        assert PASSWORD not in output
        assert stored not in output

    def test_each_time_with_another_salt(self, lines, run):
        run("passwd", "u1", text=PASSWORD)
        first = fields(lines, "u1")["systempw"]
        run("passwd", "u1", text=PASSWORD)
        assert fields(lines, "u1")["systempw"] != first

    @pytest.mark.parametrize("password", ["", "\n", "a\tb\n", "a\r\n", "a\0b\n", "a" * 10000])
    def test_what_is_no_password(self, lines, run, password):
        output = run("passwd", "u1", text=password, status=75 if len(password) == 10000 else 2)
        assert "password" in output
        assert "aaa" not in output
        assert lines.read_bytes() == LINES

    def test_unknown_account(self, lines, run):
        assert "userdb set nobody" in run("passwd", "nobody", text=PASSWORD, status=1)
        assert lines.read_bytes() == LINES

    def test_password_of_a_service_that_goes_before(self, path, run):
        run("set", "u1", "pop3pw", text=HASHES["MD5"])
        assert "pop3pw" in run("passwd", "u1", text=PASSWORD)

    def test_asked_for_twice_and_hidden(self, lines):
        with Terminal("-c", lines.parent, "userdb", "passwd", "u1") as terminal:
            terminal.answer("New password of u1", "one")
            terminal.answer("The same again", "other")
            terminal.answer("New password of u1", PASSWORD)
            terminal.answer("The same again", PASSWORD)
            assert terminal.end() == 0
        assert matches(fields(lines, "u1")["systempw"].encode(), PASSWORD.encode())
        assert "one" not in terminal.text
        assert PASSWORD not in terminal.text

    def test_interrupted_at_the_prompt(self, lines):
        with Terminal("-c", lines.parent, "userdb", "passwd", "u1") as terminal:
            terminal.answer("New password of u1", "\x03", end="")
            assert terminal.end() == 1
        assert lines.read_bytes() == LINES
        assert "Traceback" not in terminal.text

    def test_hash_is_hidden_and_a_field_is_not(self, path):
        with Terminal("-c", path.parent, "userdb", "set", "u1", "systempw", "home") as terminal:
            terminal.answer("u1 systempw", HASHES["MD5"])
            terminal.answer("u1 home", "/home/u1")
            assert terminal.end() == 0
        assert fields(path, "u1") == {"systempw": HASHES["MD5"], "home": "/home/u1"}
        assert "/home/u1" in terminal.text
        assert HASHES["MD5"] not in terminal.text

    def test_login_with_it(self, site, greeted, backend):
        site.account("u1", password="another", mailhost=backend.mailhost)
        assert admin("-c", site.directory, "userdb", "passwd", "u1", text="secret\n").returncode == 0
        log_in("imap", greeted("imap"), backend)


class Terminal:
    """`proxyhelper` with a terminal of its own."""

    def __init__(self, *arguments):
        self.text = ""
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.execve(COMMAND[0], [*COMMAND, *map(str, arguments)], ENVIRONMENT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.terminal)

    def answer(self, prompt, text, end="\n"):
        start = len(self.text)
        while prompt not in self.text[start:]:
            assert self._read(), self.text
        os.write(self.terminal, (text + end).encode())

    def end(self):
        while self._read():
            pass
        status = os.waitpid(self.process, 0)[1]
        self.process = 0
        return os.waitstatus_to_exitcode(status)

    def _read(self):
        os.set_blocking(self.terminal, False)
        data = []

        def has_data():
            try:
                data.append(os.read(self.terminal, 4096))
            except BlockingIOError:
                return False
            except OSError:  # EIO: nobody has the other end any more
                data.append(b"")
            return True

        wait_until(has_data, f"nothing more from the program after {self.text!r}")
        self.text += data[0].decode(errors="replace")
        return bool(data[0])


class TestOtherVerbs:
    def test_show(self, lines, run):
        assert run("show", "u9").splitlines() == [f"u9: {lines} line 7", "z="]
        assert json.loads(run("show", "u1", "--json")) == {
            "name": "u1",
            "file": str(lines),
            "line": 6,
            "fields": {"uid": "1000", "home": "/h", "x": "1"},
            "problem": "",
            "ignored": [],
        }
        assert "no account nobody" in run("show", "nobody", status=1)

    def test_show_of_two(self, path, run):
        path.write_text("u1\tuid=x|imappw=\nu1\tuid=2\n")
        output = run("show", "u1")
        assert "uid=x" in output
        assert "imappw=(empty)" in output
        assert "is not a number" in output
        assert f"{path} line 2 has u1, too" in output
        assert json.loads(run("show", "u1", "--json"))["ignored"] == [{"file": str(path), "line": 2}]

    def test_unset(self, lines, run):
        assert "not set before: nothing" in run("unset", "u1", "home", "nothing")
        assert lines.read_bytes() == LINES.replace(b"uid=1000|home=/h|x=1|home=/2", b"uid=1000|x=1")
        run("unset", "u1", "uid", "x")
        assert fields(lines, "u1") == {"": ""}
        run("unset", "u1", "a|b", status=2)

    def test_delete_every_record(self, path, run):
        path.write_text("u1\tuid=1\nu2\tuid=2\n# u1\nu1\tuid=3")
        run("del", "u1")
        assert path.read_text() == "u2\tuid=2\n# u1\n"
        run("del", "u2")
        assert path.read_text() == "# u1\n"

    @pytest.mark.parametrize("verb", [["unset", "nobody", "a"], ["del", "nobody"], ["del", "u1\tuid=1000|home=/h"]])
    def test_unknown_account(self, lines, run, verb):
        run(*verb, status=1)
        assert lines.read_bytes() == LINES

    def test_without_a_userdb(self, path, run):
        run("del", "u1", status=1)
        run("show", "u1", status=75)
        assert not path.exists()


class TestFiles:
    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
    def test_mode_and_owner_are_kept(self, lines, run, mode):
        owner = (1234, 1235) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        os.chown(lines, *owner)
        lines.chmod(mode)
        output = run("set", "u1", "home=/new")
        status = lines.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, mode)
        assert ("chmod go=" in output) == (mode == 0o640)

    def test_symbolic_link(self, lines, run, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        lines.rename(elsewhere / "accounts")
        lines.symlink_to("elsewhere/accounts")
        run("set", "u9", "z=1")
        assert lines.is_symlink()
        assert fields(elsewhere / "accounts", "u9") == {"z": "1"}
        assert sorted(os.listdir(elsewhere)) == [".lock.accounts", "accounts"]

    def test_left_by_an_editor_that_was_killed(self, lines, run, tmp_path):
        victim = tmp_path / "victim"
        (tmp_path / ".tmp.userdb").symlink_to(victim)
        run("set", "u9", "z=1")
        assert not victim.exists()
        assert visible(tmp_path) == [".lock.userdb", "userdb"]

    @pytest.mark.parametrize("verb", [["set", "u1", "home=/new"], ["set", "new", "a=1"], ["unset", "u1", "x"]])
    def test_disk_full(self, lines, tmp_path, verb):
        text = LINES.replace(b"u9", b"x" * 3000 + b"\nu9")
        lines.write_bytes(text)
        limited = ["/bin/sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *COMMAND, "-c", tmp_path, "userdb", *verb]
        done = subprocess.run(limited, env=ENVIRONMENT, capture_output=True, text=True, cwd="/", timeout=60)
        assert done.returncode == 75
        assert f"{lines} is as it was: File too large" in done.stderr
        assert lines.read_bytes() == text
        assert visible(tmp_path) == [".lock.userdb", "userdb"]

    def test_not_a_file(self, path, run):
        os.mkfifo(path, 0o600)
        assert "not a file" in run("set", "u1", "a=1", status=75)

    def test_compiled_beside_the_text(self, lines, run):
        lines.with_name("userdb.dat").touch()
        assert "makeuserdb" in run("set", "u1", "a=1")

    @pytest.mark.parametrize("verb", [["set", "u1", "a=1"], ["unset", "u1", "a"], ["del", "u1"]])
    def test_compiled_alone(self, path, run, verb):
        """A new text would be newer, and hide everybody else."""
        path.with_name("userdb.dat").touch()
        assert "only the compiled" in run(*verb, status=1)
        assert not path.exists()


class TestDirectory:
    @pytest.fixture
    def directory(self, path):
        (path / "sub").mkdir(parents=True)
        path.chmod(0o700)
        for name, text in (("a", "u1\tin=a\n"), ("sub/b", "u1\tin=b\nu2\tin=b\n"), (".hidden", "u3\tin=hidden\n")):
            (path / name).write_text(text)
            (path / name).chmod(0o600)
        return path

    def test_file_that_holds_the_account(self, directory, run):
        run("set", "u1", "x=1")
        run("set", "u2", "x=2", "--file", "sub/b")
        assert (directory / "a").read_text() == "u1\tin=a|x=1\n"
        assert (directory / "sub/b").read_text() == "u1\tin=b\nu2\tin=b|x=2\n"
        assert f"{directory}/sub/b line 2" in run("show", "u2")

    def test_new_account(self, directory, run):
        assert "--file FILE" in run("set", "u3", "x=1", status=2)
        run("set", "u3", "x=1", "--file", "sub/new")
        assert (directory / "sub/new").read_text() == "u3\tx=1\n"
        assert stat.S_IMODE((directory / "sub/new").stat().st_mode) == 0o600
        assert fields(directory, "u3") == {"x": "1"}

    @pytest.mark.parametrize("file", [".hidden", "sub/.hidden", "../other", "/etc/other", "."])
    def test_files_that_do_not_count(self, directory, run, file):
        assert "hidden or not in" in run("set", "u3", "x=1", "--file", file, status=2)

    def test_file_other_than_the_account_is_in(self, directory, run):
        assert f"{directory}/a" in run("set", "u1", "x=1", "--file", "sub/b", status=2)

    def test_delete_every_record(self, directory, run):
        run("del", "u1")
        assert (directory / "a").read_text() == ""
        assert (directory / "sub/b").read_text() == "u2\tin=b\n"

    def test_others_may_read_it(self, directory, run):
        directory.chmod(0o755)
        assert "chmod go=" in run("set", "u1", "x=1", status=75)


class TestTogether:
    def test_twenty_at_once(self, lines, run):
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(lambda number: run("set", f"new{number}", f"uid={number + 1}"), range(20)))
        assert lines.read_bytes().startswith(LINES + b"\n")
        for number in range(20):
            assert fields(lines, f"new{number}") == {"uid": str(number + 1)}

    def test_waits_for_the_lock(self, lines):
        with lines.with_name(".lock.userdb").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = [*COMMAND, "-c", str(lines.parent), "userdb", "set", "u9", "z=1"]
            editor = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, cwd="/")
            wait_until(lambda: is_waiting_for_a_lock(editor.pid), "no editor waits")
            assert lines.read_bytes() == LINES
        assert editor.wait(10) == 0
        assert fields(lines, "u9") == {"z": "1"}

    def test_lock_that_is_never_given_back(self, lines, monkeypatch):
        monkeypatch.setattr(userdb_file, "PATIENCE", 1)
        with lines.with_name(".lock.userdb").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(Temporary, match="has held the lock"):
                userdb_file.edit(str(lines), b"u9", lambda record: b"z=1")
        assert lines.read_bytes() == LINES
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL

    @pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_stopped_at_any_line(self, lines, blow):
        """What is there is the old file or the new one, and the next editor is not in doubt."""
        changed = LINES.replace(b"z=", b"z=1")
        found = []
        while not found or found[-1] != "ended":
            lines.write_bytes(LINES)
            status = status_of_an_edit(lines, blow, len(found))
            assert lines.read_bytes() in (LINES, changed)
            found.append("ended" if status == 0 else "old" if lines.read_bytes() == LINES else "new")
            if blow == signal.SIGINT:
                assert visible(lines.parent)[-1:] == ["userdb"]
                assert ".tmp.userdb" not in visible(lines.parent)
        assert found.count("old") > 20
        assert found.count("new") > 5
        assert lines.read_bytes() == changed
        assert visible(lines.parent) == [".lock.userdb", "userdb"]

    def test_100000_accounts(self, path, tmp_path):
        def cpu_of_an_edit(accounts):
            record = f"uid=1000|gid=1000|home=/home/u|systempw=$6${'x' * 95}|options=mailhost=server1.example.com"
            path.write_text("".join(f"user{number}@example.com\t{record}\n" for number in range(accounts)))
            path.chmod(0o600)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = admin("-c", tmp_path, "userdb", "set", f"user{accounts - 1}@example.com", "uid=1001")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.returncode == 0
            assert fields(path, f"user{accounts - 1}@example.com")["uid"] == "1001"
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        small = min(cpu_of_an_edit(100) for _ in range(3))
        assert min(cpu_of_an_edit(100_000) for _ in range(3)) < 5 * small


def status_of_an_edit(path, blow, line):
    """The exit status of a process that edits, and is dealt the blow at that line of the editor's."""
    editor = os.fork()
    if editor:
        return os.waitpid(editor, 0)[1]
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        remaining = line

        def trace(frame, event, argument):
            nonlocal remaining
            if frame.f_code.co_filename != userdb_file.__file__:
                return None
            if event == "line":
                remaining -= 1
                if remaining == -1:
                    os.kill(os.getpid(), blow)
            return trace

        sys.settrace(trace)
        userdb_file.edit(str(path), b"u9", lambda record: b"z=1")
        sys.settrace(None)
        os._exit(0)
    finally:
        os._exit(1)


def is_waiting_for_a_lock(process):
    with open("/proc/locks") as locks:
        return any("->" in line and f" {process} " in line for line in locks)


def test_strongest_form_without_crypt_gensalt(monkeypatch):
    class OldLibrary:
        pass

    with monkeypatch.context() as patched:
        patched.setattr("proxyhelper.libcrypt._libcrypt", OldLibrary)
        setting = strongest_setting()
        assert setting != strongest_setting()
    assert setting.startswith(b"$6$")
    assert matches(crypt(b"x", setting), b"x")


def test_without_libcrypt(monkeypatch):
    monkeypatch.setattr("proxyhelper.libcrypt.LIBCRYPT_NAMES", ())
    with pytest.raises(ImportError):
        strongest_setting()
