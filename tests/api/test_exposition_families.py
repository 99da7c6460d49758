"""The families of the page, their types and labels, against cAdvisor's: recorded from 0.35, and what later versions name.

`cadvisor_families.tsv`: family, type, labels besides a container's own, and where it was seen: on a recorded page of version
0.35 (of a host without a runtime, `raw`; with Docker), or in later versions only.
"""

from pathlib import Path

from tests.api.exposition_rig import full_host, rendered

from tidegauge.api.exposition.families import FAMILIES
from tidegauge.api.exposition.page import NAMES

HERE = Path(__file__).parent
OF_THE_RUNTIME = ("go_", "process_")
"""Families of the language that cAdvisor is written in, and of its process: ours are `tidegauge_*`."""
ABSENT = {
    "container_perf_uncore_events_total",
    "container_perf_uncore_events_scaling_ratio",
    "machine_nvm_capacity",
    "machine_nvm_avg_power_budget_watts",
}
"""Of cAdvisor's, not on our page on any host: nothing reads them."""
MORE_LABELS = {
    "machine_cpu_cache_capacity_bytes": {"socket_id", "cache_id"},
    "machine_thread_siblings_count": {"socket_id"},
}
"""Without these, two caches or threads of a large machine would have one line."""
FEWER_LABELS = {
    "container_perf_events_total": {"cpu"},
    "container_perf_events_scaling_ratio": {"cpu"},
}
"""Always empty, as cAdvisor has it too while it does not count by CPU."""
OF_MACHINES = {"machine_id", "system_uuid", "boot_id"}
OF_CONTAINERS = {"id", "name", "image", "namespace", "pod", "container"}


def _theirs() -> dict[str, tuple[str, set[str], set[str]]]:
    lines = (HERE / "cadvisor_families.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return {name: (kind, set(filter(None, labels.split(","))), set(seen.split(","))) for name, kind, labels, seen in rows}


def test_every_family_of_cadvisor_is_there_with_its_type_and_labels_but_for_the_differences_that_are_listed() -> None:
    page = rendered(full_host())
    kinds = page.kinds
    theirs = {name: row for name, row in _theirs().items() if not name.startswith(OF_THE_RUNTIME)}
    assert theirs.keys() - kinds.keys() == ABSENT
    assert kinds.keys() - theirs.keys() == set()
    for name, (kind, labels, _) in theirs.items():
        if name in ABSENT:
            continue
        assert kinds[name] == kind, name
        ours = {label for s in page.series if s.name == name for label, _ in s.labels}
        own = {label for label in ours if label.startswith(("container_label_", "container_env_"))}
        if name.startswith("machine_") and name != "machine_scrape_error":
            assert ours - labels == OF_MACHINES | MORE_LABELS.get(name, set()), name
        elif labels or not name.startswith(("machine_", "cadvisor_", "container_scrape_error")):
            known = OF_CONTAINERS | own if name.startswith("container_") else set()
            assert ours - labels - known == set(), name
            assert labels - ours <= FEWER_LABELS.get(name, set()), name
            assert known <= ours or name == "container_scrape_error", name


def test_no_family_is_named_twice_and_each_has_a_help_text_of_its_own() -> None:
    names = [f.name for f in FAMILIES]
    assert len(names) == len(set(names))
    assert set(names) <= set(NAMES)
    assert all(f.help.endswith(".") and len(f.help) > 8 for f in FAMILIES)


def test_every_metric_and_label_that_known_dashboards_use_is_on_the_page() -> None:
    page = rendered(full_host())
    for line in (HERE / "dashboard_needs.tsv").read_text().splitlines()[1:]:
        source, metric, labels = line.split("\t")
        assert set(filter(None, labels.split(","))) <= page.labels_of(metric), (source, metric)
        assert page.values(metric), (source, metric)
