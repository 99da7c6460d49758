"""Options of sampling: intervals, policies by path and name, what is sampled, and the bounds of its own cost."""

from typing import Annotated, TypeAlias

import msgspec

Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intervals of the containers that match all the patterns it has, of the shell; what is None is as `[sampler]` says.

    Names, images and labels come from the runtimes, later than the container: its policy changes when they do.
    """

    path: str | None = None
    """The whole cgroup path; `*` matches slashes too."""
    name: str | None = None
    """The container's name, as in its records."""
    image: str | None = None
    label: str | None = None
    """Any of the labels that are recorded (`metadata.labels`), as `KEY=VALUE`."""
    base_interval_s: Seconds | None = None
    max_interval_s: Seconds | None = None
    dynamic: bool | None = None

    def __post_init__(self) -> None:
        if self.path is self.name is self.image is self.label is None:
            raise ValueError("path: expected a pattern of path, name, image or label, got none")


class SamplerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[sampler]`."""

    base_interval_s: Seconds = 1.0
    """Seconds between two samples of a container that is active."""
    max_interval_s: Seconds = 60.0
    """Longest wait between two samples of an idle one."""
    dynamic: bool = True
    """False: every container is read each base interval, whatever it does."""
    policies: tuple[PolicyConfig, ...] = ()
    """The first that matches a container holds. The host is read at its base interval always."""

    include: tuple[str, ...] = ()
    """Shell patterns of cgroup paths; empty: all. The host needs none."""
    exclude: tuple[str, ...] = ("*.mount",)
    """Shell patterns of cgroup paths that are left out with all that is below them."""

    sample_host: bool = True
    """False: the host, `/`, has a record and no samples."""

    cpu_budget_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0
    """Share of one core that looking at idle containers may take; beyond it they are looked at less often."""
    walk_interval_s: Seconds = 60.0
    """How often the whole tree is walked, in case an inotify event was lost."""
    slow_interval_s: Seconds = 10.0
    """How often slow collectors (filesystems, sockets, processes) read, unless they say so themselves."""
    slow_budget_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 5.0
    """Share of one core that each of them may take; with much to read a round takes the longer for it."""
    spec_interval_s: Seconds = 60.0
    """How often a container's limits are read, once those that its runtime sets at the start are."""
    machine_interval_s: Seconds = 300.0
    """How often the host's CPUs, memory, disks, mounted filesystems and network devices are looked at."""
    kmsg: str = "/dev/kmsg"
    """The kernel's log, followed for whom the OOM killer killed; empty: it is not read. Taken at the start."""
