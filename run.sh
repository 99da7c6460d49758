#!/usr/bin/env bash
# Sets up tidegauge and runs it: samples the host and its containers into a SQLite file until ^C.
#
#   ./run.sh                    everything by default, no configuration
#   ./run.sh --config FILE      arguments go to `tidegauge run`
#   ./run.sh once               any other command of tidegauge
#
# What it does to the machine: a virtual environment in .venv (pip), and `apt-get install python3-venv` if Python has no venv.
set -euo pipefail
top=$(cd "$(dirname "$0")" && pwd)
. "$top/.ci/setup.sh"

# in a subshell, so that a relative path among the arguments means what it means where you are
(
    cd "$top"
    # what test.sh installed serves as well
    if grep -qsF -- "--group dev" .venv/.installed; then
        make_venv .venv --group dev -e .
    else
        make_venv .venv -e .
    fi
)

case ${1:-} in
    "" | -*) set -- run "$@" ;;
esac
if [ "$1" = run ]; then
    if [ "$(id -u)" = 0 ]; then state=/var/lib/tidegauge; else state=${XDG_STATE_HOME:-$HOME/.local/state}/tidegauge; fi
    state=${TIDEGAUGE_STATE_DIR:-$state}
    say "page:     http://127.0.0.1:4194/ unless configured otherwise"
    say "database: $state/server/tidegauge.db, SQLite"
    say "stop:     ^C"
fi
exec "$top/.venv/bin/tidegauge" "$@"
