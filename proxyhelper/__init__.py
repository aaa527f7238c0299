"""An IMAP/POP3 login proxy in the shape of inetd's helpers."""

__version__ = "0.1.0"
