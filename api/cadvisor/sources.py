"""What an answer is made from: the stores of one moment, and what the request may see."""

from typing import NamedTuple

from tidegauge.api.cadvisor.catalog import Catalog
from tidegauge.api.cadvisor.series import Series
from tidegauge.api.cadvisor.summary import Summaries
from tidegauge.pipeline.latest import KeepsSamples
from tidegauge.pipeline.plugin import PointReader


class Sources(NamedTuple):
    store: KeepsSamples
    history: PointReader | None
    """The store of older samples; None: there is none."""
    catalog: Catalog
    series: Series
    summaries: Summaries
    is_strict: bool
    may_see_secrets: bool
