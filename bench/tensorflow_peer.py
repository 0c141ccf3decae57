"""The peer of tensorflow.ts: runs the same LoRA or QLoRA steps in PyTorch + PEFT (+ bitsandbytes) on the CPU.

Takes one JSON argument (folder, batch, length, dtype, isQuantized, gradientCheckpointing, threads, steps) and prints
{"milliseconds": [...], "peakBytes": ...} as its last line.
Needs: torch 2.15, transformers 5.23, peft 0.21, bitsandbytes 0.50 (other versions should work).
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

args = json.loads(sys.argv[1])
torch.set_num_threads(args["threads"])
torch.manual_seed(0)
dtype = getattr(torch, args["dtype"])
quantization = (
    BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    if args["isQuantized"]
    else None
)
model = AutoModelForCausalLM.from_pretrained(
    args["folder"], dtype=dtype, quantization_config=quantization, device_map="cpu"
)
model.config.use_cache = False
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
if args["gradientCheckpointing"]:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
ids = torch.tensor(
    [[(b * 977 + t * 31) % 8000 for t in range(args["length"])] for b in range(args["batch"])]
)
milliseconds = []
for step in range(args["steps"] + 1):
    begun = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step > 0:  # the first step is the warm-up
        milliseconds.append(1000 * (time.perf_counter() - begun))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"milliseconds": milliseconds, "peakBytes": peak}))
