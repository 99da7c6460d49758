"""How far a sink may fall behind the log: at the bound its oldest rows are given up, or it is fed thinned before that."""

from tidegauge.pipeline.clock import RunnerClock
from tidegauge.pipeline.feed import Feed
from tidegauge.pipeline.journal import BEGINNING, Position
from tidegauge.pipeline.ledger import Ledger
from tidegauge.pipeline.log_view import Log
from tidegauge.pipeline.options import RunnerOptions

BOUND_INTERVAL_S = 5.0
"""How often the lag is held against its bounds; a look reads the header of every segment."""


class LagBounds:
    """The bounds of one sink. The runner's thread; `oldest_row` another one, always the same."""

    def __init__(self, log: Log, ledger: Ledger, feed: Feed, options: RunnerOptions, clock: RunnerClock) -> None:
        self._log = log
        self._ledger = ledger
        self._feed = feed
        self._options = options
        self._clock = clock
        self._held_at_s = self._looked_at_s = float("-inf")
        self._oldest_row = 0

    def hold(self, accepted: int) -> bool:
        """Holds the lag against its bounds, from time to time; True if what was read is no longer what is to be delivered.

        `accepted`: rows in the log up to its end.
        """
        position, now_s = self._ledger.position, self._clock.monotonic()
        if now_s - self._held_at_s < BOUND_INTERVAL_S or position.accepted_before >= accepted:
            return False
        self._held_at_s = now_s
        must_read_again = False
        if self._options.lag_policy == "downsample":
            # From half of the bound on, so that thinning has a chance; the bound itself holds for every policy.
            was_thinning = self._feed.is_thinning
            self._feed.is_thinning = self._bound(4 if was_thinning else 2).row > position.row
            must_read_again = self._feed.is_thinning and not was_thinning
        bound = self._bound(1)
        if bound.row <= position.row:
            return must_read_again
        self._ledger.jump(bound, "bound")
        return True

    def oldest_row(self) -> int:
        """The oldest row within the bounds, not older than a few seconds; 0 if all of the log is."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_at_s >= 2 * BOUND_INTERVAL_S:
            self._looked_at_s = now_s
            self._oldest_row = self._bound(1).row
        return self._oldest_row

    def _bound(self, share: int) -> Position:
        """The oldest place within this share of the bounds; BEGINNING if all of the log is.

        What the log has lost below its first row is not beyond a bound: the reader tells why it is gone.
        """
        oldest_ms = self._clock.time_ms() - round(self._options.lag_age_s * 1000 / share)
        bound = self._log.row_within(self._options.lag_bytes // share, oldest_ms)
        return BEGINNING if bound.row <= self._log.first_row().row else bound
