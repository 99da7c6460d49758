"""One child process that measures directory trees, one at a time, as the least important process of the machine."""

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tidegauge.collectors import _disk_walk

_LOG = logging.getLogger(__name__)
_ANSWER_BYTES = 1 << 20
_LOOK_S = 0.5


class Measured(NamedTuple):
    """One tree, or file of logs, as the child found it."""

    path: str
    """Without links."""
    bytes: int
    inodes: int | None
    """None for logs."""
    limit_bytes: int
    """Size of the filesystem, or the quota."""


class Found(NamedTuple):
    layer: Measured
    logs: tuple[Measured, ...]
    work_s: float
    """How long it took without the rests."""


class Failed(NamedTuple):
    reason: str
    is_gone: bool
    """There is no such folder (any more): no fault."""
    work_s: float


class Walker:
    """`measure` from one thread, `stop` from any. A child that hangs in the kernel is killed and left; others follow it."""

    def __init__(self, share: float, deadline_s: float, max_hanging: int = 4, script: Path | None = None) -> None:
        """`share`: of the time that a walk may be at work, 0 to 1. `max_hanging`: beyond it nothing is measured any more."""
        self._share = share
        self._deadline_s = deadline_s
        self._max_hanging = max_hanging
        self._script = script or Path(_disk_walk.__file__)
        self._child: subprocess.Popen[bytes] | None = None
        self._hanging: list[subprocess.Popen[bytes]] = []
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def measure(self, layer: str, logs: Sequence[str], owner: int | None) -> Found | Failed:
        """The space of a layer and of what the first of the patterns of logs with a match finds. Blocks up to the deadline.

        `owner`: the user whose the layer has to be, None for any.
        """
        self._hanging = [child for child in self._hanging if child.poll() is None]
        if len(self._hanging) >= self._max_hanging:
            return Failed(f"{len(self._hanging)} walks hang and cannot be ended", False, 0.0)
        begin_s = time.monotonic()
        try:
            child = self._child = self._child or self._start()
            question = {"layer": layer, "logs": list(logs), "owner": owner, "share": self._share}
            assert child.stdin is not None
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            raw = self._receive(child, begin_s + self._deadline_s)
        except OSError as exc:
            self._end()
            return Failed(f"the process that walks: {exc.strerror or exc}", False, 0.0)
        if raw is None:
            is_late = time.monotonic() >= begin_s + self._deadline_s
            self._end()
            reason = f"not done after {self._deadline_s:g} s" if is_late else "the process that walks has ended"
            return Failed(reason, False, (time.monotonic() - begin_s) * self._share)
        return _decoded(json.loads(raw))

    def stop(self) -> None:
        """Ends the child at once, whatever it does; `measure` comes back within a moment. Safe twice."""
        self._is_stopping = True
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """Gives back the child, after `stop` and when nobody measures. One that hangs is left to end by itself."""
        self._end()
        self._hanging = [child for child in self._hanging if child.poll() is None]

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._is_stopping:
            raise OSError("it is to stop")
        # isolated, without site: 10 ms and 9 MiB instead of what our own packages would need
        command = [sys.executable, "-I", "-S", str(self._script)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/")
        if self._is_stopping:
            child.kill()
        try:
            os.setpriority(os.PRIO_PROCESS, child.pid, 19)
            psutil.Process(child.pid).ionice(psutil.IOPRIO_CLASS_IDLE)
        except (OSError, psutil.Error) as exc:
            _LOG.debug("the process that walks keeps its priority: %s", exc)
        return child

    def _receive(self, child: "subprocess.Popen[bytes]", end_s: float) -> bytes | None:
        """A line, None if there is none in time or the child has ended."""
        assert child.stdout is not None
        data = b""
        poll = select.poll()  # takes descriptors beyond 1023 too
        poll.register(child.stdout, select.POLLIN)
        while not data.endswith(b"\n"):
            left_s = end_s - time.monotonic()
            if left_s <= 0 or self._is_stopping or len(data) > _ANSWER_BYTES:
                return None
            if poll.poll(min(left_s, _LOOK_S) * 1000):
                more = os.read(child.stdout.fileno(), 1 << 16)
                if not more:
                    return None
                data += more
        return data

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # what was written to a child that has ended
        try:
            child.wait(1.0)
        except subprocess.TimeoutExpired:
            self._hanging.append(child)


def _decoded(said: dict[str, Any]) -> Found | Failed:
    if "error" in said:
        return Failed(said["error"], said["is_gone"], said["work_s"])
    layer, *logs = (Measured(m["path"], m["bytes"], m.get("inodes"), m["limit"]) for m in (said["layer"], *said["logs"]))
    return Found(layer, tuple(logs), said["work_s"])
