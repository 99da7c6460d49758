"""History in each store: what writing seven days of fifty containers costs, how large they are, and how fast they answer.

Every store is loaded through its own sink from the generator's records, 300 samples a write, and asked the same eight
questions in its own language. Every answer is first held against numpy's.
"""

from collections.abc import Sequence
from pathlib import Path

from bench.generator import History
from bench.questions import QUESTIONS, Asked, Refused
from bench.report import Row, Section
from bench.stores import RAW, STORES, Loaded, ParquetStore, SqliteStore, Store

ROWS_A_WRITE = 300
_SIZES = {RAW: ("at most 5", 5.0), "Parquet": ("at most 1.2", 1.2)}


def run(folder: Path, days: float = 7.0, stores: Sequence[str] = tuple(STORES)) -> list[Section]:
    history = History(days=days)
    asked = Asked(history)
    sections: list[Section] = []
    for name in stores:
        with STORES[name](folder / name) as store:
            loaded = store.load(history.writes(ROWS_A_WRITE))
            if isinstance(store, ParquetStore):
                sections.append(_writing(store.source, history, store.source_loaded))
            sections.append(_writing(store, history, loaded))
            sections += [_asking(store, asked, way, called) for way, called in store.ways.items()]
    return sections


def _writing(store: Store, history: History, loaded: Loaded) -> Section:
    samples, values = history.samples, history.samples * history.values_a_sample
    size = store.size_bytes() / values
    how = "exported from SQLite" if isinstance(store, ParquetStore) else f"{ROWS_A_WRITE} a write"
    rows = [
        Row("samples written", "1/s", (samples / loaded.wall_s,)),
        Row("CPU of tidegauge, a sample", "us", (loaded.client_s / samples * 1e6,)),
    ]
    if store.has_rollups:
        rows.append(Row("CPU of roll-ups, a sample", "us", (loaded.upkeep_s / samples * 1e6,)))
    if loaded.server_s:
        rows.append(Row("CPU of the server, a sample", "us", (loaded.server_s / samples * 1e6,)))
    rows.append(Row("on the disk, a value", "bytes", (size,), *_SIZES.get(store.name, ())))
    if isinstance(store, SqliteStore):
        goal = ("at most 20", 20.0) if store.name in _SIZES else ()
        rows.append(Row("written to the disk, a value", "bytes", (loaded.written_bytes / values,), *goal))
    return Section(f"{store.name}: {samples} samples of {history.values_a_sample} values, {how}", rows)


def _asking(store: Store, asked: Asked, way: str, called: str) -> Section:
    """Latencies, after each answer was found right. AssertionError if one is wrong."""
    rows, notes = [], []
    for question in store.questions(way):
        what = QUESTIONS[question]
        try:
            wrong = store.check(question, asked, way)
        except Refused as exc:
            notes.append(f"Refused: {what}: `{exc}`.")
            continue
        if wrong:
            raise AssertionError(f"{store.name} {called} answers otherwise: {wrong}")
        rows.append(Row(what, "ms", store.latency_ms(question, asked, way), *_GOALS.get((store.name, way, question), ())))
    return Section(f"{store.name}: questions {called}, warm, all answers as expected", rows, " ".join(notes))


_GOALS: dict[tuple[str, str, str], tuple[str, float]] = {
    ("SQLite", "own", "rate"): ("at most 10", 10),
    ("SQLite", "typed", "rate"): ("at most 10", 10),
    ("SQLite", "typed", "top"): ("at most 100", 100),
    ("SQLite", "typed", "p95"): ("at most 200", 200),
}
