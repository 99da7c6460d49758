"""Which sockets are whose: by the folder of users, and by who could put another one there."""

import os
from pathlib import Path

import pytest

from tidegauge.collectors.runtimes._sockets import Sockets, owner

PATTERNS = ("/run/docker.sock", "/run/user/*/docker.sock")


def _make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _to_somebody_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Has the path belong to neither root nor us; returns whose it is."""
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
        return 4711
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return me


def test_the_folder_of_a_user_holds_that_user_s_sockets_alone(tmp_path: Path) -> None:
    of = {n: _make(tmp_path / "run" / "user" / str(n) / "docker.sock") for n in (0, 1000, 1001)}
    system = _make(tmp_path / "run" / "docker.sock")
    sockets = Sockets(PATTERNS, tmp_path)
    assert sockets.of(0) == [system, of[0]]
    assert sockets.of(1000) == [of[1000]]
    assert sockets.of(1001) == [of[1001]]
    assert sockets.of(1002) == []
    assert sockets.of(10) == []


@pytest.mark.parametrize("pattern", ["/run/user/1000/docker.sock", "/var/run/user/*/docker.sock", "/run/user/1*/docker.sock"])
def test_other_ways_to_write_the_folder(tmp_path: Path, pattern: str) -> None:
    made = _make(tmp_path / "run" / "user" / "1000" / "docker.sock")
    _make(tmp_path / "run" / "user" / "2000" / "docker.sock")
    sockets = Sockets((pattern,), tmp_path)
    assert sockets.of(1000) == [made]
    assert sockets.of(0) == []


def test_a_link_to_a_user_s_socket_is_that_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _make(tmp_path / "home" / "docker.sock")
    link = tmp_path / "docker.sock"
    link.symlink_to(path)
    sockets = Sockets((str(link),), Path("/"))
    assert sockets.of(0) == [link]
    user = _to_somebody_else(path.parent, monkeypatch)
    assert sockets.of(0) == []
    assert sockets.of(user) == [link]


@pytest.mark.parametrize("whose", [".", "..", "../.."])
def test_who_owns_the_socket_or_a_folder_above_may_exchange_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    path = _make(tmp_path / "a" / "b" / "docker.sock")
    assert owner(path) == 0
    part = {".": path, "..": path.parent, "../..": path.parent.parent}[whose]
    user = _to_somebody_else(part, monkeypatch)
    assert owner(path) == user
    assert Sockets((str(tmp_path / "a" / "*" / "docker.sock"),), Path("/")).of(0) == []
    assert Sockets((str(path),), Path("/")).of(user) == [path]


def test_a_link_to_nowhere_is_nobody_s(tmp_path: Path) -> None:
    link = tmp_path / "docker.sock"
    link.symlink_to(tmp_path / "gone")
    assert Sockets((str(link),), Path("/")).of(0) == []


def test_the_sockets_of_one_user_are_bounded(tmp_path: Path) -> None:
    for n in range(10):
        _make(tmp_path / "run" / "user" / "1000" / f"{n}.sock")
        _make(tmp_path / "run" / f"{n}.sock")
    sockets = Sockets(("/run/*.sock", "/run/user/*/*.sock"), tmp_path)
    assert len(sockets.of(1000)) == 4
    assert len(sockets.of(0)) == 10
