"""The exception tree.

TidegaugeError
 ├─ ConfigError            the start stops, exit code 78
 ├─ NoData                 collector: nothing here on this kernel or host, and that is fine
 ├─ CollectError           a reading failed: counted, logged once a change of state, next run as usual
 ├─ JournalError           the journal cannot go on (locked, unreadable folder)
 ├─ RequestError           what the server asked the sampler was not answered; its `reason` says why
 └─ SinkError
     ├─ StoreLostError     what was stored is gone: a new account, and all that the log keeps is delivered again
     ├─ RetryableError     keep the batch, back off (retry_after_s honoured)
     ├─ TooLargeError      the store refuses the size: the runner halves the batch
     ├─ PartialWriteError  some rows rejected: these go to the dead letters, the rest was stored
     └─ PermanentError     will never be taken: halved down to single rows, these to the dead letters
"""

from collections.abc import Mapping
from enum import StrEnum


class TidegaugeError(Exception):
    """Root of everything that tidegauge raises on purpose."""


class ConfigError(TidegaugeError):
    """The configuration is wrong. The message names path, expected and got."""


class NoData(TidegaugeError):
    """This kernel or host does not offer it. Not a fault."""


class CollectError(TidegaugeError):
    """A reading failed although the kernel should offer it."""


class JournalError(TidegaugeError):
    """The journal cannot be opened or appended to."""


class Reason(StrEnum):
    """Why a request was not answered."""

    NOT_RUNNING = "not_running"
    """The sampler is silent: it is being started again, or hangs."""
    TIMED_OUT = "timed_out"
    BUSY = "busy"
    """Too many requests are being answered."""
    REFUSED = "refused"
    """The request is wrong: an unknown kind, or arguments that cannot be."""
    NOT_FOUND = "not_found"
    """What it asks about does not exist."""
    TOO_LARGE = "too_large"
    """The answer, or the request, is larger than may be sent."""
    FAILED = "failed"
    """The handler raised, or a part of the answer was lost."""


class RequestError(TidegaugeError):
    """A request to the sampler was not answered."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class SinkError(TidegaugeError):
    """Root of what a sink raises on purpose."""


class RetryableError(SinkError):
    """The store may take it later. `retry_after_s` is what the store asked for, or None."""

    def __init__(self, message: str, retry_after_s: float | None = None, *, is_config_fault: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_config_fault = is_config_fault
        """True for 401, 403, 404: retried all the same, but logged as a fault of the configuration."""


class StoreLostError(SinkError):
    """What the store held cannot be had any more; the sink has seen to it that an empty one takes its place.

    May be raised by any call. The runner begins anew, with the first row that the log keeps.
    """


class TooLargeError(SinkError):
    """The store refuses the size of the request (HTTP 413)."""


class PermanentError(SinkError):
    """The store will never take these records as they are."""


class PartialWriteError(SinkError):
    """Some rows were rejected for good; every other row of the call is stored.

    `rejected` maps row number -> reason.
    """

    def __init__(self, message: str, rejected: Mapping[int, str]) -> None:
        super().__init__(message)
        self.rejected = dict(rejected)
