"""Golden numbers for the parity tests, from PyTorch (CPU, float32) + transformers + PEFT.

    python3 -m venv peers && peers/bin/pip install -r test/parity/requirements.txt
    peers/bin/python test/parity/make_fixtures.py            # rewrites test/parity/fixtures/

Every model is a small random Llama. Its weights are scaled so that logits, attention and gates are far from
uniform, and every LoRA A *and* B is random (PEFT's own initialisation has B = 0, which hides A's gradient).
The same versions give the same bytes on the same kind of CPU; README.md beside this file lists what each case covers.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

PINNED = {
    "torch": "2.15.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
}
for package, wanted in PINNED.items():
    found = importlib.metadata.version(package)
    assert found == wanted, f"make_fixtures.py: expected {package} {wanted}, got {found}: pip install -r requirements.txt"

# PEFT keeps target modules in sets and writes them in iteration order: a fixed hash seed fixes the file.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_scheduler,
)
from transformers.models.llama.modeling_llama import (  # noqa: E402
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()
warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*renamed.*")
warnings.filterwarnings("ignore", category=FutureWarning)

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

HERE = Path(__file__).resolve().parent
OUT = HERE / "fixtures"
SIZE_LIMIT = 3_000_000

# Tolerances of the tests. logits, mergedLogits: largest absolute difference / largest absolute value.
# loss, trajectoryLoss: relative. gradient, weight: norm of the difference / norm of the expected.
TOLERANCES = {
    "logits": 1e-4,
    "mergedLogits": 1e-4,
    "loss": 1e-5,
    "gradient": 1e-3,
    "weight": 1e-4,
    "trajectoryLoss": 1e-3,
}


# --- Files -------------------------------------------------------------------------------------------------------


def write_json(path: Path, value) -> None:
    """Indented JSON, with lists of numbers on one line each."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\s+([-\d.eE+,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().to(torch.float32).contiguous() for name, t in sorted(tensors.items())}, path)


# --- Models ------------------------------------------------------------------------------------------------------

MODELS: dict[str, dict] = {
    # Llama 3.2's structure: tied head, grouped queries, llama3 rope. head_dim 16 gives frequencies in each of
    # rope's three bands (kept, interpolated, divided); the sequence of 40 runs past the original length of 32.
    "tied-gqa-llama3": dict(
        hidden_size=32, intermediate_size=43, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=96, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=128,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "untied-mha": dict(
        hidden_size=48, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=101, tie_word_embeddings=False, rms_norm_eps=1e-6, max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=500000.0),
    ),
    # head_dim is not hidden / heads, one key/value head for all queries, original rope length 16.
    "wide-heads": dict(
        hidden_size=32, intermediate_size=45, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        head_dim=12, vocab_size=96, tie_word_embeddings=False, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0,
                             high_freq_factor=2.0, original_max_position_embeddings=16),
    ),
    # 16-bit weights whose rows have an odd number of columns everywhere (33, 35, 43).
    "bfloat16-odd": dict(
        hidden_size=33, intermediate_size=43, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        head_dim=10, vocab_size=97, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0), dtype="bfloat16",
    ),
    "float16": dict(
        hidden_size=32, intermediate_size=43, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, tie_word_embeddings=False, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0), dtype="float16",
    ),
    "biases": dict(
        hidden_size=32, intermediate_size=43, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0), attention_bias=True, mlp_bias=True,
    ),
}


def random_llama(name: str, seed: int) -> LlamaForCausalLM:
    """A random Llama in float32: linear ~ N(0, 4/in), untied head ~ N(0, 2/in), embedding ~ N(0, 0.4²), norms ~ 1 ± 0.3, biases ~ N(0, 0.3²)."""
    options = {**MODELS[name]}
    dtype = getattr(torch, options.pop("dtype", "float32"))
    config = LlamaConfig(**options, bos_token_id=1, eos_token_id=None, pad_token_id=0, attention_dropout=0.0)
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif key.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in key:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(noise * math.sqrt((4 if "proj" in key else 2) / parameter.shape[1]))
    return model.to(dtype)


def load_model(folder: Path) -> LlamaForCausalLM:
    """Loads the folder for comparison: computed in float32, whatever the stored dtype, with plain attention."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def write_model(name: str, seed: int) -> Path:
    folder = OUT / "models" / name
    model = random_llama(name, seed)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder


def transformers4_config(config: dict) -> dict:
    """The same config.json in transformers 4's spelling: rope_theta + rope_scaling, torch_dtype."""
    config = {**config}
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.1"
    return dict(sorted(config.items()))


