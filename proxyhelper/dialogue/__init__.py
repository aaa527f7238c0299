"""What client and server may say before login, as objects without sockets: bytes in, events and bytes out.

Server halves (`imap.Server`, `pop3.Server`) speak to clients, client halves (`imap_client.Client`,
`pop3_client.Client`) to backends. Nothing here imports anything outside this package.
"""
