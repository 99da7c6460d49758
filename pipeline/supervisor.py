"""The parent of the two processes: starts them, starts again what died, stops both in time.

The children are forked, not executed: they share the parent's pages, and what they need beyond that they import themselves.
The parent stays single-threaded and small. Each child has a pipe from the parent: a new configuration comes through it, and
it closes with the parent, so that no child outlives it. A child that starts again is forked with what the parent holds, so
that it never sees a configuration that was not accepted.
"""

import gc
import logging
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tidegauge.pipeline.budgets import share_arenas
from tidegauge.pipeline.errors import ConfigError

log = logging.getLogger(__name__)

STOP_WITHIN_S = 4.5
"""From the first SIGTERM until what still runs is killed; the promise is 5 s."""
_RESTART_FIRST_S, _RESTART_MAX_S = 0.1, 10.0
_STEADY_S = 30.0
"""A child that ran this long starts again at once, as if it had never died."""
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

EXIT_CONFIG = 78


class Start(NamedTuple):
    """What a child is told: how often it was started again before, and its end of the pipe from the parent."""

    restarts: int
    parent_fd: int


_LENGTH = struct.Struct("<I")


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
        self._pipe = -1

    def start(self, siblings: "Sequence[Child]") -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()
        self.restarts += 1
        self.started_s = time.monotonic()
        self.due_s = None
        self.close_pipe()
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self.pid = os.fork()
        if self.pid == 0:
            for child in siblings:
                child.close_pipe()
            _run_child(self, Start(self.restarts, read_end))
        os.close(read_end)

    def close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def tell(self, message: bytes) -> None:
        """Sends a message through the pipe. A child that does not take it loses its pipe: it ends, and starts with it."""
        if not self.pid or self._pipe < 0:
            return
        packet = _LENGTH.pack(len(message)) + message
        try:
            is_whole = os.write(self._pipe, packet) == len(packet)
        except OSError:
            is_whole = False
        if not is_whole:
            log.warning("process %s does not listen; it is started again with the new configuration", self.name)
            self.close_pipe()

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
        share_arenas()
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN if signum == signal.SIGHUP else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with open("/proc/self/comm", "w") as comm:
            comm.write(f"tg-{child.name}")
        code = child.main(start)
    except ConfigError as exc:
        log.error("configuration: %s", exc)
        code = EXIT_CONFIG
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a process: say why it ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def supervise(children: Sequence[Child], reload: Callable[[], bytes | None]) -> int:
    """Runs the children until SIGTERM or SIGINT; returns the exit code. Stops them in the order given.

    SIGHUP calls `reload`; what it returns is told to every child, None to nobody. A child that ends with status 78 at its
    first start ends all: the configuration is wrong in a way that only the child could see.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        while True:
            now = time.monotonic()
            for child in children:
                if child.due_s is not None and child.due_s <= now:
                    child.start(children)
            due = [c.due_s for c in children if c.due_s is not None]
            info = signal.sigtimedwait(_SIGNALS, max(0.0, min(due) - now) if due else 60.0)
            signum = info.si_signo if info is not None else 0
            if (code := _reap(children)) is not None:
                _stop(children)
                return code
            if signum in (signal.SIGTERM, signal.SIGINT):
                log.info("stopping")
                _stop(children)
                return 0
            if signum == signal.SIGHUP and (message := reload()) is not None:
                for child in children:
                    child.tell(message)
    finally:
        for child in children:
            child.close_pipe()
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


def listen_to_parent(parent_fd: int, on_message: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
    """Calls `on_message` with what the parent sends, and `on_end` once it is gone, from a thread of its own."""

    def listen() -> None:
        with open(parent_fd, "rb") as pipe:
            while len(head := pipe.read(_LENGTH.size)) == _LENGTH.size:
                on_message(pipe.read(_LENGTH.unpack(head)[0]))
        on_end()

    threading.Thread(target=listen, name="parent", daemon=True).start()