# --- Inputs ------------------------------------------------------------------------------------------------------


def make_inputs(vocab: int, lengths: list[int], total: int, padding: str, seed: int) -> dict[str, list]:
    """Token ids, labels (some −100), mask and position ids. Pad id 0; real tokens are 2 and up.

    Labels are −100 at padding, on a prompt (the first third), at one position in the middle, and, as the model
    shifts them, on each row's first real token (padding or nothing would predict it).
    Position ids of padded rows are those of `generate`: cumulative mask − 1, and 0 under the padding.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, labels, mask = [], [], []
    for length in lengths:
        row = torch.randint(2, vocab, (length,), generator=generator).tolist()
        target = list(row)
        for i in range(max(1, length // 3)):
            target[i] = -100
        target[length // 2 + 1] = -100
        pad = total - length
        if padding == "left":
            ids.append([0] * pad + row)
            labels.append([-100] * pad + target)
            mask.append([0] * pad + [1] * length)
        else:
            ids.append(row + [0] * pad)
            labels.append(target + [-100] * pad)
            mask.append([1] * length + [0] * pad)
    inputs = {"inputIds": ids, "labels": labels}
    if padding != "none":
        inputs["attentionMask"] = mask
        position = torch.tensor(mask).cumsum(-1) - 1
        inputs["positionIds"] = position.masked_fill(torch.tensor(mask) == 0, 0).tolist()
    return inputs


def feed(inputs: dict[str, list]) -> dict[str, torch.Tensor]:
    names = {"inputIds": "input_ids", "attentionMask": "attention_mask", "positionIds": "position_ids"}
    return {names[k]: torch.tensor(v) for k, v in inputs.items() if k in names}


def loss_sum(logits: torch.Tensor, labels: list) -> tuple[torch.Tensor, int]:
    """Sum of cross-entropy over the shifted labels that are not −100, and their number."""
    target = torch.tensor(labels)[:, 1:]
    flat = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    total = F.cross_entropy(flat, target.reshape(-1), ignore_index=-100, reduction="sum")
    return total, int((target != -100).sum())


def greedy(model, prompts: list[list[int]], new_tokens: int = 24) -> dict:
    """`generate(do_sample=False)` on prompts, left padded when their lengths differ. Checks that no step is a near tie."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0,
        eos_token_id=None, output_logits=True, return_dict_in_generate=True,
    )
    margin = min(float((top := step.topk(2, dim=-1).values)[:, 0].sub(top[:, 1]).min()) for step in out.logits)
    return {
        "prompts": prompts,
        "maxNewTokens": new_tokens,
        "tokens": out.sequences[:, width:].tolist(),
        "smallestMargin": round(margin, 5),
    }


def greedy_stopped(model, free: dict) -> dict:
    """The same prompt with a stop token: one that `free` first generates in the middle. It is the last one given."""
    tokens = free["tokens"][0]
    stop = next(t for i, t in enumerate(tokens) if i >= 5 and t not in tokens[:i])
    ids = torch.tensor(free["prompts"])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
                         pad_token_id=0, eos_token_id=stop)
    return {"prompts": free["prompts"], "maxNewTokens": 24, "eosTokenId": stop,
            "tokens": out[:, ids.shape[1]:].tolist()}


# --- LoRA --------------------------------------------------------------------------------------------------------

ALL_LINEAR = dict(r=4, lora_alpha=8, target_modules="all-linear")

