"""Golden numbers of settings of PEFT's LoRA that train or place more than A and B (float32, CPU).

    peers/bin/python test/parity/settings/make_settings.py [case …]     # rewrites fixtures/ beside this file

`fixtures/<case>/` has `adapter/` as PEFT saves it before training (A, B and biases random), `manifest.json` (the model,
a batch, the losses of 20 steps of AdamW on it, greedy tokens) and `expected.safetensors` (logits, every gradient by its key in the
adapter's file, logits after the training, and merged logits where PEFT can merge).
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

for package, wanted in {"torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2"}.items():
    found = importlib.metadata.version(package)
    assert found == wanted, f"expected {package} {wanted}, got {found}: pip install -r ../requirements.txt"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402  (starts Python again with a fixed hash seed)
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

OUT = HERE / "fixtures"
LLAMA = "fixtures/models/biases"
TIED = "fixtures/models/tied-gqa-llama3"
QWEN2 = "families/fixtures/qwen2/model"
QV = ["q_proj", "v_proj"]

# name: (model, config, whether PEFT can merge)
CASES: dict[str, tuple[str, dict, bool]] = {
    "lora-bias": (LLAMA, dict(target_modules=["q_proj", "down_proj"], lora_bias=True, use_rslora=True), True),
    "lora-bias-alone": (TIED, dict(target_modules=QV, lora_bias=True), False),
    "bias-lora-only": (QWEN2, dict(target_modules=["q_proj", "o_proj"], bias="lora_only"), True),
    "bias-all": (LLAMA, dict(target_modules=["v_proj"], bias="all", lora_bias=True), True),
    "target-parameters": (LLAMA, dict(target_modules=["o_proj"],
                                      target_parameters=["q_proj.weight", "layers.1.mlp.up_proj.weight"],
                                      rank_pattern={"self_attn.q_proj.weight": 2}), True),
    "replication": (TIED, dict(target_modules=["q_proj", "down_proj"],
                               layer_replication=[[0, 2], [1, 2], [0, 1]]), False),
}


def trained_by_key(peft) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by their key in the adapter's file."""
    trained = {key: parameter for key, parameter in peft.named_parameters() if parameter.requires_grad}
    return get_peft_model_state_dict(peft, state_dict=trained, save_embedding_layers=False)


def case(name: str, seed: int) -> None:
    source, options, merges = CASES[name]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    base = AutoModelForCausalLM.from_pretrained(HERE.parent / source, dtype=torch.float32,
                                                attn_implementation="eager").eval()
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
    peft = get_peft_model(base, config).eval()
    config.base_model_name_or_path = "base"
    generator = torch.Generator().manual_seed(seed)
    trained = trained_by_key(peft)
    with torch.no_grad():
        for _, parameter in sorted(trained.items()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    count = sum(p.requires_grad for p in peft.parameters())
    assert len(trained) == count, f"{name}: {len(trained)} keys for {count} trained parameters"
    batch = parity.make_inputs(base.config.vocab_size, [14, 9], 14, "left", seed + 1)
    fed = parity.feed(batch)
    parity.save_adapter(peft, folder / "adapter", "base")
    expected = {}
    with torch.no_grad():
        expected["logits"] = peft(**fed).logits
    greedy = parity.greedy(peft, [[5, 9, 31], [7, 40, 22, 3, 18]], 8)
    if merges:
        peft.merge_adapter()
        with torch.no_grad():
            expected["mergedLogits"] = peft(**fed).logits
        peft.unmerge_adapter()
    optimizer = torch.optim.AdamW(list(trained.values()), lr=3e-3, weight_decay=0.01, foreach=False)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        total, targets = parity.loss_sum(peft(**fed).logits, batch["labels"])
        (total / targets).backward()
        losses.append(float(total.detach()) / targets)
        if step == 0:
            expected.update({f"gradient:{key}": parameter.grad.clone() for key, parameter in trained.items()})
        optimizer.step()
    with torch.no_grad():
        expected["trainedLogits"] = peft(**fed).logits
    parity.write_tensors(folder / "expected.safetensors", expected)
    parity.write_json(folder / "manifest.json", {"model": source, "inputs": batch, "losses": losses, "greedy": greedy})
    print(name, len(trained), "trained;", losses[0], "→", losses[-1])


def main() -> None:
    for index, name in enumerate(CASES):
        if name in (sys.argv[1:] or CASES):
            case(name, 2000 + 10 * index)


main()
