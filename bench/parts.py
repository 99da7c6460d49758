"""Where the CPU time of one container-sample goes: each part by itself, in its own process or on generated samples."""

import time
from contextlib import ExitStack
from pathlib import Path

from bench.cgroups import Cgroups
from bench.collect import Worker, allow_many_files
from bench.data import containers, per_sample, ticks
from bench.report import Row, Section
from bench.timing import in_turns
from tidegauge.pipeline.records import decode_samples, encode_samples

_READERS = (
    ("cgroup", "the cgroup files"),
    ("netdev", "net/dev of the container's own network namespace"),
    ("taskload", "tasks by state, for the load"),
    ("sampler", "a turn of the sampler: these three, the host, and joining them to samples"),
)


def run(folder: Path, count: int = 300, rounds: int = 3, repeats: int = 3) -> list[Section]:
    from tidegauge.sinks.memory import MemoryConfig, MemorySink

    allow_many_files()
    found: dict[str, list[float]] = {name: [] for name, _ in _READERS}
    with Cgroups(count, folder, has_network=True) as group, ExitStack() as stack:
        group.busy(max(1, count * 3 // 100))
        workers = {name: stack.enter_context(Worker(name, group.paths)) for name, _ in _READERS}
        time.sleep(1)
        for _ in range(repeats):
            for name, worker in workers.items():
                found[name].append(worker.measure(rounds, 1000) / count)
    rows = [Row(text, "us", tuple(found[name])) for name, text in _READERS]

    of = containers(count)
    batches = list(ticks(20, of, has_tables=True))
    payloads = [encode_samples(b.samples) for b in batches]
    memory = MemorySink(MemoryConfig())
    memory.write([*of.values()])
    works = {
        "encoding for the journal": lambda: lambda: [encode_samples(b.samples) for b in batches],
        "decoding for one sink": lambda: lambda: [decode_samples(p) for p in payloads],
        "the memory sink": lambda: lambda: memory.write(batches),
    }
    times = in_turns(works, repeats)
    rows += [Row(text, "us", per_sample(used, count * len(batches))) for text, used in times.items()]
    note = "The store's share is under SQL write. They do not add up to the whole: threads, messages, the server remain."
    return [Section(f"Where it goes: CPU of one container-sample at 1 Hz, {count} cgroups, 3 % busy", rows, note)]
