"""The state folder: who owns what, the lock against a second agent, the agent's UUID.

    STATE/            root:server group 0710   lock, source
    STATE/journal/    2750                     written by the sampler, read by the server (files 0640)
    STATE/server/     server user 0700         cursors, dead letters, SQLite

Not started as root, one user owns all of it.
"""

import fcntl
import logging
import os
import pwd
import uuid
from pathlib import Path

import msgspec

from tidegauge.pipeline.errors import ConfigError, TidegaugeError

log = logging.getLogger(__name__)


class StateLocked(TidegaugeError):
    """Another agent runs on this state folder."""


def server_ids(user: str, root: Path) -> tuple[int, int] | None:
    """(uid, gid) of the server process, falling back to `nobody`; None: it runs as who started the program.

    So it does when that is not root; and, with a warning, when that user could not even reach what it must read.
    """
    if os.geteuid() != 0:
        return None
    ids = _ids_of(user)
    if (path := unreachable(ids, root)) is not None:
        log.warning(
            "user %s cannot reach %s: the server process keeps the rights of root; "
            "have the installation below /opt or /usr and the state below /var/lib to run it without them",
            pwd.getpwuid(ids[0]).pw_name,
            path,
        )
        return None
    return ids


def _ids_of(user: str) -> tuple[int, int]:
    for name in (user, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ConfigError(f"server_user: expected a user of this host, got {user!r}, and there is no user nobody")


def unreachable(ids: tuple[int, int], root: Path) -> Path | None:
    """What that user must reach and cannot, or None: this installation, or the way to the state folder.

    A clone or a folder below /root is such a place. Asked in a short-lived process.
    """
    existing = next(p for p in (root, *root.parents) if p.exists())
    needed = (
        (Path(os.__file__), os.R_OK),
        (Path(msgspec.__file__), os.R_OK),
        (Path(__file__), os.R_OK),
        (root.parent if existing == root else existing, os.X_OK),
    )
    pid = os.fork()
    if pid == 0:
        code = len(needed) + 1
        try:
            drop_to(ids)
            code = next((i for i, (path, right) in enumerate(needed) if not os.access(path, right)), len(needed))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == len(needed):
        return None
    return needed[code if 0 <= code < len(needed) else 0][0]


def drop_to(ids: tuple[int, int] | None) -> None:
    """Gives up root for good; the caller's groups go too."""
    if ids is None:
        return
    uid, gid = ids
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)


class StateDir:
    """Paths below the state folder, and the lock that the parent process holds while it runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = root / "journal"
        self.server = root / "server"
        self._lock = -1

    def prepare(self, ids: tuple[int, int] | None) -> None:
        """Makes the folders with their rights. ConfigError if that cannot be done."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.journal.mkdir(exist_ok=True)
            self.server.mkdir(exist_ok=True)
            if ids is not None:
                uid, gid = ids
                os.chown(self.root, 0, gid)
                os.chown(self.journal, 0, gid)
                os.chown(self.server, uid, gid)
                for path in self.server.iterdir():
                    os.chown(path, uid, gid, follow_symlinks=False)
            os.chmod(self.root, 0o710)
            os.chmod(self.journal, 0o2750)
            os.chmod(self.server, 0o700)
        except OSError as exc:
            raise ConfigError(f"state_dir: {self.root} cannot be prepared: {exc.strerror} ({exc.filename})") from exc

    def lock(self) -> None:
        """Takes the lock; StateLocked names the process that holds it.

        The children inherit it and keep it: while one of them still writes, a second agent does not start.
        """
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise StateLocked(f"{self.root}: another tidegauge runs on this state folder (process {holder})") from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    def is_locked(self) -> bool:
        """True if an agent runs on this folder. Needs the right to open the lock file."""
        try:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def source(self) -> str:
        """The agent's UUID, made at the first start and kept."""
        path = self.root / "source"
        try:
            return str(uuid.UUID(path.read_text().strip()))
        except (FileNotFoundError, ValueError):
            value = str(uuid.uuid4())
            fresh = path.with_suffix(".new")
            fresh.write_text(value + "\n")
            with fresh.open("rb") as f:
                os.fsync(f.fileno())
            fresh.replace(path)
            return value


def boot_id(proc: Path) -> str:
    """The kernel's id of this boot; empty if it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
