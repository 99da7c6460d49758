#!/usr/bin/env bash
# Sets up and runs every check and test of tidegauge; the last line is pytest's.
#
#   ./test.sh             everything: lint, types, import direction, unit tests, tests against real servers, kernels, engines
#   ./test.sh --unit      the fast part, a few minutes, without apt-get: what `make check` runs
#   ./test.sh -k word     further arguments go to pytest
#
# What it does to the machine: a virtual environment in .venv (pip); `apt-get install` of what is named below, as root or
# through sudo. Nothing of it is left running or enabled. What cannot be had makes its tests skip, with the reason; with
# TIDEGAUGE_TESTS_STRICT=1, as in CI, it makes them fail.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh

packages=(
    influxdb victoria-metrics         # stores that the sinks write to and the tests read back
    postgresql                        # one more
    prometheus                        # scrapes the running program; its promtool checks the page
    qemu-system-x86 busybox-static    # boots a kernel with cgroup v2 alone, whatever this machine has
    kmod                              # the modules of that kernel
    docker.io mmdebstrap              # a container engine, and an image made without a registry
    podman runc containerd            # two more
    curl openssl                      # a client of the listener, and certificates for it
    iproute2 util-linux mount         # network namespaces, small file systems
    gcc libc6-dev                     # the C program that the benchmarks are compared with
)

pytest=(.venv/bin/python -m pytest)
if [ "${1:-}" = --unit ]; then
    shift
    pytest+=(-q -n 2 -m "not integration and not vm and not docker and not e2e")
else
    apt_install "${packages[@]}" || say "going on without; the tests that need them will skip or, in CI, fail"
    pytest+=(--durations=15)
fi
make_venv .venv --group dev -e .

say "format, lint, types, import direction"
.venv/bin/ruff format --check -q .
.venv/bin/ruff check -q .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo
say "tests"
exec "${pytest[@]}" "$@"
