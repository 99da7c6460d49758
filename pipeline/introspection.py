"""What a process of the program shows of itself: stacks of its threads, where its time goes, what holds its memory.

The same code answers in both processes, in the sampler as kinds of request (`HANDLERS`). It costs the GIL: a sample of a
profile 0.1 ms or so, a count of the heap some 0.1 s in which other threads get their turns. One of them at a time.
"""

import gc
import os
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from tidegauge.pipeline.errors import Reason, RequestError

PROFILE_HZ = 100
MAX_PROFILE_S = 60.0
MAX_STACKS = 20_000
"""Different stacks in a profile; what comes beyond counts as one."""
_MAX_DEPTH = 128
_MOST_TYPES = 50
_LOOK_EVERY = 2_000
_busy = threading.Lock()


def threads() -> str:
    """Stack of every thread, the innermost call last, as text. Names of files and functions, no values."""
    names = {t.ident: t for t in threading.enumerate()}
    out = [f"process {os.getpid()}, {len(names)} threads"]
    for ident, frame in sorted(sys._current_frames().items()):
        thread = names.get(ident)
        name, native = ("?", "?") if thread is None else (thread.name, thread.native_id)
        out.append(f"\nthread {name} (native id {native})")
        out.extend(f"  {_file(each)}:{each.f_lineno} {each.f_code.co_qualname}" for each in _stack(frame))
    return "\n".join(out) + "\n"


def profile(seconds: float, deadline_ns: int) -> str:
    """Samples of all stacks, collapsed: `thread;outer;inner COUNT`, a line each, as flame graph tools read them.

    Takes so many seconds, and ends at the deadline (monotonic clock) if that comes first. A thread that waits is sampled too;
    its innermost call says that it waits. RequestError while another one runs.
    """
    if not 0 < seconds <= MAX_PROFILE_S:
        raise RequestError(f"seconds: expected more than 0 and at most {MAX_PROFILE_S:g}, got {seconds:g}", Reason.REFUSED)
    if not _busy.acquire(blocking=False):
        raise RequestError("another profile or count runs in this process", Reason.BUSY)
    try:
        return _profile(min(time.monotonic_ns() + int(seconds * 1e9), deadline_ns))
    finally:
        _busy.release()


def _profile(end_ns: int) -> str:
    own = threading.get_ident()
    counts: Counter[str] = Counter()
    names: dict[int, str] = {}
    step_ns = 1_000_000_000 // PROFILE_HZ
    next_ns = time.monotonic_ns()
    while (now := time.monotonic_ns()) < end_ns:
        for ident, frame in sys._current_frames().items():
            if ident == own:
                continue
            if ident not in names:
                known = {t.ident: t.name.replace(";", ",") for t in threading.enumerate() if t.ident is not None}
                names = {ident: "?", **known}
            stack = ";".join([names[ident], *(f"{_module(each)}.{each.f_code.co_qualname}" for each in _stack(frame))])
            stack = stack.replace("\n", " ")
            counts[stack if stack in counts or len(counts) < MAX_STACKS else "other"] += 1
        # samples that are late are left out, not made up for
        next_ns = max(next_ns + step_ns, now)
        time.sleep(max(0.0, min(next_ns, end_ns) - time.monotonic_ns()) / 1e9)
    return "".join(f"{stack} {count}\n" for stack, count in sorted(counts.items()))


def heap(deadline_ns: int) -> str:
    """Memory of the process, and what holds it: by line where tracemalloc was started (PYTHONTRACEMALLOC), else by type.

    Sizes are those of the objects alone, without what the collector of garbage does not know (numbers, text) or was told to
    leave (what was there at the start). RequestError while another count or profile runs, or at the deadline.
    """
    if not _busy.acquire(blocking=False):
        raise RequestError("another profile or count runs in this process", Reason.BUSY)
    try:
        return "\n".join([*_memory(), "", *(_traced() if tracemalloc.is_tracing() else _by_type(deadline_ns))]) + "\n"
    finally:
        _busy.release()


def _memory() -> list[str]:
    out = [f"process {os.getpid()}"]
    wanted = ("Rss", "Pss", "Private_Dirty", "Anonymous", "Swap")
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in wanted and (number := rest.split()[0]).isdigit():
                out.append(f"{key.lower()} {int(number) * 1024} bytes")
    except OSError as exc:
        out.append(f"/proc/self/smaps_rollup: {exc.strerror}")
    out.append(f"objects frozen at the start {gc.get_freeze_count()}")
    return out


def _traced() -> list[str]:
    snapshot = tracemalloc.take_snapshot()
    return ["bytes blocks line"] + [
        f"{s.size} {s.count} {s.traceback[0].filename}:{s.traceback[0].lineno}"
        for s in snapshot.statistics("lineno")[:_MOST_TYPES]
    ]


def _by_type(deadline_ns: int) -> list[str]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    total = 0
    for generation in range(3):
        found = gc.get_objects(generation)
        while found:
            one = found.pop()
            name = f"{type(one).__module__}.{type(one).__qualname__}"
            counts[name] += 1
            sizes[name] += sys.getsizeof(one, 0)
            total += 1
            if total % _LOOK_EVERY == 0 and time.monotonic_ns() > deadline_ns:
                raise RequestError(f"no whole count in time; {total} objects were seen", Reason.TIMED_OUT)
    return [f"{total} objects", "bytes objects type"] + [
        f"{size} {counts[name]} {name}" for name, size in sizes.most_common(_MOST_TYPES)
    ]


def _stack(frame: FrameType | None) -> list[FrameType]:
    """The frame and what called it, outermost first; of a deeper stack the innermost part."""
    out: list[FrameType] = []
    while frame is not None and len(out) < _MAX_DEPTH:
        out.append(frame)
        frame = frame.f_back
    return out[::-1]


def _file(frame: FrameType) -> str:
    return "/".join(frame.f_code.co_filename.rsplit("/", 2)[-2:])


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _answer_threads(arguments: Mapping[str, Any], deadline_ns: int) -> str:
    return threads()


def _answer_profile(arguments: Mapping[str, Any], deadline_ns: int) -> str:
    return profile(float(arguments["seconds"]), deadline_ns)


def _answer_heap(arguments: Mapping[str, Any], deadline_ns: int) -> str:
    return heap(deadline_ns)


HANDLERS = {"debug_threads": _answer_threads, "debug_profile": _answer_profile, "debug_heap": _answer_heap}
"""Kinds of request to the sampler -> who answers them there."""
