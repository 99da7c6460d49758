"""The scraping process: asks one endpoint at a time and reads its answer, with no rights and little CPU and memory.

Run as `python -m tidegauge.collectors.app.scrape`; requests come in on standard input, answers go out on standard output, each
with its length before it. Started by root it becomes `nobody` before the first request. All that a container controls, but its
configuration file's frame, is read here and nowhere else: in the sampler's process a long answer would take the interpreter
from the sampling thread, and an expression that never ends could not be stopped.
"""

import ctypes
import http.client
import os
import pwd
import re
import resource
import signal
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, isfinite
from typing import Any

import msgspec

from tidegauge.collectors.app.exposition import Column, Found, Limits, parse
from tidegauge.pipeline.series import clean_name

LENGTH = struct.Struct("<I")
MAX_MESSAGE = 16 << 20
_MEMORY_BYTES = 256 << 20
_DESCRIPTORS = 32
_NICE = 10
_PR_SET_NO_NEW_PRIVS = 38
_AGAIN_S = 0.05
"""An alarm rings again, should the first one have been swallowed by a destructor."""
_KILL_AFTER_S = 0.25
"""CPU time beyond what is granted, at least, before the kernel ends the process; it counts whole seconds."""
_TICKS_CLOCK = ~0 << 3
"""This process's CPU time as timers and RLIMIT_CPU count it, by ticks: MAKE_PROCESS_CPUCLOCK(0, CPUCLOCK_PROF) of the kernel.
The usual clock counts run time, and the two may drift apart by more than a second."""
_MAX_DIGITS = 100
_FORMATS = "text/plain;version=0.0.4;q=1,*/*;q=0.1"


class Target(msgspec.Struct, frozen=True, array_like=True):
    is_https: bool
    address: str
    port: int
    path: str


class Metric(msgspec.Struct, frozen=True, array_like=True):
    """A value that an expression finds in the answer."""

    name: str
    regex: str
    is_counter: bool
    is_integer: bool


class Request(msgspec.Struct, frozen=True, array_like=True):
    target: Target
    wanted: tuple[str, ...]
    metrics: tuple[Metric, ...] | None
    timeout_s: float
    cpu_s: float
    limit_bytes: int
    metrics_limit: int
    series_limit: int
    certificates: str
    """PEM of the authorities to trust; empty: those of the system."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    series: tuple[tuple[str, int, int | float], ...] = ()
    left_out: int = 0
    faults: tuple[str, ...] = ()
    """Why nothing was read, or not every expression found a value."""


class ScrapeError(Exception):
    """Nothing was read, and the text says why."""


class _TooLong(BaseException):
    """The time is up. No Exception, so that nobody takes it for one of his own."""


class _TooMuchCpu(BaseException):
    pass


def scrape(request: Request) -> Answer:
    """The endpoint's series, or why there are none. Never raises for what the endpoint does. Main thread only."""
    try:
        with _bounded(request):
            body = fetch(request)
            limits = Limits(request.metrics_limit, request.series_limit)
            if request.metrics is not None:
                return evaluate(body, request.metrics, limits)
            return _answer(parse(body, frozenset(request.wanted), limits))
    except _TooLong:
        return Answer(faults=(f"it took longer than {request.timeout_s:g} s",))
    except _TooMuchCpu:
        return Answer(faults=(f"its answer or expressions took more than {request.cpu_s:g} s of CPU time",))
    except ssl.SSLCertVerificationError as exc:  # also a ValueError
        return Answer(faults=(f"its certificate is not trusted: {exc.verify_message}",))
    except (ScrapeError, ValueError) as exc:
        return Answer(faults=(str(exc),))
    except http.client.HTTPException as exc:
        return Answer(faults=(f"its answer is no HTTP ({type(exc).__name__})",))
    except OSError as exc:
        return Answer(faults=(f"it cannot be reached: {exc.strerror or type(exc).__name__}",))
    except (MemoryError, RecursionError) as exc:
        return Answer(faults=(f"its answer or expressions are too large ({type(exc).__name__})",))


