#!/bin/sh
# Compiles the C files in this folder and writes the binary .ts files. Needs clang and wasm-ld of version 16 or later, for the
# final encoding of relaxed SIMD (Debian 12: clang-16 lld-16; then CLANG=clang-16 WASM_LD=wasm-ld-16 ./build.sh).
set -eu
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# build <output.ts> <export> <what it is> <flags>
build() {
  file=$1 name=$2 what=$3
  shift 3
  for source in gemm rows; do
    "${CLANG:-clang}" --target=wasm32 -O2 -msimd128 -matomics -mbulk-memory -ffreestanding -fno-builtin -nostdlib -fwrapv \
      -Wall -Wextra "$@" -c "$source.c" -o "$out/$source.o"
  done
  # A stack in memory would overwrite the other module's data.
  if grep -l __stack_pointer "$out"/*.o; then
    echo 'build.sh: the functions above keep values in memory; keep them in locals.' >&2
    exit 1
  fi
  "${WASM_LD:-wasm-ld}" --no-entry --import-memory --shared-memory --max-memory=4294967296 --strip-all \
    -z stack-size=0 "$out"/*.o -o "$out/module.wasm"
  {
    echo '// Written by build.sh from the C files beside it; do not edit.'
    echo
    echo "/** $what, in base64. It imports \`env.memory\`, declared as shared. */"
    echo "export const $name ="
    base64 -w 104 "$out/module.wasm" | sed "s/.*/  '&' +/; \$s/ +\$/;/"
  } > "$file"
  wc -c "$file"
}

build nativeBinary.ts nativeBinary 'The WebAssembly module'
build relaxedBinary.ts relaxedBinary 'The same with fused multiply-add, for engines that have relaxed SIMD' -mrelaxed-simd
