"""The sampler process: privileged where it must be; reads the kernel and writes the journal, nothing else."""

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.cli import validate_worker
from tidegauge.collectors.process_list import ProcessLists
from tidegauge.pipeline import collecting, introspection, logs, sampling
from tidegauge.pipeline import config as configuration
from tidegauge.pipeline.account import furthest_cursor
from tidegauge.pipeline.budgets import raise_descriptor_limit
from tidegauge.pipeline.config import Config
from tidegauge.pipeline.errors import Reason, RequestError
from tidegauge.pipeline.identity import Origin, live_containers
from tidegauge.pipeline.journal import JournalStats, JournalWriter
from tidegauge.pipeline.kmsg import KmsgThread
from tidegauge.pipeline.log_thread import MAX_PAYLOAD, Heads, LogThread
from tidegauge.pipeline.messages import Channel, LogMoved, Needed, Request, SamplerCounters
from tidegauge.pipeline.remotes import Remotes
from tidegauge.pipeline.requests import Responder
from tidegauge.pipeline.sampler import Sampler
from tidegauge.pipeline.schedule import Schedule
from tidegauge.pipeline.state import StateDir, boot_id
from tidegauge.pipeline.supervisor import Start, listen_to_parent

log = logging.getLogger(__name__)

_STOP_LOG_WITHIN_S = 1.5
_COUNTERS_EVERY_S = 1.0
_STATS_EVERY_S = 1.0


class JournalLink:
    """What passes between the journal thread and the channel.

    `moved` is called in the journal thread; the writer is touched by that thread alone.
    """

    def __init__(self, writer: JournalWriter, channel: Channel) -> None:
        self._writer = writer
        self._channel = channel
        self._needed: int | None = None
        self._is_needed_fresh = False
        self._stats_s = 0.0
        self.stats: JournalStats = writer.stats()

    def needed(self, row: int | None) -> None:
        """From the channel's thread; taken over at the next append."""
        self._needed = row
        self._is_needed_fresh = True

    def moved(self) -> None:
        if self._is_needed_fresh:
            self._is_needed_fresh = False
            self._writer.set_needed(self._needed)
        now = time.monotonic()
        if now - self._stats_s >= _STATS_EVERY_S:
            self._stats_s = now
            self.stats = self._writer.stats()
        self.tell()

    def tell(self) -> None:
        """Tells the server how far the log may be read. Any thread."""
        self._channel.send(LogMoved(self._writer.appended_row, self._writer.synced_row, self._writer.accepted))


