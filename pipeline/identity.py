"""Who a container is: instance ids, numbers, epochs, and whether a later sighting is the same container.

A kernfs inode number is not used twice within a boot, while a path is, and a directory's times change (kernel 6.18: when the
inode was dropped from the cache). So an instance is a boot, a path and the inodes of its directories. On v1 the directories
of one container come and go one by one; the id is hashed from the first one seen and carried with all the others.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from tidegauge.pipeline.housekeeping import Policy
from tidegauge.pipeline.records import Container, End, RecordType, decode_record


class Origin(NamedTuple):
    """Whose containers these are."""

    source: str
    """UUID of the state folder."""
    host: str
    boot_id: str


class Admission(NamedTuple):
    """A container as it enters."""

    record: Container
    is_new: bool
    """False: the instance was known before the start."""
    is_logged: bool
    """True: the log already holds exactly this record."""


def instance_id(boot_id: str, path: str, hierarchy: str, inode: int) -> str:
    """16 hex digits that stand for this directory within this boot."""
    text = "\0".join((boot_id, path, hierarchy, str(inode)))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def is_same(container: Container, pairs: Mapping[str, int]) -> bool:
    """True if these (hierarchy, inode) pairs at the container's path are the container: one agrees and none disagrees.

    A container without pairs (a host without cgroups) agrees with none at all.
    """
    seen = dict(container.pairs)
    if not seen and not pairs:
        return True
    shared = seen.keys() & pairs.keys()
    return bool(shared) and all(seen[h] == pairs[h] for h in shared)


def live_containers(frames: Iterable[tuple[int, bytes]]) -> list[Container]:
    """Containers that a log's (type, payload) frames, in log order, show as not ended. What cannot be read is passed over."""
    live: dict[int, Container] = {}
    for type_, payload in frames:
        if type_ not in (RecordType.CONTAINER, RecordType.END):
            continue
        try:
            record = decode_record(type_, payload, 0)
        except msgspec.DecodeError:
            continue
        if isinstance(record, Container):
            live[record.number] = record
        elif isinstance(record, End):
            live.pop(record.container, None)
    return list(live.values())


def first_number(first_row: int) -> int:
    """Where the numbers of a start begin whose first row is this: beyond those of every start before.

    The log's end tells the containers that live, not those that had ended, whose numbers readers may still remember.
    Starts are 2^32 rows apart in the log; 2^24 numbers are left to each.
    """
    return max(1, first_row >> 32 << 24)


REMOTE_NUMBERS = (1 << 23) - 1
"""How many of a start's numbers are for other hosts' containers. One less than the half: the first start begins at 1."""


def first_remote_number(first_row: int) -> int:
    """Where the numbers of other hosts' containers begin: the upper half of those of this start, shared by all remotes."""
    return first_number(first_row) + (1 << 23)


class Identities:
    """Makes Container records and gives out numbers. `known` are the containers that the log shows as live at a start.

    Numbers grow from `first` and are not used again. One epoch holds for all containers; it grows when the wall clock is
    set back.
    """

    def __init__(self, origin: Origin, known: Iterable[Container] = (), first: int = 1) -> None:
        self._origin = origin
        known = list(known)
        self._next = max(first, max((c.number for c in known), default=0) + 1)
        mine = [c for c in known if c.source == origin.source and c.boot_id == origin.boot_id]
        self.epoch = max((c.epoch for c in mine), default=0)
        self._known = {c.path: c for c in mine}
        self._strangers = [c for c in known if self._known.get(c.path) is not c]

    def known(self, path: str, pairs: Mapping[str, int]) -> Container | None:
        """What the log has of the container seen at this path, until it is admitted."""
        known = self._known.get(path)
        return known if known is not None and is_same(known, pairs) else None

    def admit(self, path: str, pairs: Mapping[str, int], policy: Policy, created_ms: int, now_ms: int) -> Admission:
        """The record of the container seen at this path, and whether the log already has exactly this record.

        A known one keeps instance and number; of `pairs`, in order of preference, the first names a new instance."""
        known = self._known.get(path)
        if known is not None and is_same(known, pairs):
            del self._known[path]
            record = self.amend(known, pairs, policy, now_ms)
            if record.host != self._origin.host:
                record = msgspec.structs.replace(record, host=self._origin.host, valid_from_ms=now_ms)
            is_logged = record.epoch == self.epoch and record == msgspec.structs.replace(known, row=0)
            if record.epoch != self.epoch:
                self._strangers.append(known)
                record = self.renumber(record, now_ms)
            return Admission(record, False, is_logged)
        hierarchy, inode = next(iter(pairs.items()), ("", 0))
        record = Container(
            number=self._number(),
            source=self._origin.source,
            instance=instance_id(self._origin.boot_id, path, hierarchy, inode),
            epoch=self.epoch,
            boot_id=self._origin.boot_id,
            path=path,
            host=self._origin.host,
            created_ms=created_ms,
            valid_from_ms=now_ms,
            pairs=tuple(pairs.items()),
            base_interval_s=policy.base_s,
            max_interval_s=policy.max_s if policy.is_dynamic else policy.base_s,
        )
        return Admission(record, True, False)

    def amend(self, record: Container, pairs: Mapping[str, int], policy: Policy, now_ms: int) -> Container:
        """The record with pairs and intervals as they are now; an equal record if nothing changed."""
        seen = dict(record.pairs)
        fresh = msgspec.structs.replace(
            record,
            pairs=record.pairs + tuple((h, i) for h, i in pairs.items() if h not in seen),
            base_interval_s=policy.base_s,
            max_interval_s=policy.max_s if policy.is_dynamic else policy.base_s,
            row=0,
        )
        if fresh == msgspec.structs.replace(record, row=0):
            return fresh
        return msgspec.structs.replace(fresh, valid_from_ms=now_ms)

    def renumber(self, record: Container, now_ms: int) -> Container:
        """The same instance under a new number, in the epoch that now holds."""
        return msgspec.structs.replace(record, number=self._number(), epoch=self.epoch, valid_from_ms=now_ms, row=0)

    def take_lost(self) -> list[Container]:
        """Known containers that were not seen since the start: another boot's, or gone while nobody looked. Once."""
        lost = sorted([*self._known.values(), *self._strangers], key=lambda c: c.number)
        self._known, self._strangers = {}, []
        return lost

    def _number(self) -> int:
        self._next += 1
        return self._next - 1
