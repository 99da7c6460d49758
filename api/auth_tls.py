"""The TLS of the listener: 1.2 or newer, with certificates of clients where a CA for them is named."""

import ssl
from pathlib import Path

from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import ConfigError


def context(config: HttpConfig) -> ssl.SSLContext | None:
    """What the files hold now; None without `tls_cert`. ConfigError names key, file and what is wrong with it."""
    if config.tls_cert is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    key = config.tls_key or config.tls_cert
    try:
        # never asks for a passphrase on a terminal
        made.load_cert_chain(config.tls_cert, key, password=lambda: b"")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"http.tls_cert: {config.tls_cert} with key {key}: {_why(exc, (config.tls_cert, key))}") from exc
    if config.tls_client_ca is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_verify_locations(config.tls_client_ca)
        except (OSError, ValueError) as exc:
            why = _why(exc, (config.tls_client_ca,))
            raise ConfigError(f"http.tls_client_ca: {config.tls_client_ca}: {why}") from exc
        if not made.get_ca_certs():
            raise ConfigError(f"http.tls_client_ca: {config.tls_client_ca}: expected a certificate of a CA")
    return made


def _why(exc: Exception, paths: tuple[Path, ...]) -> str:
    if isinstance(exc, ssl.SSLError):
        if exc.reason == "KEY_VALUES_MISMATCH":
            return "the key is not that of the certificate"
        if exc.reason in ("BAD_DECRYPT", "BAD_PASSWORD_READ", "PROBLEMS_GETTING_PASSWORD") or _is_encrypted(paths[-1]):
            return "the key has a passphrase; expected one without"
        return "expected PEM"
    if isinstance(exc, OSError):
        for path in paths:  # the exception does not name the file
            try:
                path.open("rb").close()
            except OSError as each:
                return f"{path} cannot be read: {each.strerror}"
    return str(exc)


def _is_encrypted(path: Path) -> bool:
    try:
        return b"ENCRYPTED" in path.read_bytes()
    except OSError:
        return False
