"""Golden adapters of whole modules, embeddings, heads and tokens, from PEFT (float32, CPU).

    peers/bin/python test/parity/modules/make_modules.py     # rewrites fixtures/ beside this file

For each case: an adapter with random weights as PEFT saves it, the logits, loss and gradients of the model with it, the
losses of 20 steps of AdamW, and the logits after them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

for package, wanted in {"torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2"}.items():
    found = importlib.metadata.version(package)
    assert found == wanted, f"expected {package} {wanted}, got {found}: pip install -r ../requirements.txt"
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: E402

warnings.simplefilter("ignore")
torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
MODELS = HERE.parent / "fixtures/models"
IDS = [[1, 5, 9, 17, 33, 65, 2, 3, 4, 90], [7, 9, 11, 9, 40, 5, 1, 60, 61, 62]]
TIED, UNTIED = "tied-gqa-llama3", "untied-mha"
Q = ["q_proj"]
# name: model, options of LoraConfig
CASES = {
    "saved-embedding": (TIED, dict(target_modules=Q, modules_to_save=["embed_tokens"])),
    "saved-head": (TIED, dict(target_modules=Q, modules_to_save=["lm_head"])),
    "saved-tied": (TIED, dict(target_modules=Q, modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "saved-untied": (UNTIED, dict(target_modules="all-linear", modules_to_save=["lm_head", "norm", "layers.1.mlp"])),
    "lora-head": (TIED, dict(target_modules=["q_proj", "lm_head"])),
    "lora-embedding": (TIED, dict(target_modules=["q_proj", "embed_tokens"], use_rslora=True)),
    "lora-embedding-dora": (UNTIED, dict(target_modules=["embed_tokens", "lm_head"], use_dora=True)),
    "lora-tied": (TIED, dict(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)),
    "tokens-tied": (TIED, dict(target_modules=Q, trainable_token_indices=[9, 5, 90])),
    "tokens-untied": (UNTIED, dict(target_modules=Q, trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [1]})),
    "tokens-two": (TIED, dict(target_modules=Q, trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [1]})),
}


def base_of(name: str) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()


def by_key(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by their key in the file; a shared one has the first of its keys."""
    state = get_peft_model_state_dict(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    named = {}
    for key, value in state.items():
        for parameter in trained:
            if parameter.data_ptr() == value.data_ptr() and all(parameter is not other for other in named.values()):
                named[key] = parameter
    assert len(named) == len(trained), (list(named), len(trained))
    return named


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.clone()


def loss_of(model) -> torch.Tensor:
    ids = torch.tensor(IDS)
    return model(ids, labels=ids).loss


def added() -> dict:
    """A tokenizer with further tokens: its length, and texts with their ids."""
    tokenizer = AutoTokenizer.from_pretrained(HERE.parents[2] / "examples/quickstart/model")
    count = tokenizer.add_tokens(["<amount>", "bill", "a"]), tokenizer.add_tokens(["<|bill|>", "<amount>"], special_tokens=True)
    texts = ["<|bill|> The bill costs <amount>.", "a<amount><|bill|>a"]
    return {"count": count, "length": len(tokenizer), "texts": {text: tokenizer.encode(text) for text in texts},
            "decoded": [tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) for text in texts]}


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    manifest = {}
    for name, (base, options) in CASES.items():
        config = LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
        torch.manual_seed(0)
        model = get_peft_model(base_of(base), config).eval()
        torch.manual_seed(1)
        for _, parameter in sorted(by_key(model).items()):
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        config.base_model_name_or_path = "base"
        folder = OUT / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        for part in ("adapter_config.json",):
            assert str(MODELS) not in (folder / part).read_text()
        expected = {"logits": logits(model)}
        model = PeftModel.from_pretrained(base_of(base), folder, is_trainable=True).eval()
        assert torch.allclose(logits(model), expected["logits"], atol=1e-5), f"{name}: PEFT loads another model"
        trained = by_key(model)
        loss = loss_of(model)
        loss.backward()
        for key, parameter in trained.items():
            expected[f"gradient:{key}"] = parameter.grad.clone()
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            step = loss_of(model)
            step.backward()
            losses.append(step.item())
            optimizer.step()
        expected["trainedLogits"] = logits(model)
        save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
        manifest[name] = {"model": base, "loss": loss.item(), "losses": losses}
    (OUT / "manifest.json").write_text(json.dumps({"ids": IDS, "cases": manifest, "added": added()}) + "\n")


main()
