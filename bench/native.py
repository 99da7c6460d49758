"""The C programs beside this module: built into a folder, and the lower bound as a process that measures on demand."""

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

HERE = Path(__file__).parent


def build(name: str, folder: Path) -> Path:
    """Compiles NAME.c once into `folder` and returns the program. RuntimeError with the compiler's words if it fails."""
    target = folder / name
    if not target.exists():
        command = [os.environ.get("CC", "cc"), "-O2", "-o", str(target), str(HERE / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return target


class Wanted(NamedTuple):
    """A file that is to be read in each round. `kind` and `how` as in limit.c."""

    container: int
    kind: str
    how: str
    path: str


_KINDS = {"memory.stat": "k", "cpuacct.stat": "k", "memory.oom_control": "k", "memory.events": "k", "io.stat": "e", "dev": "d"}


def kind_of(path: str) -> str:
    """How limit.c finds the numbers of a kernel file of this name."""
    name = os.path.basename(path)
    if name == "cpu.stat":
        return "k"
    if name.endswith(".pressure"):
        return "e"
    if name.startswith("blkio."):
        return "l"
    return _KINDS.get(name, "n")


class Measuring:
    """A process that says `ready`, and then answers each line `ROUNDS PACE_MS` with what it found. A context manager."""

    def __init__(self, command: Sequence[str], given: str = "") -> None:
        """`given` is the first line that it reads. RuntimeError if it ends instead of being ready."""
        self._name = os.path.basename(command[0])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate(timeout=20)

    def measure(self, rounds: int, pace_ms: int) -> float:
        """CPU microseconds of one round, mean of `rounds`, after one that does not count."""
        return float(self._ask(f"{rounds} {pace_ms}\n").split()[0]) / 1000 / rounds

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return answer
        self._process.communicate(timeout=20)
        raise RuntimeError(f"{self._name} ended with status {self._process.returncode}")


class Limit(Measuring):
    """The C program over a list of files, ready to measure."""

    def __init__(self, files: Iterable[Wanted], folder: Path) -> None:
        listing = folder / f"files.{os.getpid()}.{id(self)}"
        listing.write_text("".join(f"{f.container} {f.kind} {f.how} {f.path}\n" for f in files))
        super().__init__([str(build("limit", folder)), str(listing)])