# Each case's configuration, for PEFT and for `applyLoRA`.
LORA: dict[str, tuple[dict, dict]] = {
    "all-linear": (ALL_LINEAR, dict(rank=4, alpha=8, targetModules="all-linear")),
    "qv": (
        dict(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
        dict(rank=2, alpha=6, targetModules=["q_proj", "v_proj"]),
    ),
    "rslora": (
        dict(r=4, lora_alpha=3, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"], use_rslora=True),
        dict(rank=4, alpha=3, targetModules=["q_proj", "k_proj", "o_proj", "up_proj"], useRsLoRA=True),
    ),
    "dora": ({**ALL_LINEAR, "use_dora": True}, dict(rank=4, alpha=8, targetModules="all-linear", useDoRA=True)),
    "patterns": (
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
             rank_pattern={"q_proj": 6, r"layers\.1\.mlp\.down_proj": 2, "v_proj": 3},
             alpha_pattern={"q_proj": 3, r"model\.layers\.0\.self_attn\.v_proj": 5}),
        dict(rank=4, alpha=8, targetModules=["q_proj", "v_proj", "down_proj"],
             rankPattern={"q_proj": 6, r"layers\.1\.mlp\.down_proj": 2, "v_proj": 3},
             alphaPattern={"q_proj": 3, r"model\.layers\.0\.self_attn\.v_proj": 5}),
    ),
    "layers": (
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], layers_to_transform=[1]),
        dict(rank=4, alpha=8, targetModules=["q_proj", "v_proj"], layersToTransform=[1]),
    ),
    "regex": (
        dict(r=4, lora_alpha=8, target_modules=r".*\.0\.self_attn\.(q|k)_proj|model\.layers\.1\.mlp\.[gd].*"),
        dict(rank=4, alpha=8, targetModules=r".*\.0\.self_attn\.(q|k)_proj|model\.layers\.1\.mlp\.[gd].*"),
    ),
}


def attach(model: LlamaForCausalLM, base_name: str, lora: str, seed: int) -> PeftModel:
    """PEFT around `model`; A ~ N(0, 1/in), B ~ N(0, 0.2²), and DoRA's magnitude off the row norms it starts at."""
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **LORA[lora][0])
    config.base_model_name_or_path = base_name
    peft = get_peft_model(model, config)
    peft.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_A" in key:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
            elif "lora_B" in key:
                parameter.copy_(0.2 * noise)
            elif "lora_magnitude_vector" in key:
                parameter.mul_(1 + 0.15 * noise)
    return peft


def save_adapter(peft: PeftModel, folder: Path, base_name: str) -> None:
    for config in peft.peft_config.values():
        config.base_model_name_or_path = base_name
    peft.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card


def gradients_by_file_key(peft: PeftModel) -> dict[str, torch.Tensor]:
    """The gradients under the keys PEFT uses in a file."""
    trained = {key: parameter for key, parameter in peft.named_parameters() if parameter.requires_grad}
    as_file = get_peft_model_state_dict(peft, state_dict={k: p.grad for k, p in trained.items()},
                                        save_embedding_layers=False)
    assert len(as_file) == len(trained)
    return dict(as_file)


# --- Cases -------------------------------------------------------------------------------------------------------


def model_case(name: str, model_name: str, lora: str, *, lengths: list[int], total: int, padding: str, seed: int,
               base: bool = True, extra: dict | None = None) -> None:
    """One model with one adapter on one batch: `cases/<name>/{manifest.json, expected.safetensors, adapter/}`."""
    model_folder, folder = OUT / "models" / model_name, OUT / "cases" / name
    base_name = f"parity/{model_name}"
    model = load_model(model_folder)
    vocab = model.config.vocab_size
    inputs = make_inputs(vocab, lengths, total, padding, seed)
    manifest: dict = {
        "model": f"models/{model_name}",
        "adapter": "adapter",
        "tensors": "expected.safetensors",
        "lora": LORA[lora][1],
        "inputs": inputs,
        "tolerances": TOLERANCES,
    }
    expected: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed + 1)
    prompts = [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in (8, 5, 11)]

    with torch.no_grad():
        logits = model(**feed(inputs)).logits
    total_loss, count = loss_sum(logits, inputs["labels"])
    manifest["targetCount"] = count
    if base:
        expected["logits"] = logits
        manifest["loss"] = float(total_loss) / count
        manifest["greedy"] = greedy(model, prompts[:1])
        manifest["greedyStopped"] = greedy_stopped(model, manifest["greedy"])

    peft = attach(model, base_name, lora, seed + 2)
    save_adapter(peft, folder / "adapter", base_name)
    output = peft(**feed(inputs), labels=torch.tensor(inputs["labels"]))
    total_loss, _ = loss_sum(output.logits, inputs["labels"])
    assert abs(float(total_loss.detach()) / count - float(output.loss.detach())) < 1e-5, "transformers' own loss disagrees"
    (total_loss / count).backward()
    expected["adapterLogits"] = output.logits
    manifest["adapterLoss"] = float(total_loss.detach()) / count
    for key, gradient in gradients_by_file_key(peft).items():
        assert float(gradient.norm()) > 1e-6, f"{name}: no gradient reaches {key}"
        expected[f"gradient:{key}"] = gradient
    manifest["adapterGreedy"] = greedy(peft, prompts[:1])
    manifest["adapterGreedyBatch"] = greedy(peft, prompts)

    merged = peft.merge_and_unload(safe_merge=True)
    with torch.no_grad():
        expected["mergedLogits"] = merged(**feed(inputs)).logits
    some = next(k.removeprefix("gradient:base_model.model.").removesuffix(".lora_A.weight")
                for k in sorted(expected) if k.endswith("lora_A.weight"))
    expected[f"merged:{some}.weight"] = merged.get_submodule(some).weight
    dtype = getattr(torch, MODELS[model_name].get("dtype", "float32"))
    if dtype != torch.float32:
        # Results of a merge kept in the model's own 16 bits. (Module.to would round rope's buffer as well.)
        with torch.no_grad():
            for parameter in merged.parameters():
                parameter.copy_(parameter.to(dtype))
            expected["mergedLogitsRounded"] = merged(**feed(inputs)).logits
    manifest.update(extra or {})
    write_json(folder / "manifest.json", manifest)
    write_tensors(folder / "expected.safetensors", expected)


