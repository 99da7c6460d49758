"""Options of the journal: size of its segments, how long it keeps what every sink has read, when it syncs."""

from typing import Annotated, Literal

import msgspec


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[journal]`."""

    segment_bytes: Annotated[int, msgspec.Meta(ge=1 << 16)] = 8 << 20
    keep_age_s: Annotated[float, msgspec.Meta(ge=0)] = 86400.0
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1 << 30
    """What every sink has read is kept until it is older than the one or more than the other, whichever comes first."""
    durability: Literal["normal", "full"] = "normal"
    """`full`: synced at every tick. `normal`: at most `sync_interval_s` is lost at a power cut, nothing at a kill."""
    sync_interval_s: Annotated[float, msgspec.Meta(gt=0)] = 0.5
