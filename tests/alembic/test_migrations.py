"""Migrations: the same tables as the program's, resumable, found in the package, and no package `alembic` of our own."""

import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import alembic
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tidegauge.pipeline.testing import generate_records
from tidegauge.sinks.sql import migrate
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
from tidegauge.sinks.sql.tables import REVISION, WRITER_VERSION, metadata

ROOT = Path(__file__).parents[2]


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db"


def schema_of(path: Path) -> dict[str, str]:
    """CREATE statements by name, without what their formatting may differ in."""
    conn = sqlite3.connect(path)
    try:
        found = conn.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version' AND type != 'view'"
        ).fetchall()
    finally:
        conn.close()
    return {name: re.sub(r"\s+", " ", sql).strip() for name, sql in found}


def test_our_folder_is_no_package_of_that_name() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    assert alembic.__version__
    assert Path(alembic.__file__).parent != ROOT / "alembic"


def test_the_package_carries_the_migrations() -> None:
    assert (migrate.migrations() / "env.py").is_file()
    assert migrate.migrations().resolve() == (ROOT / "alembic").resolve()


def test_autogenerate_finds_no_difference(tmp_path: Path) -> None:
    migrate.upgrade(url_of(tmp_path))
    engine = sa.create_engine(url_of(tmp_path))
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrations_make_the_very_tables_of_the_program(tmp_path: Path) -> None:
    """Autogenerate does not see WITHOUT ROWID, nor the order of columns."""
    migrate.upgrade(url_of(tmp_path))
    engine = sa.create_engine(f"sqlite:///{tmp_path}/b.db")
    metadata.create_all(engine)
    engine.dispose()
    migrated = schema_of(tmp_path / "a.db")
    assert migrated == schema_of(tmp_path / "b.db")
    assert migrated["sample"].endswith("PRIMARY KEY (ts_ms, container) ) WITHOUT ROWID")


def test_upgrade_can_be_repeated_and_keeps_rows(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    assert migrate.current(url) is None
    migrate.upgrade(url)
    assert migrate.current(url) == migrate.head() == REVISION
    sink = SqlSink(SqlConfig(url=url))
    sink.write(list(generate_records(5)))
    sink.close()
    before = sqlite3.connect(tmp_path / "a.db").execute("SELECT * FROM sample").fetchall()
    migrate.upgrade(url)
    conn = sqlite3.connect(tmp_path / "a.db")
    assert conn.execute("SELECT * FROM sample").fetchall() == before
    assert conn.execute("SELECT * FROM writer").fetchall() == [(WRITER_VERSION, WRITER_VERSION)]
    conn.close()


INTERRUPTED = """
import os, signal, sys
import alembic.operations.base as base
from tidegauge.sinks.sql import migrate
left = int(sys.argv[2])
real = base.Operations.create_table
def create_table(self, *args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, *args, **kwargs)
base.Operations.create_table = create_table
migrate.upgrade(sys.argv[1])
"""


@pytest.mark.parametrize("after", [0, 3, 16])
def test_upgrade_killed_half_way_is_done_by_the_next(tmp_path: Path, after: int) -> None:
    url = url_of(tmp_path)
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, url, str(after)], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert migrate.current(url) is None
    assert schema_of(tmp_path / "a.db") == {}
    sink = SqlSink(SqlConfig(url=url))
    sink.open()
    sink.close()
    assert migrate.current(url) == migrate.head()
    assert set(schema_of(tmp_path / "a.db")) >= set(metadata.tables)


def test_second_migration_that_fails_undoes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All migrations of one upgrade are one transaction; what is there afterwards is the old schema, and a retry works."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "alembic", folder, ignore=shutil.ignore_patterns("__pycache__"))
    second = folder / "versions" / "9999_more.py"
    head = f'import sqlalchemy as sa\nfrom alembic import op\nrevision = "9999"\ndown_revision = "{REVISION}"\n'
    body = 'def upgrade():\n    op.add_column("sample", sa.Column("more", sa.BigInteger))\n'
    second.write_text(head + body + '    op.execute("DROP TABLE not_there")\n')
    monkeypatch.setattr(migrate, "migrations", lambda: folder)
    with pytest.raises(sa.exc.OperationalError, match="not_there"):
        migrate.upgrade(url_of(tmp_path))
    assert migrate.current(url_of(tmp_path)) is None
    assert schema_of(tmp_path / "a.db") == {}
    second.write_text(head + body)
    migrate.upgrade(url_of(tmp_path))
    assert migrate.current(url_of(tmp_path)) == "9999"
    assert "more BIGINT" in schema_of(tmp_path / "a.db")["sample"]


def test_two_upgrades_at_once(tmp_path: Path) -> None:
    code = "import sys; from tidegauge.sinks.sql import migrate; migrate.upgrade(sys.argv[1])"
    children = [
        subprocess.Popen([sys.executable, "-c", code, url_of(tmp_path)], stderr=subprocess.PIPE, text=True) for _ in "12"
    ]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    assert migrate.current(url_of(tmp_path)) == migrate.head()


def test_newer_database_is_left_alone(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    migrate.upgrade(url)
    with sqlite3.connect(tmp_path / "a.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()
    migrate.upgrade(url)
    assert migrate.current(url) == "9999"


def test_developers_command_makes_no_migration_when_nothing_changed(tmp_path: Path) -> None:
    """`alembic check` from the repository's root, over alembic.ini."""
    migrate.upgrade(url_of(tmp_path))
    command = "import sys; from alembic.config import main; main(argv=sys.argv[1:])"
    ini = (
        (ROOT / "alembic.ini").read_text().replace("sqlite:///build/schema.db", url_of(tmp_path)).replace("%(here)s", str(ROOT))
    )
    (tmp_path / "alembic.ini").write_text(ini)
    arguments = ["-c", str(tmp_path / "alembic.ini"), "check"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_embedded_database_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    sink = SqlSink(SqlConfig(url=url_of(tmp_path)))
    sink.open()
    sink.close()
    code = """
import sys
from tidegauge.sinks.sql.sink import SqlConfig, SqlSink
SqlSink(SqlConfig(url=sys.argv[1])).open()
sys.exit([m for m in sys.modules if m.partition(".")[0] in ("alembic", "mako")] or 0)
"""
    done = subprocess.run([sys.executable, "-c", code, url_of(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
