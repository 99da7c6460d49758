"""An independent parser of the line protocol, by its reference."""

import re
from typing import Any


def parse(line: str) -> tuple[str, dict[str, str], dict[str, Any], int]:
    """A line taken apart by the reference: an escaped comma, equals sign or space does not separate."""

    def plain(text: str) -> str:
        return re.sub(r"\\([,= ])", r"\1", text)

    key, fields, ts = re.split(r"(?<!\\) ", line)
    measurement, *tags = re.split(r"(?<!\\),", key)

    def pairs(items: list[str]) -> dict[str, str]:
        split = [re.split(r"(?<!\\)=", item) for item in items]
        assert all(len(s) == 2 for s in split), items
        assert len({s[0] for s in split}) == len(split), "a key stands twice"
        return {plain(k): plain(v) for k, v in split}

    def value(text: str) -> Any:
        if text.endswith("i"):
            return int(text[:-1])
        return text == "true" if text in ("true", "false") else float(text)

    return plain(measurement), pairs(tags), {k: value(v) for k, v in pairs(re.split(r"(?<!\\),", fields)).items()}, int(ts)
