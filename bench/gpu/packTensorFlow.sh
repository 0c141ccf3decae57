#!/usr/bin/env bash
# Packs the GPU benchmark with Node and native TensorFlow for one kind of NVIDIA card, in parts of at most 42 MiB, for a bare
# x86-64 Linux machine with CUDA 12 or 13 and cuDNN 9 (PyTorch's wheels have them). That machine needs no Node, no npm, no
# compiler and no network.
#
#   bench/gpu/packTensorFlow.sh FOLDER [TFJS_LORA]   here, after `npm ci`; needs g++, strip and xz
#   bash FOLDER/unpack.sh PART                       there, for each part in any order; unpacks into /tmp/tfjs-lora
#   bash FOLDER/update.sh                            there: what changes often, the benchmark and the fused ops
#   bench/gpu/packDawn.sh FOLDER2                    here, if the machine also needs WebGPU; copy FOLDER2/* to /tmp/tfjs-lora
#   bash /tmp/tfjs-lora/run.sh [arguments]           there; see README.md for the arguments
#   bash /tmp/tfjs-lora/run.sh --golden              there, in a checkout: the golden tests (test/parity) in float32
#
# A later run only packs missing parts, but always the update. CAPABILITY=80 packs the code of another card.
set -euo pipefail
folder=${1:?folder to write}
capability=${CAPABILITY:-90}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
stage=${STAGE:-$folder.stage}
mkdir -p "$stage"
cd "$root"
mkdir -p "$stage/node_modules/@tensorflow"
for each in tfjs tfjs-core; do ln -sfn "$root/node_modules/@tensorflow/$each" "$stage/node_modules/@tensorflow/$each"; done
npx tsx bench/gpu/setUpForPacking.ts "$stage/node_modules/.tfjs-lora/tensorflow"

# The files that do not change with this package: TensorFlow, its addon, Node. Compressing the library takes minutes.
smaller() { xz -T0 --x86 --lzma2=preset=6,dict=32MiB; }
if [ ! -f "$folder/part.0" ]; then
  fixed=$stage.fixed
  rm -rf "$fixed"
  mkdir -p "$fixed"/node_modules/@tensorflow/tfjs{,-core} "$fixed/node_modules/.tfjs-lora/tensorflow/tensorflow"
  set_up=$stage/node_modules/.tfjs-lora/tensorflow
  cp -r "$set_up/node_modules" "$fixed/node_modules/.tfjs-lora/tensorflow/"
  echo 'export * from "@tensorflow/tfjs"' |
    npx esbuild --bundle --platform=node --format=cjs --log-level=error >"$fixed/node_modules/@tensorflow/tfjs/index.js"
  echo '{"name": "@tensorflow/tfjs", "version": "4.22.0", "main": "index.js"}' >"$fixed/node_modules/@tensorflow/tfjs/package.json"
  echo 'module.exports = require("@tensorflow/tfjs");' >"$fixed/node_modules/@tensorflow/tfjs-core/index.js"
  cp "$(readlink -f "$(command -v node)")" "$fixed/node"
  tar -C "$fixed" --owner=0 --group=0 -cf - . | smaller >"$stage.rest.tar.xz"
  rm -r "$fixed"
  for library in "$set_up"/tensorflow/*.so.2; do
    small=$stage.$(basename "$library")
    [ -f "$small.xz" ] && continue
    strip --strip-all -o "$small" "$library"
    python3 bench/gpu/keepOneCard.py "$small" "$capability"
    smaller <"$small" >"$small.xz.new" && mv "$small.xz.new" "$small.xz"
    rm "$small"
  done
  tar -C "$(dirname "$stage")" --owner=0 --group=0 --transform="s#^$(basename "$stage")\\.##" -cf - \
    "$(basename "$stage").rest.tar.xz" "$(basename "$stage")".libtensorflow_{cc,framework}.so.2.xz |
    split -b 42M -d -a 1 - "$folder/part."
fi

# The files that change with this package.
update=$stage.update
rm -rf "$update"
mkdir -p "$update/node_modules/.tfjs-lora/tensorflow"
cp "$stage"/node_modules/.tfjs-lora/tensorflow/{fused_ops.node,setup.json,choose_card.*} "$update/node_modules/.tfjs-lora/tensorflow/"
addon=$(cd "$stage" && find node_modules/.tfjs-lora/tensorflow/node_modules -name tfjs_binding.node) # joins a cluster
mkdir -p "$update/$(dirname "$addon")"
cp "$stage/$addon" "$update/$addon"
mkdir -p "$update/node_modules/tfjs-lora/layers/kernels/tensorflow"
cp package.json "$update/node_modules/tfjs-lora/"
cp -r layers/kernels/tensorflow/native "$update/node_modules/tfjs-lora/layers/kernels/tensorflow/"
bundle() {
  npx esbuild --bundle --platform=node --format=cjs --target=node20 --log-level=error --loader=ts \
    --external:webgpu --external:@tensorflow/tfjs --external:@tensorflow/tfjs-core --external:@tensorflow/tfjs-node --external:@tensorflow/tfjs-node-gpu \
    --external:vega --external:vega-lite --external:@resvg/resvg-js --external:@node-rs/jieba \
    --define:import.meta.url=__bundle_url --banner:js='const __bundle_url = require("node:url").pathToFileURL(__filename).href;' \
    "$@"
}
echo "import './bench/gpu/gpu.ts';" | bundle --outfile="$update/gpu.cjs"
{ # The golden tests, whose fixtures are in a checkout. Hooks of one file do not run for the others.
  echo "import './bench/gpu/goldenTests.ts';"
  for test in test/parity/*.test.ts test/parity/keras/*.test.ts; do echo "describe('$test', () => require('./$test'));"; done
} | bundle --define:__dirname='"test/parity"' --outfile="$update/golden.cjs"
cp bench/gpu/*.py "$update/"
cp -r bench/gpu/peers "$update/"
# CUDA's runtime itself must be version 12. Version 13 has another layout of a card's properties, and silently gives wrong sums.
mkdir "$update/cuda12"
[ -f "$stage.libcudart.so.12" ] || {
  wheels=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_x86_64 --dest "$wheels" \
    nvidia-cuda-runtime-cu12==12.9.79
  python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("nvidia/cuda_runtime/lib/libcudart.so.12"))' \
    "$wheels"/*.whl >"$stage.libcudart.so.12"
  rm -r "$wheels"
}
cp "$stage.libcudart.so.12" "$update/cuda12/libcudart.so.12"
cat >"$update/run.sh" <<'RUN'
#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
# CUDA's other libraries under the names that TensorFlow loads, which are CUDA 12's; the libraries of CUDA 13 work too.
libraries=$here/cuda
[ -d "$libraries" ] || python3 - "$libraries" <<'LINK'
import glob, os, re, sys
target = sys.argv[1]
os.makedirs(target)
places = [p + "/nvidia/*/lib" for p in sys.path if p]
places += ["/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/x86_64-linux/lib", "/usr/lib/x86_64-linux-gnu"]
files = [f for p in places for f in sorted(glob.glob(p + "/lib*.so.*"), reverse=True)]
asked = {"libcublas": "12", "libcublasLt": "12", "libcufft": "11", "libcusolver": "11", "libcusparse": "12",
         "libcudnn": "9", "libnccl": "2", "libnvJitLink": "12", "libcurand": "10", "libcupti": "12", "libnvrtc": "12"}
