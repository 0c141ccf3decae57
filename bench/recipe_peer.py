"""The peer of recipe.ts: runs the same recipe in PyTorch + transformers + PEFT on the CPU, on the same batches.

Takes the folder that recipe.ts made: run.json (settings, the base, and the base as it is trained), batches.jsonl (a line with micro-batches for each step),
initial/ (the adapter before the first step, in PEFT's format), run/ (the trained adapter), merged/ (base and adapter
exported as one model). Writes peer.json there: {"losses", "gradNorms", "learningRates", "exportDifference"}.
Needs: torch 2.15, transformers 5.23, peft 0.21 (other versions should work); gguf for a base in GGUF, bitsandbytes for
QLoRA.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, get_scheduler


def load(path):
    """A Hugging Face folder or a GGUF file."""
    path = Path(path)
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


folder = Path(sys.argv[1])
run = json.loads((folder / "run.json").read_text())
torch.manual_seed(0)
model = PeftModel.from_pretrained(load(run["model"]), folder / "initial", is_trainable=True)
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(
    trained,
    lr=run["learningRate"],
    betas=(run["beta1"], run["beta2"]),
    eps=run["epsilon"],
    weight_decay=run["weightDecay"],
)
schedule = get_scheduler(run["schedule"], optimizer, run["warmupSteps"], run["totalSteps"])
losses, norms, rates = [], [], []
with (folder / "batches.jsonl").open() as lines:
    for line in lines:
        window = [{key: torch.tensor(rows) for key, rows in batch.items()} for batch in json.loads(line)]
        count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
        total = 0.0
        for batch in window:  # as in transformers' Trainer: each micro-batch's sum divided by the window's count
            loss = model(**batch, num_items_in_batch=torch.tensor(count)).loss
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trained, run["maxGradNorm"] or float("inf"))
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        print(f"peer: step {len(losses)} loss {total:.4f}", file=sys.stderr, flush=True)
        norms.append(norm.item())
with torch.no_grad():  # the files of tfjs-lora, as PEFT and as transformers read them
    adapted = PeftModel.from_pretrained(load(run["base"]), folder / "run")
    merged = load(folder / "merged")
    batch = {key: value for key, value in window[0].items() if key != "labels"}
    expected, found = adapted(**batch).logits, merged(**batch).logits
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
report = {"losses": losses, "gradNorms": norms, "learningRates": rates, "exportDifference": difference}
(folder / "peer.json").write_text(json.dumps(report))
