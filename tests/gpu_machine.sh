#!/usr/bin/env bash
# Tests and measures on a machine that has a GPU but neither a Rust toolchain nor a network.
#
#   tests/gpu_machine.sh --pack DIR   where the crate builds: puts all that is needed into DIR
#   tests/gpu_machine.sh DIR          where the GPU is: runs what DIR holds, and prints where the results lie
#
# It runs these parts, the most telling ones first. A part that fails or takes too long does not stop the others, but the script then fails.
#
#   A  registers of the kernels, the ceilings, a square layer and one row      4 minutes
#   B  tile shapes, cooperative matrices, kernels of one row, packed weights   7 minutes
#   C  the GPU tests and an example                                            8 minutes
#   D  an encoder at 1 and 32 sequences, attention, chains, conv, floats       4 minutes
#   E  all series at all shapes, as JSON                                       7 minutes
#
# ENFOLD_PARTS=ABD           runs these parts only
# ENFOLD_QUICK=1             measures small shapes only, and runs some of the tests
# ENFOLD_SLOWER=N            gives each part N times the minutes
# ENFOLD_ADAPTER=NAME        uses the adapter whose name contains NAME
# ENFOLD_ALLOW_SOFTWARE=1    uses a software adapter if there is no other. Without this or its name it is refused
# ENFOLD_RESULTS=FOLDER      writes below this folder, by default the working directory
# VK_DRIVER_FILES=FILE       uses this driver. Otherwise the script looks for one, if the loader finds no GPU
set -euo pipefail

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 2; }

