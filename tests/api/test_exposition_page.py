"""What the page says of given samples."""

import msgspec
from tests.api.exposition_rig import MACHINE, SPEC, everything, full_host, full_sample, parsed, rendered

from tidegauge.api.exposition.page import Renderer
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.groups import GROUPS
from tidegauge.pipeline.latest import Latest
from tidegauge.pipeline.records import UNLIMITED, Container, Kind, Metric, Spec, TableRows, Value
from tidegauge.pipeline.series import series_text
from tidegauge.pipeline.testing.records import START_MS, make_container, make_schema


def known(container: Container, tables: dict[str, TableRows] | None = None, **values: Value) -> tuple[Container, Latest]:
    """The container with a sample of these metrics and tables alone."""
    tables = tables or {}
    schema = make_schema(tuple(values), tuple(tables))
    return container, Latest(START_MS, schema, tuple(values.values()), tuple(tables.values()))


def test_every_value_is_on_the_page_in_the_unit_of_its_family() -> None:
    here = full_host()
    page = rendered(here)
    _, latest = here[1]
    assert latest is not None
    values = dict(zip(latest.schema.names, latest.values, strict=True))
    tables = {t.name: rows for t, rows in zip(latest.schema.tables, latest.tables, strict=True)}
    docker = {"id": "/docker/abc"}

    def cell(table: str, metric: str, instance: str) -> float:
        (schema,) = (t for t in latest.schema.tables if t.name == table)
        place = [m.name for m in schema.metrics].index(metric)
        (row,) = (row for row in tables[table] or () if row[0] == instance)
        value = row[1 + place]
        assert isinstance(value, int)
        return value

    assert page.value("container_memory_usage_bytes", **docker) == values["memory_usage_bytes"]
    assert page.value("container_cpu_user_seconds_total", **docker) == (values["cpu_user_ns"] or 0) / 1e9
    assert page.value("container_tasks_state", state="iowaiting", **docker) == values["tasks_io_waiting"]
    assert (
        page.value("container_cpu_usage_seconds_total", cpu="cpu01", **docker) == cell("percpu", "percpu_usage_ns", "1") / 1e9
    )
    assert page.value("container_network_transmit_errors_total", interface="eth0", **docker) == cell(
        "network", "network_transmit_errors", "eth0"
    )
    assert page.value("container_network_tcp6_usage_total", tcp_state="finwait1", **docker) == cell(
        "tcp", "tcp_fin_wait1", "tcp6"
    )
    assert page.value("container_network_udp_usage_total", udp_state="rxqueued", **docker) == cell(
        "udp", "udp_receive_queue_bytes", "udp"
    )
    assert page.value("container_fs_usage_bytes", device="/dev/vda1", id="/docker/abc") in (
        cell("disk_usage", "disk_usage_bytes", "/dev/vda1"),
        cell("filesystem", "filesystem_usage_bytes", "/dev/vda1"),
    )
    assert page.value("container_blkio_device_usage_total", major="254", minor="0", operation="Async", **docker) == cell(
        "disk_io", "disk_async_bytes", "vda"
    )
    assert page.value("container_hugetlb_usage_bytes", pagesize="2MB", **docker) == cell(
        "hugetlb", "hugetlb_usage_bytes", "2MB"
    )
    assert page.value("container_llc_occupancy_bytes", node_id="0", **docker) == cell("resctrl", "llc_occupancy_bytes", "0")
    assert page.value("container_network_advance_tcp_stats_total", tcp_state="tcptimeouts", **docker) == values["tcp_timeouts"]
    assert page.value("container_pressure_io_waiting_seconds_total", **docker) == (values["io_pressure_some_ns"] or 0) / 1e9


def test_service_times_of_a_containers_requests_add_up_to_its_time_of_io() -> None:
    row = ("vda", 2_000_000_000, 500_000_000, *[None] * 11)
    page = rendered([known(make_container(), {"disk_io_ext": (row, ("8:3", 1_000_000_000, None, *[None] * 11))})])
    assert page.value("container_fs_read_seconds_total", device="/dev/vda") == 2
    assert page.values("container_fs_io_time_seconds_total") == [2.5]
    assert page.value("container_fs_read_seconds_total", device="8:3") == 1