def spelling_cases(name: str) -> None:
    """The first model again: sharded, and its config.json as transformers 4 spells it (two spellings of rope's type)."""
    source = OUT / "models" / name
    model = load_model(source)
    model.save_pretrained(OUT / "models" / f"{name}-sharded", max_shard_size="24KB")
    shards = sorted(p.name for p in (OUT / "models" / f"{name}-sharded").glob("*.safetensors"))
    assert len(shards) > 2, shards
    config = transformers4_config(json.loads((source / "config.json").read_text()))
    write_json(OUT / "spellings" / "transformers4.json", config)
    older = json.loads(json.dumps(config))
    older["rope_scaling"]["type"] = older["rope_scaling"].pop("rope_type")
    write_json(OUT / "spellings" / "transformers4-type.json", older)
    ids = torch.arange(2, 42)[None]
    for spelling in ("transformers4", "transformers4-type"):
        folder = OUT / "check"
        shutil.copytree(source, folder)
        shutil.copy(OUT / "spellings" / f"{spelling}.json", folder / "config.json")
        with torch.no_grad():
            difference = (load_model(folder)(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()
        assert float(difference) == 0, f"transformers reads {spelling}.json as another model ({float(difference)})"
        shutil.rmtree(folder)


def packed_case(name: str, model_name: str, seed: int) -> None:
    """Three sequences packed in one row (position ids restart), with the results of each alone. transformers agrees."""
    model = load_model(OUT / "models" / model_name)
    generator = torch.Generator().manual_seed(seed)
    lengths = [7, 11, 6]
    parts = [torch.randint(2, model.config.vocab_size, (n,), generator=generator) for n in lengths]
    with torch.no_grad():
        alone = torch.cat([model(input_ids=p[None]).logits[0] for p in parts])
        ids, positions = torch.cat(parts)[None], torch.cat([torch.arange(n) for n in lengths])[None]
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    assert float((alone - together).abs().max()) < 1e-4
    write_json(OUT / "cases" / name / "manifest.json", {
        "model": f"models/{model_name}",
        "tensors": "expected.safetensors",
        "lengths": lengths,
        "inputs": {"inputIds": ids.tolist(), "positionIds": positions.tolist()},
        "tolerances": TOLERANCES,
    })
    write_tensors(OUT / "cases" / name / "expected.safetensors", {"logits": alone[None]})


def full_gradient_case(name: str, model_name: str, seed: int) -> None:
    """Gradients of every base weight (full fine-tuning): tied embedding, norms, linear weights."""
    model = load_model(OUT / "models" / model_name)
    inputs = make_inputs(model.config.vocab_size, [14, 9], 14, "right", seed)
    total, count = loss_sum(model(**feed(inputs)).logits, inputs["labels"])
    (total / count).backward()
    write_json(OUT / "cases" / name / "manifest.json", {
        "model": f"models/{model_name}",
        "tensors": "expected.safetensors",
        "inputs": inputs,
        "loss": float(total.detach()) / count,
        "targetCount": count,
        "tolerances": TOLERANCES,
    })
    write_tensors(OUT / "cases" / name / "expected.safetensors",
                  {f"gradient:{k}": p.grad for k, p in model.named_parameters()})


def trajectory_case(name: str, model_name: str, lora: str, *, steps: int, accumulation: int, learning_rate: float,
                    weight_decay: float, max_norm: float | None, schedule: str, warmup: int, seed: int) -> None:
    """AdamW for `steps`: `initial/` and `final/` adapters, and loss, gradient norm and learning rate of each step.

    The loss of a step is the summed cross-entropy of the window's micro-batches over the number of labels that
    count in the whole window; its micro-batches have different numbers of them, so a mean of means would differ.
    """
    folder = OUT / "training" / name
    base_name = f"parity/{model_name}"
    model = load_model(OUT / "models" / model_name)
    peft = attach(model, base_name, lora, seed)
    save_adapter(peft, folder / "initial", base_name)
    generator = torch.Generator().manual_seed(seed + 1)
    batches = []
    for i in range(6):
        lengths = torch.randint(6, 17, (2,), generator=generator).tolist()
        batches.append(make_inputs(model.config.vocab_size, lengths, 16, "right", seed + 10 + i))
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, foreach=False)
    make = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}[schedule]
    scheduler = make(optimizer, warmup, steps)
    losses, norms, rates, means_of_means = [], [], [], []
    for step in range(steps):
        window = [batches[(step * accumulation + k) % len(batches)] for k in range(accumulation)]
        count = sum(loss_sum(torch.zeros(2, 16, 4), [[-100 if l < 0 else 0 for l in r] for r in b["labels"]])[1]
                    for b in window)
        optimizer.zero_grad()
        loss, means = 0.0, []
        for batch in window:
            total, own_count = loss_sum(peft(**feed(batch)).logits, batch["labels"])
            (total / count).backward()
            loss += float(total.detach()) / count
            means.append(float(total.detach()) / own_count)
        means_of_means.append(sum(means) / len(means))
        limit = math.inf if max_norm is None else max_norm
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, limit)))
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss)
        optimizer.step()
        scheduler.step()
    save_adapter(peft, folder / "final", base_name)
    assert losses[-1] < 0.8 * losses[0], f"{name}: training does not lower the loss: {losses}"
    if accumulation > 1:
        worst = max(abs(m - l) / l for m, l in zip(means_of_means, losses))
        assert worst > 0.02, f"{name}: the mean of means would pass ({worst})"
    if max_norm is not None:
        assert sum(n > max_norm for n in norms) > steps // 4, f"{name}: clipping is hardly ever active: {norms}"
    write_json(folder / "manifest.json", {
        "model": f"models/{model_name}",
        "initial": "initial",
        "final": "final",
        "lora": LORA[lora][1],
        "optimizer": {"learningRate": learning_rate, "weightDecay": weight_decay, "beta1": 0.9, "beta2": 0.999,
                      "epsilon": 1e-8, "maxGradNorm": max_norm},
        "schedule": {"name": schedule, "warmupSteps": warmup, "totalSteps": steps},
        "gradientAccumulationSteps": accumulation,
        "microBatches": batches,  # used in turn, from the first again after the last
        "losses": losses,
        "gradientNorms": norms,
        "learningRates": rates,
        "tolerances": TOLERANCES,
    })


