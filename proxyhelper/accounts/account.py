"""The one way to say who someone is."""

from ..failures import Temporary

MAX_ID = 0xFFFFFFFE
"""Of a uid or gid. One more is -1, which setresuid(2) takes for "leave it as it is"."""


def is_id(value: str) -> bool:
    """Whether `value` is a uid or gid in digits."""
    return value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= MAX_ID


class Account:
    """An account as its source gives it.

    address      the account's name; what a backend is told
    password     stored hash, b"" for none: only passwords.py looks at it
    cleartext    the password itself, where the source has it, or b""
    uid, gid     numbers, or None where the source has none
    groups       supplementary groups; none but the gid where the list is empty
    home         home directory, or ""
    maildir      its mailbox relative to home or absolute, or "" for the default
    quota        maildir quota, or ""
    options      account options by name, the site's defaults included
    """

    __slots__ = ("address", "cleartext", "gid", "groups", "home", "maildir", "options", "password", "quota", "uid")

    def __init__(
        self,
        address: str,
        password: bytes,
        *,
        uid: "int | None" = None,
        gid: "int | None" = None,
        home: str = "",
        maildir: str = "",
        quota: str = "",
        options: "dict[str, str]",
        cleartext: bytes = b"",
        groups: "list[int] | None" = None,
    ) -> None:
        self.address = address
        self.password = password
        self.cleartext = cleartext
        self.uid = uid
        self.gid = gid
        self.groups = groups or []
        self.home = home
        self.maildir = maildir
        self.quota = quota
        self.options = options

    def options_text(self) -> str:
        """The options as they stand in an account source: name=value,name=value."""
        return ",".join(f"{name}={value}" if value else name for name, value in self.options.items())


def parse_options(own: str, defaults: str) -> "dict[str, str]":
    """Options from an account's own text and DEFAULTOPTIONS, of which the own win.

    Raises Temporary for a value that would break out of a line of protocol or environment."""
    options: dict[str, str] = {}
    for text in (own, defaults):
        if any(character in text for character in "\r\n\0"):
            raise Temporary(f"account options {text!r} hold CR, LF or NUL")
        for option in text.split(","):
            name, _, value = option.strip().partition("=")
            if name:
                options.setdefault(name, value)
    return options
