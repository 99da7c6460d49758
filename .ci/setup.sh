# What run.sh and test.sh share: a virtual environment with tidegauge in it, and Debian packages. Sourced, by bash.

python=${PYTHON:-python3}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# apt_install PACKAGE...: installs those that are missing. As root, or through sudo if there is one. Returns 1 where it cannot.
#
# Packages of servers start these on a machine with systemd, and enable them for every boot; the tests start their own on
# free ports. So no service may start meanwhile, and what came enabled is disabled again. PostgreSQL's also makes a cluster,
# unless it is told not to.
apt_install() {
    local missing=() package sudo=() guard=/usr/sbin/policy-rc.d is_guarded=
    local clusters=/etc/postgresql-common/createcluster.d/tidegauge-tests.conf
    command -v apt-get >/dev/null || { say "no apt-get here: install by hand: $*"; return 1; }
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "neither root nor sudo: install by hand: ${missing[*]}"; return 1; }
        sudo=(sudo)
    fi
    say "apt-get install ${missing[*]}"
    if [ ! -e $guard ]; then
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $guard >/dev/null && "${sudo[@]}" chmod 755 $guard && is_guarded=yes
    fi
    "${sudo[@]}" mkdir -p "${clusters%/*}"
    echo "create_main_cluster = false" | "${sudo[@]}" tee "$clusters" >/dev/null
    local status=0
    "${sudo[@]}" apt-get -q update >&2 &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=300 \
            -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" </dev/null >&2 || status=1
    [ -z "$is_guarded" ] || "${sudo[@]}" rm -f $guard
    "${sudo[@]}" rm -f "$clusters"
    "${sudo[@]}" rmdir -p --ignore-fail-on-non-empty "${clusters%/*}"
    if [ -d /run/systemd/system ]; then
        for package in "${missing[@]}"; do
            case $package in
                influxdb | victoria-metrics | prometheus | postgresql) "${sudo[@]}" systemctl -q disable --now "$package" >&2 || true ;;
                docker.io) "${sudo[@]}" systemctl -q disable --now docker.socket docker containerd >&2 || true ;;
                podman) "${sudo[@]}" systemctl -q disable --now podman.socket podman >&2 || true ;;
            esac
        done
    fi
    return $status
}

# make_venv DIR PIP_ARGUMENT...: a virtual environment in DIR, and `pip install PIP_ARGUMENT...` in it; nothing is done if
# the same was installed before, from the same pyproject.toml and for the same version.
make_venv() {
    local dir=$1 stamp wanted
    shift
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "tidegauge needs Python 3.11 or newer: set PYTHON"
    stamp=$dir/.installed
    wanted=$(printf '%s\n' "$PWD" "$*" "$(sha256sum pyproject.toml pipeline/version.py)")
    if [ -x "$dir/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        say "Debian and Ubuntu keep venv in a package of its own"
        apt_install python3-venv || die "python3-venv is missing"
    fi
    say "virtual environment in $dir: pip install $*"
    [ -x "$dir/bin/python" ] || "$python" -m venv "$dir"
    # --group came with pip 25.1; Debian 12 has 23.0, Ubuntu 24.04 has 24.0
    "$dir/bin/python" -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1' >&2
    "$dir/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2
    printf '%s\n' "$wanted" >"$stamp"
}