# --- Operations --------------------------------------------------------------------------------------------------


def randn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_(True)


def op_goldens() -> None:
    """Single operations, forward and gradient (for an incoming gradient `dy` that is stored too)."""
    out: dict[str, torch.Tensor] = {}
    meta: dict[str, dict] = {}

    def record(name: str, inputs: dict[str, torch.Tensor], y: torch.Tensor, **attributes) -> None:
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(len(name)))
        y.backward(dy)
        for key, tensor in inputs.items():
            out[f"{name}/{key}"] = tensor
            if tensor.grad is not None:
                out[f"{name}/d_{key}"] = tensor.grad
        out[f"{name}/y"], out[f"{name}/dy"] = y, dy
        meta[name] = attributes

    x = randn(2, 5, 24, seed=1, scale=2.0)
    norm = LlamaRMSNorm(24, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * randn(24, seed=2))
    record("rmsNorm", {"x": x, "weight": norm.weight}, norm(x), epsilon=1e-5)

    gate, up = randn(2, 5, 17, seed=3, scale=3.0), randn(2, 5, 17, seed=4)
    record("swiGLU", {"gate": gate, "up": up}, F.silu(gate) * up)

    # Grouped queries: 4 query heads on 2 key/value heads, last row left padded by 3, [B, heads, T, head_dim].
    query, key, value = randn(2, 4, 7, 6, seed=5), randn(2, 2, 7, 6, seed=6), randn(2, 2, 7, 6, seed=7)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    allowed = torch.tril(torch.ones(7, 7, dtype=torch.bool))[None] & mask[:, None, :].bool()
    additive = torch.zeros(2, 1, 7, 7).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    y, _ = eager_attention_forward(module, query, key, value, additive, scaling=6**-0.5)  # [B, T, heads, head_dim]
    y = y.transpose(1, 2) * mask[:, None, :, None]  # padded rows have no meaning: zero here, and no gradient
    record("attention", {"query": query, "key": key, "value": value}, y, attentionMask=mask.tolist(), scale=6**-0.5)

    # torch's own kernel, without padding: an independent check of the above.
    query, key, value = randn(1, 4, 9, 8, seed=8), randn(1, 2, 9, 8, seed=9), randn(1, 2, 9, 8, seed=10)
    y = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    record("attentionCausal", {"query": query, "key": key, "value": value}, y, scale=8**-0.5)

    logits = randn(2, 6, 19, seed=11, scale=3.0)
    labels = [[-100, 3, 18, -100, 0, 7], [-100, -100, 5, 5, 1, -100]]
    total, count = loss_sum(logits, labels)
    record("crossEntropy", {"logits": logits}, total, labels=labels, targetCount=count)

    hidden, weight = randn(2, 6, 12, seed=12), randn(19, 12, seed=13)
    total, count = loss_sum(hidden @ weight.T, labels)
    record("linearCrossEntropy", {"hidden": hidden, "weight": weight}, total, labels=labels, targetCount=count)

    x, weight, bias = randn(2, 3, 10, seed=14), randn(9, 10, seed=15), randn(9, seed=16)
    a, b = randn(4, 10, seed=17), randn(9, 4, seed=18)
    record("loraLinear", {"x": x, "weight": weight, "bias": bias, "loraA": a, "loraB": b},
           F.linear(x, weight, bias) + 1.5 * F.linear(F.linear(x, a), b), scaling=1.5)

    # DoRA as in its paper and PEFT: the norm is a constant in the backward pass.
    x, weight, bias = randn(2, 3, 10, seed=19), randn(9, 10, seed=20), randn(9, seed=21)
    a, b, magnitude = randn(4, 10, seed=22), randn(9, 4, seed=23), randn(9, seed=24)
    direction = weight + 1.5 * b @ a
    ratio = magnitude / direction.norm(dim=1).detach()
    record("doraLinear", {"x": x, "weight": weight, "bias": bias, "loraA": a, "loraB": b, "magnitude": magnitude},
           F.linear(x, weight) * ratio + 1.5 * F.linear(F.linear(x, a), b) * ratio + bias, scaling=1.5)

    # Rotary: [B, heads, T, head_dim], with each model's own frequencies.
    rotary: dict[str, dict] = {}
    for name, hidden_size, heads, head_dim, theta in (
        ("llama-3.2-1b", 2048, 32, 64, 500000.0), ("llama-3.2-3b", 3072, 24, 128, 500000.0)):
        config = LlamaConfig(
            hidden_size=hidden_size, num_attention_heads=heads, head_dim=head_dim, max_position_embeddings=131072,
            rope_parameters=dict(rope_type="llama3", rope_theta=theta, factor=32.0, low_freq_factor=1.0,
                                 high_freq_factor=4.0, original_max_position_embeddings=8192))
        embedding = LlamaRotaryEmbedding(config)
        positions = torch.tensor([[0, 1, 7, 1000, 8191, 8192, 131071]])
        cos, sin = embedding(torch.zeros(1), positions)
        out[f"rotary/{name}/inverseFrequencies"] = embedding.inv_freq
        out[f"rotary/{name}/cos"], out[f"rotary/{name}/sin"] = cos[0], sin[0]
        rotary[name] = {"headDim": head_dim, "positions": positions[0].tolist(),
                        "ropeParameters": {**config.rope_parameters}}
    config = LlamaConfig(hidden_size=32, num_attention_heads=2, head_dim=16, max_position_embeddings=128,
                         rope_parameters=MODELS["tied-gqa-llama3"]["rope_parameters"])
    embedding = LlamaRotaryEmbedding(config)
    query, key = randn(2, 4, 5, 16, seed=25), randn(2, 2, 5, 16, seed=26)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 33, 34, 90]])
    cos, sin = embedding(query, positions)
    rotated_query, rotated_key = apply_rotary_pos_emb(query, key, cos, sin)
    record("rotaryEmbedding", {"query": query}, rotated_query, positionIds=positions.tolist(), headDim=16,
           ropeParameters={**config.rope_parameters})
    out["rotaryEmbedding/inverseFrequencies"] = embedding.inv_freq
    out["rotaryEmbedding/key"], out["rotaryEmbedding/rotatedKey"] = key, rotated_key
    meta["rotary"] = rotary

    write_tensors(OUT / "ops" / "ops.safetensors", out)
    write_json(OUT / "ops" / "ops.json", meta)


