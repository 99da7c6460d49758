"""What `tidegauge status` prints of an answer."""

import pytest

from tidegauge.cli.status_command import _print


def test_an_answer_from_before_the_first_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sampler = {"journal_oldest_age_seconds": None, "lateness_p99_seconds": None, "journal_bytes": 0}
    status = {"version": "1", "host": "h", "uptime_s": 0.1, "state_dir": "/s", "faults": [], "containers": 0}
    _print(status | {"sampler": sampler, "sinks": {}})
    assert "journal 0.0 MiB, no row yet" in capsys.readouterr().out
