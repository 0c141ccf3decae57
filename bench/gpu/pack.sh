#!/usr/bin/env bash
# Packs the GPU benchmark with Node and Dawn into one folder, which runs on a bare x86-64 Linux machine with an NVIDIA
# card. That machine needs no Node, no npm and no network.
#
#   bench/gpu/pack.sh FOLDER          here, after `npm ci`; needs apt and xz
#   bash FOLDER/run.sh [arguments]    there, from anywhere; see README.md for the arguments
set -euo pipefail
folder=${1:?folder to write}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
rm -f "$folder/node" # unpacked by a trial on this machine
bash "$root/bench/gpu/packDawn.sh" "$folder"
cd "$root"
npx esbuild bench/gpu/gpu.ts --bundle --platform=node --format=cjs --target=node20 --log-level=error \
  --external:webgpu --external:@tensorflow/tfjs-node --external:@tensorflow/tfjs-node-gpu \
  --external:vega --external:vega-lite --external:@resvg/resvg-js --external:@node-rs/jieba \
  --outfile="$folder/gpu.cjs"
cp -r bench/gpu/curve_peer.py bench/gpu/peers "$folder/"
[ -f "$folder/node.xz" ] || xz -T0 -3 -c "$(readlink -f "$(command -v node)")" >"$folder/node.xz"
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
. "$here/dawn.sh"
export PYTHONPATH=$here/python${PYTHONPATH:+:$PYTHONPATH}
exec "$here/node" --max-old-space-size=65536 --max-semi-space-size=128 "$here/gpu.cjs" "$@"
RUN
du -sh "$folder" | cut -f1
