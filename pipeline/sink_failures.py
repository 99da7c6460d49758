"""What goes wrong between a runner and its sink: counted always, logged when it begins and when it ends."""

import logging

from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.errors import JournalError, PartialWriteError, PermanentError, RetryableError, TooLargeError

_LOG = logging.getLogger(__name__)

REFUSED_LOG_INTERVAL_S = 60.0
"""How often refused rows are logged at most."""


class SinkFailures:
    """The failures of one sink. The runner's thread; what is counted may be read by any."""

    def __init__(self, name: str, clock: RunnerClock) -> None:
        self._name = name
        self._clock = clock
        self._kind: str | None = None
        """Of the failure that lasts; None while the sink works."""
        self._refused_at_s = float("-inf")
        self.last_error: str | None = None
        """The newest failure, whether or not it is over."""
        self.unknown_errors = 0
        self.config_faults = 0

    def remember(self, exc: Exception) -> None:
        """Takes it for the newest failure, without counting or logging it."""
        self.last_error = f"{type(exc).__name__}: {exc}"

    def note(self, exc: Exception) -> None:
        """Counts a failure, and logs it when it begins."""
        self.remember(exc)
        kind = type(exc).__name__
        if getattr(exc, "is_config_fault", False):
            kind = "configuration"
            self.config_faults += 1
        elif isinstance(exc, TooLargeError | PartialWriteError | PermanentError):
            # The store answers, and the account counts the rows: a bad one in each batch must not fill the log.
            now_s = self._clock.monotonic()
            if now_s - self._refused_at_s >= REFUSED_LOG_INTERVAL_S:
                self._refused_at_s = now_s
                _LOG.warning("sink %s refuses rows: %s", self._name, self.last_error)
            return
        elif not isinstance(exc, RetryableError | JournalError):
            self.unknown_errors += 1
        if self._kind != kind:
            self._kind = kind
            hint = " (a fault of the configuration; it is tried again all the same)" if kind == "configuration" else ""
            _LOG.warning("sink %s fails: %s%s", self._name, self.last_error, hint)

    def end(self) -> None:
        """The sink works."""
        if self._kind is not None:
            self._kind = None
            _LOG.info("sink %s works again", self._name)
