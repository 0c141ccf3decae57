"""Makes fixtures/encoded.json: checksums of what llama.cpp's own quantizer makes of the values of `series()`.

The quantizer is in libggml-base.so of the npm package @node-llama-cpp/linux-x64, which has llama.cpp v0.5.0 prebuilt:

    npm install --prefix throwaway @node-llama-cpp/linux-x64@3.22.1
    peers/bin/python test/parity/gguf/make_gguf_encoded.py throwaway/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64
"""

import ctypes
import hashlib
import json
import pathlib
import sys

import numpy as np

# Name: number, values per block, bytes per block.
TYPES = {
    "Q4_0": (2, 32, 18), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210),
}
BLOCKS = 24


def series():
    """Values of many shapes and sizes, made with operations that are exact in float32 and in JavaScript."""
    state, values = 1, []
    for i in range(256 * BLOCKS):
        total = 0
        for _ in range(3):
            state = (state * 48271) % 2147483647
            total += state % 4096 - 2048
        kind = i // 256 % 8
        value = np.float32(total / 65536)
        if kind == 1:
            value = np.float32(value * np.float32(2.0 ** (-(i // 32 % 8) * 5)))  # scales far apart
        elif kind == 2:
            value = np.float32(abs(value))
        elif kind == 3:
            value = np.float32(total // 1024)
        elif kind == 4:
            value = value if total % 8 == 0 else np.float32(0)
        elif kind == 5:
            value = np.float32(0) if i // 32 % 3 == 0 else value
        elif kind == 6:
            value = np.float32(0) if i // 256 % 16 == 6 else np.float32(i // 64 % 5 - 2)
        values.append(value)
    return np.array(values, np.float32)


def main():
    library = ctypes.CDLL(str(pathlib.Path(sys.argv[1]) / "libggml-base.so"))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    values = series()
    golden = {"values": hashlib.sha256(values.tobytes()).hexdigest(), "encoded": {}}
    for name, (number, block_values, block_bytes) in TYPES.items():
        out = np.zeros(values.size // block_values * block_bytes, np.uint8)
        size = quantize(number, values.ctypes.data, out.ctypes.data, 0, values.size // 256, 256, None)
        assert size == out.size, name
        golden["encoded"][name] = {"sha256": hashlib.sha256(out.tobytes()).hexdigest(), "first": out[:32].tobytes().hex()}
    path = pathlib.Path(__file__).parent / "fixtures" / "encoded.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")


main()