def test_no_two_lines_are_the_same_series() -> None:
    page = rendered(full_host())
    keys = [(s.name, s.labels) for s in page.series]
    assert len(keys) == len(set(keys))


def test_series_of_containers_all_have_the_same_labels_and_an_empty_one_where_there_is_none() -> None:
    page = rendered(full_host())
    sets = {frozenset(k for k, _ in s.labels) for s in page.series if s.name == "container_last_seen"}
    assert len(sets) == 1
    assert page.values("container_last_seen", id="/", name="", image="", container_label_com_docker_compose_service="") == [
        START_MS // 1000
    ]
    alone = rendered([(make_container(path="/a", name=None, image=None, labels={}), None)])
    (series,) = (s for s in alone.series if s.name == "container_last_seen")
    assert dict(series.labels) == {"id": "/a"}


def test_a_value_that_is_not_known_has_no_line_and_a_family_without_lines_no_head() -> None:
    page = rendered([known(make_container(), memory_usage_bytes=None, memory_rss_bytes=5)])
    assert "container_memory_usage_bytes" not in page.kinds
    assert page.value("container_memory_rss") == 5
    assert page.values("container_cpu_usage_seconds_total") == []


def test_cpu_time_is_by_cpu_where_the_kernel_splits_it_and_in_total_elsewhere() -> None:
    rows: TableRows = (("0", 5_000_000_000), ("1", 0), ("11", 2_000_000_000))
    page = rendered(
        [
            known(make_container(1), {"percpu": rows}, cpu_usage_ns=7_000_000_000),
            known(make_container(2), {"percpu": ()}, cpu_usage_ns=9_000_000_000),
            known(make_container(3), cpu_usage_ns=4_000_000_000),
            known(make_container(4), cpu_usage_ns=0),
        ]
    )
    found = {(dict(s.labels)["name"], dict(s.labels)["cpu"]): s.value for s in page.series if "cpu_usage" in s.name}
    assert found == {("web-1", "cpu00"): 5, ("web-1", "cpu11"): 2, ("web-2", "total"): 9, ("web-3", "total"): 4}


def test_periods_of_a_quota_are_shown_of_containers_that_have_one() -> None:
    limited, free, unread = (
        make_container(n, spec=spec)
        for n, spec in ((1, SPEC), (2, Spec(cpu_quota_us=UNLIMITED, cpu_period_us=100_000)), (3, None))
    )
    page = rendered([known(c, cpu_periods=3) for c in (limited, free, unread)])
    assert page.values("container_cpu_cfs_periods_total") == page.values("container_cpu_cfs_periods_total", name="web-1") == [3]
    assert page.values("container_spec_cpu_quota") == [50_000]
    assert page.values("container_spec_cpu_period") == [100_000, 100_000]


def test_limits_that_are_none_are_shown_as_cadvisor_shows_them() -> None:
    free = Spec(memory_limit_bytes=UNLIMITED, memory_swap_limit_bytes=UNLIMITED, memory_reservation_bytes=UNLIMITED)
    page = rendered(
        [
            known(make_container(1, "/", spec=free, machine=MACHINE), pids_limit=UNLIMITED, open_files_soft_limit=UNLIMITED),
            known(make_container(2, spec=free), pids_limit=7, open_files_soft_limit=1024),
        ]
    )
    assert page.values("container_spec_memory_limit_bytes") == [8 << 30, 0]
    assert page.values("container_spec_memory_swap_limit_bytes") == [1 << 30, 0]
    assert page.values("container_threads_max") == [0, 7]
    assert page.values("container_ulimits_soft", ulimit="max_open_files") == [-1, 1024]


def test_times_and_health_come_from_the_record() -> None:
    page = rendered(full_host())
    assert page.value("container_creation_time_seconds", id="/docker/abc") == START_MS / 1000 - 60
    assert page.value("container_start_time_seconds", id="/docker/abc") == START_MS / 1000 - 10
    assert page.value("container_health_state", id="/docker/abc") == 1
    assert page.value("container_health_state", id="/kubepods/pod1/def") == -1
    assert page.values("container_health_state", id="/") == []