# The executable of one target, from cargo's messages on standard input.
executable() {
    sed -n "/\"name\":\"$1\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}

# A Python with the packages that tests/onnx/encoder.py needs; fails without one.
python_with_onnx() {
    local python
    for python in target/onnxruntime-venv/bin/python python3; do
        "$python" -c 'import numpy, onnx' 2>/dev/null || continue
        echo "$python"
        return 0
    done
    return 1
}

# Makes the encoder that part D measures: the layers of a small sentence encoder, with few words, since more would change no time.
pack_encoder() {
    local dir=$1 python batch
    if ! python=$(python_with_onnx); then
        say "without an encoder, so that part D leaves it out: neither target/onnxruntime-venv nor python3 has numpy and onnx"
        return 0
    fi
    "$python" tests/onnx/encoder.py "$dir/encoder.onnx" --layers 6 --hidden 384 --heads 12 --intermediate 1536 --vocab 1000
    for batch in 1 32; do
        "$dir/enfold" quantize "$dir/encoder.onnx" --dim "batch=$batch" --dim seq=128 --dynamic --per-token \
            --output "$dir/encoder-$batch.enfold" >/dev/null
    done
    rm "$dir/encoder.onnx"
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
    local build=(--features "coopmat-spirv,cli" --message-format=json)
    cargo build --release --bin enfold --example linear_gpu "${build[@]}" >"$messages"
    cargo test --release --no-run --test gpu --test host "${build[@]}" >>"$messages"
    cargo bench --no-run --bench throughput "${build[@]}" >>"$messages"
    for name in enfold gpu host throughput linear_gpu; do
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
    pack_encoder "$dir"
    du -sh "$dir"
}

# The adapters that answer, one a line: the type, and the name.
adapters() {
    # A driver that hangs must not stop all.
    timeout --kill-after=5 60 "$dir/enfold" adapters --json 2>/dev/null |
        awk -F '"' '$2 == "name" { name = $4 } $2 == "device_type" { print $4, name }' || true
}

# Of these, the one that the programs use: the first whose name contains ENFOLD_ADAPTER.
chosen() {
    wanted=${ENFOLD_ADAPTER:-} awk 'BEGIN { wanted = tolower(ENVIRON["wanted"]) }
        { name = tolower(substr($0, index($0, " ") + 1)) } wanted == "" || index(name, wanted) { print; exit }'
}

# Whether a GPU answers, or the adapter that the user names, which may be a software adapter.
is_found() {
    local found
    found=$(adapters | chosen)
    [ -n "$found" ] && { [ -n "${ENFOLD_ADAPTER:-}" ] || [[ $found != 'Cpu '* ]]; }
}

# Uses one driver, by a file that names its library.
use_driver() { export VK_DRIVER_FILES=$1 VK_ICD_FILENAMES=$1; }

# Folders in which drivers and containers leave NVIDIA's libraries.
LIBRARIES=(/usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/local/lib /usr/lib/wsl/lib)

# The files in which drivers name their libraries to the loader, NVIDIA's first, from everywhere that distributions and containers put them.
driver_files() {
    local folder file files=()
    for folder in /etc/vulkan/icd.d /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /usr/local/etc/vulkan/icd.d \
        /usr/local/nvidia/share/vulkan/icd.d /usr/local/nvidia/vulkan/icd.d /usr/share/nvidia/vulkan/icd.d /usr/share/glvnd/vulkan/icd.d \
        /etc/glvnd/vulkan/icd.d /opt/nvidia/vulkan/icd.d /run/opengl-driver/share/vulkan/icd.d /usr/lib/wsl/lib /usr/lib64/vulkan/icd.d; do
        for file in "$folder"/*.json; do
            [ ! -e "$file" ] || files+=("$file")
        done
    done
    [ ${#files[@]} -gt 0 ] || return 0
    printf '%s\n' "${files[@]}" | awk '/nvidia/ { print; next } { rest[n++] = $0 } END { for (i = 0; i < n; i++) print rest[i] }'
}

# NVIDIA's libraries that contain a Vulkan driver: GLX's needs X11's libraries, which a container may lack, and EGL's does not.
nvidia_libraries() {
    local name folder
    for name in libGLX_nvidia.so.0 libEGL_nvidia.so.0; do
        ldconfig -p 2>/dev/null | sed -n "s/^[[:space:]]*$name .*x86-64.* => //p"
        for folder in "${LIBRARIES[@]}"; do
            [ ! -e "$folder/$name" ] || echo "$folder/$name"
        done
    done | awk '!seen[$0]++'
}

# Finds a driver with a GPU: the one that the user or DIR/lib names, else what the loader finds by itself, else each that lies anywhere.
find_driver() {
    local file library
    [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
    for file in "$dir"/lib/*.json; do
        [ -e "$file" ] || continue
        say "driver file: $file"
        use_driver "$file"
        return 0
    done
    ! is_found || return 0
    while IFS= read -r file; do
        use_driver "$file"
        is_found || continue
        say "driver file: $file"
        return 0
    done < <(driver_files)
    while IFS= read -r library; do
        file=$temporary/$(basename "$library" .so.0).json
        printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"1.3.0"}}\n' "$library" >"$file"
        use_driver "$file"
        # Its other libraries lie beside it.
        LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$(dirname "$library")
        is_found || continue
        say "driver library: $library"
        return 0
    done < <(nvidia_libraries)
    unset VK_DRIVER_FILES VK_ICD_FILENAMES
}

# Fails unless there is the adapter that the user wants: nothing is measured without one, or on a CPU that was taken for a GPU.
check_adapter() {
    local all chosen
    all=$(adapters)
    if [ -z "$all" ]; then
        echo "driver files: ${VK_DRIVER_FILES:-$(driver_files | tr '\n' ' ')}" >&2
        echo "NVIDIA's libraries: $(nvidia_libraries | tr '\n' ' ')" >&2
        fail "no GPU adapter answers: nothing is measured. Install a Vulkan driver, or name its file by VK_DRIVER_FILES"
    fi
    say "adapters"
    printf '%s\n' "$all"
    chosen=$(chosen <<<"$all")
    [ -n "$chosen" ] || fail "no adapter's name contains $ENFOLD_ADAPTER"
    [[ $chosen == 'Cpu '* ]] || return 0
    [ -n "${ENFOLD_ADAPTER:-}" ] || [ "${ENFOLD_ALLOW_SOFTWARE:-}" = 1 ] ||
        fail "only a software adapter answers (${chosen#Cpu }): set ENFOLD_ALLOW_SOFTWARE=1 to measure it all the same"
    echo "this is a software adapter: its times say nothing about a GPU"
}

# Runs a command of a part in what is left of the part's time.
limited() {
    local left=$((deadline - SECONDS)) status=0
    if [ "$left" -le 0 ]; then
        echo "left out, the part's time is over: ${*##*/}" >&2
        return 1
    fi
    timeout --kill-after=10 "$left" "$@" &
    local limit=$!
    # A program that stands still tells nobody why once it is stopped.
    { sleep "$((left > 3 ? left - 3 : left + 60))" >/dev/null 2>&1 && threads_of "$(pgrep -P "$limit")" >&2; } &
    local watch=$!
    wait "$limit" || status=$?
    pkill -P "$watch" 2>/dev/null || true
    kill "$watch" 2>/dev/null || true
    wait "$watch" 2>/dev/null || true
    # 137: it did not end by itself either.
    [ "$status" -ne 124 ] && [ "$status" -ne 137 ] || echo "stopped when the part's time was over: ${1##*/}" >&2
    return "$status"
}

