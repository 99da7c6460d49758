"""Questions of the server to the sampler, over the channel between them: `Asker` there, `Responder` here.

The sampler alone may read what the kernel shows to the privileged, and only it knows its own threads. What is wanted seldom
(the processes of a container) is asked for: a `Request` goes out, a thread of the sampler finds the answer and sends it in
parts that fit a packet. A kind of request is a name and a handler; more are added with `Responder.add`.

Nothing is repeated. Either process may be started again between question and answer: then the one who asked comes to its
deadline, and an answer that nobody waits for any more is dropped and counted.
"""

import itertools
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.messages import Answer, Channel, Request

log = logging.getLogger(__name__)

PART_BYTES = 32 * 1024
MAX_ARGUMENTS_BYTES = 32 * 1024
MAX_ANSWER_BYTES = 16 << 20
MAX_WAITING = 32
"""Requests for which the server waits at a time."""
MAX_AT_ONCE = 4
"""Requests that the sampler answers at a time, of all kinds."""
MAX_AT_ONCE_OF_A_KIND = 2
"""One kind whose handler hangs leaves room for the others."""
SILENCE_S = 10.0
"""The sampler speaks every second; silent for so long it is not asked at all."""

Handler: TypeAlias = Callable[[Mapping[str, Any], int], Any]
"""(arguments, deadline in ns of the monotonic clock) -> what msgpack can hold.

Called in a thread of its own. It ought to look at the deadline now and then; RequestError is handed on to who asked.
"""


def parts_of(id: int, payload: bytes, size: int = PART_BYTES) -> Iterator[Answer]:
    """The answer in parts of at most `size` bytes, at least one."""
    last = max(0, len(payload) - 1) // size
    for part in range(last + 1):
        yield Answer(id, part, part == last, payload[part * size : (part + 1) * size])


class Responder:
    """The sampler's side. `add` before the first request, `take` from the channel's thread, `counters` from any."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()

    def add(self, kind: str, handler: Handler) -> None:
        """Answers requests of this kind from now on. ValueError for a kind that has a handler."""
        if kind in self._handlers:
            raise ValueError(f"requests of kind {kind!r} have a handler")
        self._handlers[kind] = handler

    def take(self, request: Request) -> None:
        """Has the request answered by another thread; costs the start of that at most."""
        handler = self._handlers.get(request.kind)
        if request.deadline_ns <= time.monotonic_ns():
            self._count("expired")  # it lay in the buffer while no sampler ran
        elif handler is None:
            expected = ", ".join(sorted(self._handlers)) or "nothing yet"
            self._fault(request, Reason.REFUSED, f"kind: expected one of {expected}, got {request.kind!r}")
        elif not self._begin(request.kind):
            self._fault(request, Reason.BUSY, f"the sampler is busy with other requests (kind {request.kind!r})")
        else:
            thread = threading.Thread(target=self._serve, args=(handler, request), name=f"request-{request.kind}", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:
                self._end(request.kind)
                self._fault(request, Reason.BUSY, f"the sampler: {exc}")

    def counters(self) -> dict[str, int]:
        """Requests by outcome: answered, expired, unsent, or the reason why not."""
        with self._lock:
            return dict(self._outcomes)

    def _begin(self, kind: str) -> bool:
        with self._lock:
            if self._running.total() >= MAX_AT_ONCE or self._running[kind] >= MAX_AT_ONCE_OF_A_KIND:
                return False
            self._running[kind] += 1
            return True

    def _end(self, kind: str) -> None:
        with self._lock:
            self._running[kind] -= 1

    def _count(self, outcome: str) -> None:
        with self._lock:
            self._outcomes[outcome] += 1

    def _serve(self, handler: Handler, request: Request) -> None:
        try:
            try:
                payload = msgspec.msgpack.encode(handler(request.arguments, request.deadline_ns))
            except RequestError as exc:
                self._fault(request, exc.reason, str(exc))
            except Exception as exc:
                log.exception("a request of kind %s failed", request.kind)
                self._fault(request, Reason.FAILED, f"{request.kind}: {type(exc).__name__}: {exc}")
            else:
                if len(payload) > MAX_ANSWER_BYTES:
                    self._fault(request, Reason.TOO_LARGE, f"the answer has {len(payload)} bytes, over {MAX_ANSWER_BYTES}")
                else:
                    self._send(parts_of(request.id, payload), request.deadline_ns)
        finally:
            self._end(request.kind)

    def _send(self, parts: Iterable[Answer], deadline_ns: int) -> None:
        is_sent = all(self._channel.send_when_room(part, deadline_ns) for part in parts)
        self._count("answered" if is_sent else "unsent")

    def _fault(self, request: Request, reason: Reason, text: str) -> None:
        """Without waiting: also the channel's thread says no."""
        self._count(reason.value)
        payload = text.encode(errors="replace")[:PART_BYTES]
        self._channel.send(Answer(request.id, 0, True, payload, reason.value))


