"""The settings: read as the helper reads them, but on to the end, and with what it does not say."""

import difflib
import os
from collections.abc import Iterator

from ... import tls
from ...accounts import SOURCES
from ...failures import Temporary
from ...networks import Networks
from ...privileges import proxy_person
from ...settings import COMMON_FILE, MAIN_FILES, ConfigurationError, Settings, Values, assign, is_true, lines, load
from .. import catalogue
from ..activators import Entry
from ..console import PROTOCOLS, Site
from . import Finding

MODULE_LISTS = ("authmodulelist", "PROXY_AUTHMODULES")
OLD_TLS = ("TLSV1", "TLSV1.1")
SYSTEMS_STORE = ("/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt")
FALSE = ("", "0", "n", "f")  # how a value begins that clearly means no


class Reader:
    """Reads the files of one protocol; `findings` gathers what is wrong with them."""

    def __init__(self, site: Site, protocol: str, seen: "set[str]") -> None:
        self.site = site
        self.protocol = protocol
        self.findings: list[Finding] = []
        self.places: dict[str, tuple[str, int]] = {}
        self._seen = seen

    def read(self) -> "Settings | None":
        exported: dict[str, str] = {}
        for name in MAIN_FILES[self.protocol]:
            self._read_file(name, exported)
        common: dict[str, str] = {}
        self._read_file(COMMON_FILE, common)
        settings = self._settings(exported, {**common, **exported})
        return None if any(finding.level == "error" for finding in self.findings) else settings

    def _read_file(self, name: str, values: "dict[str, str]") -> None:
        path = f"{self.site.directory}/{name}"
        is_new = path not in self._seen
        self._seen.add(path)
        try:
            for number, line in lines(path):
                try:
                    setting = assign(line, values, self.site.environment)
                except ValueError as error:
                    self._add("error", f"{error}: {line}", "the service is closed until it is mended", path, number)
                    continue
                if name != COMMON_FILE or setting not in self.places:  # its values count last
                    self.places[setting] = (path, number)
                if is_new:
                    self.findings += _judge(name, path, number, setting, values[setting])
        except ConfigurationError as error:
            self._add("error", str(error), "the service is closed until it can be read", path, 0)

    def _settings(self, exported: "dict[str, str]", files: "dict[str, str]") -> Settings:
        """The settings, without those that cannot be used, each of which is found."""
        environment = dict(self.site.environment)
        while True:
            try:
                return Settings(self.protocol, self.site.directory, exported, Values(environment, files))
            except ConfigurationError as error:
                name = error.setting
                in_environment = environment.pop(name, None) is not None
                place = ("the environment", 0) if in_environment else self.places[name]
                self._add("error", str(error), "the service is closed until it is", *place, name)
                if not in_environment:
                    del files[name]

    def judge(self, settings: Settings) -> None:
        """What is strange about settings that can be used."""
        words = {word.upper() for word in settings.offer(secure=False).capabilities}
        if settings.protocol == "imap" and not words & {"IMAP4REV1", "IMAP4REV2"}:
            what = "the capabilities lack IMAP4rev1: clients will not go on"
            self._add_setting("error", what, "begin them with IMAP4rev1", "IMAP_CAPABILITY")
        try:
            proxy_person(settings.proxy_user)
        except Temporary as failure:
            self._add_setting("error", str(failure), "accounts elsewhere cannot log in", "PROXY_USER")
        if settings.tls_external and settings.verify_peer == "none":
            what = "TLS_EXTERNAL does nothing: TLS_VERIFYPEER=NONE asks no client for its certificate"
            self._add_setting("warning", what, "set TLS_VERIFYPEER=PEER, and TLS_TRUSTCERTS", "TLS_EXTERNAL")
        if settings.tls_external and settings.verify_peer != "none" and _is_systems_store(settings.trustcerts):
            what = "TLS_EXTERNAL with the system's store in TLS_TRUSTCERTS: any public authority says who may log in"
            remedy = "name the authority in TLS_TRUSTCERTS that certifies your users, and no other"
            self._add_setting("error", what, remedy, "TLS_TRUSTCERTS")
        if settings.proxy and settings.proxy_send == "proxy-v2" and settings.proxy_tls == "no":
            upper = settings.protocol.upper()
            what = "with proxy-v2 and no TLS a backend judges passwords in clear by the client's address, not by ours"
            remedy = f"set {upper}_PROXY_TLS, or let it accept them (Dovecot: login_trusted_networks)"
            self._add_setting("note", what, remedy, f"{upper}_PROXY_SEND")
        self._judge_networks(settings)
        self._judge_tls()
        try:
            tls.backend_context(settings)
        except ConfigurationError as error:
            self._add_setting("error", str(error), "name a file or directory of certificates", error.setting)

    def _judge_networks(self, settings: Settings) -> None:
        for setting, networks in (
            ("PROXY_TRUSTED", settings.trusted),
            ("PROXY_PROTOCOL_FROM", settings.proxy_protocol_from),
        ):
            try:
                Networks(networks)
            except ValueError as error:
                remedy = "write addresses and networks, 192.0.2.1 2001:db8::/32 for example"
                self._add_setting("error", f"setting {setting}: {error}", remedy, setting)
        if settings.proxy_protocol and not settings.proxy_protocol_from.strip():
            what = "PROXY_PROTOCOL is on, and PROXY_PROTOCOL_FROM names nobody: each connection is closed"
            self._add_setting("error", what, "name the balancers' addresses in PROXY_PROTOCOL_FROM", "PROXY_PROTOCOL")

    def _judge_tls(self) -> None:
        """What keeps a certificate that can be used from being served, with STARTTLS and without."""
        for wrap in ("0", "1"):
            environment = {**self.site.environment, "PROXY_TLS_WRAP": wrap}
            self._judge_version(load(self.protocol, environment))
            while error := _tls_error(load(self.protocol, environment)):
                name = error.setting
                if name == "TLS_CERTFILE" or environment.get(name) == "":
                    break
                if name == "TLS_PROTOCOL" and wrap == "0" and "TLS_STARTTLS_PROTOCOL" in self.places:
                    name = "TLS_STARTTLS_PROTOCOL"
                self._add_setting("error", str(error), "there is no TLS for clients until it is mended", name)
                environment["TLS_VERIFYPEER" if name == "TLS_TRUSTCERTS" else error.setting] = ""

    def _judge_version(self, settings: Settings) -> None:
        if settings.tls_protocol.upper().rstrip("+") in OLD_TLS and "@SECLEVEL=0" not in settings.ciphers.upper():
            name = "TLS_PROTOCOL"
            if not settings.tls_wrap and "TLS_STARTTLS_PROTOCOL" in self.places:
                name = "TLS_STARTTLS_PROTOCOL"
            what = f"{name}={settings.tls_protocol}: OpenSSL 3 has no TLS below 1.2 at its usual security level"
            remedy = "set TLSv1.2, or TLS_CIPHER_LIST=DEFAULT:@SECLEVEL=0, too, for the clients' sake"
            self._add_setting("warning", what, remedy, name)

    def _add_setting(self, level: str, what: str, remedy: str, name: str) -> None:
        self._add(level, what, remedy, *self.places.get(name, ("", 0)), name)

    def _add(self, level: str, what: str, remedy: str, file: str, line: int, setting: str = "") -> None:
        self.findings.append(Finding(level, what, remedy, file, line, setting))