for name, version in asked.items():
    found = [f for f in files if os.path.basename(f).startswith(name + ".so.")]
    if found and not os.path.lexists(f"{target}/{name}.so.{version}"):
        os.symlink(found[0], f"{target}/{name}.so.{version}")
for f in files: # also under their own names, by which they load each other
    link = f"{target}/{os.path.basename(f)}"
    if re.match(r"lib(cu|nv|nccl)", os.path.basename(f)) and "libcuda.so" not in f and not os.path.lexists(link):
        os.symlink(f, link)
LINK
export LD_LIBRARY_PATH=$here/cuda12:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -d "$here/python" ] && export PYTHONPATH=$here/python${PYTHONPATH:+:$PYTHONPATH}
[ -f "$here/dawn.sh" ] && . "$here/dawn.sh"
if [ "${1:-}" = --golden ]; then TFJS_LORA_TEST_BACKENDS=tensorflow exec "$here/node" "$here/golden.cjs"; fi
exec "$here/node" --max-old-space-size=65536 --max-semi-space-size=128 "$here/gpu.cjs" --backend tensorflow "$@"
RUN
tar -C "$update" --owner=0 --group=0 -cJf "$folder/update.tar.xz" .
rm -r "$update"
cat >"$folder/unpack.sh" <<'UNPACK'
#!/usr/bin/env bash
# Copies one part to /tmp/tfjs-lora, and unpacks all parts when they are complete.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=/tmp/tfjs-lora
mkdir -p $to
[ -f "$here/part.$1" ] && cp "$here/part.$1" $to/
cp "$here/parts.sha256" $to/
cd $to
if sha256sum --check --status parts.sha256 2>/dev/null; then
  cat part.? | tar -x
  unxz=(xz -dc)
  command -v xz >/dev/null || unxz=(python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer, 1 << 24)')
  for library in libtensorflow_*.xz; do
    mkdir -p node_modules/.tfjs-lora/tensorflow/tensorflow
    "${unxz[@]}" <"$library" >"node_modules/.tfjs-lora/tensorflow/tensorflow/${library%.xz}" &
  done
  "${unxz[@]}" <rest.tar.xz | tar -x
  wait
  rm part.? *.xz
  echo "unpacked: $(du -sh $to | cut -f1)"
else
  echo "parts so far: $(ls part.?)"
fi
UNPACK
cat >"$folder/update.sh" <<'UPDATE'
#!/usr/bin/env bash
# Replaces the benchmark and the fused ops.
set -euo pipefail
python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall("/tmp/tfjs-lora")' "$(cd "$(dirname "$0")" && pwd)/update.tar.xz"
UPDATE
(cd "$folder" && sha256sum part.? >parts.sha256 && du -sh part.? update.tar.xz)