def fetch(request: Request) -> str:
    """The body of the answer to one GET. ScrapeError for every answer but a plain 200 of bounded size."""
    target = request.target
    connection: http.client.HTTPConnection
    if target.is_https:
        context = ssl.create_default_context(cadata=request.certificates or None)
        connection = http.client.HTTPSConnection(target.address, target.port, timeout=request.timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(target.address, target.port, timeout=request.timeout_s)
    try:
        headers = {"Accept": _FORMATS, "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "tidegauge"}
        connection.request("GET", target.path, headers=headers)
        answer = connection.getresponse()
        if 300 <= answer.status < 400:
            raise ScrapeError(f"it answers with a redirect (HTTP {answer.status}), which is not followed")
        if answer.status != 200:
            raise ScrapeError(f"it answers HTTP {answer.status}")
        if answer.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise ScrapeError("its answer is compressed, which was not asked for")
        body = answer.read(request.limit_bytes + 1)
        if len(body) > request.limit_bytes:
            raise ScrapeError(f"its answer is longer than {request.limit_bytes} bytes")
        if answer.length:
            raise ScrapeError("its answer is cut short")
        return body.decode("utf-8", "replace")
    finally:
        connection.close()


def evaluate(body: str, metrics: tuple[Metric, ...], limits: Limits) -> Answer:
    """What each expression's one group finds first."""
    series: dict[str, tuple[str, int, int | float]] = {}
    faults = []
    for i, metric in enumerate(metrics[: limits.metrics]):
        try:
            name = clean_name(metric.name)
            expression = re.compile(metric.regex)
            if expression.groups != 1:
                raise ScrapeError(f"its expression has {expression.groups} groups: expected one")
            match = expression.search(body)
            if match is None or match[1] is None:
                raise ScrapeError("its expression finds nothing")
            series[name] = (name, *_number(match[1], metric))
        except (ScrapeError, re.error, OverflowError) as exc:
            faults.append(f"metrics_config[{i}]: {exc if isinstance(exc, ScrapeError) else 'its expression is none'}")
        except ValueError:
            faults.append(f"metrics_config[{i}]: what its expression finds is no number, or its name is none")
    return Answer(tuple(series.values()), len(metrics[limits.metrics :]), tuple(faults[:3]))


def _number(text: str, metric: Metric) -> tuple[int, int | float]:
    if len(text) > _MAX_DIGITS or "_" in text:
        raise ValueError("too long")
    if metric.is_integer:
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError("too large")
        return Column.INTEGER_COUNTER if metric.is_counter else Column.INTEGER_GAUGE, number
    value = float(text)
    if not isfinite(value):
        raise ValueError("not finite")
    return Column.COUNTER if metric.is_counter else Column.GAUGE, value


def _answer(found: Found) -> Answer:
    return Answer(tuple((s, int(column), value) for s, (column, value) in found.series.items()), found.left_out)


@contextmanager
def _bounded(request: Request) -> Iterator[None]:
    """Interrupts what is inside when its time or CPU time is up. Regular expressions look for signals while they run.

    Should it be where no signal is looked for, the kernel ends the process within 1.25 s of CPU time more.
    """

    def too_long(signum: int, frame: Any) -> None:
        raise _TooLong

    def too_much(signum: int, frame: Any) -> None:
        raise _TooMuchCpu

    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_much)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    last = ceil(time.clock_gettime(_TICKS_CLOCK) + request.cpu_s + _KILL_AFTER_S)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (last if most == resource.RLIM_INFINITY else min(last, most), most))
        try:
            signal.setitimer(signal.ITIMER_REAL, request.timeout_s, _AGAIN_S)
            signal.setitimer(signal.ITIMER_PROF, request.cpu_s, _AGAIN_S)
            yield
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.signal(signal.SIGPROF, signal.SIG_IGN)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def drop_rights() -> None:
    """Becomes `nobody` if it is root, steps behind others for the CPU, and takes bounds that it cannot lift."""
    os.nice(_NICE)
    "x".encode("idna")  # loads the codec that sockets want, while the installation can be read
    for what, bound in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_NOFILE, _DESCRIPTORS)):
        resource.setrlimit(what, (bound, bound))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam("nobody")
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            uid = gid = 65534
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError:
            pass  # root without CAP_SETUID, as in a container that lost its capabilities: it stays what it is
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    """Answers requests until standard input ends."""
    drop_rights()
    decoder = msgspec.msgpack.Decoder(Request)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(LENGTH.size):
        request = decoder.decode(requests.read(*LENGTH.unpack(head)))
        payload = msgspec.msgpack.encode(scrape(request))
        answers.write(LENGTH.pack(len(payload)) + payload)
        answers.flush()


if __name__ == "__main__":
    main()
