"""Fixtures for all tests."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def recorded_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks an archive of `tests/fixtures` once and returns its folder: `recorded_tree("cgroup2")`.

    Archives, since names such as `machine-qemu\\x2d1.scope` do not survive every file system and packer.
    """
    unpacked: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in unpacked:
            root = tmp_path_factory.mktemp(name.replace("-", "_"))
            with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
                # filters are missing from Debian 12's Python (3.11.2) and wanted from 3.12 on; the archives are our own
                archive.extractall(root, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            unpacked[name] = root / name
        return unpacked[name]

    return get
