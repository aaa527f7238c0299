"""The settings by name: those that this program reads, and those that only Courier's own programs do."""

from ..settings import COMMON_FILE, MAIN_FILES


def _names(text: str) -> "frozenset[str]":
    return frozenset(text.split())


COMMON = _names(
    """
    DEFAULTOPTIONS DEFDOMAIN DOMAINSEP LDAPTLS_CACERT LDAPTLS_CERT LDAPTLS_KEY LDAPTLS_REQCERT LOGIN_FAIL_DELAY
    MAILDIRPATH PROXY_ACCOUNT_TIMEOUT PROXY_AUTHMODULES PROXY_CAFILE PROXY_HOSTNAME PROXY_PROTOCOL PROXY_PROTOCOL_FROM
    PROXY_TIMEOUT PROXY_TRUSTED PROXY_USER TLS_CERTFILE TLS_CIPHER_LIST TLS_EXTERNAL TLS_PRIVATE_KEYFILE TLS_PROTOCOL
    TLS_STARTTLS_PROTOCOL TLS_TRUSTCERTS TLS_VERIFYPEER authdaemonvar authmodulelist
    """
)
OWN = {
    "imap": _names(
        """
        IMAPDSTARTTLS IMAP_ACL IMAP_CAPABILITY IMAP_CAPABILITY_TLS IMAP_MOVE_EXPUNGE_TO_TRASH IMAP_PROXY
        IMAP_PROXY_FOREIGN IMAP_PROXY_PORT IMAP_PROXY_SEND IMAP_PROXY_TLS IMAP_TLS_REQUIRED IMAP_UMASK OUTBOX
        """
    ),
    "pop3": _names(
        """
        POP3AUTH POP3AUTH_TLS POP3_PROXY POP3_PROXY_PORT POP3_PROXY_SEND POP3_PROXY_TLS POP3_STARTTLS
        POP3_TLS_REQUIRED
        """
    ),
}
SERVICE_PREFIX = "AUTHSERVICE"  # and a port number
LDAP_TLS_PREFIX = "LDAPTLS_"  # and the ends of those that COMMON names

ENVIRONMENT_ONLY = frozenset({"IMAP_STARTTLS", "IMAP_TLS", "POP3_TLS", "PROXYHELPER_CONFDIR", "PROXY_TLS_WRAP"})
"""Facts about one connection or installation, which a file cannot know."""

FLAGS = _names(
    """
    IMAP_ACL IMAP_MOVE_EXPUNGE_TO_TRASH IMAP_PROXY IMAP_PROXY_FOREIGN IMAP_TLS_REQUIRED POP3_PROXY
    POP3_TLS_REQUIRED PROXY_PROTOCOL
    """
)
YES_OR_NO = frozenset({"IMAPDSTARTTLS", "POP3_STARTTLS"})
"""Flags for which a number does not count."""

COURIERS = {
    "imap": _names(
        """
        IMAPACCESSFILE IMAPDEBUGFILE IMAPDSSLSTART IMAPDSTART IMAP_CAPABILITY_ORIG
        IMAP_CAPABILITY_TLS_ORIG IMAP_CHECK_ALL_FOLDERS IMAP_DISABLETHREADSORT IMAP_EMPTYTRASH IMAP_ENHANCEDIDLE
        IMAP_IDLE_TIMEOUT IMAP_ID_FIELDS IMAP_KEYWORDS IMAP_LOG_DELETIONS IMAP_MAILBOX_SANITY_CHECK
        IMAP_OBSOLETE_CLIENT IMAP_SHAREDINDEXFILE IMAP_TRASHFOLDERNAME IMAP_ULIMITD IMAP_USELOCKS
        HEADERFROM OUTBOX_MULTIPLE_SEND SENDMAIL SMAP_CAPABILITY
        """
    ),
    "pop3": _names(
        """
        MIME_UNICODE_MESSAGE_TYPE POP3AUTH_ORIG POP3AUTH_TLS_ORIG POP3DSSLSTART POP3DSTART POP3_LOG_DELETIONS
        """
    ),
    "both": _names(
        """
        ADDRESS AUTH_MKHOMEDIR_SKEL COURIERTLS LOGGEROPTS MAXDAEMONS MAXPERIP PIDFILE PORT SSLADDRESS SSLLOGGEROPTS
        SSLPIDFILE SSLPORT TCPDOPTS TLS_CACHEFILE TLS_CACHESIZE TLS_DHPARAMS TLS_MIN_DH_BITS TLS_PRIORITY
        """
    ),
    COMMON_FILE: _names(
        """
        DEBUG_LOGIN LOGGEROPTS authmodulelistorig daemons disablewebmail
        """
    ),
}
"""From the files that Courier 5.0 and 5.2 install."""


def known(file: str) -> "frozenset[str]":
    """The names that mean something in a file (by its base name), to us or to Courier's programs."""
    if file == COMMON_FILE:
        return COMMON | OWN["imap"] | OWN["pop3"] | COURIERS[COMMON_FILE]
    protocol = protocol_of(file)
    return COMMON | OWN[protocol] | COURIERS[protocol] | COURIERS["both"]


def protocol_of(file: str) -> str:
    return next(protocol for protocol, files in MAIN_FILES.items() if file in files)


def file_for(name: str) -> str:
    """The base name of the one file that a setting belongs in, or ""."""
    if name in COURIERS[COMMON_FILE]:
        return COMMON_FILE
    return next((MAIN_FILES[protocol][1] for protocol in OWN if name in OWN[protocol] | COURIERS[protocol]), "")
