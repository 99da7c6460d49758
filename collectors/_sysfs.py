"""Small files of sysfs and procfs, read once each: their text, a number, a list of CPUs. What cannot be read is None."""

import os
from pathlib import Path

from tidegauge.pipeline.records import MAX_INT

_READ_BYTES = 1 << 20
_MAX_CPU = 1 << 16
_MAX_LINKS = 40


def text(path: Path) -> str | None:
    """The text without white space around it; None if it is empty, not there, or cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            raw = file.read(_READ_BYTES)
    except (OSError, ValueError):
        return None
    return raw.decode("utf-8", "replace").strip(" \t\r\n\0") or None


def number(path: Path) -> int | None:
    """A decimal number within 64 bit signed, also a negative one."""
    return parse_number(text(path))


def parse_number(word: str | None, scale: int = 1) -> int | None:
    if word is None or len(word) > 20 or not word.isascii() or not word.removeprefix("-").isdigit():
        return None
    value = int(word) * scale
    return value if -MAX_INT <= value <= MAX_INT else None


def cpu_list(words: str | None) -> tuple[int, ...]:
    """The numbers of a list such as `0-3,8`; () if it is none."""
    found: list[int] = []
    for part in (words or "").split(","):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)) or max(len(first), len(last)) > 6:
            continue
        found += range(int(first), min(int(last or first), _MAX_CPU) + 1)
    return tuple(found)


def numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Entries named by the prefix and a number, by that number."""
    found = []
    for entry in entries(folder):
        digits = entry.removeprefix(prefix)
        if entry.startswith(prefix) and digits.isdigit() and len(digits) <= 6:
            found.append((int(digits), folder / entry))
    return sorted(found)


def entries(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if it is not there."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def inside(root: Path, path: str) -> Path:
    """Where `path` leads on the host whose root is mounted at `root`: its absolute links begin there, and `..` ends there."""
    if root == Path("/"):
        return Path(path)
    parts, done, links = path.split("/")[::-1], Path("/"), 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.parent
            continue
        at = root / str(done / part).lstrip("/")
        try:
            target = os.readlink(at)
        except OSError:
            done = done / part
            continue
        links += 1
        if links > _MAX_LINKS:
            break
        if target.startswith("/"):
            done = Path("/")
        parts += target.split("/")[::-1]
    return root / str(done).lstrip("/")
