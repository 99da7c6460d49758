"""Asks the running tidegauge over its Unix socket."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

from tidegauge.cli.run_command import socket_path
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import TidegaugeError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, silence_s: float) -> None:
        super().__init__("localhost", timeout=silence_s)
        self._path, self._silence_s = path, silence_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._silence_s)
        self.sock.connect(str(self._path))


def ask(config: Config, method: str, path: str, body: bytes | None = None, silence_s: float = 10) -> bytes:
    """Body of the answer. TidegaugeError if nobody answers in time, or with the answer's text if it is no success."""
    with _answer(config, method, path, body, silence_s) as response:
        return response.read()


def ask_lines(config: Config, path: str, silence_s: float) -> Iterator[bytes]:
    """Lines of an answer that goes on, as they come. Ends with it; errors as of `ask`, also after so much silence."""
    with _answer(config, "GET", path, None, silence_s) as response:
        while line := response.readline():
            yield line


@contextlib.contextmanager
def _answer(config: Config, method: str, path: str, body: bytes | None, silence_s: float) -> Iterator[http.client.HTTPResponse]:
    where = socket_path(config)
    if where is None:
        raise TidegaugeError("http.socket is switched off, so the running tidegauge cannot be asked")
    connection = _UnixConnection(where, silence_s)
    broken = ""
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        broken = "the answer broke off: "
        if response.status >= 300:
            said = response.read().decode(errors="replace").strip()
            # what is wrong with a parameter is the user's to mend, and names it
            raise TidegaugeError(said if response.status == 400 else f"{method} {path}: {response.status}: {said}")
        yield response
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise TidegaugeError(f"no tidegauge runs on {config.state_dir} (nobody listens on {where})") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise TidegaugeError(f"{where}: {broken}{getattr(exc, 'strerror', None) or exc}") from exc
    finally:
        connection.close()
