"""Golden combinations of adapters, from PEFT's `add_weighted_adapter` (float32, CPU).

    peers/bin/python test/parity/combining/make_combining.py     # rewrites fixtures/ beside this file

Adapters a and b have rank 4 on q_proj and v_proj of both blocks, c has rank 2, rank-stabilized, on the first block only.
For each case, the update `B · A` with its scale is kept for one layer of each kind.
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
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

torch_svd = torch.linalg.svd


def svd_with_signs(matrix, **options):
    """torch's SVD with the largest element of each left vector positive; PEFT's clamp depends on these signs."""
    u, s, vh = torch_svd(matrix, **options)
    signs = torch.gather(u, 0, u.abs().argmax(0, keepdim=True)).sign()[0, : len(s)]
    return u[:, : len(s)] * signs, s, vh[: len(s)] * signs[:, None]


torch.linalg.svd = svd_with_signs

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
MODEL = HERE.parent / "fixtures/models/tied-gqa-llama3"

CASES = {
    "linear": dict(weights={"a": 0.7, "b": -0.4}, combination_type="linear"),
    "single": dict(weights={"b": 2.0}, combination_type="ties_svd", density=0.5),
    "cat": dict(weights={"a": 0.7, "b": -0.4, "c": 1.5}, combination_type="cat"),
    "svd": dict(weights={"a": 0.7, "b": 0.4, "c": 1.0}, combination_type="svd"),
    "svd-rank": dict(weights={"a": 0.7, "b": 0.4, "c": 1.0}, combination_type="svd", svd_rank=6),
    "svd-clamp": dict(weights={"a": 0.7, "b": 0.4, "c": 1.0}, combination_type="svd", svd_clamp=0.9),
    "ties_svd-clamp": dict(
        weights={"a": 0.7, "b": 0.4}, combination_type="ties_svd", density=0.5, svd_rank=6, svd_clamp=0.98
    ),
    "ties": dict(weights={"a": 0.7, "b": 0.4}, combination_type="ties", density=0.4),
    "ties-frequency": dict(
        weights={"a": 0.7, "b": 0.4}, combination_type="ties", density=0.8, majority_sign_method="frequency"
    ),
    "ties_svd": dict(weights={"a": 0.7, "b": 0.4, "c": 1.0}, combination_type="ties_svd", density=0.5),
    "magnitude_prune": dict(weights={"a": 0.7, "b": 0.4}, combination_type="magnitude_prune", density=0.3),
    "magnitude_prune_svd": dict(
        weights={"a": 0.7, "b": 0.4, "c": -1.0}, combination_type="magnitude_prune_svd", density=0.3
    ),
    "dare_linear": dict(weights={"a": 0.7, "b": 0.4}, combination_type="dare_linear", density=1.0),
    "dare_ties_svd": dict(weights={"a": 0.7, "b": 0.4}, combination_type="dare_ties_svd", density=1.0),
}
LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    base = dict(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    configs = {
        "a": LoraConfig(r=4, lora_alpha=8, **base),
        "b": LoraConfig(r=4, lora_alpha=3, **base),
        "c": LoraConfig(r=2, lora_alpha=5, use_rslora=True, layers_to_transform=[0], **base),
    }
    model = get_peft_model(LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32), configs["a"], "a")
    for name in ("b", "c"):
        model.add_adapter(name, configs[name])
    for config in configs.values():
        config.base_model_name_or_path = "base"
    torch.manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    for name in configs:
        model.save_pretrained(OUT / "saved", selected_adapters=[name])
        (OUT / "saved" / name).rename(OUT / name)
        (OUT / name / "README.md").unlink(missing_ok=True)
    shutil.rmtree(OUT / "saved", ignore_errors=True)

    updates, cases = {}, []
    for name, case in CASES.items():
        options = {key: value for key, value in case.items() if key != "weights"}
        weights = case["weights"]
        model.base_model.add_weighted_adapter(list(weights), list(weights.values()), name, **options)
        cases.append({"name": name, "weights": weights, **options})
        for layer in LAYERS:
            module = model.base_model.model.get_submodule(layer)
            if name in module.lora_A:
                updates[f"{name}:{layer}"] = module.get_delta_weight(name).detach().contiguous()
    save_file(updates, OUT / "updates.safetensors")
    (OUT / "cases.json").write_text(json.dumps(cases, indent=2) + "\n")


main()
