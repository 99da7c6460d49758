"""`tidegauge machine`: what this host's machine is, read now; asks no running tidegauge."""

from pathlib import Path
from typing import Any

import click
import msgspec

from tidegauge.cli.options import common, load
from tidegauge.pipeline import collecting, logs
from tidegauge.pipeline.machine import Machine
from tidegauge.pipeline.plugin import MachineSource

_LINES_OF = ("nodes", "disks", "filesystems", "network_devices", "dimms", "huge_pages")


@click.command("machine")
@click.option("--json", "is_json", is_flag=True, help="Everything, as one JSON object.")
@common
def command(config_file: Path | None, state_dir: Path | None, assignments: tuple[str, ...], is_json: bool) -> None:
    """Print CPUs, memory, disks, filesystems, network devices and names of this host; what it does not tell is left out."""
    config = load(config_file, state_dir, assignments)
    logs.configure("machine", config.log.level, config.log.format)
    collectors, _ = collecting.build(config)
    found = (c.machine() for _, c in collectors if isinstance(c, MachineSource))
    machine = next((m for m in found if m is not None), None)
    for _, collector in collectors:
        if (close := getattr(collector, "close", None)) is not None:
            close()
    if machine is None:
        raise click.ClickException("no collector that knows the machine is enabled")
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode(machine)).decode())
        return
    for line in lines(machine):
        click.echo(line)


def lines(machine: Machine) -> list[str]:
    """One line a field, and one for each of what there are several of. No line holds control characters."""
    fields: dict[str, Any] = msgspec.to_builtins(machine)
    out = [f"{name:<18} {value}" for name, value in fields.items() if name not in _LINES_OF]
    for name in _LINES_OF:
        for one in fields.get(name, ()):
            out.append(f"{name:<18} " + "  ".join(f"{key}={_short(value)}" for key, value in one.items()))
    return ["".join(c if c.isprintable() else "?" for c in line) for line in out]


def _short(value: Any) -> str:
    """Of a list of objects their number, of any other its members."""
    if isinstance(value, list | tuple):
        return str(len(value)) if isinstance(value[0], dict) else ",".join(map(str, value))
    return str(value)
