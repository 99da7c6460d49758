"""What a container announces: its labels, and the configuration files that these name. Pure.

Source: cAdvisor v0.35 collector/config.go, collector/generic_collector.go, collector/prometheus_collector.go.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec

from tidegauge.collectors.app.scrape import Metric, Target
from tidegauge.pipeline.errors import CollectError
from tidegauge.pipeline.plugin import Metadata

PREFIX = "io.cadvisor.metric."
MAX_ANNOUNCEMENTS = 10
"""Labels of one container that are followed; the rest is left alone."""
MIN_INTERVAL_S = 1.0
_MAX_PATH = 2000
_PORTS = {"http": 80, "https": 443}
_TYPES = ("gauge", "cumulative")
_DATA_TYPES = ("int", "float")


_Ns = Annotated[int, msgspec.Meta(le=10**18)]


class Refused(CollectError):
    """It is not done, and the text says why."""


class Announcement(NamedTuple):
    """One endpoint, as its configuration file describes it."""

    target: Target
    interval_s: float
    wanted: tuple[str, ...]
    """Of Prometheus' format: names of metrics to take; () for all."""
    metrics: tuple[Metric, ...] | None
    """What expressions find in the answer; None: the answer is in Prometheus' text format."""


class _Url(msgspec.Struct, frozen=True):
    protocol: str = "http"
    port: Annotated[int, msgspec.Meta(le=65535)] | str = 0
    path: str = ""


class _Prometheus(msgspec.Struct, frozen=True):
    endpoint: str | _Url
    polling_frequency: _Ns = 0
    metrics_config: list[str] | None = None


class _GenericMetric(msgspec.Struct, frozen=True):
    name: str
    regex: str
    metric_type: str = "gauge"
    data_type: str = "float"
    units: str = ""
    polling_frequency: _Ns = 0


class _Generic(msgspec.Struct, frozen=True):
    endpoint: str | _Url
    metrics_config: list[_GenericMetric]


def announcements(labels: Mapping[str, str]) -> dict[str, str]:
    """Path of the configuration file by the announcement's name."""
    found = sorted((k.removeprefix(PREFIX), v) for k, v in labels.items() if k.startswith(PREFIX) and v)
    return dict(found[:MAX_ANNOUNCEMENTS])


def own_addresses(said: Metadata) -> tuple[str, ...]:
    """Addresses of the container that the runtime gave it, IPv4 first. Refused if there is none that is its own.

    Only the runtime's word counts: who may change the addresses inside a container could give it anybody's.
    """
    if said.network is not None and said.network != "own":
        raise Refused(f"it has no network of its own (network {said.network})")
    found = []
    for text in said.addresses:
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
            found.append(address)
    if not found:
        raise Refused("the runtime tells no address of its own")
    return tuple(str(a) for a in sorted(found, key=lambda a: a.version))


def parse(name: str, raw: bytes, addresses: Sequence[str], default_interval_s: float) -> Announcement:
    """What the file says. Refused with the reason, which holds nothing of the file but names of keys."""
    try:
        if name.startswith("prometheus"):
            return _prometheus(msgspec.json.decode(raw, type=_Prometheus), addresses, default_interval_s)
        return _generic(msgspec.json.decode(raw, type=_Generic), addresses, default_interval_s)
    except msgspec.ValidationError as exc:
        raise Refused(f"its configuration file: {exc}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("its configuration file is no JSON") from None


def _prometheus(found: _Prometheus, addresses: Sequence[str], default_interval_s: float) -> Announcement:
    interval_s = _interval_s([found.polling_frequency], default_interval_s)
    return Announcement(_target(found.endpoint, addresses), interval_s, tuple(found.metrics_config or ()), None)


def _generic(found: _Generic, addresses: Sequence[str], default_interval_s: float) -> Announcement:
    metrics = []
    for i, m in enumerate(found.metrics_config):
        if m.metric_type not in _TYPES:
            raise Refused(f"its configuration file: metrics_config[{i}].metric_type: expected one of {', '.join(_TYPES)}")
        if m.data_type not in _DATA_TYPES:
            raise Refused(f"its configuration file: metrics_config[{i}].data_type: expected one of {', '.join(_DATA_TYPES)}")
        metrics.append(Metric(m.name, m.regex, m.metric_type == "cumulative", m.data_type == "int"))
    interval_s = _interval_s([m.polling_frequency for m in found.metrics_config], default_interval_s)
    return Announcement(_target(found.endpoint, addresses), interval_s, (), tuple(metrics))


def _interval_s(frequencies: Sequence[int], default_s: float) -> float:
    """The shortest that is stated, in ns, never below MIN_INTERVAL_S."""
    stated = [f for f in frequencies if f > 0]
    return max(MIN_INTERVAL_S, min(stated) / 1e9) if stated else default_s


def _target(endpoint: str | _Url, addresses: Sequence[str]) -> Target:
    if isinstance(endpoint, str):
        return _of_url(endpoint, addresses)
    text = str(endpoint.port)
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
    path = endpoint.path if endpoint.path.startswith("/") else f"/{endpoint.path}"
    return _checked(endpoint.protocol.lower(), addresses[0], port, path)


def _of_url(url: str, addresses: Sequence[str]) -> Target:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Refused("its endpoint is no URL") from None
    if parts.username is not None or parts.password is not None:
        raise Refused("its endpoint has a user in it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _checked(parts.scheme, _address(host, addresses), _PORTS.get(parts.scheme, 0) if port is None else port, path)


def _address(host: str, addresses: Sequence[str]) -> str:
    """The container's address that is meant. `localhost` is the container's."""
    if host == "localhost":
        return addresses[0]
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        raise Refused("its endpoint is at another host than localhost or the container's own address") from None
    if address.is_loopback:
        return addresses[0]
    if str(address) not in addresses:
        raise Refused("its endpoint is at another address than the container's own")
    return str(address)


def _checked(scheme: str, address: str, port: int, path: str) -> Target:
    if scheme not in _PORTS:
        raise Refused("its endpoint: expected http or https")
    if not 0 < port < 65536:
        raise Refused("its endpoint: expected a port from 1 to 65535")
    if len(path) > _MAX_PATH or not all("!" <= c <= "~" for c in path):
        raise Refused(f"its endpoint: expected a path of at most {_MAX_PATH} printable ASCII characters")
    return Target(scheme == "https", address, port, path)
