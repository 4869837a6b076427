#!/usr/bin/env bash
# Runs the tests of the kernels and of the arithmetic for aarch64, on emulated processors with and without the instructions of its kernels,
# and for WebAssembly with vectors, in Node.js. tests/run.sh calls it.
#
#   bash tests/kernels/run.sh           tests
#   bash tests/kernels/run.sh rates     prints the rates of WebAssembly's kernels, built as the page of examples/web is, and without vectors
#
# It needs Rust's libraries for aarch64-unknown-linux-musl and wasm32-wasip1, Debian's package qemu-user, and Node.js. It adds the libraries
# with rustup, and the package as root. What cannot be had is not tested, and a line says so.
set -euo pipefail
cd "$(dirname "$0")/../.."

aarch64=aarch64-unknown-linux-musl
wasm=wasm32-wasip1
# The linker that comes with Rust: no C compiler for aarch64 is needed.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/tests/kernels/wasi.mjs"
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS=-Ctarget-feature=+simd128

skip() { printf 'kernels: %s\n' "$*"; }

has_target() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1" ] || timeout 180 rustup target add "$1" >/dev/null 2>&1
}

has_emulator() {
    command -v qemu-aarch64 >/dev/null && return
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return
    timeout 120 apt-get -qq update >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -qq install -y --no-install-recommends qemu-user >/dev/null 2>&1
}

# Runs the tests of a target: the kernel that the processor must choose, the target, and arguments of cargo.
run_tests() {
    local expected=$1 target=$2
    shift 2
    ENFOLD_EXPECTED_KERNEL=$expected cargo test --quiet -p enfold-kernels --target "$target" "$@" -- --nocapture
}

if [ "${1:-}" = rates ]; then
    has_target "$wasm" && command -v node >/dev/null || { skip "no rates without node and rustup target add $wasm"; exit 1; }
    rates() { cargo test --quiet -p enfold-kernels --target "$wasm" --profile web -- --ignored --nocapture | grep GOPS; }
    rates
    echo "without vectors:"
    CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="" rates
    exit
fi

if ! has_target "$aarch64"; then
    skip "aarch64 not checked, since Rust's library for it cannot be had: rustup target add $aarch64"
else
    cargo clippy --quiet --lib --target "$aarch64" --no-default-features --features flow -- -D warnings
    if [ "$(uname -m)" = aarch64 ]; then
        skip "aarch64 not emulated, since this is one"
    elif ! has_emulator; then
        skip "aarch64 compiled but not tested, since there is no qemu-aarch64: apt-get install qemu-user"
    else
        # Processors with matrix products of int8, with dot products only, and with neither.
        for run in "max neon-i8mm" "cortex-a76 neon-dotprod" "cortex-a72 rten-gemm aarch64-u8i8i32-mlal"; do
            read -r processor kernel <<<"$run"
            echo "aarch64, $processor:"
            CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER="qemu-aarch64 -cpu $processor" \
                run_tests "$kernel" "$aarch64" --features threads
        done
    fi
fi

if ! has_target "$wasm"; then
    skip "WebAssembly not tested, since Rust's library for it cannot be had: rustup target add $wasm"
elif ! command -v node >/dev/null; then
    skip "WebAssembly not tested, since there is no node: apt-get install nodejs"
else
    echo "WebAssembly:"
    run_tests wasm-simd128 "$wasm"
fi
