"""Golden numbers of quantized bases, from transformers + bitsandbytes + PEFT on the CPU, computed in float32.

    peers/bin/pip install -r test/parity/requirements.txt bitsandbytes==0.50.2 accelerate==1.15.0
    peers/bin/python test/parity/quantized/make_quantized.py      # rewrites test/parity/quantized/fixtures/

`fixtures/base/` is a small random bfloat16 Llama. `fixtures/<case>/` has `model/` (the base as transformers saves it
quantized), `adapter/` (all-linear, rank 4, A and B random), `manifest.json` and `expected.safetensors` (logits, logits
and gradients with the adapter).

The 4-bit logits of a base loaded in float32 are bitsandbytes' own. Published bases are loaded in bfloat16, some in
float16: bitsandbytes dequantizes their weights to that type (`quant_state.dtype`), and we compare with the float32
product with those. bitsandbytes multiplies int8 weights by activations that it also rounds to int8; we compare with the
float32 product with its dequantized weights. In both cases the manifest gives the distance of its own logits.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402  (starts Python again with a fixed hash seed)
import torch  # noqa: E402
from bitsandbytes import functional as bnb  # noqa: E402
from bitsandbytes.nn import Linear4bit  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM  # noqa: E402

assert importlib.metadata.version("bitsandbytes") == "0.50.2", "pip install bitsandbytes==0.50.2"

OUT = HERE / "fixtures"
BASE = OUT / "base"
SHAPE = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, vocab_size=96, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=128,
    rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                         high_freq_factor=4.0, original_max_position_embeddings=32),
)
FOUR_BIT = dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
CASES: dict[str, tuple[dict, dict, torch.dtype]] = {
    "nf4-double": (
        dict(**FOUR_BIT, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        dict(type="nf4", doubleQuant=True),
        torch.float32,
    ),
    "nf4-bfloat16-storage": (
        dict(**FOUR_BIT, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=torch.bfloat16),
        dict(type="nf4"),
        torch.float32,
    ),
    "fp4": (dict(**FOUR_BIT, bnb_4bit_quant_type="fp4"), dict(type="fp4"), torch.float32),
    "int8": (dict(load_in_8bit=True), dict(type="int8"), torch.float32),
    "nf4-double-of-bfloat16": (
        dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_type="nf4",
             bnb_4bit_use_double_quant=True),
        dict(type="nf4", doubleQuant=True),
        torch.bfloat16,
    ),
    "fp4-of-float16": (
        dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float16, bnb_4bit_quant_type="fp4"),
        dict(type="fp4"),
        torch.float16,
    ),
}


def write_base() -> None:
    torch.manual_seed(20)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=None))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            else:
                parameter.uniform_(0.6, 1.4)
    model.to(torch.bfloat16).save_pretrained(BASE)


def load(options: dict, dtype: torch.dtype) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(
        BASE, quantization_config=BitsAndBytesConfig(**options), device_map={"": "cpu"}, dtype=dtype,
        attn_implementation="eager").eval()


def dequantized_4bit(model: LlamaForCausalLM, dtype: torch.dtype) -> LlamaForCausalLM:
    """The base in float32, with every 4-bit weight as bitsandbytes dequantizes it: in the type it was quantized from."""
    plain = LlamaForCausalLM.from_pretrained(BASE, dtype=dtype, attn_implementation="eager").eval().float()
    state = plain.state_dict()
    weights = {name: module.weight for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    for name, weight in weights.items():
        values = bnb.dequantize_4bit(weight.data, weight.quant_state)
        assert values.dtype == weight.quant_state.dtype == dtype, (name, values.dtype)
        state[f"{name}.weight"] = values.float()
    assert len(weights) == 7 * SHAPE["num_hidden_layers"], sorted(weights)
    plain.load_state_dict(state)
    return plain


def dequantized(folder: Path) -> LlamaForCausalLM:
    """The base with every int8 weight of a saved model as bitsandbytes dequantizes it."""
    plain = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()
    stored = load_file(folder / "model.safetensors")
    weights = {key.removesuffix(".SCB"): scales for key, scales in stored.items() if key.endswith(".SCB")}
    state = plain.state_dict()
    for key, scales in weights.items():
        name = key if key.endswith(".weight") else f"{key}.weight"
        state[name] = bnb.int8_vectorwise_dequant(stored[name], scales)
    assert len(weights) == 7 * SHAPE["num_hidden_layers"], sorted(stored)
    plain.load_state_dict(state)
    return plain


def write_case(name: str, options: dict, ours: dict, dtype: torch.dtype, seed: int) -> None:
    folder = OUT / name
    model = load(options, dtype)
    model.save_pretrained(folder / "model")
    inputs = parity.make_inputs(SHAPE["vocab_size"], [40, 23], 40, "right", seed)
    spelled = str(dtype).removeprefix("torch.")
    manifest: dict = {"quantization": ours, "dtype": spelled, "inputs": inputs, "tolerances": parity.TOLERANCES}
    expected: dict[str, torch.Tensor] = {}
    if ours["type"] == "int8" or dtype != torch.float32:
        plain_model = dequantized(folder / "model") if ours["type"] == "int8" else dequantized_4bit(model, dtype)
        with torch.no_grad():
            own = model(**parity.feed(inputs)).logits.float()
        model = plain_model
        with torch.no_grad():
            plain = model(**parity.feed(inputs)).logits
        manifest["bitsandbytesOwnDiffersBy"] = float((own - plain).abs().max() / plain.abs().max())
    with torch.no_grad():
        expected["logits"] = model(**parity.feed(inputs)).logits
    peft = parity.attach(model, "parity/quantized", "all-linear", seed + 1)
    parity.save_adapter(peft, folder / "adapter", "parity/quantized")
    logits = peft(**parity.feed(inputs)).logits
    total, count = parity.loss_sum(logits, inputs["labels"])
    (total / count).backward()
    expected["adapterLogits"] = logits
    manifest["adapterLoss"] = float(total.detach()) / count
    for key, gradient in parity.gradients_by_file_key(peft).items():
        expected[f"gradient:{key}"] = gradient
    parity.write_json(folder / "manifest.json", manifest)
    parity.write_tensors(folder / "expected.safetensors", expected)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    write_base()
    for seed, (name, (options, ours, dtype)) in enumerate(CASES.items()):
        write_case(name, options, ours, dtype, 100 + 10 * seed)
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file())} bytes in {OUT.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
