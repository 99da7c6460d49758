"""When a container is read next: pure functions of its policy and of what was seen. No clock, no thread.

The interval starts at the base, doubles up to the maximum while nothing changes, stays there, and is back at the base at the
first change. What counts as a change is the sampler's to say: the CPU usage counter moved, or, where a container has none,
some value did.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tidegauge.pipeline.records import Container
from tidegauge.pipeline.sampler_config import PolicyConfig, SamplerConfig

_GOLDEN = (5**0.5 - 1) / 2


class Policy(NamedTuple):
    """Intervals in seconds, base at most maximum."""

    base_s: float
    max_s: float
    is_dynamic: bool


def policy_of(config: SamplerConfig, path: str, known: Container | None = None) -> Policy:
    """The policy of the container at this cgroup path, by what is known of it so far.

    The host is never dynamic; a maximum below the base is the base.
    """
    own = next((p for p in config.policies if _is_meant(p, path, known)), PolicyConfig(path))
    base_s = config.base_interval_s if own.base_interval_s is None else own.base_interval_s
    max_s = config.max_interval_s if own.max_interval_s is None else own.max_interval_s
    is_dynamic = config.dynamic if own.dynamic is None else own.dynamic
    return Policy(base_s, max(base_s, max_s), is_dynamic and path != "/")


def _is_meant(policy: PolicyConfig, path: str, known: Container | None) -> bool:
    if policy.path is not None and not fnmatchcase(path, policy.path):
        return False
    if policy.name is policy.image is policy.label is None:
        return True
    if known is None:
        return False
    pairs = ((policy.name, known.name), (policy.image, known.image))
    if any(pattern is not None and (said is None or not fnmatchcase(said, pattern)) for pattern, said in pairs):
        return False
    return policy.label is None or any(fnmatchcase(f"{key}={value}", policy.label) for key, value in known.labels.items())


def next_interval(policy: Policy, interval_s: float, has_changed: bool) -> float:
    """Seconds until the next reading, after one at `interval_s` that showed a change or none."""
    if has_changed or not policy.is_dynamic:
        return policy.base_s
    return min(max(interval_s, policy.base_s) * 2, policy.max_s)


def spread(interval_s: float, number: int) -> float:
    """Between half of the interval and all of it, evenly over container numbers.

    Waited instead of the interval when that has just grown: containers made together are then not read together for ever
    (1000 such readings take 0.2 s).
    """
    return interval_s * (1 - (number * _GOLDEN) % 1 / 2)


def is_pruned(exclude: Sequence[str], path: str) -> bool:
    """True if the path, or one that it lies below, matches. The host never does."""
    if path == "/" or not exclude:
        return False
    parts = path.split("/")
    above = ("/".join(parts[:n]) for n in range(2, len(parts) + 1))
    return any(fnmatchcase(p, pattern) for p in above for pattern in exclude)


def is_included(include: Sequence[str], path: str) -> bool:
    """True if the path is sampled, as far as the include patterns say. The host always is."""
    return not include or path == "/" or any(fnmatchcase(path, pattern) for pattern in include)
