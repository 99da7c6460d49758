"""For tests of plug-ins, ours and a stranger's: builders of records, a fake clock, a recording sink, the contract of sinks.

Needs pytest, which is no dependency of the program. Public API:

    class TestMySink(SinkContract):
        def make_sink(self, tmp_path):
            return MySink(MyConfig(path=tmp_path / "db"))

        def stored(self, sink):
            return [((row.instance, row.epoch, row.ts_ms), row.metrics) for row in sink.everything()]
"""

from tidegauge.pipeline.testing.clock import FakeClock
from tidegauge.pipeline.testing.contract import SinkContract
from tidegauge.pipeline.testing.log import ListLog
from tidegauge.pipeline.testing.records import (
    BOOT_ID,
    METRICS,
    PLUGIN_METRICS,
    SOURCE,
    START_MS,
    TABLES,
    Key,
    Stored,
    flat,
    generate_records,
    make_batch,
    make_container,
    make_sample,
    make_schema,
    rows_of,
)
from tidegauge.pipeline.testing.sink import RecordingConfig, RecordingSink

__all__ = [
    "BOOT_ID",
    "METRICS",
    "PLUGIN_METRICS",
    "SOURCE",
    "START_MS",
    "TABLES",
    "FakeClock",
    "Key",
    "ListLog",
    "RecordingConfig",
    "RecordingSink",
    "SinkContract",
    "Stored",
    "flat",
    "generate_records",
    "make_batch",
    "make_container",
    "make_sample",
    "make_schema",
    "rows_of",
]
