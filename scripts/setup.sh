# Sourced by demo and test: makes .venv beside pyproject.toml and offers two functions.
# Choose the interpreter with PYTHON=python3.12 and the folder with VENV=/some/where.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

need_system_packages() { # Debian packages; installs the missing ones, if this machine has apt-get
    command -v apt-get >/dev/null || return 0
    local package missing=()
    for package in "$@"; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null |
            grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    local as_root=()
    if ((EUID != 0)); then as_root=(sudo); fi
    echo "Installing system packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq \
            --no-install-recommends "${missing[@]}" >/dev/null ||
        echo "That failed; going on without them." >&2
}

need_python_packages() { # arguments of pip install; versions come from constraints.txt
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "unetari needs Python 3.11 or newer; set PYTHON=python3.11" >&2; exit 1; }
    if [[ ! -x $venv/bin/python ]]; then
        "$python" -c 'import ensurepip' 2>/dev/null || need_system_packages python3-venv
        "$python" -m venv "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt "$@"
}
