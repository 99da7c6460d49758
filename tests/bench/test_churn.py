"""A minute of what `python -m bench --only churn` does for ten: nobody missed, nothing held more and more."""

import os
from pathlib import Path

import pytest
from bench.churn import MOST_FILES, churn
from tests.support import need

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_minute_of_containers_that_come_and_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    need(os.geteuid() == 0, "root, to make cgroups")
    folder = Path(tmp_path_factory.mktemp("churn"))
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)
    # a machine that has other things to do reads late, by half a second and more: none may be missed for that
    found = churn(folder, 1000, 60, life_s=5)
    # a slow machine makes fewer in that time, and each of them counts
    assert found.made > 300, "a slow machine makes fewer than 750 in that time, but not so few"
    assert list(found.unseen) == []
    assert found.collect_errors == 0
    most = max(h.files for h in found.held)
    assert most <= MOST_FILES * 3 // 4 + 64, "the budget, and what is open besides readers"
    assert found.growth("threads") <= 1.05
    assert found.growth("files") <= 1.1
    assert found.growth("watches") <= 1.1
    # a minute is short for memory: caches that are bounded still fill
    assert found.growth("pss_mib") <= 1.25
    # fifty beside the thousand live at a time, and some that just ended are still watched
    assert max(h.watches for h in found.held) <= 1.1 * found.watches_expected
