"""Containers that the tests of the host's collectors give to them."""

from tests.collectors.cgroup_truth import container

HOST = container("/")
CONTAINER = container("/docker/0123")
