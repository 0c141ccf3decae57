#!/usr/bin/env bash
# Packs Dawn, and what NVIDIA's Vulkan driver needs on a bare x86-64 Linux machine, into a folder beside a benchmark's bundle.
#
#   bench/gpu/packDawn.sh FOLDER    here, after `npm ci`; needs apt and xz
#   . FOLDER/dawn.sh                there, where `here` is the folder: unpacks it and sets the variables
set -euo pipefail
folder=${1:?folder to write}
cd "$(dirname "$0")/../.."
dawn=dist/linux-x64/dawn.node
mkdir -p "$folder/node_modules/webgpu/dist/linux-x64" "$folder/debs"
folder=$(cd "$folder" && pwd)
rm -f "$folder/node_modules/webgpu/$dawn" # unpacked by a trial on this machine
cp node_modules/webgpu/package.json node_modules/webgpu/index.js "$folder/node_modules/webgpu/"
[ -f "$folder/node_modules/webgpu/$dawn.xz" ] ||
  xz -T0 -3 -c "node_modules/webgpu/$dawn" >"$folder/node_modules/webgpu/$dawn.xz"
# The loader and the vendor-neutral GL libraries.
loaders="libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2"
ls "$folder"/debs/libvulkan1_*.deb >/dev/null 2>&1 || (cd "$folder/debs" && apt-get download $loaders >/dev/null)
cat >"$folder/dawn.sh" <<'DAWN'
dawn=$here/node_modules/webgpu/dist/linux-x64/dawn.node
[ -f "$dawn" ] || xz -dc "$dawn.xz" >"$dawn"
ldconfig -p | grep -q libGLX.so.0 || { for deb in "$here"/debs/*.deb; do dpkg -x "$deb" /; done; ldconfig; } 2>/dev/null
driver=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json # its place in container runtimes
[ -f "$driver" ] && export VK_DRIVER_FILES=$driver
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
DAWN
