"""Journal append, a batch of 50 container-samples each: with one fdatasync in ten batches, at each batch, and with none."""

import itertools
from pathlib import Path
from typing import Literal

from bench.data import containers, folder, per_sample, ticks
from bench.report import Row, Section, ratio
from bench.timing import Prepare, Work, in_turns
from tidegauge.pipeline.journal import JournalConfig, JournalWriter
from tidegauge.pipeline.records import RecordType, encode_samples

SAMPLES, BATCHES = 50, 200


def run(parent: Path, repeats: int = 5) -> list[Section]:
    batches = [b.samples for b in ticks(10, containers(SAMPLES))]
    serial = itertools.count()

    def append(sync_each: int, *, durability: Literal["normal", "full"] = "normal") -> Prepare:
        def prepare() -> Work:
            config = JournalConfig(durability=durability, sync_interval_s=1)
            writer = JournalWriter(folder(parent, f"journal{next(serial)}"), config, lambda: ())
            writer.open()

            def work() -> None:
                for i in range(BATCHES):
                    samples = batches[i % len(batches)]
                    writer.append(RecordType.SAMPLES, encode_samples(samples), len(samples), samples[0].ts_ms)
                    if sync_each and i % sync_each == sync_each - 1:
                        writer.sync()
                writer.close()

            return work

        return prepare

    works = {"none": append(0), "ten": append(10), "each": append(0, durability="full")}
    us = {name: per_sample(t, SAMPLES * BATCHES) for name, t in in_turns(works, repeats).items()}
    return [
        Section(
            "Journal append, CPU of one container-sample, encoding included",
            [
                Row("without fdatasync (one a second, and at the end)", "us", us["none"]),
                Row("one fdatasync in ten batches", "us", us["ten"]),
                Row('durability "full": one at each batch', "us", us["each"]),
                ratio("one in ten / without", us["ten"], us["none"], "at most 3", 3),
            ],
        )
    ]
