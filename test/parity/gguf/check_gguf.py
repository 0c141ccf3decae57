"""Checks GGUF files of `saveGguf` by hand: PyPI's gguf reads them, and llama.cpp's own quantizer makes the same bytes.

    npx tfjs-lora export recipe.yaml export_dir=exported --gguf bf16     # and --gguf q8_0, q4_k_m …
    python3 -m venv peers && peers/bin/pip install gguf==0.19.0 numpy==2.4.6
    peers/bin/python test/parity/gguf/check_gguf.py exported bf16 q8_0 q4_0 q4_k_m q5_k_m q6_k

The first type is the one that llama.cpp quantizes, the model's own. The quantizer is libllama of the npm package
@node-llama-cpp/linux-x64, which `npm ci` installs. Prints, for each other type, how many bytes of tensors differ.
"""

import ctypes
import importlib.metadata
import pathlib
import sys
import tempfile

import numpy as np
from gguf import GGUFReader

PINNED = {"gguf": "0.19.0", "numpy": "2.4.6"}
ROOT = pathlib.Path(__file__).resolve().parents[3]
LIBRARIES = ROOT / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}


class Parameters(ctypes.Structure):
    """llama_model_quantize_params: only its first two fields are set here."""

    _fields_ = [("threads", ctypes.c_int32), ("file_type", ctypes.c_int32), ("rest", ctypes.c_ubyte * 248)]


def load_quantizer():
    def library(pattern):
        return ctypes.CDLL(str(next(LIBRARIES.glob(pattern))), mode=ctypes.RTLD_GLOBAL)

    library("libggml-base.so")
    backends = library("libggml.v*").ggml_backend_load_all_from_path
    backends.argtypes = [ctypes.c_char_p]
    backends(str(LIBRARIES).encode())
    llama = library("libllama.v*")
    llama.llama_model_quantize_default_params.restype = Parameters
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    return llama


def tensors_of(path):
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def bytes_of(tensor):
    return np.asarray(tensor.data).view(np.uint8).ravel()


def main(folder, source, *types):
    for name, version in PINNED.items():
        assert importlib.metadata.version(name) == version, f"{name}: expected {version}"
    llama = load_quantizer()
    file = lambda name: pathlib.Path(folder) / f"model-{name}.gguf"
    for name, field in GGUFReader(file(source)).fields.items():
        print(name, "=", str(field.contents())[:70])
    for name in types:
        with tempfile.TemporaryDirectory() as other:
            theirs = str(pathlib.Path(other) / "theirs.gguf")
            parameters = llama.llama_model_quantize_default_params()
            parameters.threads, parameters.file_type = 1, FILE_TYPES[name]
            assert llama.llama_model_quantize(str(file(source)).encode(), theirs.encode(), ctypes.byref(parameters)) == 0
            ours, expected = tensors_of(file(name)), tensors_of(theirs)
            assert set(ours) == set(expected)
            differing = total = 0
            for tensor in ours:
                assert ours[tensor].tensor_type == expected[tensor].tensor_type, tensor
                a, b = bytes_of(ours[tensor]), bytes_of(expected[tensor])
                differing += int((a != b).sum())
                total += a.size
            print(f"{name}: {differing} of {total} bytes differ")


main(*sys.argv[1:])
