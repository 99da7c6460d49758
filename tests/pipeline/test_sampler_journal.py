"""Sampler, journal thread and the journal itself, over several starts."""

from pathlib import Path
from typing import Any

from tests.pipeline.sampler_rig import ORIGIN, PLUGIN_METRIC, CpuCollector, FakeTree, SamplerClock, World

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.identity import live_containers
from tidegauge.pipeline.journal import JournalConfig, JournalReader, JournalWriter
from tidegauge.pipeline.log_thread import Heads, LogThread
from tidegauge.pipeline.records import Container, End, Gap, RecordType, Sample, Schema, decode_record, decode_samples
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.sampler_config import SamplerConfig


class Start:
    """One start of the sampler process: small segments, so that heads are written again and again."""

    def __init__(self, folder: Path, world: World, clock: SamplerClock) -> None:
        self.clock = clock
        heads = Heads()
        self.writer = JournalWriter(folder, JournalConfig(segment_bytes=65536), heads.frames, clock.time_ms)
        found = self.writer.open()
        known = live_containers((f.type, f.payload) for f in found.frames)
        heads.begin(known)
        self.journal = LogThread(self.writer, heads, 0.01)
        catalogue = Catalogue()
        catalogue.add("a plug-in", [PLUGIN_METRIC])
        self.sampler = Sampler(
            SamplerConfig(dynamic=False),
            [("cpu", CpuCollector(world))],
            catalogue,
            ORIGIN,
            self,
            known=known,
            last_time_ms=found.last_time_ms,
            first_row=found.first_row,
            clock=clock,
            tree=FakeTree(world),
        )
        self.rows = 0
        self.journal.start()
        self.sampler.begin()

    def put(self, items: Any, time_ms: int) -> bool:
        """Waits where the real one refuses, so that the test loses nothing."""
        while not self.journal.put(items, time_ms):
            pass
        self.rows += sum(len(i) if isinstance(i, list) else 1 for i in items)
        return True

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            due_ns = self.sampler.turn()
            self.clock.advance((due_ns - self.clock.monotonic_ns()) / 1e9)

    def stop(self) -> None:
        self.sampler.close()
        assert self.journal.stop(10)
        self.writer.close()


def read_all(folder: Path, end_row: int) -> list[Any]:
    """Every record of the log in order, samples one by one; copies at the heads of segments are not records."""
    out: list[Any] = []
    reader = JournalReader(folder, 0)
    try:
        while frames := reader.read(end_row, 1 << 20):
            for frame in frames:
                if frame.is_copy:
                    continue
                if frame.type == RecordType.SAMPLES:
                    out.extend(decode_samples(frame.payload))
                else:
                    out.append(decode_record(frame.type, frame.payload, frame.first_row))
    finally:
        reader.close()
    return out


def test_the_log_tells_one_story_over_starts_and_decodes_from_any_row(tmp_path: Path) -> None:
    world, clock = World(), SamplerClock()
    for n in range(20):
        world.make(f"/{n}")
    rows = 0
    for start in range(3):
        running = Start(tmp_path, world, clock)
        running.run(60)
        world.make(f"/new-{start}")
        world.remove(f"/{start}")
        running.run(60)
        running.stop()
        rows += running.rows
        clock.advance(10)
    assert running.writer.accepted == rows
    records = read_all(tmp_path, running.writer.appended_row)
    assert len(records) == rows
    containers: dict[int, Container] = {}
    numbers: set[int] = set()
    schemas: set[int] = set()
    for record in records:
        match record:
            case Container():
                assert record.number not in numbers
                numbers.add(record.number)
                containers[record.number] = record
            case Schema():
                schemas.add(record.id)
            case Sample():
                assert record.container in containers
                assert record.schema in schemas
            case End():
                del containers[record.container]
    assert {c.path for c in containers.values()} == set(world.dirs)
    assert len([r for r in records if isinstance(r, Gap)]) == 2
    assert len(list(tmp_path.glob("segment-*"))) > 3
    row = 0
    while row < running.writer.appended_row:
        row = assert_decodes(tmp_path, row, running.writer.appended_row)


def assert_decodes(folder: Path, row: int, end_row: int) -> int:
    """What a reader that begins here gets is known to it by then. Returns a row some way behind."""
    reader = JournalReader(folder, row)
    known: set[int] = set()
    try:
        for frame in reader.read(end_row, 1 << 15):
            if frame.type == RecordType.CONTAINER:
                known.add(decode_record(frame.type, frame.payload, 0).number)  # type: ignore[union-attr]
            elif frame.type == RecordType.SCHEMA:
                known.add(decode_record(frame.type, frame.payload, 0).id)  # type: ignore[union-attr]
            elif frame.type == RecordType.SAMPLES:
                assert all({s.container, s.schema} <= known for s in decode_samples(frame.payload))
    finally:
        reader.close()
    return reader.row
