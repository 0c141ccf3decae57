"""The peer of gpu.ts: the same LoRA or QLoRA steps in PyTorch + transformers + PEFT (+ bitsandbytes), bfloat16 or float32, on the GPU.

Takes one JSON argument and prints {"milliseconds": [...], "gib": …, "loss": …} as its last line.
Measured with torch 2.11, transformers 5.17, peft 0.21, bitsandbytes 0.50; others should do.
"""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

args = json.loads(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=args["vocabSize"],
    hidden_size=args["hiddenSize"],
    intermediate_size=args["intermediateSize"],
    num_hidden_layers=args["numHiddenLayers"],
    num_attention_heads=args["numAttentionHeads"],
    num_key_value_heads=args["numKeyValueHeads"],
    head_dim=args["headDim"],
    max_position_embeddings=args["maxPositionEmbeddings"],
    tie_word_embeddings=args["tieWordEmbeddings"],
    use_cache=False,
)
with torch.device("cuda"):
    torch.set_default_dtype(getattr(torch, args["dtype"]))
    base = LlamaForCausalLM(config)
if args["isQuantized"]:  # nf4 with double quantization in every linear layer but the head
    import bitsandbytes as bnb

    for name, linear in list(base.named_modules()):
        if not isinstance(linear, torch.nn.Linear) or name == "lm_head":
            continue
        quantized = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=getattr(torch, args["dtype"]),
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        quantized.weight = bnb.nn.Params4bit(
            linear.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, quantized.to("cuda"))
    base.is_loaded_in_4bit = True
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
model = get_peft_model(base, LoraConfig(r=args["rank"], lora_alpha=16, target_modules="all-linear"))
if args["gradientCheckpointing"]:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
rows = [[(b * 977 + t * 31) % args["vocabSize"] for t in range(args["length"])] for b in range(args["batch"])]
ids = torch.tensor(rows, device="cuda")
milliseconds = []
loss = None
for step in range(args["steps"] + 3):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    value = loss.item()
    torch.cuda.synchronize()
    if step >= 3:  # the first ones warm up
        milliseconds.append(1000 * (time.perf_counter() - begun))
gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
print(json.dumps({"milliseconds": milliseconds, "gib": gib, "loss": round(value, 4)}))
