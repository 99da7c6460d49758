"""What the SQL store does not keep in memory."""

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from pathlib import Path
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
sink = SqlSink(SqlConfig(state_dir=Path(sys.argv[1])))
try:
    sink.open()
finally:
    print(sorted({"alembic", "mako"} & set(sys.modules)))
sink.close()
"""


def _open(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", _CODE, str(folder)], capture_output=True, text=True, check=False)


def test_a_migration_leaves_nothing_of_alembic_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    done = _open(tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_migration_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "tidegauge.db").write_text("no database at all, but long enough to be taken for a header " * 20)
    done = _open(tmp_path)
    assert done.returncode == 1
    assert "not a database" in done.stderr
