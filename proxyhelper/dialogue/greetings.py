"""What is said first. It is all that a client waits for at the start, so it is apart from the rest of the dialogue."""

MECHANISMS = ("PLAIN", "LOGIN")
"""SASL mechanisms this program always offers."""
CRAM_MECHANISMS = ("CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256")
"""Those it offers where the settings list them."""

OWN_CAPABILITIES = ("SASL-IR", "ID", "STARTTLS", "LOGINDISABLED")


def greeting(protocol: str, capabilities: "list[str]", login_allowed: bool, mechanisms: "list[str]") -> bytes:
    """The greeting of `protocol`; `capabilities` and `mechanisms` as in Settings, `login_allowed`: TLS is there, or not
    required."""
    if protocol == "pop3":
        return b"+OK POP3 server ready.\r\n"
    return b"* OK [CAPABILITY " + capability(capabilities, login_allowed, mechanisms) + b"] IMAP server ready.\r\n"


def capability(capabilities: "list[str]", login_allowed: bool, mechanisms: "list[str]") -> bytes:
    """IMAP's: the configured ones, which speak for the time after login too, and those of this dialogue."""
    listed = [word for word in capabilities if not _is_own(word.upper())]
    own = ["SASL-IR", "ID", *(f"AUTH={name}" for name in mechanisms)] if login_allowed else ["ID", "LOGINDISABLED"]
    return " ".join(dict.fromkeys(listed + own)).encode("ascii", "replace")


def _is_own(word: str) -> bool:
    return word.startswith("AUTH=") or word in OWN_CAPABILITIES
