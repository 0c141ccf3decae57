"""The peer of train.ts: runs the same LoRA steps in PyTorch + transformers + PEFT on the CPU.

Takes one JSON argument (the shape, batch, length, threads, steps) and prints {"milliseconds": [...]} as its last line.
Needs: torch 2.15, transformers 5.23, peft 0.21 (other versions should work).
"""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

args = json.loads(sys.argv[1])
torch.set_num_threads(args["threads"])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=args["vocabSize"],
    hidden_size=args["hiddenSize"],
    intermediate_size=args["intermediateSize"],
    num_hidden_layers=args["numHiddenLayers"],
    num_attention_heads=args["numAttentionHeads"],
    num_key_value_heads=args["numKeyValueHeads"],
    max_position_embeddings=args["maxPositionEmbeddings"],
    tie_word_embeddings=args["tieWordEmbeddings"],
    use_cache=False,
)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
if args["gradientCheckpointing"]:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
rows = [
    [(b * 977 + t * 31) % args["vocabSize"] for t in range(args["length"])] for b in range(args["batch"])
]
ids = torch.tensor(rows)
milliseconds = []
for step in range(args["steps"] + 1):
    begun = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step > 0:  # the first step is the warm-up
        milliseconds.append(1000 * (time.perf_counter() - begun))
print(json.dumps({"milliseconds": milliseconds}))
