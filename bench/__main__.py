"""`python -m bench`: every bench in turn, as one Markdown report beside the goals.

python -m bench                         all of it, about an hour, ten minutes of it churn
python -m bench --only collect,encode   some of it
python -m bench --write                 also puts what was measured into docs/performance.md
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Section, machine, markdown

BENCHES = (
    "collect",
    "program",
    "parts",
    "encode",
    "sql",
    "journal",
    "fanout",
    "exposition",
    "load",
    "churn",
    "history",
    "retention",
)
PAGE = Path(__file__).parent.parent / "docs/performance.md"


def put(page: str, bench: str, report: str) -> str:
    """The page with the results of one bench replaced."""
    begin, end = f"<!-- {bench}: begin -->\n", f"<!-- {bench}: end -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{report}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(BENCHES), help="benches, with commas between them: " + ", ".join(BENCHES))
    parser.add_argument("--write", action="store_true", help="put the report into docs/performance.md")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(BENCHES):
        parser.error(f"--only: expected some of {', '.join(BENCHES)}, got {', '.join(sorted(unknown))}")
    sections: list[Section] = []
    failed = []
    with tempfile.TemporaryDirectory(prefix="tidegauge-bench-") as name:
        for bench in names:
            head, start = machine(), time.monotonic()
            try:
                found = importlib.import_module(f"bench.{bench}").run(Path(name))
            except Exception as exc:  # noqa: BLE001 - one bench that cannot run here leaves the others
                failed.append(f"{bench}: {type(exc).__name__}: {exc}")
                print(failed[-1], file=sys.stderr)
                continue
            sections += found
            print(markdown(found), flush=True)
            if arguments.write:
                PAGE.write_text(put(PAGE.read_text(), bench, f"Measured {head}.\n\n{markdown(found)}"))
            print(f"{bench}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    missed = [row.what for section in sections for row in section.rows if row.verdict == "missed"]
    print(f"{len(missed)} goals missed" + "".join(f"\n  {what}" for what in missed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
