"""Makes fixtures/blocks.json: random blocks of each GGML type, decoded by PyPI's gguf.

    python3 -m venv peers && peers/bin/pip install gguf==0.19.0 numpy==2.4.6
    peers/bin/python test/parity/gguf/make_gguf_blocks.py
"""

import base64
import importlib.metadata
import json
import pathlib

import gguf
import numpy as np

PINNED = {"gguf": "0.19.0", "numpy": "2.4.6"}
TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
# Where a block stores its float16 scales.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}
# Zeros, the smallest and largest subnormal, the smallest normal, the largest, infinity and NaN, of both signs.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


def blocks_of(name, random):
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    count = 64 if values == 1 else 18
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for row, half in enumerate(EXTREMES):
        for at in HALVES.get(name, []):
            blocks[row, at : at + 2] = [half & 255, half >> 8]
    for row, fill in ((11, 0), (12, 255)):
        kept = {at: blocks[row, at : at + 2].copy() for at in HALVES.get(name, [])}
        blocks[row] = fill
        for at, scale in kept.items():
            blocks[row, at : at + 2] = scale
    return blocks


def main():
    for name, version in PINNED.items():
        assert importlib.metadata.version(name) == version, f"{name}: expected {version}"
    random = np.random.default_rng(19)
    golden = {}
    for name in TYPES:
        blocks = blocks_of(name, random).reshape(1, -1)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])
        encode = lambda array: base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        golden[name] = {"bytes": encode(blocks), "values": encode(values.astype("<f4"))}
    path = pathlib.Path(__file__).parent / "fixtures" / "blocks.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")
    print(path.stat().st_size, "bytes")


main()