def main(config: Config, start: Start, channel_end: socket.socket, source: str) -> int:
    """Runs until SIGTERM or the end of the parent."""
    logs.configure("sampler", config.log.level, config.log.format)
    raise_descriptor_limit()
    collectors, catalogue = collecting.build(config)
    binder = collecting.build_binder(config)
    collecting.introduce(collectors, binder)
    heads = Heads()
    state = StateDir(config.state_dir)
    writer = JournalWriter(state.journal, config.journal, heads.frames)
    found = writer.open(furthest_cursor(state.server))
    if found.lost_rows or found.damaged:
        log.warning("the journal is damaged at its end: %d places, %d rows known to be lost", found.damaged, found.lost_rows)
    known = live_containers((frame.type, frame.payload) for frame in found.frames)
    heads.begin(known)
    channel = Channel(channel_end)
    link = JournalLink(writer, channel)
    responder = Responder(channel)
    responder.add("processes", ProcessLists(config.roots.sys, config.roots.proc, config.roots.rootfs).answer)
    responder.add("validate", partial(validate_worker.answer, config))
    for kind, handler in introspection.HANDLERS.items() if config.http.debug else ():
        responder.add(kind, handler)
    journal = LogThread(
        writer,
        heads,
        config.journal.sync_interval_s,
        on_append=link.moved,
        max_payload=min(MAX_PAYLOAD, config.journal.segment_bytes // 4),
    )
    origin = Origin(source, config.host, boot_id(config.roots.proc))
    sampler = Sampler(
        config.sampler,
        collectors,
        catalogue,
        origin,
        journal,
        known=[c for c in known if not c.remote],
        last_time_ms=found.last_time_ms,
        first_row=found.first_row,
        naming=binder,
        has_oom_events="oom_event" in config.metrics.groups,
    )
    responder.add("read_soon", lambda arguments, deadline_ns: sampler.read_soon(_numbers(arguments)))
    binder.changed = sampler.specs.soon
    kmsg = _follow_kmsg(config, sampler)
    remotes = Remotes(
        collecting.build_remotes(config),
        catalogue,
        config.metrics.groups,
        config.metadata,
        journal,
        state.journal,
        known=[c for c in known if c.remote],
        first_row=found.first_row,
        last_time_ms=found.last_time_ms,
    )
    schedule = Schedule()
    sampling.add_jobs(schedule, sampler, config.sampler)
    sampling.add_binder(schedule, binder, config.metadata)
    signal.signal(signal.SIGTERM, lambda signum, frame: sampler.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def reload(message: bytes) -> None:
        fresh = configuration.loads(message)
        logs.configure("sampler", fresh.log.level, fresh.log.format)
        sampling.reload(schedule, sampler, fresh.sampler)
        sampling.reload_binder(schedule, binder, fresh.metadata)

    listen_to_parent(start.parent_fd, reload, sampler.stop)

    def counters() -> Mapping[str, Any]:
        return {
            **sampler.counters(),
            **schedule.counters(),
            **binder.counters(),
            **remotes.counters(),
            "kmsg_overruns": 0 if kmsg is None else kmsg.overruns,
            **_journal_counters(link.stats, journal),
            "requests": responder.counters(),
            "messages_unsent": channel.unsent,
            "messages_undecodable": channel.undecodable,
            "restarts": start.restarts,
            "pid": os.getpid(),
            "process_cpu_s": round(sum(os.times()[:2]), 3),
        }

    def converse() -> None:
        told_s = 0.0
        while True:
            match channel.receive(timeout_s=_COUNTERS_EVERY_S):
                case Needed(row):
                    link.needed(row)
                case Request() as request:
                    responder.take(request)
            if not journal.is_alive():
                log.error("the journal thread has ended; the process ends with it, to be started again")
                os._exit(1)
            now = time.monotonic()
            if now - told_s >= _COUNTERS_EVERY_S:
                told_s = now
                link.tell()
                channel.send(SamplerCounters(counters()))

    link.tell()
    journal.start()
    schedule.start()
    binder.start()
    remotes.start()
    threading.Thread(target=converse, name="channel", daemon=True).start()
    gc.collect()
    gc.freeze()
    try:
        sampler.run()
    finally:
        schedule.stop()
        binder.stop()
        remotes.stop()
        if kmsg is not None:
            kmsg.stop()
        if journal.stop(_STOP_LOG_WITHIN_S):
            link.tell()
            writer.close()
    return 0


def _numbers(arguments: Mapping[str, Any]) -> frozenset[int]:
    """Containers that a request names."""
    try:
        return msgspec.convert(arguments["containers"], frozenset[int])
    except (KeyError, msgspec.ValidationError) as exc:
        raise RequestError(f"containers: expected their numbers: {exc}", Reason.REFUSED) from exc


def _follow_kmsg(config: Config, sampler: Sampler) -> KmsgThread | None:
    """The thread that follows the kernel's log for the sampler; None if that is switched off or not allowed."""
    if not config.sampler.kmsg or "oom_event" not in config.metrics.groups:
        return None
    kmsg = KmsgThread(Path(config.sampler.kmsg), config.roots.proc, sampler.report_oom)
    if (fault := kmsg.start()) is None:
        sampler.expect_oom_reports(kmsg.is_behind)
        return kmsg
    kmsg.stop()
    log.warning("OOM kills are told without process, on cgroup v1 without whose limit was hit: %s", fault)
    return None


def _journal_counters(stats: JournalStats, journal: LogThread) -> dict[str, Any]:
    oldest = stats.oldest_time_ms
    return {
        "journal_bytes": stats.bytes,
        "journal_segments": stats.segments,
        "journal_oldest_age_seconds": None if oldest is None else max(0.0, time.time() - oldest / 1000),
        "journal_overwritten_unread_segments": stats.overwritten_unread_segments,
        "journal_overwritten_unread_rows": stats.overwritten_unread_rows,
        "journal_append_errors": stats.append_errors,
        "journal_sync_errors": stats.sync_errors,
        "log_failures": journal.failures,
        "log_unwritable_rows": journal.unwritable_rows,
        "log_waiting_ticks": journal.waiting,
    }
