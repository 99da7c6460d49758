"""Fixtures for all tests."""

import fcntl
import logging
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from tests.servers import PostgresServer, need_postgres

# a deadline by the clock fails on a machine that is busy with something else
hypothesis.settings.register_profile("tidegauge", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tidegauge")

REAL = {"integration", "vm", "docker", "e2e"}
"""Marks of tests in which a kernel, an engine or a server of its own time takes part."""
MOST_SECOND_TRIES = 5

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started behind a shell's &: what tests start would ignore it too, and some of it is stopped in this way
    signal.signal(signal.SIGINT, signal.default_int_handler)

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each real test a second try in CI; see docs/decisions/0020."""
    if os.environ.get("TIDEGAUGE_TESTS_STRICT"):
        for item in items:
            if REAL & {mark.name for mark in item.iter_markers()}:
                item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried_again = terminalreporter.stats.get("rerun", [])
    for report in tried_again:
        terminalreporter.section(f"tried again: {report.nodeid}", sep="_")
        terminalreporter.write_line(report.longreprtext)
    if len(tried_again) > MOST_SECOND_TRIES:
        terminalreporter.write_line(f"{len(tried_again)} tests were tried again, {MOST_SECOND_TRIES} may be")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and len(reporter.stats.get("rerun", [])) > MOST_SECOND_TRIES and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def recorded_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks an archive of `tests/fixtures` once and returns its folder: `recorded_tree("cgroup2")`. Not to be written to.

    Archives, since names such as `machine-qemu\\x2d1.scope` do not survive every file system and packer. Workers that run side
    by side share one copy: thousands of small files take seconds.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    unpacked: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in unpacked:
            with (shared / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                root = shared / f"recorded-{name}"
                if not root.exists():
                    fresh = shared / f"recorded-{name}.new"
                    with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
                        # filters are missing from Debian 12's Python (3.11.2) and wanted from 3.12 on; the archives are our own
                        archive.extractall(fresh, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
                    fresh.rename(root)
            unpacked[name] = root / name
        return unpacked[name]

    return get


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for tests that leave it running: each makes a database of its own in it."""
    need_postgres()
    with PostgresServer() as server:
        yield server


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Commands that run in this process set the level for the whole of it: the next test begins with what was."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
