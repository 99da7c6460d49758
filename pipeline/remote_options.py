"""Options of every remote, in the table `[remotes.NAME]`, whatever its format."""

from typing import Annotated

import msgspec

from tidegauge.pipeline.options import Positive


class RemoteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How another host is asked, and what of it is recorded."""

    enabled: bool = True
    format: str = "cadvisor"
    """What it speaks: `cadvisor` (its REST API, v1.3), `kubelet` (`/stats/summary`), or what a plug-in brings."""
    interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 5.0
    """How often it is asked. An answer of cAdvisor holds every reading since the one before, up to a minute or two back."""
    include: tuple[str, ...] = ()
    """Shell patterns of paths there; empty: all. The host `/` is always recorded."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of paths that are left out with all that is below them."""
    base_interval_s: Positive | None = None
    max_interval_s: Positive | None = None
    """How often the other host samples an active and an idle container, where that is not the usual of its format."""
    retry_min_s: Positive = 1.0
    retry_max_s: Positive = 60.0
    """While it does not answer: a random time between 0 and a ceiling that doubles from the first to the second."""

    def __post_init__(self) -> None:
        if self.retry_min_s > self.retry_max_s:
            raise ValueError(f"retry_min_s: expected at most retry_max_s ({self.retry_max_s:g}), got {self.retry_min_s:g}")
