"""What this host does not offer or does not let this user read: the metrics that no collector gives here, and why.

Each missing right takes away named metrics and never stops a start, so somebody has to name them: `tidegauge config check`
does, with this. Every collector is asked for readers of the host and of some containers; each reads once and is closed at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tidegauge.pipeline.catalogue import Catalogue
from tidegauge.pipeline.discovery import walk
from tidegauge.pipeline.errors import CollectError, NoData
from tidegauge.pipeline.plugin import Hierarchy, HierarchySource, TableReader
from tidegauge.pipeline.reading import Source, in_order
from tidegauge.pipeline.records import Container

MOST_CONTAINERS = 50
"""So many are asked at most. They differ in what they lack (no process, no limit): what one of them has is not missing."""
_OF_THE_HOST_ALONE = ("sample_host", "host_cpu", "host_disk", "filesystem")
_HOST, _CONTAINERS = "of the host", "of containers"


class Absence(NamedTuple):
    """Metrics that are absent here for one reason."""

    collectors: tuple[str, ...]
    """Who would give them: those that tried, or if none had anything to read, all that know them."""
    where: str
    """`of the host`, `of containers`, or empty: wherever they could be."""
    metrics: tuple[str, ...]
    """In the order of the collectors; empty where only some containers lack something."""
    reasons: tuple[str, ...]
    """As the collectors say them; empty if none does."""


class Findings(NamedTuple):
    absences: tuple[Absence, ...]
    has_hierarchy: bool
    """False: there is no cgroup hierarchy to find containers in."""
    containers: int
    """How many were asked."""


class _Asked:
    """What one collector gave of the host or of the containers."""

    def __init__(self, source: Source, catalogue: Catalogue) -> None:
        self.source = source
        self.columns = {table: tuple(m.name for m in catalogue.of_table(table)) for table in source.tables}
        self.names = (*source.metrics, *(name for names in self.columns.values() for name in names))
        self._given: set[str] = set()
        self._seen_rows: dict[str, bool] = {}
        self.reasons: dict[str, None] = {}
        self.has_tried = False

    def ask(self, container: Container) -> None:
        try:
            reader = self.source.collector.reader(container)
        except FileNotFoundError:
            return  # the container went meanwhile
        except Exception as exc:  # noqa: BLE001 - whatever a plug-in raises is the reason
            self._failed(exc)
            return
        if reader is None:
            return
        self.has_tried = True
        try:
            self._take(reader)
        except FileNotFoundError as exc:
            if container.is_host:
                self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - see above
            self._failed(exc)
        finally:
            try:
                reader.close()
            except Exception as exc:  # noqa: BLE001 - see above
                self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        self.has_tried = True
        if isinstance(exc, OSError) and exc.filename is not None:
            text = f"{exc.filename}: {exc.strerror}"
        else:
            text = str(exc) if isinstance(exc, NoData | CollectError | OSError) else f"{type(exc).__name__}: {exc}"
        self.reasons[text] = None

    def _take(self, reader: Any) -> None:
        values = reader.read()
        self._given.update(name for name, value in zip(self.source.metrics, values, strict=True) if value is not None)
        if not self.columns or not isinstance(reader, TableReader):
            return
        for (table, columns), rows in zip(self.columns.items(), reader.read_tables(), strict=True):
            if rows is None:
                continue
            self._seen_rows[table] = self._seen_rows.get(table, False) or bool(rows)
            self._given.update(n for place, n in enumerate(columns, 1) if any(row[place] is not None for row in rows))

    def given(self) -> set[str]:
        """Metrics that had a value. Those of a table for which nothing had a row (no disk, say) are not known to be missing."""
        rowless = (name for table, has_rows in self._seen_rows.items() if not has_rows for name in self.columns[table])
        return self._given.union(rowless)


def find(collectors: Sequence[tuple[str, Any]], catalogue: Catalogue, is_pruned: Callable[[str], bool]) -> Findings:
    """Asks every collector, and closes it. What the catalogue holds and no collector names is not missed."""
    sources = in_order(collectors)
    try:
        hierarchies = [h for s in sources if isinstance(s.collector, HierarchySource) for h in s.collector.hierarchies()]
        containers = [_container(i, path) for i, path in enumerate(_leaves(hierarchies, is_pruned), 2)]
        of_host = _ask(sources, catalogue, [_container(1, "/")])
        of_containers = _ask(sources, catalogue, containers)
    finally:
        for source in sources:
            source.close()
    absent = {_HOST: _absent(of_host, catalogue, ()), _CONTAINERS: {}}
    if containers:
        absent[_CONTAINERS] = _absent(of_containers, catalogue, _OF_THE_HOST_ALONE)
    else:
        of_containers = []
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for where, other in ((_HOST, _CONTAINERS), (_CONTAINERS, _HOST)):
        for name, owners in absent[where].items():
            is_everywhere = name in absent[other] or (not containers) or catalogue[name].table in _OF_THE_HOST_ALONE
            group = groups.setdefault((owners, "" if is_everywhere else where), [])
            if name not in group:
                group.append(name)
    reasons = _reasons([*of_host, *of_containers])
    found = [
        Absence(owners, where, tuple(names), tuple(dict.fromkeys(r for o in owners for r in reasons.get(o, ()))))
        for (owners, where), names in groups.items()
    ]
    told = {o for owners, _ in groups for o in owners}
    found += [Absence((name,), "", (), tuple(said)) for name, said in reasons.items() if name not in told and said]
    return Findings(tuple(found), bool(hierarchies), len(containers))


def _ask(sources: Sequence[Source], catalogue: Catalogue, containers: Sequence[Container]) -> list[_Asked]:
    out = []
    for source in sources:
        asked = _Asked(source, catalogue)
        for container in containers:
            asked.ask(container)
        if (text := source.complaint()) is not None:
            asked.reasons[f"not everything can be read, first {text}"] = None
        out.append(asked)
    return out


def _absent(asked: Sequence[_Asked], catalogue: Catalogue, unexpected: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Absent metric -> who would give it. A plug-in's own metric is expected only where its collector tried."""
    given = set().union(*(a.given() for a in asked))
    out: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(name for a in asked for name in a.names):
        if name in given or catalogue[name].table in unexpected:
            continue
        tried = tuple(a.source.name for a in asked if name in a.names and a.has_tried)
        if tried:
            out[name] = tried
        elif catalogue[name].table != "custom":
            out[name] = tuple(a.source.name for a in asked if name in a.names)
    return out


def _reasons(asked: Sequence[_Asked]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for a in asked:
        said = out.setdefault(a.source.name, [])
        said.extend(r for r in a.reasons if r not in said)
    return out


def _leaves(hierarchies: Sequence[Hierarchy], is_pruned: Callable[[str], bool]) -> list[str]:
    """Paths of some cgroups without others below them: containers proper rather than slices."""
    paths = {path for tree in walk(hierarchies, is_pruned) for path in tree} - {"/"}
    parents = {path.rpartition("/")[0] for path in paths}
    return sorted(paths - parents)[:MOST_CONTAINERS]


def _container(number: int, path: str) -> Container:
    return Container(number, "", "", 0, "", path, "", 0, 0)
