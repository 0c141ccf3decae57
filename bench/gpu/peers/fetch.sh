#!/usr/bin/env bash
# Fetches PEFT, bitsandbytes, Liger and Unsloth (about 47 MiB), which the peers of gpu.ts need besides PyTorch 2.11 (CUDA 13.0)
# and transformers 5.17, for a Linux machine with Python 3.12 and an NVIDIA card but no network.
#
#   bench/gpu/peers/fetch.sh FOLDER
#
# There: `bash FOLDER/unpack.sh`, then `PYTHONPATH=/tmp/peers` before the run with `--python python3 --peer peft,liger,unsloth`.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=()
for glibc in 39 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$work/wheels" \
  bitsandbytes==0.50.2 cut_cross_entropy==25.1.1 datasets==4.3.0 diffusers==0.42.1 dill==0.4.0 docstring-parser==0.18.0 \
  einops==0.8.2 hf_transfer==0.1.9 json5==0.17.3 liger-kernel==0.8.5 msgspec==0.23.0 multiprocess==0.70.19 nest-asyncio==1.6.0 \
  pandas==3.1.1 peft==0.21.0 pyarrow==21.0.0 shtab==1.13.0 structlog==26.1.0 torchao==0.18.0 trl==1.15.0 typeguard==4.6.1 \
  typer==0.29.2 tyro==1.0.17 unsloth==2026.10.9 unsloth_zoo==2026.10.9 xxhash==4.1.0
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
cd "$work/site"
# Keeps only the library for CUDA 13.0 of bitsandbytes, and no web page of Unsloth, no tests and no headers.
find bitsandbytes -name 'libbitsandbytes_*' ! -name '*_cuda130.so' ! -name '*_cpu.so' -delete
rm -rf studio pyarrow/tests pyarrow/include pandas/tests
tar --owner=0 --group=0 --sort=name -c . | xz -T0 -6 >"$folder/peers.tar.xz"
cat >"$folder/unpack.sh" <<'UNPACK'
#!/usr/bin/env bash
# Unpacks them into /tmp/peers.
python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall("/tmp/peers", filter="fully_trusted")' \
  "$(dirname "$0")/peers.tar.xz"
UNPACK
du -sh "$folder/peers.tar.xz"
