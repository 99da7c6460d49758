"""`tidegauge status`: asks the running one how it is."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.cli.running import ask


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
