"""Containers that the tests of the host's collectors give to them."""

from tidegauge.pipeline.records import Container


def _container(path: str) -> Container:
    return Container(
        number=1,
        source="8a8c1a0e-3a6c-4f5e-9c1e-0b7f8f0a1b2c",
        instance="0123456789abcdef",
        epoch=0,
        boot_id="5f1c7c9e-9f0b-4a58-8c31-1f6d3f1d2b3a",
        path=path,
        host="host",
        created_ms=0,
        valid_from_ms=0,
    )


HOST = _container("/")
CONTAINER = _container("/docker/0123")
