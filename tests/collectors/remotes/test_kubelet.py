"""The kubelet's summary. The answers are made here after its published types; no kubelet gave them."""

import json
from typing import Any

import pytest
from tests.cadvisor_host import HttpHost

from tidegauge.collectors.remotes.kubelet import KubeletConfig, KubeletRemote
from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.plugin import RemoteAnswer

TIME = "2026-11-23T11:18:43Z"
TIME_MS = 1795432723000
START = "2026-11-20T08:00:00Z"
START_MS = 1795161600000
UID = "5f3a6c0e-1b2c-4d3e-8f90-a1b2c3d4e5f6"


def cpu(ns: int) -> dict[str, Any]:
    return {"time": TIME, "usageNanoCores": 120_000_000, "usageCoreNanoSeconds": ns}


def memory(usage: int) -> dict[str, Any]:
    return {
        "time": TIME, "usageBytes": usage, "workingSetBytes": usage - 1, "rssBytes": usage - 2,
        "pageFaults": 300, "majorPageFaults": 4, "availableBytes": 10**9,
    }  # fmt: skip


def interface(name: str, bytes_: int) -> dict[str, Any]:
    return {"name": name, "rxBytes": bytes_, "rxErrors": 1, "txBytes": bytes_ * 2, "txErrors": 0}


def filesystem(used: int) -> dict[str, Any]:
    return {
        "time": TIME, "availableBytes": 60, "capacityBytes": 100, "usedBytes": used,
        "inodesFree": 7, "inodes": 9, "inodesUsed": 2,
    }  # fmt: skip


def summary() -> dict[str, Any]:
    return {
        "node": {
            "nodeName": "node-7",
            "startTime": START,
            "systemContainers": [{"name": "kubelet", "startTime": START, "cpu": cpu(5), "memory": memory(50)}],
            "cpu": cpu(900),
            "memory": memory(9000),
            "network": {"time": TIME, **interface("eth0", 10), "interfaces": [interface("eth0", 10), interface("cni0", 20)]},
            "fs": filesystem(40),
            "runtime": {"imageFs": filesystem(33)},
            "rlimit": {"time": TIME, "maxpid": 4194304, "curproc": 800},
        },
        "pods": [
            {
                "podRef": {"name": "web-0", "namespace": "shop", "uid": UID},
                "startTime": START,
                "containers": [
                    {
                        "name": "nginx", "startTime": START, "cpu": cpu(70), "memory": memory(700),
                        "rootfs": filesystem(5), "logs": filesystem(6), "userDefinedMetrics": [],
                    },
                    {"name": "new", "startTime": TIME},
                ],
                "cpu": cpu(80),
                "memory": memory(800),
                "network": {"time": TIME, **interface("eth0", 30)},
                "process_stats": {"process_count": 3},
            }
        ],
    }  # fmt: skip


def ask(document: Any, **config: Any) -> tuple[RemoteAnswer, KubeletRemote]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with HttpHost(lambda *a: (200, {}, body)) as host:
        remote = KubeletRemote(KubeletConfig(url=host.url, **config))
        try:
            answer = remote.ask(12345)
            assert [r[1] for r in host.requests] == ["/stats/summary"]
            return answer, remote
        finally:
            remote.close()


def test_every_value() -> None:
    answer, remote = ask(summary())
    assert (answer.machine, answer.boot_id, answer.host) == ("", "", "node-7")
    by_path = {c.path: c for c in answer.containers}
    assert list(by_path) == ["/", "/system/kubelet", f"/pods/{UID}", f"/pods/{UID}/nginx", f"/pods/{UID}/new"]
    assert all(c.created_ms == START_MS for c in list(by_path.values())[:-1])
    nginx = by_path[f"/pods/{UID}/nginx"]
    (reading,) = nginx.readings
    assert reading.ts_ms == TIME_MS
    assert reading.values == {
        "cpu_usage_ns": 70,
        "memory_usage_bytes": 700,
        "memory_working_set_bytes": 699,
        "memory_rss_bytes": 698,
        "memory_page_faults": 300,
        "memory_major_page_faults": 4,
    }
    assert reading.tables == {}
    assert by_path["/"].readings[0].tables == {
        "network": (("eth0", 10, None, 1, None, 20, None, 0, None), ("cni0", 20, None, 1, None, 40, None, 0, None)),
        "filesystem": (("nodefs", 100, 40, 60, 9, 7), ("imagefs", 100, None, 60, 9, 7)),
    }
    assert by_path[f"/pods/{UID}"].readings[0].tables == {"network": (("eth0", 30, None, 1, None, 60, None, 0, None),)}
    assert by_path[f"/pods/{UID}/new"].readings == ()  # nothing is measured yet
    assert remote.counters() == {"absurd_values": 0, "unreadable_containers": 0}


def test_names() -> None:
    answer, _ = ask(summary())
    by_path = {c.path: c for c in answer.containers}
    for path, name in ((f"/pods/{UID}", "web-0"), (f"/pods/{UID}/nginx", "nginx")):
        said, ref = by_path[path].said, by_path[path].ref
        assert said is not None
        assert ref is not None
        assert (said.name, said.pod, said.pod_namespace, said.pod_uid) == (name, "web-0", "shop", UID)
        assert ref.runtime == "kubernetes"
    assert by_path["/"].said is None
    assert ask(summary(), host="renamed")[0].host == "renamed"


def test_names_are_of_the_catalogue() -> None:
    catalogue = Catalogue()
    assert all(name in catalogue for name in KubeletRemote.metrics)
    answer, _ = ask(summary())
    for container in answer.containers:
        for reading in container.readings:
            assert set(reading.values) <= set(KubeletRemote.metrics)
            for table, rows in reading.tables.items():
                assert all(len(row) == len(catalogue.of_table(table)) + 1 for row in rows)


def test_one_bad_pod_or_container_does_not_spoil_the_others() -> None:
    document = summary()
    document["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"] = "much"
    document["pods"][0]["containers"][1]["name"] = "../escape"
    document["pods"] += [{"podRef": None}, 7]
    document["node"]["memory"]["usageBytes"] = 2**64 - 1
    answer, remote = ask(document)
    assert [c.path for c in answer.containers] == ["/", "/system/kubelet", f"/pods/{UID}"]
    assert answer.containers[0].readings[0].values["memory_usage_bytes"] is None
    assert remote.counters() == {"absurd_values": 1, "unreadable_containers": 4}


@pytest.mark.parametrize("document", [b"", b"Unauthorized", [], {}, {"node": {}}, {"pods": []}])
def test_junk(document: Any) -> None:
    with pytest.raises(CollectError, match=r"http://127.*/stats/summary: expected the kubelet's Summary"):
        ask(document)