class _Waiting:
    """One request that somebody waits for. Parts come from the channel's thread."""

    __slots__ = ("done", "fault", "parts", "size")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.parts: list[bytes] = []
        self.size = 0
        self.fault: RequestError | None = None

    def take(self, answer: Answer) -> bool:
        """One more part; True if it was the last that matters."""
        if answer.fault is not None:
            text = answer.payload.decode(errors="replace")
            self.fault = RequestError(text, _reason(answer.fault))
        elif answer.part != len(self.parts):
            self.fault = RequestError(f"part {len(self.parts)} of the answer was lost", Reason.FAILED)
        elif (size := self.size + len(answer.payload)) > MAX_ANSWER_BYTES:
            self.fault = RequestError(f"the answer has over {MAX_ANSWER_BYTES} bytes", Reason.TOO_LARGE)
        else:
            self.parts.append(answer.payload)
            self.size = size
            return answer.is_last
        return True


def _reason(word: str) -> Reason:
    """The reason of this name; FAILED for one that a later version has."""
    return Reason(word) if word in set(Reason) else Reason.FAILED


class Asker:
    """The server's side. `ask` and `counters` from any thread, `hear` from the channel's."""

    def __init__(self, channel: Channel, silent_s: Callable[[], float]) -> None:
        """`silent_s` gives the seconds since the last word of the sampler."""
        self._channel = channel
        self._silent_s = silent_s
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._outcomes: Counter[str] = Counter()
        # begins anywhere: an answer to the server before this one is taken for nobody's
        self._ids = itertools.count(secrets.randbits(62))

    def ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """What the sampler answers, as plain msgpack values. RequestError with the reason if it does not. Waits."""
        try:
            result = self._ask(kind, arguments, timeout_s)
        except RequestError as exc:
            self._count(exc.reason.value)
            raise
        self._count("answered")
        return result

    def hear(self, answer: Answer) -> None:
        """Gives a part of an answer to who waits for it."""
        with self._lock:
            waiting = self._waiting.get(answer.id)
            if waiting is None:
                self._outcomes["late"] += 1  # parts, not requests
                return
            if waiting.take(answer):
                del self._waiting[answer.id]
                waiting.done.set()

    def counters(self) -> dict[str, int]:
        """Requests by outcome: answered, or the reason why not; `late` counts parts of answers that nobody waited for."""
        with self._lock:
            return dict(self._outcomes)

    @property
    def waiting(self) -> int:
        """Requests that wait for an answer now."""
        return len(self._waiting)

    def _count(self, outcome: str) -> None:
        with self._lock:
            self._outcomes[outcome] += 1

    def _ask(self, kind: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        if (silent_s := self._silent_s()) > SILENCE_S:
            raise RequestError(f"the sampler does not run: it has said nothing for {silent_s:.0f} s", Reason.NOT_RUNNING)
        try:
            size = len(msgspec.msgpack.encode((kind, arguments)))
        except (TypeError, ValueError, OverflowError) as exc:
            raise RequestError(f"arguments: {exc}", Reason.REFUSED) from exc
        if size > MAX_ARGUMENTS_BYTES:
            raise RequestError(f"arguments: expected at most {MAX_ARGUMENTS_BYTES} bytes, got {size}", Reason.TOO_LARGE)
        waiting = _Waiting()
        request = Request(next(self._ids), kind, arguments, time.monotonic_ns() + int(timeout_s * 1e9))
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise RequestError(f"{MAX_WAITING} requests wait for the sampler", Reason.BUSY)
            self._waiting[request.id] = waiting
        try:
            if not self._channel.send(request):
                raise RequestError("the sampler does not read what it is sent", Reason.NOT_RUNNING)
            waiting.done.wait(timeout_s)
        finally:
            with self._lock:
                self._waiting.pop(request.id, None)
        if waiting.fault is not None:
            raise waiting.fault
        if not waiting.done.is_set():
            if self._silent_s() >= timeout_s and not waiting.parts:
                raise RequestError(f"the sampler has said nothing for {self._silent_s():.0f} s", Reason.NOT_RUNNING)
            raise RequestError(f"{kind}: no whole answer within {timeout_s:g} s", Reason.TIMED_OUT)
        return msgspec.msgpack.decode(b"".join(waiting.parts))
