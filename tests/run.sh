#!/usr/bin/env bash
# Runs formatting, lints, documentation and all tests. On a Debian or Ubuntu machine with a Rust toolchain it installs the packages that
# it needs.
#
#   bash tests/run.sh
#
# CI=true                   also runs the GPU tests on a second Vulkan driver, SwiftShader, from Debian's chromium, reads the machine
#                           code that Mesa writes for an AMD GPU, calibrates and serves a model on a small Ray cluster, and tests the page of
#                           examples/web in Chromium
# ENFOLD_LONG=1             tests thousands of random networks instead of hundreds, and runs all of ONNX's conformance tests; also lints and
#                           tests the crate without features and with the default features, and its tests without features
# ENFOLD_ALLOW_NO_GPU=1     skips and counts the GPU tests if there is no adapter
# ENFOLD_ALLOW_NO_PYTHON=1  skips the checks by ONNX Runtime and ONNX's tests if their packages cannot be installed
# ENFOLD_ADAPTER=NAME       runs the GPU tests on the adapter whose name contains NAME
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
missing() { printf 'missing: %s\n' "$*" >&2; exit 1; }

# Installs Debian packages, as root or with sudo. Fails with a message if neither is possible.
install() {
    local as_root=()
    command -v apt-get >/dev/null || missing "$* (this is no Debian or Ubuntu; install the equivalent)"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || missing "$* (neither root nor sudo; install them with apt-get)"
        as_root=(sudo)
    fi
    say "installing $*"
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# A tree that has not been built is not prepared for later changes: that takes time too.
[ -d target/debug/incremental ] || export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

command -v cargo >/dev/null || missing "cargo; see https://rustup.rs"
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    package=${component/fmt/rustfmt}
    rustup component add "$package" || missing "$package; add it to the Rust toolchain"
done

say "formatting"
cargo fmt --check

say "lints"
cargo clippy --quiet --all-targets --features coopmat-spirv,cli -- -D warnings
cargo clippy --quiet --no-default-features --lib -- -D warnings
if [ "${ENFOLD_LONG:-}" = 1 ]; then
    cargo clippy --quiet --lib -- -D warnings
    cargo clippy --quiet --no-default-features --test host -- -D warnings
fi

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --features coopmat-spirv,cli

say "the browser's target"
# The check needs Rust's library for this target.
if [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then
    cargo check --quiet --lib --target wasm32-unknown-unknown --no-default-features --features webgpu
else
    echo "not checked: rustup target add wasm32-unknown-unknown"
fi

say "building the tests"
cargo test --quiet --no-run --features coopmat-spirv,cli

if [ "${ENFOLD_ALLOW_NO_GPU:-}" != 1 ] && ! cargo test --quiet --features coopmat-spirv,cli --test gpu an_adapter_answers >/dev/null 2>&1; then
    install mesa-vulkan-drivers libvulkan1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs tests and logs their output, for the counts below.
tests() {
    say "tests: $1"
    shift
    "$@" 2>&1 | tee -a "$log"
}

tests "with the GPU engine" cargo test --features coopmat-spirv,cli
if [ "${ENFOLD_LONG:-}" = 1 ]; then
    # These are the same tests without those of the features. The lints have compiled them.
    tests "without a GPU engine" cargo test --no-default-features --lib
fi

tests "kernels for other processors" bash tests/kernels/run.sh

say "ONNX Runtime on exported models, and ONNX's own tests"
# The scripts install their packages from PyPI into target/onnxruntime-venv.
python3 -c 'import venv, ensurepip' 2>/dev/null || install python3 python3-venv
python3 tests/onnx/check_with_onnxruntime.py 2>&1 | tee -a "$log"
python3 tests/onnx/check_files_of_onnxruntime.py 2>&1 | tee -a "$log"
python3 tests/onnx/conformance.py 2>&1 | tee -a "$log"

if [ "${CI:-}" = true ]; then
    gpu_tests=$(cargo test --quiet --features coopmat-spirv,cli --test gpu -- --list)
    # The skipped tests do not depend on the driver, or test combinations of kernels that the other tests cover one by one. The first
    # driver has run them all.
    skipped_tests=(--skip allocations:: --skip buffer_ranges:: --skip fused:: --skip loss:: --skip memory:: --skip tools::
        --skip networks_of_every_pattern --skip every_path --skip all_divisions --skip are_divided
        --skip right_on_every_tile)
    for skipped in "${skipped_tests[@]}"; do
        # A test that has another name now would run.
        [ "$skipped" = --skip ] || grep -q "$skipped" <<<"$gpu_tests" || missing "a GPU test called $skipped"
    done
    say "on SwiftShader without: ${skipped_tests[*]//--skip/}"
    icd=/usr/lib/chromium/vk_swiftshader_icd.json
    [ -e "$icd" ] || install chromium
    [ -e "$icd" ] || missing "$icd, which Debian's chromium carries"
    on_swiftshader=(env VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd" ENFOLD_ADAPTER=SwiftShader)
    tests "GPU tests on SwiftShader" "${on_swiftshader[@]}" cargo test --features coopmat-spirv,cli --test gpu -- "${skipped_tests[@]}"
    tests "cases on SwiftShader" "${on_swiftshader[@]}" cargo test --features coopmat-spirv,cli --test cli cases_hold_on_the_gpu
    tests "machine code for an AMD GPU" bash tests/isa.sh

    # The scripts install Ray from PyPI into target/ray-venv.
    say "calibrating and serving on a Ray cluster"
    timeout 1200 python3 examples/cluster/calibrate.py --workers 2 2>&1 | tee -a "$log"
    timeout 600 python3 examples/cluster/serve.py --check --port 18099 2>&1 | tee -a "$log"
    # The GPU tests have written networks with their results to target/browser.
    say "the page of examples/web in Chromium"
    command -v node >/dev/null || install nodejs
    command -v npm >/dev/null || echo "no npm, hence no wasm-opt: the page is tested as it is compiled"
    built=0
    timeout 1200 bash examples/web/build.sh || built=$?
    case $built in
        0) timeout 1800 node tests/web/test.mjs 2>&1 | tee -a "$log" ;;
        3) echo "web: not tested, since Rust's library for wasm32-unknown-unknown cannot be had" | tee -a "$log" ;;
        *) exit "$built" ;;
    esac
fi

say "counts"
skipped=$(grep -c '^skipped, no adapter' "$log" || true)
[ "$skipped" -eq 0 ] || echo "$skipped GPU tests skipped: no adapter"
grep -E '^adapter: |^kernels: |^browser: |^web: |^machine code of|^machine code: [0-9]|^machine code: not checked, |^golden .* compared|^cases on |^hostile files|^cluster: |equal the interpreter|^allocations of|^peak memory of|^asking whether|one step apart|central differences|^golden: |ONNX Runtime|ONNX backend tests' "$log" || true
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored; exit failed > 0 || passed == 0 }' "$log"