def optimizer_goldens() -> None:
    """AdamW on two toy parameters for 10 steps of given gradients; one option set per run."""
    out: dict[str, torch.Tensor] = {}
    runs = {
        "default": dict(lr=1e-2, weight_decay=0.01),
        "decay": dict(lr=5e-2, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-6),
        "plain": dict(lr=1e-3, weight_decay=0.0),
    }
    start = {"matrix": randn(4, 3, seed=31).detach(), "vector": randn(5, seed=32).detach()}
    # One gradient is tiny and one zero, which shows the position of epsilon (outside the root).
    gradients = {name: torch.stack([randn(*t.shape, seed=40 + i).detach() for i in range(10)])
                 for name, t in start.items()}
    gradients["matrix"][:, 0, 0] *= 1e-8
    gradients["matrix"][:, 0, 1] = 0
    for name in start:
        out[f"start/{name}"], out[f"gradients/{name}"] = start[name], gradients[name]
    for run, options in runs.items():
        parameters = {name: t.clone().requires_grad_(True) for name, t in start.items()}
        optimizer = torch.optim.AdamW(list(parameters.values()), foreach=False, **options)
        steps: dict[str, list] = {name: [] for name in parameters}
        for i in range(10):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name][i].clone()
            optimizer.step()
            for name, parameter in parameters.items():
                steps[name].append(parameter.detach().clone())
        for name in parameters:
            out[f"{run}/{name}"] = torch.stack(steps[name])
    # clip_grad_norm_ over two tensors: below the limit (untouched) and above it.
    for name, limit in (("clipped", 1.0), ("untouched", 100.0)):
        parameters = [t.clone().requires_grad_(True) for t in start.values()]
        for parameter, gradient in zip(parameters, gradients.values()):
            parameter.grad = gradient[3].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        for key, parameter in zip(start, parameters):
            out[f"{name}/{key}"] = parameter.grad
        out[f"{name}/norm"] = norm.reshape(1)
    write_tensors(OUT / "ops" / "adamW.safetensors", out)
    write_json(OUT / "ops" / "adamW.json", {
        "runs": {"default": dict(learningRate=1e-2, weightDecay=0.01),
                 "decay": dict(learningRate=5e-2, weightDecay=0.3, beta1=0.8, beta2=0.95, epsilon=1e-6),
                 "plain": dict(learningRate=1e-3, weightDecay=0.0)},
        "clipping": {"step": 3, "clipped": 1.0, "untouched": 100.0}})


