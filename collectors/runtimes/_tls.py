"""TLS for the socket of an engine that listens on the network. Imported only where it is wanted."""

import ssl
from pathlib import Path
from typing import Any

from tidegauge.pipeline.errors import ConfigError


class _Socket(ssl.SSLSocket):
    """Says as other sockets do that nothing is there to read yet."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError as exc:
            raise BlockingIOError from exc


def context(ca: Path | None, certificate: Path | None, key: Path | None, where: str) -> Any:
    """A context that verifies the engine's certificate and name, by this authority or those of the system, and shows ours.

    ConfigError, with `where` the table stands, for a file that cannot be used.
    """
    try:
        made = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as exc:
        raise ConfigError(f"{where}.tls_ca: {ca}: {exc.strerror or exc}") from exc
    made.sslsocket_class = _Socket
    if certificate is not None:
        try:
            made.load_cert_chain(str(certificate), None if key is None else str(key))
        except OSError as exc:
            raise ConfigError(f"{where}.tls_cert: {certificate} with {key}: {exc.strerror or exc}") from exc
    return made
