"""A peer of gpu.ts: runs the same LoRA or QLoRA steps on random weights with PEFT, PEFT and Liger's kernels, or Unsloth.

Takes one JSON argument and prints {"milliseconds": [...], "gib": …, "loss": …} as its last line: the time of each step after
three steps of warm-up, and the peak memory of PyTorch's tensors. fetch.sh has the versions.
"""

import json
import os
import sys
import tempfile
import time

args = json.loads(sys.argv[1])
if args["peer"] == "unsloth":  # before PyTorch and transformers, because it changes them
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")
    os.chdir(tempfile.mkdtemp())  # the place of its compiled files
    from unsloth import FastLanguageModel
import torch
from transformers import LlamaConfig, LlamaForCausalLM

RANK = int(os.environ.get("RANK", 0))  # of torchrun
if "RANK" in os.environ:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl")
WARMUP = 3
dtype = getattr(torch, args["dtype"])
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
    dtype=args["dtype"],
)


def random_model():
    with torch.device("cuda"):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model


def quantize(base):
    """Quantizes every linear layer except the head to nf4 with double quantization."""
    import bitsandbytes as bnb

    for name, linear in list(base.named_modules()):
        if not isinstance(linear, torch.nn.Linear) or name == "lm_head":
            continue
        quantized = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=dtype,
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


def with_peft(has_liger):
    from peft import LoraConfig, get_peft_model

    base = random_model()
    if has_liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=base)
    if args["isQuantized"]:
        quantize(base)
    model = get_peft_model(base, LoraConfig(r=args["rank"], lora_alpha=16, target_modules="all-linear"))
    if args["gradientCheckpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def save_for_unsloth(folder):
    """Saves a random model with a tokenizer, because Unsloth only opens such folders. The tokenizer is not used."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    random_model().save_pretrained(folder)
    words = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def with_unsloth():
    folder = os.path.join(tempfile.gettempdir(), f"random-llama-{config.hidden_size}-{config.num_hidden_layers}")
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        save_for_unsloth(folder)
        torch.cuda.empty_cache()
    model, _ = FastLanguageModel.from_pretrained(
        folder, max_seq_length=args["length"], dtype=dtype, load_in_4bit=args["isQuantized"], fix_tokenizer=False
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=args["rank"],
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing="unsloth" if args["gradientCheckpointing"] else False,
    )


model = with_unsloth() if args["peer"] == "unsloth" else with_peft(args["peer"] == "liger")
model.train()
if "RANK" in os.environ:
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
rows = [[((RANK * args["batch"] + b) * 977 + t * 31) % args["vocabSize"] for t in range(args["length"])] for b in range(args["batch"])]
ids = torch.tensor(rows, device="cuda")
torch.cuda.empty_cache()
torch.cuda.reset_peak_memory_stats()
milliseconds = []
value = None
for step in range(args["steps"] + WARMUP):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    with torch.autocast("cuda", dtype=dtype, enabled=args["peer"] == "unsloth"):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    value = loss.item()
    torch.cuda.synchronize()
    if step >= WARMUP:
        milliseconds.append(1000 * (time.perf_counter() - begun))
gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
if RANK == 0:
    print(json.dumps({"milliseconds": milliseconds, "gib": gib, "loss": round(value, 4)}))