def _is_systems_store(path: str) -> bool:
    import ssl

    store = ssl.get_default_verify_paths()
    paths = (*SYSTEMS_STORE, store.cafile, store.capath, store.openssl_cafile, store.openssl_capath)
    return bool(path) and os.path.realpath(path) in {os.path.realpath(one) for one in paths if one}


def _tls_error(settings: Settings) -> "ConfigurationError | None":
    try:
        tls.server_context(settings, "")
    except ConfigurationError as error:
        return error
    return None


def examine(site: Site, entries: "list[Entry]") -> "tuple[dict[str, Settings], list[Finding]]":
    """The usable settings by protocol, and the findings."""
    usable: dict[str, Settings] = {}
    findings: list[Finding] = []
    seen: set[str] = set()
    for protocol in PROTOCOLS:
        reader = Reader(site, protocol, seen)
        if settings := reader.read():
            usable[protocol] = settings
            reader.judge(settings)
        findings += reader.findings
    findings += _without_proxy_protocol(usable, entries)
    findings += _overridden(site)
    if not any(os.path.exists(f"{site.directory}/{name}") for files in MAIN_FILES.values() for name in files):
        findings.append(Finding("warning", f"no imapd and no pop3d in {site.directory}: all settings are defaults"))
    return usable, list(dict.fromkeys(findings))  # once, where both protocols read the same file


