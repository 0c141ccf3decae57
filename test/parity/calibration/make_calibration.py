"""Golden initializations of LoRA that measure batches, from PEFT (float32, CPU).

    peers/bin/python test/parity/calibration/make_calibration.py     # rewrites fixtures/ beside this file

For each case: `initial/`, the adapter as it begins; `adapter/`, after its weights were moved as by training; and in
`expected.safetensors` its layers' bases and the logits of the moved model. EVA, which redistributes ranks, has no
`initial/`: `adapter/` is as it begins. Sizes are such that PEFT's randomized decompositions are exact.
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
from peft import initialize_lora_eva_weights  # noqa: E402
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig  # noqa: E402
from peft.tuners.lora.corda import preprocess_corda  # noqa: E402
from peft.tuners.lora.loraga import preprocess_loraga  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
MODEL = HERE.parent / "fixtures/models/tied-gqa-llama3"
QV = ["q_proj", "v_proj"]
# The second row of a batch is padded. Some labels do not count.
generator = torch.Generator().manual_seed(7)
BATCHES = []
for length in (22, 18, 20):
    ids = torch.randint(3, 90, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, length - 5:] = 0
    labels = torch.where((mask == 1) & (torch.arange(length) >= 3), ids, -100)
    BATCHES.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
SAMPLES = [batch["input_ids"][row: row + 1, : int(batch["attention_mask"][row].sum())]
           for batch in BATCHES for row in range(2)]


def base_model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()


def config_of(name: str, **options) -> LoraConfig:
    return LoraConfig(lora_alpha=6, task_type="CAUSAL_LM", init_lora_weights=name, **options)


def corda(method: str):
    model, config = base_model(), config_of("corda", r=4, target_modules=QV,
                                            corda_config=CordaConfig(corda_method=method))
    preprocess_corda(model, config, run_model=lambda: [model(ids) for ids in SAMPLES])
    return get_peft_model(model, config)


def lora_ga(**options):
    model, config = base_model(), config_of("lora_ga", r=8, target_modules=QV, lora_ga_config=LoraGAConfig(**options))
    preprocess_loraga(model, config, lambda: [model(**batch).loss.backward() for batch in BATCHES])
    return get_peft_model(model, config)


def eva(targets, **options):
    config = config_of("eva", r=8, target_modules=targets, eva_config=EvaConfig(**options))
    model = get_peft_model(base_model(), config)
    initialize_lora_eva_weights(model, BATCHES, show_progress_bar=False)
    return model


CASES = {
    "corda-ipm": lambda: corda("ipm"),
    "corda-kpm": lambda: corda("kpm"),
    "lora-ga": lambda: lora_ga(),
    "lora-ga-ArBr": lambda: lora_ga(direction="ArBr", scale="weight_svd"),
    "lora-ga-A2rBr": lambda: lora_ga(direction="A2rBr", scale="gd_scale"),
    "eva": lambda: eva([*QV, "gate_proj"], rho=2.0, tau=0.85),
    # PEFT divides the components of layers with equal inputs once for each of them, so these targets have none.
    "eva-whiten": lambda: eva(["v_proj", "gate_proj"], whiten=True, tau=0.9, adjust_scaling_factors=False,
                              use_label_mask=False),
}


def save(model, folder: Path) -> None:
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    expected = {}
    for name, make in CASES.items():
        torch.manual_seed(3)
        model = make().eval()
        if name.startswith("eva"):
            save(model, OUT / name / "adapter")
            print(name, {key.split("layers.")[1]: module.r["default"] for key, module in model.named_modules()
                         if hasattr(module, "lora_A")})
            continue
        config = model.peft_config["default"]
        method, config.init_lora_weights = config.init_lora_weights, True
        save(model, OUT / name / "initial")
        config.init_lora_weights = method
        for key in ("layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj"):
            weight = model.base_model.model.model.get_submodule(key).base_layer.weight
            expected[f"{name}:{key}"] = weight.detach().clone()
        if name in ("lora-ga-ArBr", "lora-ga-A2rBr"):
            continue
        torch.manual_seed(1)
        for key, parameter in sorted(model.named_parameters()):
            if "lora_" in key:
                parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
        with torch.no_grad():
            expected[f"{name}:logits"] = model(input_ids=BATCHES[0]["input_ids"][:1]).logits
        save(model, OUT / name / "adapter")
    save_file({key: value.contiguous() for key, value in expected.items()}, OUT / "expected.safetensors")
    batches = [{key: value.tolist() for key, value in batch.items()} for batch in BATCHES]
    (OUT / "manifest.json").write_text(json.dumps({"batches": batches}) + "\n")


main()
