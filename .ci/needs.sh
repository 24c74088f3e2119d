# Sourced by `run` and `test`: what a fresh Debian 12 with Rust lacks. Nothing here asks a question.

export LC_ALL=C CARGO_TERM_COLOR=never
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/ci"

say() { printf '.ci: %s\n' "$*" >&2; }

# Runs a step whose output matters only when it fails.
quietly() {
    if ! "$@" >"$target/ci/step.log" 2>&1; then
        cat "$target/ci/step.log" >&2
        say "failed: $*"
        exit 1
    fi
}

# Runs apt-get as root.
apt() {
    local root=(env DEBIAN_FRONTEND=noninteractive)
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "neither root nor sudo: run this first: apt-get $*"
            exit 1
        fi
        root=(sudo -n "${root[@]}")
    fi
    quietly "${root[@]}" apt-get -qq -o Acquire::Retries=3 "$@"
}

# Installs packages of Debian.
packages() {
    say "installing $*"
    apt update
    apt -y --no-install-recommends install "$@"
}

# unpack PACKAGE PROGRAM..: brings a package whose installation would start a service that all machines reach. It is unpacked
# below the target, no more, and its programs are looked for there.
unpack() {
    local package=$1 folder=$target/$1 program absent=
    for program in "${@:2}"; do
        type -P "$program" >/dev/null || [ -x "$folder/usr/bin/$program" ] || absent=yes
    done
    [ -n "$absent" ] || return 0
    say "unpacking $package in $folder"
    rm -rf "$folder" "$folder.new"
    mkdir -p "$folder.new"
    apt update
    quietly env -C "$folder.new" apt-get -qq -o Acquire::Retries=3 download "$package"
    quietly dpkg-deb --extract "$folder.new"/*.deb "$folder.new"
    rm "$folder.new"/*.deb
    mv "$folder.new" "$folder"
}

# Python 3.11 or later that can make a virtual environment with pip in it.
makes_venvs() {
    command -v "$1" >/dev/null && "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# pip_venv FOLDER ARGUMENTS..: a virtual environment with what `pip install ARGUMENTS` gives; made anew when the
# arguments, or the requirement files among them, change.
pip_venv() {
    local venv=$1 wanted python=
    shift
    wanted=$(for word in "$@"; do if [ -f "$word" ]; then cat "$word"; else printf '%s\n' "$word"; fi; done | sha256sum)
    if [ "$(cat "$venv/wanted" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    if ! makes_venvs python3 && ! makes_venvs /usr/bin/python3; then
        packages python3 python3-venv
    fi
    for python in python3 /usr/bin/python3 ''; do
        makes_venvs "$python" && break
    done
    [ -n "$python" ] || { say 'there is no Python 3.11 or later that makes virtual environments'; exit 1; }
    say "installing $* in $venv"
    quietly "$python" -m venv --clear "$venv"
    quietly "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --retries 5 "$@"
    printf '%s' "$wanted" >"$venv/wanted"
}

if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
command -v cargo >/dev/null || { say 'Rust is not installed: see https://rustup.rs'; exit 1; }

# need PACKAGE PROGRAM..: installs the package where one of its programs is missing.
missing=()
need() {
    local package=$1 program
    shift
    for program in "$@"; do
        type -P "$program" >/dev/null || { missing+=("$package"); return; }
    done
}

# aws-lc and zstd are C; jemalloc is configured and made.
need gcc cc
need libc6-dev cc
need make make
# Tests speak to the gateway as its users do, and send it signals.
need curl curl
need openssl openssl
need nghttp2-client h2load
need procps kill
# Instructions of the parts of a request are counted.
need valgrind valgrind
# Policies are pulled from repositories, whose commits are signed.
need git git
need openssh-client ssh-keygen
# Gateways count together in a Redis.
need redis-server redis-server
# The console is looked at as people see it.
need chromium chromium
# Pods of tests are network namespaces, in which `foregate init` redirects.
need iproute2 ip
need nftables nft
need iptables iptables-restore
need util-linux setpriv
# What is released is packed, and looked at as those who install it do.
need binutils strip
need lintian lintian
need groff-base groff
need systemd systemd-analyze
need zsh zsh
need fish fish
[ ${#missing[@]} -eq 0 ] || packages "${missing[@]}"

# Scrapes the gateway, evaluates rules, and tries them.
unpack prometheus prometheus promtool