def _without_proxy_protocol(settings: "dict[str, Settings]", entries: "list[Entry]") -> Iterator[Finding]:
    name = "PROXY_PROTOCOL_FROM"
    is_on = any(one.proxy_protocol for one in settings.values()) or any(
        is_true(entry.environment.get("PROXY_PROTOCOL", "")) for entry in entries
    )
    is_named = any(one.proxy_protocol_from.strip() for one in settings.values()) or any(
        entry.environment.get(name) for entry in entries
    )
    if is_named and not is_on:
        what = f"{name} does nothing: PROXY_PROTOCOL is on nowhere, and no PROXY header is read"
        remedy = "set PROXY_PROTOCOL=1, in the environment of the entry that the balancer comes to"
        yield Finding("warning", what, remedy, setting=name)


def _judge(file: str, path: str, line: int, setting: str, value: str) -> Iterator[Finding]:
    """What is strange about one assignment, usable or not."""

    def warning(what: str, remedy: str) -> Finding:
        return Finding("warning", what, remedy, path, line, setting)

    if setting in catalogue.ENVIRONMENT_ONLY:
        yield warning(f"{setting} counts from the environment only", "take the line out; the activator has to say it")
    elif setting.startswith(catalogue.SERVICE_PREFIX):
        if not setting[len(catalogue.SERVICE_PREFIX) :].isdigit():
            yield warning(f"{setting} names no port", "write AUTHSERVICE143, for example")
    elif setting not in catalogue.known(file):
        yield warning(f"{setting} is unknown and does nothing", _suggestion(setting, file))
    elif setting in catalogue.FLAGS and not is_true(value) and value.strip().lower()[:1] not in FALSE:
        yield warning(f"{setting}={value} counts as 0", "write 1 or 0")
    elif setting in catalogue.YES_OR_NO and value[:1] not in ("y", "Y", "n", "N", ""):
        yield warning(f"{setting}={value} counts as NO", "write YES or NO")
    elif setting in MODULE_LISTS and (missing := [module for module in value.split() if module not in SOURCES]):
        what = f"account modules not available here: {', '.join(missing)}"
        yield warning(what, f"set PROXY_AUTHMODULES to those that are: {' '.join(SOURCES)}")


def _suggestion(setting: str, file: str) -> str:
    if home := catalogue.file_for(setting):
        return f"it belongs in {home}"
    known = {name.upper(): name for name in catalogue.known(file)}
    close = difflib.get_close_matches(setting.upper(), known, 1, 0.75)
    return f"is {known[close[0]]} meant?" if close else "take the line out, if it is not your own start script's"


def _overridden(site: Site) -> Iterator[Finding]:
    names = catalogue.COMMON | catalogue.OWN["imap"] | catalogue.OWN["pop3"] | catalogue.ENVIRONMENT_ONLY
    for name in sorted(names & site.environment.keys() - {"PROXYHELPER_CONFDIR"}):
        what = f"{name} is taken from the environment of this command"
        yield Finding("note", what, "the helper sees its activator's environment instead", setting=name)