def test_what_changed_in_a_record_is_on_the_next_page() -> None:
    renderer = Renderer(())
    container, sample = known(make_container(spec=SPEC), memory_rss_bytes=1)
    renderer.render([(container, sample)], 0.0)
    changed = msgspec.structs.replace(container, name="other", labels={"new": "1"}, spec=Spec(cpu_shares=2))
    page = parsed(renderer.render([(changed, sample), known(make_container(9), memory_rss_bytes=2)], 0.0))
    assert page.values("container_memory_rss", name="other", container_label_new="1") == [1]
    assert page.values("container_memory_rss", name="web-9", container_label_new="") == [2]
    assert page.values("container_spec_cpu_shares") == [2]
    assert parsed(renderer.render([], 0.0)).values("container_memory_rss") == []


def test_a_label_that_one_container_brings_is_on_the_series_of_all() -> None:
    renderer = Renderer(())
    old = known(make_container(1, spec=SPEC, labels={}), memory_rss_bytes=1)
    for others, count in (([], 3), ([known(make_container(2, labels={"new": "1"}), memory_rss_bytes=2)], 4), ([], 3)):
        page = parsed(renderer.render([old, *others], 0.0))
        for name in ("container_memory_rss", "container_spec_cpu_shares", "container_last_seen"):
            assert {len(s.labels) for s in page.series if s.name == name} == {count}


def test_of_two_containers_at_one_path_the_newer_is_shown() -> None:
    page = rendered([(make_container(n, "/a", name=f"n{n}", instance=f"{n:016x}"), None) for n in (3, 4, 2)])
    assert [dict(s.labels)["name"] for s in page.series if s.name == "container_last_seen"] == ["n4"]


def test_containers_of_other_hosts_are_left_out() -> None:
    page = rendered([(make_container(1, "/"), None), (make_container(2, "/", remote="there", host="b"), None)])
    assert len(page.values("container_last_seen")) == 1


def test_the_hosts_disks_have_one_line_each_whoever_counted() -> None:
    zeros = (0,) * 13
    page = rendered(
        [
            known(
                make_container(1, "/"),
                {"host_disk": (("vda", 9, *zeros[1:]), ("vdb", 8, *zeros[1:])), "disk_io": (("vda", *[7] * 10),)},
            )
        ]
    )
    found = {dict(s.labels)["device"]: s.value for s in page.series if s.name == "container_fs_reads_total"}
    assert found == {"/dev/vda": 7, "/dev/vdb": 8}


def test_timestamps_stand_behind_samples_only_if_they_are_wanted() -> None:
    assert {s.timestamp for s in rendered(full_host()).series} == {None}
    text = Renderer(GROUPS, has_timestamps=True).render(full_host(), 0.0)
    page = parsed(text)
    stamped = {s.name for s in page.series if s.timestamp is not None}
    assert {s.timestamp for s in page.series if s.name in stamped} == {START_MS / 1000}
    assert not any(name.startswith(("machine_", "container_spec_", "container_start")) for name in stamped)
    assert {"container_memory_rss", "container_network_receive_bytes_total"} <= stamped
    openmetrics = Renderer(GROUPS, has_timestamps=True).render(full_host(), 0.0, is_openmetrics=True)
    for s in parsed(openmetrics + "# EOF\n", is_openmetrics=True).series:
        assert s.timestamp is None or float(s.timestamp) == START_MS / 1000


def test_openmetrics_says_the_same_under_the_same_names() -> None:
    text = rendered(full_host())
    other = parsed(Renderer(GROUPS).render(full_host(), START_MS / 1000, is_openmetrics=True) + "# EOF\n", is_openmetrics=True)
    assert other.series == text.series
    assert other.kinds["container_cpu_user_seconds"] == "counter"
    assert other.kinds["container_memory_failcnt"] == "unknown"
    assert other.kinds["container_network_tcp_usage_total"] == "gauge"


