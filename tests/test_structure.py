"""Each connection pays for every import. What is loaded at the greeting, and after a login from the userdb, stands
here: whoever adds a module to a list should know what it costs (`python -I -S -X importtime -c 'import …'`)."""

import os
import subprocess
import sys

from support import Site, command, environment, need

AT_GREETING = """
    gc proxyhelper proxyhelper.dialogue proxyhelper.dialogue.greetings proxyhelper.entry proxyhelper.interpreter
    proxyhelper.settings proxyhelper.text
"""
AFTER_LOGIN = """
    _operator _sha1 _socket _stat binascii fcntl pwd select stat
    proxyhelper.accounts proxyhelper.accounts.account proxyhelper.accounts.passwords proxyhelper.accounts.proofs
    proxyhelper.accounts.userdb
    proxyhelper.activation proxyhelper.backend proxyhelper.descriptors
    proxyhelper.dialogue.events proxyhelper.dialogue.imap
    proxyhelper.dialogue.imap_client proxyhelper.dialogue.lines proxyhelper.dialogue.sasl proxyhelper.dialogue.server
    proxyhelper.ends proxyhelper.failures proxyhelper.log proxyhelper.login proxyhelper.privileges proxyhelper.relay
    proxyhelper.routing proxyhelper.session
"""

WATCHED = """
import posix, sys
before, write, leave = set(sys.modules), posix.write, posix._exit

def report(number):
    write(number, " ".join(set(sys.modules) - before).encode())

def first_write(descriptor, data):
    posix.write = write
    report({at_greeting})
    return write(descriptor, data)

def end(status):
    report({at_end})
    leave(status)

posix.write, posix._exit = first_write, end
sys.argv[:] = sys.argv[4:]
with open(sys.argv[0]) as file:
    source = file.read()
exec(compile(source, sys.argv[0], "exec"), {{"__name__": "__main__", "__file__": sys.argv[0]}})
"""


def test_modules_at_the_greeting_and_after_a_login(site: Site, backend) -> None:
    need(os.geteuid() == 0, "root: becoming PROXY_USER is part of a login")
    site.account("u1", mailhost=backend.mailhost)
    at_greeting, at_end = os.pipe(), os.pipe()
    code = WATCHED.format(at_greeting=at_greeting[1], at_end=at_end[1])
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, *command("imap")],
        env=environment(site, {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(at_greeting[1], at_end[1]),
    )
    assert helper.stdin
    assert helper.stdout
    helper.stdout.readline()
    loaded_at_greeting = os.read(at_greeting[0], 65536).decode().split()
    helper.stdin.write(b"a LOGIN u1 secret\r\n")
    helper.stdin.flush()
    wire = backend.greet(b"* OK hello\r\n")
    wire.line()
    wire.send(b"proxy1 OK in\r\n")
    assert helper.stdout.readline() == b"a OK in\r\n"
    helper.stdin.close()
    assert wire.ended()
    wire.close()
    loaded_at_end = os.read(at_end[0], 65536).decode().split()
    helper.stdout.close()
    assert helper.wait(10) == 0
    for descriptor in (*at_greeting, *at_end):
        os.close(descriptor)
    assert set(loaded_at_greeting) == set(AT_GREETING.split())
    assert set(loaded_at_end) == set((AT_GREETING + AFTER_LOGIN).split())
