"""The parent of the two processes: starts them, starts again what died, stops both in time.

The children are forked, not executed: they share the parent's pages, and what they need beyond that they import themselves.
The parent stays single-threaded and small. Each child watches a pipe that closes with the parent, so that none outlives it.
"""

import gc
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger(__name__)

STOP_WITHIN_S = 4.5
"""From the first SIGTERM until what still runs is killed; the promise is 5 s."""
_RESTART_FIRST_S, _RESTART_MAX_S = 0.1, 10.0
_STEADY_S = 30.0
"""A child that ran this long starts again at once, as if it had never died."""
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

EXIT_CONFIG = 78


class Start(NamedTuple):
    """What a child is told: how often it was started again before, and the pipe that closes with the parent."""

    restarts: int
    parent_fd: int


class Child:
    """One process to keep running. `main` runs in the child and returns its exit code."""

    def __init__(self, name: str, main: Callable[[Start], int]) -> None:
        self.name = name
        self.main = main
        self.pid = 0
        self.restarts = -1
        self.started_s = 0.0
        self.due_s: float | None = 0.0
        """Monotonic time of the next start; None while it runs."""
        self._delay_s = _RESTART_FIRST_S

    def start(self, parent_fd: int, close_fd: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()
        self.restarts += 1
        self.started_s = time.monotonic()
        self.due_s = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(close_fd)
            _run_child(self, Start(self.restarts, parent_fd))

    def ended(self, status: int) -> None:
        """Plans the next start: at once after a steady run, else later each time."""
        now = time.monotonic()
        is_steady = now - self.started_s >= _STEADY_S
        self._delay_s = _RESTART_FIRST_S if is_steady else min(self._delay_s * 2, _RESTART_MAX_S)
        self.due_s = now + self._delay_s
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        log.warning("process %s %s; it starts again in %.1f s", self.name, how, self._delay_s)

    def kill(self, signum: int) -> None:
        if self.pid:
            os.kill(self.pid, signum)


def _run_child(child: Child, start: Start) -> None:
    code = 1
    try:
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with open("/proc/self/comm", "w") as comm:
            comm.write(f"tg-{child.name}")
        code = child.main(start)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a process: say why it ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def supervise(children: Sequence[Child], reload: Callable[[], bool]) -> int:
    """Runs the children until SIGTERM or SIGINT; returns the exit code. Stops them in the order given.

    SIGHUP calls `reload`; if that returns True (the new configuration is good) it is passed on. A child that ends with
    status 78 at its first start ends all: the configuration is wrong in a way that only the child could see.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    read_end, write_end = os.pipe()
    try:
        while True:
            now = time.monotonic()
            due = [c.due_s for c in children if c.due_s is not None]
            for child in children:
                if child.due_s is not None and child.due_s <= now:
                    child.start(read_end, write_end)
            timeout = max(0.0, min(due, default=now + 60.0) - now) if due else 60.0
            info = signal.sigtimedwait(_SIGNALS, timeout)
            signum = info.si_signo if info is not None else 0
            if (code := _reap(children)) is not None:
                _stop(children)
                return code
            if signum in (signal.SIGTERM, signal.SIGINT):
                log.info("stopping")
                _stop(children)
                return 0
            if signum == signal.SIGHUP and reload():
                for child in children:
                    child.kill(signal.SIGHUP)
    finally:
        os.close(read_end)
        os.close(write_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _reap(children: Sequence[Child]) -> int | None:
    """Notes which children ended; returns an exit code if that is the end of all."""
    for child in children:
        if child.pid:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                if child.restarts == 0 and os.waitstatus_to_exitcode(status) == EXIT_CONFIG:
                    child.pid = 0
                    return EXIT_CONFIG
                child.ended(status)
    return None


def _stop(children: Sequence[Child]) -> None:
    """SIGTERM one after the other, SIGKILL for what is left at the deadline."""
    deadline = time.monotonic() + STOP_WITHIN_S
    for i, child in enumerate(children):
        child.kill(signal.SIGTERM)
        left = len(children) - i
        share = time.monotonic() + max(0.0, deadline - time.monotonic()) / left
        _wait_for(child, share if left > 1 else deadline)
    for child in children:
        if child.pid:
            log.warning("process %s did not stop in time and is killed", child.name)
            child.kill(signal.SIGKILL)
            _wait_for(child, time.monotonic() + 5.0)


def _wait_for(child: Child, deadline: float) -> None:
    while child.pid:
        if os.waitpid(child.pid, os.WNOHANG)[0]:
            child.pid = 0
            return
        left = deadline - time.monotonic()
        if left <= 0:
            return
        signal.sigtimedwait((signal.SIGCHLD,), min(left, 0.05))


def exit_with_parent(parent_fd: int, stop: Callable[[], None]) -> None:
    """Calls `stop` once the parent is gone, from a thread of its own."""

    def watch() -> None:
        poll = select.poll()
        poll.register(parent_fd, select.POLLHUP)
        while not poll.poll():
            continue
        stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
