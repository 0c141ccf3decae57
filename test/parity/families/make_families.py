"""Golden numbers of the model families beside Llama, from transformers + PEFT + bitsandbytes on the CPU, in float32.

    peers/bin/pip install -r test/parity/requirements.txt bitsandbytes==0.50.2
    peers/bin/python test/parity/families/make_families.py [family …]      # rewrites fixtures/, or those families'

`fixtures/<family>/` has `model/` (a small random model), `adapter/` (PEFT's all-linear, rank 4, A and B random),
`manifest.json` (a batch, 30 losses of AdamW on it, greedy tokens) and `expected.safetensors` (logits, logits with the
adapter, logits with the base quantized to nf4). `fixtures/rope.json` has the rotary frequencies of every type.
`fixtures/presets.json` has the numbers of parameters of the published shapes, counted on torch's meta device.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402  (starts Python again with a fixed hash seed)
import torch  # noqa: E402
from bitsandbytes import functional as bnb  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

OUT = HERE / "fixtures"
SIZES = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=64, max_position_embeddings=64, bos_token_id=1, pad_token_id=0, eos_token_id=None)
SLIDING_THEN_FULL = ["sliding_attention", "full_attention"]
PLAIN_ROPE = dict(rope_type="default", rope_theta=10000.0)

# Windows are shorter than the batch, heads of Gemma's and Qwen's size are not hidden / heads, and caps are low enough to
# bend the scores.
FAMILIES: dict[str, dict] = {
    "mistral": dict(rope_parameters=PLAIN_ROPE, sliding_window=5, head_dim=12),
    "qwen2": dict(rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                       original_max_position_embeddings=16),
                  use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=True),
    "qwen3": dict(rope_parameters=PLAIN_ROPE, head_dim=16),
    "gemma2": dict(rope_parameters=PLAIN_ROPE, head_dim=12, sliding_window=5, layer_types=SLIDING_THEN_FULL,
                   query_pre_attn_scalar=20, attn_logit_softcapping=2.0, final_logit_softcapping=4.0),
    "gemma3_text": dict(head_dim=12, sliding_window=5, layer_types=SLIDING_THEN_FULL, query_pre_attn_scalar=20,
                        rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=100.0),
                                             full_attention=dict(rope_type="linear", rope_theta=10000.0, factor=8.0))),
    # The batch and what is generated are longer than the original 16 positions: the long factors, and the change to them.
    "phi3": dict(original_max_position_embeddings=16, sliding_window=9, num_key_value_heads=4,
                 rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                                      short_factor=[1.0, 1.1, 1.3], long_factor=[1.0, 2.5, 6.0])),
    "smollm3": dict(rope_parameters=PLAIN_ROPE, no_rope_layers=[1, 0], tie_word_embeddings=True),
}


def random_model(family: str, seed: int) -> AutoModelForCausalLM:
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    is_gemma = family.startswith("gemma")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("norm.weight"):
                parameter.copy_((0 if is_gemma else 1) + 0.3 * noise)
            elif key.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in key:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(noise * math.sqrt((4 if "proj" in key else 2) / parameter.shape[1]))
    model.generation_config.eos_token_id = None
    return model


def load(folder: Path) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def quantized(folder: Path) -> AutoModelForCausalLM:
    """The model with the values that its linear layers have in nf4, except the head."""
    model = load(folder)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                # By blocks: on the CPU, bitsandbytes dequantizes rows shorter than a block wrongly.
                codes, state = bnb.quantize_4bit(layer.weight.data.reshape(-1, 64), blocksize=64, quant_type="nf4")
                layer.weight.copy_(bnb.dequantize_4bit(codes, state).reshape(layer.weight.shape))
    return model


def losses_of_training(peft: PeftModel, batch: dict, steps: int = 30) -> list[float]:
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01, foreach=False)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total, count = parity.loss_sum(peft(**parity.feed(batch)).logits, batch["labels"])
        (total / count).backward()
        losses.append(float(total.detach()) / count)
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0], f"training does not lower the loss: {losses}"
    return losses


def family_case(family: str, seed: int) -> None:
    folder = OUT / family
    shutil.rmtree(folder, ignore_errors=True)
    random_model(family, seed).save_pretrained(folder / "model")
    model = load(folder / "model")
    batch = parity.make_inputs(SIZES["vocab_size"], [20, 13], 20, "left", seed + 1)
    fed = parity.feed(batch)
    prompts = [[5, 9, 31], [7, 40, 22, 3, 18, 11, 50]]
    expected = {}
    with torch.no_grad():
        expected["logits"] = model(**fed).logits
        expected["nf4Logits"] = quantized(folder / "model")(**fed).logits
        greedy = parity.greedy(model, prompts, 12)
        peft = parity.attach(model, f"parity/{family}", "all-linear", seed + 2)
        expected["adapterLogits"] = peft(**fed).logits
        adapter_greedy = parity.greedy(peft, prompts, 12)
    parity.save_adapter(peft, folder / "adapter", f"parity/{family}")
    parity.write_tensors(folder / "expected.safetensors", expected)
    parity.write_json(folder / "manifest.json", {
        "inputs": batch,
        "greedy": greedy,
        "adapterGreedy": adapter_greedy,
        "losses": losses_of_training(peft, batch),
    })
    print(family, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes; margins",
          greedy["smallestMargin"], adapter_greedy["smallestMargin"])


def rope_goldens() -> None:
    """Frequencies, factor on the tables, and the lengths that they hold for."""
    types = {
        "linear": dict(factor=4.0),
        "dynamic": dict(factor=3.0),
        "yarn": dict(factor=8.0, original_max_position_embeddings=32),
        "yarn-mscale": dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=16.0,
                            beta_slow=2.0, mscale=1.0, mscale_all_dim=0.7, truncate=False),
        "longrope": dict(original_max_position_embeddings=32, short_factor=[1 + 0.1 * i for i in range(8)],
                         long_factor=[1 + 0.7 * i for i in range(8)]),
    }
    goldens = {}
    for name, options in types.items():
        rope = {"rope_type": name, "rope_theta": 10000.0, **options}
        config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=128, rope_parameters=rope)
        lengths = {"dynamic": [128, 129, 200], "longrope": [32, 33]}.get(name, [1])
        frequencies, factors = zip(*(ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, None, seq_len=n) for n in lengths))
        goldens[name] = {"config": {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128,
                                    "rope_parameters": rope},
                         "lengths": lengths, "frequencies": [f.tolist() for f in frequencies], "factor": factors[0]}
    parity.write_json(OUT / "rope.json", goldens)


def preset_counts() -> None:
    """Weights of each shape in presets.json's `configs`, and of PEFT's adapter of rank 8 on all linear layers."""
    configs = json.loads((HERE / "presets.json").read_text())
    counts = {}
    for name, json_config in configs.items():
        config = AutoConfig.for_model(**json_config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            model.tie_weights()
            total = sum(p.numel() for p in model.parameters())
            peft = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        counts[name] = {"total": total, "trainable": sum(p.numel() for p in peft.parameters() if p.requires_grad)}
        print(name, counts[name])
    parity.write_json(OUT / "presets.json", counts)


def main() -> None:
    wanted = sys.argv[1:] or [*FAMILIES, "rope", "presets"]
    for index, family in enumerate(FAMILIES):
        if family in wanted:
            family_case(family, 1000 + 10 * index)
    if "rope" in wanted:
        rope_goldens()
    if "presets" in wanted:
        preset_counts()


if __name__ == "__main__":
    main()
