"""`tidegauge status`: asks the running one over its Unix socket, else over its listener."""

import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.run_command import socket_path
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import TidegaugeError


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@common
def command(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Ask the running tidegauge how it is. Exit code 1 if it does not answer or is not well."""
    text = ask(load(config_file, state_dir, assignments), "GET", "/api/v1/status")
    status = msgspec.json.decode(text)
    if as_json:
        click.echo(msgspec.json.format(text, indent=2).decode())
    else:
        _print(status)
    if status["faults"]:
        sys.exit(1)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, silence_s: float = 10) -> None:
        super().__init__("localhost", timeout=silence_s)
        self._path, self._silence_s = path, silence_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._silence_s)
        self.sock.connect(str(self._path))


def ask(config: Config, method: str, path: str, body: bytes | None = None, silence_s: float = 10) -> bytes:
    """Body of the answer. TidegaugeError if nobody answers in time, or with the answer's text if it is no success."""
    where = socket_path(config)
    if where is None:
        raise TidegaugeError("http.socket is switched off, so the running tidegauge cannot be asked")
    connection = _UnixConnection(where, silence_s)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise TidegaugeError(f"no tidegauge runs on {config.state_dir} (nobody listens on {where})") from exc
    except OSError as exc:
        raise TidegaugeError(f"{where}: {exc.strerror or exc}") from exc
    finally:
        connection.close()
    if response.status >= 300:
        said = text.decode(errors="replace").strip()
        # what is wrong with a parameter is the user's to mend, and names it
        raise TidegaugeError(said if response.status == 400 else f"{method} {path}: {response.status}: {said}")
    return text


def ask_lines(config: Config, path: str, silence_s: float) -> Iterator[bytes]:
    """Lines of an answer that goes on, as they come. Ends with it; errors as of `ask`, also after so much silence."""
    where = socket_path(config)
    if where is None:
        raise TidegaugeError("http.socket is switched off, so the running tidegauge cannot be asked")
    connection = _UnixConnection(where, silence_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status >= 300:
            raise TidegaugeError(f"GET {path}: {response.status}: {response.read().decode(errors='replace').strip()}")
        while line := response.readline():
            yield line
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise TidegaugeError(f"no tidegauge runs on {config.state_dir} (nobody listens on {where})") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise TidegaugeError(f"{where}: the answer broke off: {exc}") from exc
    finally:
        connection.close()


def _print(status: dict[str, Any]) -> None:
    sampler = status["sampler"]
    click.echo(
        f"tidegauge {status['version']} on {status['host']}, up {status['uptime_s']:.0f} s, state in {status['state_dir']}"
    )
    click.echo("Well." if not status["faults"] else "NOT WELL: " + "; ".join(status["faults"]))
    click.echo(
        f"{status['containers']} containers; {sampler.get('samples', 0)} samples; "
        f"tick lateness p99 {1000 * (sampler.get('lateness_p99_seconds') or 0):.1f} ms; "
        f"collection {sampler.get('collection_cpu_seconds', 0):.2f} s of CPU; "
        f"greatest blindness {sampler.get('greatest_blindness_seconds', 0):.1f} s"
    )
    age_s = sampler.get("journal_oldest_age_seconds")
    oldest = "no row yet" if age_s is None else f"oldest row {age_s / 3600:.2f} h old"
    click.echo(f"journal {sampler.get('journal_bytes', 0) / 2**20:.1f} MiB, {oldest}")
    for name, text in sorted(sampler.get("collector_faults", {}).items()):
        click.echo(f"collector {name} cannot read everything: {text}")
    for name, is_reachable in sorted(sampler.get("remote_reachable", {}).items()):
        age_s = sampler.get("remote_answer_age_seconds", {}).get(name)
        told = "no answer yet" if age_s is None else f"last answer {age_s:.0f} s ago"
        samples = sampler.get("remote_samples", {}).get(name, 0)
        click.echo(f"remote {name}: {'answers' if is_reachable else 'DOES NOT ANSWER'}, {told}, {samples} samples")
    for name, text in sorted(sampler.get("remote_faults", {}).items()):
        click.echo(f"remote {name}: {text}")
    header = ("sink", "state", "accepted", "written", "filtered", "dropped", "dead letters", "pending", "lag")
    rows = [header]
    for name, s in sorted(status["sinks"].items()):
        dropped = " ".join(f"{k}:{v}" for k, v in sorted(s["dropped"].items())) or "0"
        lag = "-" if s["lag_s"] is None else f"{s['lag_s']:.1f} s"
        numbers = (s["accepted"], s["written"], s["filtered"], dropped, s["dead_letter"], s["pending"])
        rows.append((name, s["state"], *map(str, numbers), lag))
    widths = [max(len(r[i]) for r in rows) for i in range(len(header))]
    for row in rows:
        click.echo(
            "  ".join(v.ljust(w) if i < 2 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        )
    for name, s in sorted(status["sinks"].items()):
        if s["last_error"]:
            click.echo(f"{name}: {s['last_error']}")
