"""Reads a small keyed file of one cgroup once, by name, if the directory there is still this container's."""

import os
from pathlib import Path

from tidegauge.collectors.cgroup_paths import directory
from tidegauge.pipeline.records import Container


def read_of(root: Path, hierarchy: str, container: Container, name: str) -> bytes | None:
    """Bytes of a file of the container; None if it is not there, cannot be read, or the directory is another's by now."""
    where = directory(root, container.path)
    inode = dict(container.pairs).get(hierarchy)
    try:
        with open(f"{where}/{name}", "rb", buffering=0) as file:
            raw = file.read(4096)
        # a directory that was made anew meanwhile has another inode
        return raw if inode is None or os.stat(where).st_ino == inode else None
    except OSError:
        return None


def keyed(raw: bytes) -> dict[str, int]:
    """`name number` lines; others are passed over."""
    words = (line.split() for line in raw.decode("ascii", "replace").splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit() and len(w[1]) < 19}
