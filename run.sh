#!/usr/bin/env bash
# Sets up tidegauge and runs it: samples the host and its containers into a SQLite file until ^C.
#
#   ./run.sh                    everything by default, no configuration
#   ./run.sh --config FILE      arguments go to `tidegauge run`
#   ./run.sh once               any other command of tidegauge
#
# What it does to the machine: a virtual environment in .venv (pip), and `apt-get install python3-venv` if Python has no venv.
# As root, half of it runs as an unprivileged user; if that one cannot look into this folder (below /root, say), the virtual
# environment is in /var/cache/tidegauge, not editable.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh

# The first folder on the way to $1 that other users may not enter.
closed_to_others() {
    local dir
    dir=$(realpath "$1")
    while [ "$dir" != / ]; do
        [ ! -d "$dir" ] || [ -n "$(find "$dir" -maxdepth 0 -perm -o=x)" ] || { echo "$dir"; return; }
        dir=$(dirname "$dir")
    done
}

if [ "$(id -u)" = 0 ] && [ -n "$(closed_to_others .)$(closed_to_others "$(command -v "$python")")" ]; then
    venv=/var/cache/tidegauge/venv
    [ -n "${PYTHON:-}" ] || python=/usr/bin/python3
    mkdir -p -m 755 "$(dirname $venv)"
    make_venv $venv .
elif [ -e .venv/.installed ] && grep -qF -- "--group dev" .venv/.installed; then
    venv=.venv
    make_venv $venv --group dev -e .
else
    venv=.venv
    make_venv $venv -e .
fi

case ${1:-} in
    "" | -*) set -- run "$@" ;;
esac
if [ "$1" = run ]; then
    if [ "$(id -u)" = 0 ]; then state=/var/lib/tidegauge; else state=${XDG_STATE_HOME:-$HOME/.local/state}/tidegauge; fi
    state=${TIDEGAUGE_STATE_DIR:-$state}
    say "page:     http://127.0.0.1:4194/"
    say "database: $state/server/tidegauge.db (SQLite)"
    say "stop:     ^C"
fi
exec "$venv/bin/tidegauge" "$@"
