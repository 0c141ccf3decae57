"""The peer of curve.ts: makes a model, an adapter and batches, and trains on them in PyTorch + transformers + PEFT.

Takes a folder and one JSON argument. Writes base/ (a Llama of random weights that are exact in float16 and bfloat16),
adapter/ (a new one of PEFT), batches.json (token ids, [steps][batch][length]) and peer.json (the losses by data type of
the base) to the folder. Runs on the GPU if there is one. The language of the batches is a Markov chain, in which each
token of a part of the vocabulary has four successors.
Measured with torch 2.11, transformers 5.17, peft 0.21; other versions should work.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SUCCESSORS = torch.tensor([0.55, 0.25, 0.15, 0.05])

folder = Path(sys.argv[1])
args = json.loads(sys.argv[2])
shape, adam = args["shape"], args["adam"]
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_float32_matmul_precision("highest")  # no TF32, because the others are compared with float32


def make_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape["vocabSize"],
        hidden_size=shape["hiddenSize"],
        intermediate_size=shape["intermediateSize"],
        num_hidden_layers=shape["numHiddenLayers"],
        num_attention_heads=shape["numAttentionHeads"],
        num_key_value_heads=shape["numKeyValueHeads"],
        head_dim=shape["headDim"],
        max_position_embeddings=args["length"],
        tie_word_embeddings=True,
        initializer_range=0.02,
    )
    base = LlamaForCausalLM(config).to(torch.bfloat16).to(torch.float16)
    base.save_pretrained(folder / "base")
    lora = LoraConfig(r=args["rank"], lora_alpha=args["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base.float(), lora).save_pretrained(folder / "adapter")


def make_batches():
    generator = torch.Generator().manual_seed(1)
    words = torch.randperm(shape["vocabSize"], generator=generator)[: args["words"]]
    successors = torch.randint(args["words"], (args["words"], len(SUCCESSORS)), generator=generator)
    rows = args["steps"] * args["batch"]
    choices = torch.multinomial(SUCCESSORS, rows * args["length"], replacement=True, generator=generator)
    state = torch.randint(args["words"], (rows,), generator=generator)
    columns = []
    for choice in choices.view(args["length"], rows):
        columns.append(words[state])
        state = successors[state, choice]
    ids = torch.stack(columns, 1).view(args["steps"], args["batch"], args["length"])
    (folder / "batches.json").write_text(json.dumps(ids.tolist()))
    return ids


def train(ids, dtype):
    base = LlamaForCausalLM.from_pretrained(folder / "base", dtype=dtype).to(device)
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
    model.train()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=adam["learningRate"],
        betas=(adam["beta1"], adam["beta2"]),
        eps=adam["epsilon"],
        weight_decay=adam["weightDecay"],
    )
    losses = []
    for batch in ids.to(device):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


make_model()
batches = make_batches()
losses = {name: train(batches, getattr(torch, name)) for name in ("bfloat16", "float32")}
(folder / "peer.json").write_text(json.dumps(losses))