def schedule_goldens() -> None:
    """Learning rates of 100 steps (the one *used* at step 0, 1, …) at peak 2e-4 by `transformers.get_scheduler`."""
    runs = []
    for name, warmup, options in (
        ("constant", 0, {}), ("constant_with_warmup", 10, {}), ("linear", 10, {}), ("linear", 0, {}),
        ("cosine", 10, {}), ("cosine", 0, {}), ("cosine_with_restarts", 10, {"num_cycles": 3}),
        ("polynomial", 10, {"power": 2.0, "lr_end": 1e-6}), ("inverse_sqrt", 10, {})):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-4)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=100,
                                  scheduler_specific_kwargs=dict(options))
        rates = []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        runs.append({"name": name, "learningRate": 2e-4, "warmupSteps": warmup, "totalSteps": 100,
                     "options": options, "rates": rates})
    write_json(OUT / "ops" / "schedules.json", runs)


def logits_processor_goldens() -> None:
    """Fixed logits after each processor; a removed token is null (−inf)."""
    generator = torch.Generator().manual_seed(51)
    logits = torch.randn(2, 20, generator=generator) * 3
    ids = torch.tensor([[3, 7, 7, 19, 0], [1, 2, 4, 2, 11]])
    runs = []
    for options in (
        dict(temperature=0.7), dict(temperature=1.8), dict(topK=5), dict(topK=1), dict(topK=50), dict(topP=0.9),
        dict(topP=0.35), dict(topP=0.01), dict(minP=0.1), dict(minP=0.9),
        dict(repetitionPenalty=1.3),
        dict(repetitionPenalty=0.8),
        dict(repetitionPenalty=1.2, temperature=0.6, topK=8, topP=0.8),
        dict(repetitionPenalty=1.2, temperature=1.5, topK=12, topP=0.95, minP=0.05)):
        processors = LogitsProcessorList()  # in the order `generate` applies them
        if "repetitionPenalty" in options:
            processors.append(RepetitionPenaltyLogitsProcessor(options["repetitionPenalty"]))
        if "temperature" in options:
            processors.append(TemperatureLogitsWarper(options["temperature"]))
        if "topK" in options:
            processors.append(TopKLogitsWarper(options["topK"]))
        if "topP" in options:
            processors.append(TopPLogitsWarper(options["topP"]))
        if "minP" in options:
            processors.append(MinPLogitsWarper(options["minP"]))
        result = processors(ids, logits.clone())
        runs.append({"options": options,
                     "scores": [[None if math.isinf(v) else v for v in row] for row in result.tolist()]})
    text = {"inputIds": ids.tolist(), "logits": logits.tolist(), "runs": runs}
    path = OUT / "ops" / "logitsProcessors.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(text) + "\n")


