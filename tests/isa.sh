#!/usr/bin/env bash
# Reads the machine code of the shaders for an AMD GPU, without one: Mesa's RADV compiles on its null device. Fetches a recent Mesa from
# Debian's backports into target/radv; where that is not possible, it says so and checks nothing.
#
#   bash tests/isa.sh           for navi31
#   bash tests/isa.sh navi21    for another GPU whose instructions have the same names: navi10 to navi33, vega10 to vega20
set -euo pipefail
cd "$(dirname "$0")/.."
family=${1:-navi31}
case $family in
    navi1? | navi2? | navi3? | vega10 | vega20) ;;
    *) echo "machine code: $family is none of navi10 to navi33, vega10 and vega20" >&2; exit 2 ;;
esac
radv=$PWD/target/radv
packages=(mesa-vulkan-drivers libdrm2 libdrm-amdgpu1)

fetch() {
    mkdir -p "$radv/lists/partial" "$radv/packages"
    # One source on the system's own mirror, and lists of its own: the system's packages stay as they are.
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/$') || return 1
    echo "deb $mirror bookworm-backports main" >"$radv/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$radv/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$radv/lists")
    apt-get -qq "${options[@]}" update && (cd "$radv/packages" && apt-get -qq "${options[@]}" download "${packages[@]}")
}

if [ ! -e "$radv/icd.json" ]; then
    if ! command -v apt-get >/dev/null || ! fetch >/dev/null 2>&1; then
        echo "machine code: not checked, Debian's backports are out of reach"
        exit 0
    fi
    for package in "$radv"/packages/*.deb; do
        dpkg -x "$package" "$radv/root"
    done
    library=$(find "$radv/root" -name libvulkan_radeon.so)
    if [ -z "$library" ] || LD_LIBRARY_PATH=$(dirname "$library") ldd "$library" | grep -q 'not found'; then
        echo "machine code: not checked, the driver of Debian's backports does not load here"
        exit 0
    fi
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' "$library" >"$radv/icd.json"
fi
libraries=$(dirname "$(find "$radv/root" -name libvulkan_radeon.so)")
LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" VK_DRIVER_FILES="$radv/icd.json" VK_ICD_FILENAMES="$radv/icd.json" \
    RADV_FORCE_FAMILY="$family" ENFOLD_ISA=1 cargo test --features coopmat-spirv,cli --test host isa:: -- --nocapture
