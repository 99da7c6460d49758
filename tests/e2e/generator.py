"""A deterministic generator in place of the collectors: a journal with a sequence number in every row, made in a second."""

from pathlib import Path

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.journal import JournalConfig, JournalWriter
from tidegauge.pipeline.records import Container, RecordType, Sample, encode_record, encode_samples

SOURCE = "3f0c7a52-6c1d-4d0e-9a58-7b1f2e4c9d10"
_METRICS = tuple(m.name for m in Catalogue().of_table("sample"))


def fill(
    folder: Path,
    containers: int,
    rounds: int,
    step_ms: int,
    end_ms: int,
    segment_bytes: int = 8 << 20,
    poison_row: int | None = None,
) -> int:
    """Writes `rounds` batches of one sample a container, `step_ms` apart, the last at `end_ms`; returns the samples.

    The memory usage of a sample is its sequence number. The sample number `poison_row` holds a number beyond 64 bit signed.
    """
    schema = Catalogue().schema(_METRICS, ())
    heads: list[tuple[int, bytes]] = []
    folder.mkdir(parents=True, exist_ok=True)
    writer = JournalWriter(folder, JournalConfig(segment_bytes=segment_bytes, sync_interval_s=1e6), lambda: heads)
    writer.open()
    begin_ms = end_ms - (rounds - 1) * step_ms
    for record in (schema, *(_container(n, begin_ms) for n in range(1, containers + 1))):
        type_, payload = encode_record(record)
        heads.append((type_, payload))
        writer.append(type_, payload, 1, begin_ms)
    number = 0
    usage, width = _METRICS.index("memory_usage_bytes"), len(_METRICS)
    for i in range(rounds):
        ts_ms = begin_ms + i * step_ms
        samples = []
        for n in range(1, containers + 1):
            number += 1
            values = [number * 1000 + k for k in range(width)]
            values[usage] = 2**63 + 5 if number == poison_row else number
            samples.append(Sample(n, ts_ms, schema.id, tuple(values)))
        for at in range(0, containers, 1000):
            part = samples[at : at + 1000]
            writer.append(RecordType.SAMPLES, encode_samples(part), len(part), ts_ms)
    writer.close()
    return number


def _container(number: int, at_ms: int) -> Container:
    return Container(
        number=number,
        source=SOURCE,
        instance=f"{number:016x}",
        epoch=0,
        boot_id="gone",
        path=f"/generated/c{number}",
        host="generator",
        created_ms=at_ms,
        valid_from_ms=at_ms,
        base_interval_s=10.0,
    )
