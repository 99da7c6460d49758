"""A host of plain files, for what a real kernel cannot be made to do at will."""

import shutil
from pathlib import Path

HEAD = b"Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes\n"


class MadeUpHost:
    """A v2 host whose processes show chosen namespaces: a namespace is one file with links to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cgroup = root / "sys/fs/cgroup"
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "cgroup.controllers").write_text("cpu\n")
        (root / "namespaces").mkdir()
        self.namespace("host", 1)
        self.process(1, "host")

    def namespace(self, name: str, received: int) -> None:
        line = f"  eth0: {received} 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        (self.root / "namespaces" / name).write_bytes(HEAD + line.encode())

    def process(self, pid: int, namespace: str) -> None:
        where = self.root / f"proc/{pid}/net"
        where.mkdir(parents=True, exist_ok=True)
        (where / "dev").unlink(missing_ok=True)
        (where / "dev").hardlink_to(self.root / "namespaces" / namespace)

    def file(self, pid: int, name: str, text: str) -> None:
        """A file of a process, which need not show any namespace."""
        where = self.root / f"proc/{pid}/{name}"
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / f"proc/{pid}")

    def members(self, path: str, *pids: int) -> None:
        where = Path(f"{self.cgroup}{path}")
        where.mkdir(parents=True, exist_ok=True)
        (where / "cgroup.procs").write_text("".join(f"{p}\n" for p in pids))
