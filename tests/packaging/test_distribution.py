"""What is packed, and what an installed tidegauge loads. A wrong mapping of folders gives an empty wheel without an error."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.containers.engine import ROOT, source_files

PACKAGES = ("pipeline", "collectors", "sinks", "api", "client", "cli")
FOLDERS = {name: f"tidegauge/{name}" for name in PACKAGES} | {"alembic": "tidegauge/migrations"}


def run_python(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([python, "-c", code], cwd=cwd, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_has_every_source_file_in_its_place(wheel: Path) -> None:
    wanted = {FOLDERS[top] + "/" + rest for top, _, rest in (name.partition("/") for name in source_files(*FOLDERS))}
    assert len(wanted) > 20
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_sdist_has_every_source_file(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    others = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "alembic.ini"}
    assert (set(source_files(*FOLDERS)) | others) - packed == set()


def test_the_folder_of_migrations_does_not_hide_the_library() -> None:
    # with an __init__.py it would, for everything started in this folder: python -m pytest, python -m alembic
    assert not (ROOT / "alembic" / "__init__.py").exists()
    version = run_python(Path(sys.executable), "import alembic.command; print(alembic.__version__)", ROOT)
    assert version[0].isdigit()


def test_the_command_line_loads_no_database_client(tmp_path: Path) -> None:
    # SQLAlchemy and influxdb-client are 12 MiB each, in processes that may need neither
    heavy = ("sqlalchemy", "alembic", "influxdb_client", "starlette", "apscheduler")
    code = f"import sys, tidegauge.cli.main; print(*(m for m in {heavy!r} if m in sys.modules))"
    assert run_python(Path(sys.executable), code, tmp_path) == ""


@pytest.mark.integration
def test_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "bin" / "tidegauge", "version"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tidegauge ")
    assert "tidegauge/migrations/env.py" in run_python(
        installed / "bin" / "python",
        "import importlib.resources as r; print(r.files('tidegauge') / 'migrations' / 'env.py')",
        tmp_path,
    )