# -----------------------------------------------------------------------------------------------------------------


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for seed, name in enumerate(MODELS):
        write_model(name, seed=100 + seed)
    spelling_cases("tied-gqa-llama3")

    first = "tied-gqa-llama3"
    model_case(first, first, "all-linear", lengths=[40, 27], total=40, padding="right", seed=200)
    for i, lora in enumerate(["qv", "rslora", "dora", "patterns", "layers", "regex"]):
        model_case(f"{first}-{lora}", first, lora, lengths=[14, 9], total=14, padding="right", seed=210 + 10 * i,
                   base=False)
    model_case("untied-mha", "untied-mha", "all-linear", lengths=[16, 16], total=16, padding="none", seed=300)
    model_case("untied-mha-left", "untied-mha", "qv", lengths=[9, 16], total=16, padding="left", seed=310)
    model_case("wide-heads", "wide-heads", "all-linear", lengths=[20, 13], total=20, padding="left", seed=320)
    model_case("bfloat16-odd", "bfloat16-odd", "all-linear", lengths=[15, 11], total=15, padding="right", seed=330)
    model_case("bfloat16-odd-dora", "bfloat16-odd", "dora", lengths=[8, 12], total=12, padding="left", seed=340,
               base=False)
    model_case("float16", "float16", "qv", lengths=[12, 12], total=12, padding="none", seed=350)
    model_case("biases", "biases", "all-linear", lengths=[15, 10], total=15, padding="right", seed=360)
    model_case("biases-dora", "biases", "dora", lengths=[12, 12], total=12, padding="none", seed=370, base=False)
    packed_case("packed", first, seed=380)
    full_gradient_case("full-gradients", "wide-heads", seed=390)
    full_gradient_case("full-gradients-tied", first, seed=391)

    trajectory_case("all-linear", first, "all-linear", steps=30, accumulation=2, learning_rate=5e-3,
                    weight_decay=0.01, max_norm=1.0, schedule="cosine", warmup=5, seed=400)
    trajectory_case("dora", "biases", "dora", steps=30, accumulation=1, learning_rate=5e-3, weight_decay=0.1,
                    max_norm=None, schedule="linear", warmup=0, seed=430)

    op_goldens()
    optimizer_goldens()
    schedule_goldens()
    logits_processor_goldens()
    write_json(OUT / "versions.json", PINNED)

    size = sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file())
    print(f"{OUT}: {sum(1 for p in OUT.rglob('*') if p.is_file())} files, {size / 1e6:.2f} MB")
    assert size <= SIZE_LIMIT, f"fixtures are over {SIZE_LIMIT / 1e6} MB"


if __name__ == "__main__":
    main()