# Prints what the threads of a process wait for: how many have a name, wait in a function of the kernel, and are in a system call.
threads_of() {
    local task
    [ -n "$1" ] || return 0
    echo "its threads, by name, function of the kernel, and system call:"
    for task in "/proc/$1/task"/*; do
        printf '%s %s %s\n' "$(cat "$task/comm")" "$(cat "$task/wchan")" "$(cut -d ' ' -f 1,2 "$task/syscall")"
    done 2>/dev/null | sort | uniq -c | sort -nr
    ! command -v gdb >/dev/null || timeout 20 gdb -p "$1" -batch -ex 'thread apply all backtrace' 2>/dev/null
}

throughput() { limited "$dir/throughput" ${adapter[@]+"${adapter[@]}"} "$@"; }

# Puts an option before each of the other arguments, into `repeated`.
repeat() {
    local option=$1 value
    shift
    for value; do repeated+=("$option" "$value"); done
}

part_A() {
    local status=0 repeated=()
    if [ "$quick" -eq 1 ]; then repeat --shape 128,512,512 1,1024,1024; else repeat --shape 4096,4096,4096 1,16384,16384; fi
    ENFOLD_ISA=1 limited "$dir/host" statistics_of_the_linear_kernels --nocapture || status=1
    throughput --series "gpu resident" "${repeated[@]}" --json A.json || status=1
    return "$status"
}

part_B() {
    local status=0 repeated=()
    if [ "$quick" -eq 1 ]; then
        repeat --shape 128,512,512
        repeat --tile linear,64,2 linear_large,128,2 linear_reg,32,1
    else
        repeat --shape 4096,4096,4096 1024,1024,1024 512,1024,1024 128,384,1536 128,384,384
        repeat --tile linear,16,2 linear,16,4 linear,32,2 linear,32,4 linear,32,8 linear,64,2 linear,64,4 linear,64,8 \
            linear_large,128,2 linear_reg,8,1 linear_reg,32,1 linear_reg,64,1 linear_coopmat_int8,64,2 linear_coopmat_int8,64,4 \
            linear_coopmat_int8,128,2 linear_coopmat_int8,128,4
    fi
    throughput --series "gpu resident" --series "gpu matrix units" --series "gpu int8 matrices" "${repeated[@]}" --json B-tiles.json ||
        status=1
    repeated=()
    repeat --tile linear_gemv,1,2 linear_gemv,1,4 linear_gemv,1,8 linear_gemv,1,16
    if [ "$quick" -eq 1 ]; then repeat --shape 1,1024,1024; else repeat --shape 1,4096,4096 1,1024,4096 1,4096,11008; fi
    throughput --series "gpu resident" --series "gpu 4 bit" --series "gpu 2 bit" "${repeated[@]}" --json B-rows.json || status=1
    return "$status"
}

part_C() {
    local status=0 tests=()
    [ "$quick" -eq 0 ] || tests=(an_adapter_answers linear_large_equals recording::)
    limited "$dir/gpu" --nocapture ${tests[@]+"${tests[@]}"} || status=1
    (cd "$dir" && limited ./linear_gpu ${adapter[@]+"${adapter[@]}"}) || status=1
    return "$status"
}

part_D() {
    local status=0 batch batches=(1 32) runs=20
    [ "$quick" -eq 0 ] || { batches=(1) runs=3; }
    for batch in "${batches[@]}"; do
        if [ ! -e "$dir/encoder-$batch.enfold" ]; then
            echo "left out: an encoder at $batch sequences, which --pack has not made" >&2
            continue
        fi
        limited "$dir/enfold" bench "$dir/encoder-$batch.enfold" --device gpu ${adapter[@]+"${adapter[@]}"} --runs "$runs" --steps || status=1
    done
    throughput --series attention --series chain --series conv --series float --json D.json || status=1
    return "$status"
}

part_E() {
    local repeated=()
    if [ "$quick" -eq 1 ]; then repeat --shape 1,1024,1024 128,512,512; else repeated=(--full); fi
    throughput "${repeated[@]}" --json
}

# Runs one part with its own log and its own time.
run_part() {
    local part=$1 minutes=$2 status=0 began=$SECONDS
    [[ ${ENFOLD_PARTS:-ABCDE} == *$part* ]] || return 0
    deadline=$((SECONDS + minutes * 60 * ${ENFOLD_SLOWER:-1}))
    say "part $part"
    "part_$part" 2>&1 | tee "$part.log" || status=1
    if grep -q '^left out' "$part.log"; then summary+=("part $part: something was left out, see $PWD/$part.log"); fi
    if [ "$status" -eq 0 ]; then summary+=("part $part: done in $((SECONDS - began)) s"); else
        summary+=("part $part: FAILED after $((SECONDS - began)) s, see $PWD/$part.log")
        failed=1
    fi
}

measure() {
    local name
    [ -d "$1" ] || fail "$1 is no folder"
    dir=$(cd "$1" && pwd)
    for name in enfold gpu host throughput linear_gpu; do
        [ -x "$dir/$name" ] || fail "$dir/$name is missing; make it with --pack"
    done
    [[ ${ENFOLD_PARTS:-A} =~ ^[A-E]+$ ]] || fail "ENFOLD_PARTS=$ENFOLD_PARTS: expected letters from A to E"
    [[ ${ENFOLD_SLOWER:-1} =~ ^[1-9][0-9]*$ ]] || fail "ENFOLD_SLOWER=$ENFOLD_SLOWER: expected a number"
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    find_driver
    check_adapter
    quick=0 failed=0 adapter=() summary=()
    [ "${ENFOLD_QUICK:-}" != 1 ] || quick=1
    [ -z "${ENFOLD_ADAPTER:-}" ] || adapter=(--adapter "$ENFOLD_ADAPTER")
    mkdir -p "${ENFOLD_RESULTS:=.}"
    cd "$ENFOLD_RESULTS"
    touch "$temporary/began"
    run_part A 4
    run_part B 7
    run_part C 8
    run_part D 4
    run_part E 7
    say "results"
    find "$PWD" -maxdepth 3 \( -name '*.json' -o -name '[A-E].log' \) -newer "$temporary/began" | sort
    printf '%s\n' "${summary[@]}"
    [ "$failed" -eq 0 ] || fail "something failed, see above"
}

case "${1:-}" in
    --pack) [ $# -eq 2 ] || usage; pack "$2" ;;
    '' | -*) usage ;;
    *) [ $# -eq 1 ] || usage; measure "$1" ;;
esac
