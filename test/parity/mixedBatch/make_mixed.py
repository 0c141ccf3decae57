"""Golden logits and greedy tokens of a batch whose rows have different adapters, from PEFT's `adapter_names` (float32, CPU).

    peers/bin/python test/parity/mixedBatch/make_mixed.py     # rewrites fixtures/ beside this file

The adapters are those of ../combining: a and b have rank 4 and different scales, c has rank 2, rank-stabilized, on the
first block only.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

for package, wanted in {"torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2"}.items():
    found = importlib.metadata.version(package)
    assert found == wanted, f"expected {package} {wanted}, got {found}: pip install -r ../requirements.txt"

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
MODEL = HERE.parent / "fixtures/models/tied-gqa-llama3"
ADAPTERS = HERE.parent / "combining/fixtures"

NAMES = ["c", "__base__", "a", "b", "a"]
PROMPTS = [[5, 17, 3, 8, 41], [5, 17, 3, 8, 41], [9, 2, 30, 12, 12], [5, 17, 3, 8, 41], [60, 1, 7, 7, 21]]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    base = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, ADAPTERS / "a", "a")
    for name in ("b", "c"):
        model.load_adapter(ADAPTERS / name, name)
    model.eval()
    ids = torch.tensor(PROMPTS)
    with torch.no_grad():
        logits = model(input_ids=ids, adapter_names=NAMES).logits
        tokens = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=NAMES,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    save_file({"logits": logits.contiguous()}, OUT / "logits.safetensors")
    case = {"adapter_names": NAMES, "input_ids": PROMPTS, "tokens": tokens[:, ids.shape[1] :].tolist()}
    (OUT / "case.json").write_text(json.dumps(case) + "\n")


main()
