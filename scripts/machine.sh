# Sourced by the other scripts: what they need of this machine. Bash.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
cache=$root/.cache
# Environments are compiled when they are made, as pip does it: programs are started in them hundreds of times.
export UV_COMPILE_BYTECODE=1
#: The base image of tests and of the demo.
base_image=${CI_RUNNER_TEST_IMAGE:-ci-runner-base:bookworm}

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
fail() { say "$*"; exit 1; }

# A Python of 3.10 or later; $PYTHON names one.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# The virtual environment .venv with the developers' tools and this project as users install it: its wheel, and its
# runner. The tools are installed again when pyproject.toml or the Python changed, the wheel when its sources did.
ensure_venv() {
    local python wanted
    if ! python=$(find_python); then
        install_packages python3 python3-venv
        python=$(find_python) || fail "Python 3.10 or later is needed; set PYTHON to one"
    fi
    if [[ ! -x $venv/bin/python ]]; then
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then install_packages python3-venv; fi
        "$python" -m venv "$venv"
    fi
    wanted=$("$venv/bin/python" -V; cat "$root/pyproject.toml")
    if [[ ! -x $venv/bin/uv || ! -f $venv/made-from || $wanted != "$(cat "$venv/made-from")" ]]; then
        say "installing into .venv"
        [[ -x $venv/bin/uv ]] || "$venv/bin/python" -m pip install --quiet uv
        VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --group "$root/pyproject.toml:dev"
        rm -f "$venv/pytest-remote-ci-wheel" # what it needs may have changed, too
        printf '%s\n' "$wanted" >"$venv/made-from"
    fi
    withdraw_hypothesis_plugin
    "$venv/bin/python" "$root/scripts/install_wheel.py"
}

# Take the plugin of Hypothesis out of .venv; Hypothesis stays. At the end of each session the plugin imports all of it,
# and pytest rewrites the asserts of it all: together half of the time of a small pytest, and tests start thousands.
withdraw_hypothesis_plugin() {
    local file
    for file in "$venv"/lib/python3.*/site-packages/hypothesis-*.dist-info/entry_points.txt; do
        if [[ -f $file ]] && grep -q pytest11 "$file"; then
            sed '/pytest11/,/^$/d' "$file" >"$file.new" # a new file: this one may be a hard link into a cache
            mv "$file.new" "$file"
        fi
    done
}

install_packages() {
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "missing: $* (install it, or run this as root on Debian or Ubuntu)"
    fi
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# What reaches the package index from here must reach it from a container, too: certificate authorities of an
# intercepting proxy, an index of one's own, proxies. Settings that are there already win.
pass_package_settings() {
    local variable
    for variable in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE; do
        if [[ -z ${CI_RUNNER_CA_BUNDLE:-} && -f ${!variable:-} ]]; then export CI_RUNNER_CA_BUNDLE=${!variable}; fi
    done
    for variable in UV_DEFAULT_INDEX UV_INDEX_URL PIP_INDEX_URL; do
        if [[ -z ${CI_RUNNER_INDEX_URL:-} && ${!variable:-} == http* ]]; then export CI_RUNNER_INDEX_URL=${!variable}; fi
    done
    for variable in HTTP_PROXY http_proxy; do
        if [[ -z ${CI_RUNNER_HTTP_PROXY:-} && -n ${!variable:-} ]]; then export CI_RUNNER_HTTP_PROXY=${!variable}; fi
    done
    for variable in HTTPS_PROXY https_proxy; do
        if [[ -z ${CI_RUNNER_HTTPS_PROXY:-} && -n ${!variable:-} ]]; then export CI_RUNNER_HTTPS_PROXY=${!variable}; fi
    done
    for variable in NO_PROXY no_proxy; do
        if [[ -z ${CI_RUNNER_NO_PROXY:-} && -n ${!variable:-} ]]; then export CI_RUNNER_NO_PROXY=${!variable}; fi
    done
    # uv and pip look at different variables.
    if [[ -z ${SSL_CERT_FILE:-} && -n ${CI_RUNNER_CA_BUNDLE:-} ]]; then export SSL_CERT_FILE=$CI_RUNNER_CA_BUNDLE; fi
}