def test_without_a_store_the_page_says_that_nothing_is_known() -> None:
    page = rendered(None)
    assert page.value("container_scrape_error") == 1
    assert page.value("machine_scrape_error") == 1
    assert {s.name for s in page.series} == {"container_scrape_error", "machine_scrape_error", "cadvisor_version_info"}
    known_page = rendered(full_host())
    assert known_page.value("container_scrape_error") == known_page.value("machine_scrape_error") == 0


def test_the_machines_topology_is_shown_if_its_group_is_on() -> None:
    without = parsed(Renderer(GROUPS.keys() - {"cpu_topology"}).render(full_host(), 0.0))
    assert not any("node" in name or "cache" in name for name in without.kinds if name.startswith("machine_"))
    page = rendered(full_host())
    assert page.value("machine_cpu_cache_capacity_bytes", level="3", node_id="0", core_id="") == 8 << 20
    assert page.values("machine_thread_siblings_count", core_id="0") == [2, 2]
    assert page.value("machine_node_distance", node_id="0", target_node_id="0", boot_id="89ab") == 10
    assert page.value("machine_cpu_cores", machine_id="0123", system_uuid="4567") == 2


def test_applications_series_have_their_own_names_and_cannot_be_taken_for_ours() -> None:
    empty = (None,) * 7
    rows: TableRows = (
        (series_text("hits", {"path": "/a", "id": "7"}), 5.0, *empty[1:]),
        (series_text("latency_bucket", {"le": "+Inf"}), None, None, float("inf"), *empty[3:]),
        (series_text("container_memory_rss", {}), 666.0, *empty[1:]),
        (series_text("tidegauge_samples_total", {}), 666.0, *empty[1:]),
        (series_text("container_cpu_user_seconds", {}), 666.0, *empty[1:]),
        (series_text("jobs", {}), 4.0, *empty[1:]),
        (series_text("jobs_created", {}), 4.0, *empty[1:]),
        (series_text("jobs_total", {"le": "1"}), 4.0, *empty[1:]),
        ("not a series{", 666.0, *empty[1:]),
    )
    here = [known(make_container(1), {"app": rows}, memory_rss_bytes=1, cpu_user_ns=2)]
    page = rendered(here)
    assert page.values("hits", app_path="/a", app_id="7", name="web-1") == [5]
    assert page.kinds["hits"] == "gauge"
    assert page.values("latency_bucket", app_le="+Inf") == [float("inf")]
    assert 666 not in {s.value for s in page.series}
    parsed(Renderer(()).render(here, 0.0, is_openmetrics=True) + "# EOF\n", is_openmetrics=True)


def test_a_plug_ins_metrics_have_their_own_names() -> None:
    catalogue = Catalogue()
    fragment = (
        Metric("queue_depth", Kind.GAUGE, "count", "custom", "Jobs that wait."),
        Metric("jobs.done", Kind.COUNTER, "count", "custom", "Jobs."),
    )
    catalogue.add("x", fragment)
    schema = catalogue.schema(["memory_rss_bytes", "queue_depth", "jobs.done"])
    container = make_container()
    page = rendered([(container, Latest(START_MS, schema, (1, 2.5, 3), ()))])
    assert page.value("queue_depth", name="web-1") == 2.5
    assert page.value("jobs_done") == 3
    assert page.kinds["jobs_done"] == "counter"
    text = Renderer(()).render([(container, Latest(START_MS, schema, (1, 2.5, 3), ()))], 0.0, is_openmetrics=True)
    openmetrics = parsed(text + "# EOF\n", is_openmetrics=True)
    assert (openmetrics.value("jobs_done"), openmetrics.kinds["jobs_done"]) == (3, "unknown")


def test_a_sample_that_holds_everything_makes_no_line_twice_and_is_not_changed() -> None:
    schema = everything()
    sample = full_sample(schema, 1)
    assert sample == full_sample(schema, 1)
    assert len({v for v in sample.values if v is not None}) == len(sample.values)
