#!/usr/bin/env bash
# Tests and measures on a machine that has a GPU but neither a Rust toolchain nor a network.
#
#   tests/gpu_machine.sh --pack DIR   where the crate builds: puts all that is needed into DIR
#   tests/gpu_machine.sh DIR          where the GPU is: runs what DIR holds, and prints where the results lie
#
# ENFOLD_QUICK=1         measures two small shapes only
# ENFOLD_ADAPTER=NAME    uses the adapter whose name contains NAME
# ENFOLD_RESULTS=FOLDER  writes below this folder, by default the working directory
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }

# The executable of one target, from cargo's messages on standard input.
executable() {
    sed -n "/\"name\":\"$1\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}

pack() {
    local dir=$1 messages name path loader
    mkdir -p "$dir/lib"
    dir=$(cd "$dir" && pwd)
    cd "$(dirname "$0")/.."
    messages=$(mktemp)
    # Expanded now: the variable is gone when the trap runs.
    # shellcheck disable=SC2064
    trap "rm -f '$messages'" EXIT
    say "building"
    cargo test --release --no-run --test gpu --features coopmat --message-format=json >"$messages"
    cargo bench --no-run --bench throughput --features coopmat --message-format=json >>"$messages"
    cargo build --release --example linear_gpu --message-format=json >>"$messages"
    for name in gpu throughput linear_gpu; do
        path=$(executable "$name" <"$messages")
        [ -n "$path" ] || fail "cargo has built no $name"
        cp "$path" "$dir/$name"
        strip "$dir/$name"
    done
    # The loader is not part of every driver's package.
    loader=$(ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*x86-64.* => //p' | head -n 1)
    [ -n "$loader" ] || fail "no libvulkan.so.1 here; install Debian's libvulkan1"
    cp -L "$loader" "$dir/lib/libvulkan.so.1"
    mkdir -p "$dir/examples/data"
    cp -R examples/data/digits "$dir/examples/data/"
    cp tests/gpu_machine.sh "$dir/"
    du -sh "$dir"
}

# Names the driver to the loader: by a file that DIR/lib holds, or where a machine has NVIDIA's library but no file that says so.
find_driver() {
    local file library
    [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
    for file in "$1"/lib/*.json; do
        [ -e "$file" ] || continue
        say "driver file: $file"
        export VK_DRIVER_FILES=$file VK_ICD_FILENAMES=$file
        return 0
    done
    for file in /etc/vulkan/icd.d/*.json /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json; do
        [[ -e $file && $file == *nvidia* ]] && return 0
    done
    file=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json
    if [ ! -e "$file" ]; then
        library=$(ldconfig -p | grep -oE 'lib(GLX|EGL)_nvidia\.so\.0' | sort -r | head -n 1 || true)
        [ -n "$library" ] || return 0
        file=$temporary/nvidia_icd.json
        printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"1.3.0"}}\n' "$library" >"$file"
    fi
    say "driver file: $file"
    export VK_DRIVER_FILES=$file VK_ICD_FILENAMES=$file
}

measure() {
    local dir failed=0 arguments
    [ -d "$1" ] || fail "$1 is no folder"
    dir=$(cd "$1" && pwd)
    for name in gpu throughput; do
        [ -x "$dir/$name" ] || fail "$dir/$name is missing; make it with --pack"
    done
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    touch "$temporary/began"
    find_driver "$dir"
    export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

    say "tests"
    "$dir/gpu" --nocapture || { failed=1; echo "tests failed" >&2; }
    if [ -x "$dir/linear_gpu" ]; then
        say "example"
        (cd "$dir" && ./linear_gpu ${ENFOLD_ADAPTER:+--adapter "$ENFOLD_ADAPTER"}) || { failed=1; echo "the example failed" >&2; }
    fi

    say "throughput"
    arguments=(--full)
    [ "${ENFOLD_QUICK:-}" != 1 ] || arguments=(--shape 1,1024,1024 --shape 128,512,512)
    [ -z "${ENFOLD_ADAPTER:-}" ] || arguments+=(--adapter "$ENFOLD_ADAPTER")
    mkdir -p "${ENFOLD_RESULTS:=.}"
    (cd "$ENFOLD_RESULTS" && "$dir/throughput" "${arguments[@]}" --json) || { failed=1; echo "throughput failed" >&2; }
    say "results"
    find "$(cd "$ENFOLD_RESULTS" && pwd)/benches/results" -name '*.json' -newer "$temporary/began" || failed=1
    [ "$failed" -eq 0 ] || fail "something failed, see above"
}

case "${1:-}" in
    --pack) [ $# -eq 2 ] || usage; pack "$2" ;;
    '' | -*) usage ;;
    *) [ $# -eq 1 ] || usage; measure "$1" ;;
esac
