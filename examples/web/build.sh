#!/usr/bin/env bash
# Builds the page into examples/web/dist: static files, for any web server that knows the type application/wasm.
#
#   bash examples/web/build.sh
#
# It needs Rust's library for wasm32-unknown-unknown. If the toolchain has none and rustup cannot add it, Debian's packages of Rust for
# Firefox and Chromium are unpacked below target/, not installed, and their compiler builds the library from its sources.
# With rustup's component rust-src, the library is built for size too, without messages of panics, which no page shows: the wasm is a
# ninth smaller. Where it cannot be added, the page is built with the library as rustup brings it.
# wasm-opt is optional: npm's package binaryen brings it, below target/. Debian's, of version 108, breaks tables of references.
# It exits with 3 if there is no library for the target.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=wasm32-unknown-unknown
tools=$PWD/target/web-tools
out=$PWD/examples/web/dist
mkdir -p "$tools"

say() { printf 'web: %s\n' "$*" >&2; }

has_library() { compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/libstd-*" >/dev/null; }

# Browsers with WebGPU have vectors.
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Ctarget-feature=+simd128 ${CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS:-}"

# The arguments of cargo, and a compiler if it is not the toolchain's.
cargo_build=(cargo build --profile web --target "$target" -p enfold-web)
build_page() { "${cargo_build[@]}"; }

# Builds the page with a library that is built for size: a panic is a trap, and nothing formats its message. $1 is the compiler.
build_small_page() {
    local flags="$CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS -Zunstable-options -Cpanic=immediate-abort -Zlocation-detail=none"
    RUSTC="$1" RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="$flags" \
        "${cargo_build[@]}" -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
}

if [ "${ENFOLD_WEB_DEBIAN:-}" = 1 ] || { ! has_library && ! timeout 180 rustup target add "$target" >/dev/null 2>&1; }; then
    say "no library for $target; using Debian's rustc-web"
    root=$tools/debian
    if [ ! -x "$root/usr/bin/rustc" ]; then
        command -v apt-get >/dev/null || { say "rustup target add $target"; exit 3; }
        mkdir -p "$root" "$tools/packages"
        # apt-get update needs root; without it, old lists may do.
        timeout 120 apt-get -qq update 2>/dev/null || true
        version=$(apt-cache policy rustc-web | awk '/Candidate:/ { print $2 }')
        [ -n "$version" ] && [ "$version" != "(none)" ] || { say "Debian's rustc-web cannot be found"; exit 3; }
        [[ $version =~ ^([0-9]+\.[0-9]+) ]]
        (cd "$tools/packages" && timeout 600 apt-get -qq download rustc-web rust-web-src libstd-rust-web-dev "libstd-rust-web-${BASH_REMATCH[1]}")
        for package in "$tools/packages"/*.deb; do dpkg -x "$package" "$root"; done
        rm -r "$tools/packages"
        # cargo looks for the sources of the library below the sysroot.
        mkdir -p "$root/usr/lib/rustlib/src/rust"
        ln -sfn "$(echo "$root"/usr/src/rustc-*/library)" "$root/usr/lib/rustlib/src/rust/library"
        cp "$(echo "$root"/usr/src/rustc-*/Cargo.lock)" "$root/usr/lib/rustlib/src/rust/" 2>/dev/null || true
    fi
    linker=$(find "$(rustc --print sysroot)" -name rust-lld | head -1)
    build_page() {
        LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker" \
            CARGO_TARGET_DIR="$PWD/target/web-debian" build_small_page "$root/usr/bin/rustc"
    }
    wasm=target/web-debian/$target/web/enfold_web.wasm
fi

# cargo builds the library from them, with the versions of crates in their lock file.
has_sources() { [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; }

if [ -n "${wasm:-}" ]; then
    say "compiling, with a library for size"
    build_page
elif { has_sources || timeout 180 rustup component add rust-src >/dev/null 2>&1; } && say "compiling, with a library for size" &&
    CARGO_TARGET_DIR="$PWD/target/web-small" build_small_page "$(rustup which rustc 2>/dev/null || command -v rustc)"; then
    wasm=target/web-small/$target/web/enfold_web.wasm
else
    say "compiling, with the library as it comes: there are no sources of it (rustup component add rust-src), or they do not compile"
    build_page
    wasm=target/$target/web/enfold_web.wasm
fi

opt=$tools/node_modules/.bin/wasm-opt
if [ ! -e "$opt" ] && command -v npm >/dev/null; then
    timeout 300 npm install --silent --no-audit --no-fund --prefix "$tools" binaryen@132.0.0 >/dev/null || say "npm has no binaryen"
fi

rm -rf "$out"
mkdir -p "$out"
# The names of functions are for wasm-opt, which removes them.
names=()
[ -e "$opt" ] || names=(--no-names)
cargo run --quiet -p enfold-web-bindgen -- "$wasm" "$out" "${names[@]}"

if [ -e "$opt" ]; then
    say "wasm-opt"
    features=(bulk-memory bulk-memory-opt call-indirect-overlong multivalue mutable-globals nontrapping-float-to-int reference-types sign-ext simd)
    features=("${features[@]/#/--enable-}")
    # The lowest addresses are the end of the stack, which nothing reaches: offsets may be parts of loads and stores.
    # Small for gzip is not small for itself: functions inside others and shared expressions repeat less.
    "$opt" "${features[@]}" --low-memory-unused --one-caller-inline-max-function-size=1 --skip-pass=local-cse -Oz --converge -Oz -g \
        "$out/enfold_web_bg.wasm" -o "$out/optimized.wasm"
    # gzip finds what it repeats within 32 KiB, so that functions that resemble each other lie side by side.
    cargo run --quiet -p enfold-web-bindgen -- order "$out/optimized.wasm" "$out/named.wasm"
    "$opt" "${features[@]}" --reorder-functions-by-name --strip-debug --strip-producers "$out/named.wasm" -o "$out/enfold_web_bg.wasm"
    rm "$out/optimized.wasm" "$out/named.wasm"
else
    say "not optimized: there is no wasm-opt (npm install binaryen)"
fi

cp examples/web/page/* examples/data/web/*.safetensors "$out/"
size=$(gzip -9c "$out/enfold_web_bg.wasm" | wc -c)
say "enfold_web_bg.wasm: $(wc -c <"$out/enfold_web_bg.wasm") bytes, $size with gzip"
