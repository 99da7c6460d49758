"""Names of block devices by their numbers, from SYS/dev/block, else PROC/partitions and PROC/diskstats."""

import os
from pathlib import Path


class BlockDevices:
    """Remembers names that were found; a number without a name is asked again, since its device may come later."""

    def __init__(self, sys: Path, proc: Path) -> None:
        self._links = sys / "dev/block"
        self._lists = ((proc / "partitions", 3), (proc / "diskstats", 2))
        self._names: dict[str, str] = {}

    def name(self, number: str) -> str:
        """`vda` for `254:0`; the number itself where nothing knows it."""
        known = self._names.get(number)
        if known is None:
            known = self._from_link(number) or self._from_lists(number)
            if known is None:
                return number
            self._names[number] = known
        return known

    def _from_link(self, number: str) -> str | None:
        try:
            # sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark
            return os.path.basename(os.readlink(self._links / number)).replace("!", "/") or None
        except (OSError, ValueError):
            return None

    def _from_lists(self, number: str) -> str | None:
        numbers = number.split(":")
        for path, column in self._lists:
            try:
                lines = path.read_text(errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                words = line.split()
                if len(words) > column and words[:2] == numbers:
                    return words[column]
        return None
