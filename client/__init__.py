"""Client of cAdvisor's REST API and of what tidegauge adds to it. Runs in other people's processes; imports nothing of ours."""

from tidegauge.client.api import Client, ClientV2, ContainerInfoQuery, TidegaugeClient
from tidegauge.client.containers import ContainerInfo, ContainerInfoV2, ContainerSpec, DerivedStats, ProcessInfo
from tidegauge.client.errors import AnswerTooLarge, ClientError, ConnectionFailed, HttpError, TimedOut, WrongAnswer
from tidegauge.client.events import Event, EventQuery
from tidegauge.client.history import (
    History,
    HistoryPoint,
    HistoryQuery,
    HistorySeries,
    HistorySpan,
    PastContainer,
    PastContainers,
    PastMetric,
    PastMetrics,
)
from tidegauge.client.machine import Attributes, FsInfo, MachineInfo
from tidegauge.client.own import Missed, Process, Processes, RecordedEvent, RecordedEventQuery, Status
from tidegauge.client.samples import ContainerStats, ContainerStatsV2, DeprecatedContainerStats, MachineStats
from tidegauge.client.streams import EventStream

__all__ = [
    "AnswerTooLarge",
    "Attributes",
    "Client",
    "ClientError",
    "ClientV2",
    "ConnectionFailed",
    "ContainerInfo",
    "ContainerInfoQuery",
    "ContainerInfoV2",
    "ContainerSpec",
    "ContainerStats",
    "ContainerStatsV2",
    "DeprecatedContainerStats",
    "DerivedStats",
    "Event",
    "EventQuery",
    "EventStream",
    "FsInfo",
    "History",
    "HistoryPoint",
    "HistoryQuery",
    "HistorySeries",
    "HistorySpan",
    "HttpError",
    "MachineInfo",
    "MachineStats",
    "Missed",
    "PastContainer",
    "PastContainers",
    "PastMetric",
    "PastMetrics",
    "Process",
    "ProcessInfo",
    "Processes",
    "RecordedEvent",
    "RecordedEventQuery",
    "Status",
    "TidegaugeClient",
    "TimedOut",
    "WrongAnswer",
]
