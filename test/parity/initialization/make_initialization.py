"""Golden initializations of LoRA that change the base, from PEFT (float32, CPU).

    peers/bin/python test/parity/initialization/make_initialization.py     # rewrites fixtures/ beside this file

For each method: one layer's base and update after the initialization, the adapter after its weights were moved as by
training, as PEFT saves it, and the logits of the model with it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path

for package, wanted in {"torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2"}.items():
    found = importlib.metadata.version(package)
    assert found == wanted, f"expected {package} {wanted}, got {found}: pip install -r ../requirements.txt"
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

import torch  # noqa: E402
from peft import LoftQConfig, LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
MODEL = HERE.parent / "fixtures/models/tied-gqa-llama3"
LAYER = "model.layers.1.self_attn.q_proj"
IDS = [[1, 5, 9, 17, 33, 65, 2, 3, 4, 90]]
METHODS = {
    "pissa": dict(init_lora_weights="pissa"),
    "pissa-rslora": dict(init_lora_weights="pissa", use_rslora=True, rank_pattern={"v_proj": 3}),
    "olora": dict(init_lora_weights="olora"),
    "loftq": dict(init_lora_weights="loftq", loftq_config=LoftQConfig(loftq_bits=4, loftq_iter=3)),
}

# PEFT runs LoftQ on a card only. The same code runs on the CPU if moves to the card stay here.
move = torch.Tensor.to


def stay(tensor, *args, **kwargs):
    args = ["cpu" if arg == "cuda" else arg for arg in args]
    kwargs = {key: "cpu" if value == "cuda" else value for key, value in kwargs.items()}
    return move(tensor, *args, **kwargs)


torch.Tensor.to = stay
import bitsandbytes as bnb  # noqa: E402

move4bit = bnb.nn.Params4bit.to
bnb.nn.Params4bit.to = lambda self, *args, **kwargs: move4bit(self, *["cpu" if arg == "cuda" else arg for arg in args], **kwargs)


def dequantize(packed, state):
    """`dequantize_4bit` on the CPU is wrong in 0.50.2 for rows that are no multiple of the block (64)."""
    pairs = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
    return (state.code[pairs] * state.absmax.repeat_interleave(state.blocksize)[: pairs.numel()]).view(state.shape)


bnb.functional.dequantize_4bit = dequantize


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    expected = {}
    for name, options in METHODS.items():
        base = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
        model = get_peft_model(base, config).eval()
        config.base_model_name_or_path = "base"
        module = model.base_model.model.get_submodule(LAYER)
        expected[f"{name}:base"] = module.base_layer.weight.detach().clone()
        expected[f"{name}:update"] = module.get_delta_weight("default").detach().clone()
        torch.manual_seed(1)
        for key, parameter in sorted(model.named_parameters()):
            if "lora_" in key:
                parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
        expected[f"{name}:logits"] = logits(model)
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink(missing_ok=True)
        fresh = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        loaded = logits(PeftModel.from_pretrained(fresh, OUT / name).eval())
        assert torch.allclose(loaded, expected[f"{name}:logits"], atol=1e-4), f"{name}: PEFT loads another model"
    save_file({key: value.contiguous() for key, value in expected.items()}, OUT / "expected.safetensors")
    (OUT / "manifest.json").write_text(json.dumps({"layer": LAYER, "ids": IDS, "methods": list(METHODS)}) + "\n")


main()
