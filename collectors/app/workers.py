"""Runs scrapes beside each other, bounded: threads that live while there is work, each with a process that does it.

A process that overruns its deadline is killed and replaced, so that nothing that a container does holds a thread for ever.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from tidegauge.collectors.app import rooted
from tidegauge.collectors.app.announced import Refused
from tidegauge.collectors.app.scrape import LENGTH, MAX_MESSAGE, Answer, Request

_GRACE_S = 10.0
"""Beyond the time that the process grants itself: for its start and the encoding of its answer, on a busy machine."""
_IDLE_S = 60.0
"""A process without work ends after so long."""
_REAP_S = 1.0


class Scraper:
    """A scraping process, started when it is needed. One thread at a time."""

    def __init__(self) -> None:
        self.used_s = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ask(self, request: Request) -> Answer:
        """The answer of the process, which is killed if it does not come in time. Refused with the reason."""
        self.used_s = time.monotonic()
        deadline_s = self.used_s + request.timeout_s + _GRACE_S
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            _send(self._process, msgspec.msgpack.encode(request))
            (length,) = LENGTH.unpack(_receive(self._process, LENGTH.size, deadline_s))
            if length > MAX_MESSAGE:
                raise Refused("the scraping process says too much")
            return msgspec.msgpack.decode(_receive(self._process, length, deadline_s), type=Answer)
        except (OSError, msgspec.DecodeError) as exc:
            self.stop()
            raise Refused(f"the scraping process failed: {exc}") from exc
        except Refused:
            self.stop()
            raise
        finally:
            self.used_s = time.monotonic()

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            _end(self._process)
            self._process = None


def _start() -> "subprocess.Popen[bytes]":
    environment = {k: v for k, v in os.environ.items() if k == "PYTHONPATH"}
    command = [sys.executable, "-P", "-m", "tidegauge.collectors.app.scrape"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True, bufsize=0
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        pass  # it hangs in the kernel; Popen reaps it later


def _send(process: "subprocess.Popen[bytes]", payload: bytes) -> None:
    assert process.stdin is not None
    left = memoryview(LENGTH.pack(len(payload)) + payload)
    while left:
        left = left[os.write(process.stdin.fileno(), left) :]


def _receive(process: "subprocess.Popen[bytes]", size: int, deadline_s: float) -> bytes:
    assert process.stdout is not None
    fd = process.stdout.fileno()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    parts: list[bytes] = []
    while size:
        if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise Refused("the scraping process did not answer in time")
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise Refused("the scraping process ended: its answer or expressions took too much memory or time")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_file(proc: str, pid: int, cgroup: str, file: str, timeout_s: float) -> bytes:
    """A file inside a container, by a process that is killed if the container's file system does not answer. Refused."""
    command = [sys.executable, "-I", "-S", rooted.__file__, proc, str(pid), cgroup, file]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env={}, cwd="/")
    try:
        content, reason = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Refused(f"its configuration file cannot be read: no answer within {timeout_s:g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise Refused(f"its configuration file cannot be read: {reason[:200].decode(errors='replace') or 'no reason'}")
    return content


class Workers:
    """Threads for `most` jobs at a time; further ones wait their turn. Any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[Scraper], None]] = deque()
        self._idle: list[Scraper] = []
        self._running = 0
        self._is_stopping = False

    def submit(self, job: Callable[[Scraper], None]) -> None:
        """Has the job run on a thread, with a Scraper that is its own until it returns. The job raises nothing."""
        with self._lock:
            self._jobs.append(job)
            if self._running >= self._most:
                return
            self._running += 1
        threading.Thread(target=self._work, name="application metrics", daemon=True).start()

    def trim(self) -> None:
        """Ends processes that had nothing to do for long."""
        before_s = time.monotonic() - _IDLE_S
        with self._lock:
            stale = [s for s in self._idle if s.used_s < before_s]
            self._idle = [s for s in self._idle if s.used_s >= before_s]
        for scraper in stale:
            scraper.stop()

    def stop(self) -> None:
        """Drops what waits and ends the processes; those at work end after it. Safe twice."""
        with self._lock:
            self._is_stopping = True
            self._jobs.clear()
            idle, self._idle = self._idle, []
        for scraper in idle:
            scraper.stop()

    def _work(self) -> None:
        scraper: Scraper | None = None
        while True:
            with self._lock:
                if scraper is not None and not self._is_stopping:
                    self._idle.append(scraper)
                    scraper = None
                if self._is_stopping or not self._jobs:
                    self._running -= 1
                    break
                job = self._jobs.popleft()
                scraper = self._idle.pop() if self._idle else Scraper()
            job(scraper)
        if scraper is not None:
            scraper.stop()
