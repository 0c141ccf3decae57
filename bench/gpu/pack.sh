#!/usr/bin/env bash
# Packs the GPU benchmark with Node and Dawn into one folder, which runs on a bare x86-64 Linux machine with an NVIDIA
# card. That machine needs no Node, no npm and no network.
#
#   bench/gpu/pack.sh FOLDER          here, after `npm ci`; needs apt and xz
#   bash FOLDER/run.sh [arguments]    there, from anywhere; see README.md for the arguments
set -euo pipefail
folder=${1:?folder to write}
root=$(cd "$(dirname "$0")/../.." && pwd)
dawn=dist/linux-x64/dawn.node
mkdir -p "$folder/node_modules/webgpu/dist/linux-x64" "$folder/debs"
folder=$(cd "$folder" && pwd)
rm -f "$folder/node" "$folder/node_modules/webgpu/$dawn" # unpacked by a trial on this machine
cd "$root"
npx esbuild bench/gpu/gpu.ts --bundle --platform=node --format=cjs --target=node20 --log-level=error \
  --external:webgpu --external:@tensorflow/tfjs-node --external:@tensorflow/tfjs-node-gpu \
  --external:vega --external:vega-lite --external:@resvg/resvg-js --external:@node-rs/jieba \
  --outfile="$folder/gpu.cjs"
cp -r bench/gpu/curve_peer.py bench/gpu/peers "$folder/"
[ -f "$folder/node.xz" ] || xz -T0 -3 -c "$(readlink -f "$(command -v node)")" >"$folder/node.xz"
cp node_modules/webgpu/package.json node_modules/webgpu/index.js "$folder/node_modules/webgpu/"
[ -f "$folder/node_modules/webgpu/$dawn.xz" ] ||
  xz -T0 -3 -c "node_modules/webgpu/$dawn" >"$folder/node_modules/webgpu/$dawn.xz"
# NVIDIA's Vulkan driver needs the loader and the vendor-neutral GL libraries, which a bare machine does not have.
loaders="libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2"
ls "$folder"/debs/libvulkan1_*.deb >/dev/null 2>&1 || (cd "$folder/debs" && apt-get download $loaders >/dev/null)
# bitsandbytes for the QLoRA peer, with its files for CUDA 13 only. Without pip, that comparison is skipped.
bitsandbytes=bitsandbytes==0.50.2
[ -d "$folder/python/bitsandbytes" ] || {
  wheels=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$wheels" $bitsandbytes &&
    python3 - "$wheels" "$folder/python" <<'UNPACK' || echo "no $bitsandbytes: --python measures LoRA only there"
import pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        libraries = ("cuda130.so", "_cpu.so")
        archive.extractall(sys.argv[2], [n for n in archive.namelist() if not n.endswith(".so") or n.endswith(libraries)])
UNPACK
  rm -r "$wheels"
}
cat >"$folder/run.sh" <<'RUN'
#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/node" ] || { xz -dc "$here/node.xz" >"$here/node" && chmod +x "$here/node"; }
dawn=$here/node_modules/webgpu/dist/linux-x64/dawn.node
[ -f "$dawn" ] || xz -dc "$dawn.xz" >"$dawn"
ldconfig -p | grep -q libGLX.so.0 || { for deb in "$here"/debs/*.deb; do dpkg -x "$deb" /; done; ldconfig; } 2>/dev/null
driver=/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json # its place in container runtimes
[ -f "$driver" ] && export VK_DRIVER_FILES=$driver
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
export PYTHONPATH=$here/python${PYTHONPATH:+:$PYTHONPATH}
exec "$here/node" --max-old-space-size=65536 --max-semi-space-size=128 "$here/gpu.cjs" "$@"
RUN
du -sh "$folder" | cut -f1
