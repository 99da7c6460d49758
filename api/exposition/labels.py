"""Labels of the page: a container's own, sanitised without collisions, and those that tell the rows of a table apart. Pure."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tidegauge.pipeline.machine import Disk
from tidegauge.pipeline.records import Container

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_]")
_VISIBLE = {code: f"\\\\x{code:02x}" for code in (*range(0x20), 0x7F)}
_ESCAPES = str.maketrans(_VISIBLE | {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n"})
_POD_CONTAINER = "io.kubernetes.container.name"


def escaped(value: str) -> str:
    """The value as it stands between quotes on the page.

    Control characters but the newline, and halves of surrogate pairs, become visible escapes of their own (a backslash and
    letters): parsers stop at some of them, and none may reach a terminal.
    """
    if not value.isascii():
        value = value.encode("utf-8", "backslashreplace").decode()
    return value.translate(_ESCAPES)


def label_names(prefix: str, keys: Collection[str]) -> dict[str, str]:
    """Name of the label for each key: the prefix and the key with `_` for what no name may hold.

    Of several keys with one name, one that needed no change keeps it, else the least one; the others get 8 hexadecimal digits
    of their hash behind it. So the names follow from the keys alone, and no label occurs twice.
    """
    out: dict[str, str] = {}
    taken: set[str] = set()
    for key in sorted(keys, key=lambda k: (_NOT_IN_NAME.search(k) is not None, k)):
        name = prefix + _NOT_IN_NAME.sub("_", key)
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass")).hexdigest()
        length = 8
        plain = name
        while name in taken:
            name = f"{plain}_{digest[:length]}"
            length += 8
        taken.add(name)
        out[key] = name
    return out


def container_labels(container: Container) -> dict[str, str]:
    """The container's labels in the order of the page, values as they are; those without a value are left out, but for `id`."""
    c = container
    found = {
        "id": c.path,
        "name": c.name,
        "image": c.image,
        "namespace": c.pod_namespace,
        "pod": c.pod,
        "container": c.labels.get(_POD_CONTAINER) if c.pod else None,
    }
    out = {name: value for name, value in found.items() if value}
    for prefix, pairs in (("container_env_", c.environment), ("container_label_", c.labels)):
        names = label_names(prefix, pairs)
        out |= {names[key]: pairs[key] for key in sorted(pairs, key=names.__getitem__)}
    return out


_FIRST = {name: place for place, name in enumerate(("id", "name", "image", "namespace", "pod", "container"))}


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """`id`, `name`, `image` first, then the pod, environment and labels."""
    return tuple(sorted(names, key=lambda n: (_FIRST.get(n, len(_FIRST)), n)))


def joined(names: Iterable[str], labels: Mapping[str, str]) -> str:
    """The labels of these names as the page has them, an empty one where there is none."""
    return ",".join(f'{name}="{escaped(labels.get(name, ""))}"' for name in names)


def _cpu(name: str) -> str:
    return f'cpu="cpu{int(name):02d}"' if name.isdigit() else f'cpu="{escaped(name)}"'


def _named(label: str) -> Callable[[str], str]:
    return lambda name: f'{label}="{escaped(name)}"'


def device_path(name: str) -> str:
    """`/dev/NAME` of a disk; as it is where the name is no disk's: numbers, or a path already."""
    return name if ":" in name or name.startswith("/") else "/dev/" + name.replace("!", "/")


def row_labels(disks: Collection[Disk]) -> Mapping[str, Callable[[Any], str]]:
    """How the instance of a row is shown, by `families.Rows.label`. `disks` are those of the machine."""
    numbers = {d.name: (d.major, d.minor) for d in disks}

    def disk(name: str) -> str:
        return f'device="{escaped(device_path(name))}"'

    def disk_with_numbers(name: str) -> str:
        major, minor = numbers.get(name) or (
            name.split(":") if name.replace(":", "", 1).isdigit() and ":" in name else ("", "")
        )
        return f'{disk(name)},major="{major}",minor="{minor}"'

    return {
        "cpu": _cpu,
        "device": _named("device"),
        "disk": disk,
        "disk with numbers": disk_with_numbers,
        "interface": _named("interface"),
        "pagesize": _named("pagesize"),
        "node": _named("node"),
        "node_id": _named("node_id"),
        "event": lambda name: f'cpu="",event="{escaped(name)}"',
        "tcp": lambda name: "",
        "udp": lambda name: "",
    }
