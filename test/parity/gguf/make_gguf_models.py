"""Makes small random models as GGUF files, with transformers' logits of their dequantized weights and tokenizers' ids.

    peers/bin/pip install -r test/parity/requirements.txt gguf==0.19.0
    peers/bin/python test/parity/gguf/make_gguf_models.py

`fixtures/<case>.gguf` is written as llama.cpp's convert_hf_to_gguf.py does it: names by gguf's table, rows of q and k of
`llama` permuted, one added to Gemma's norms, divisors of rotary frequencies as tensors. `fixtures/models.json` has a row of
token ids, the logits of its last positions, settings, and texts with their ids.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Regex
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

PINNED = {"gguf": "0.19.0", "torch": "2.15.0", "transformers": "5.23.0", "numpy": "2.4.6"}
OUT = Path(__file__).resolve().parent / "fixtures"
SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
ROPE = dict(rope_type="default", rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
SLIDING_THEN_FULL = ["sliding_attention", "full_attention"]

# arch: gguf's architecture; types: of the linear layers, in turn; tokenizer: by the functions below
CASES: dict[str, dict] = {
    "llama": dict(arch="llama", family="llama", types=["Q8_0", "Q4_0", "Q5_1", "Q4_1", "F16"], tokenizer="llama-bpe",
                  config=dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama-f16": dict(arch="llama", family="llama", types=["F16"], tokenizer="llama",
                      config=dict(rope_parameters=ROPE, attention_bias=True, mlp_bias=True)),
    "qwen2": dict(arch="qwen2", family="qwen2", types=["Q8_0"], tokenizer="qwen2",
                  config=dict(tie_word_embeddings=True, rope_parameters=dict(
                      rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16))),
    "qwen3": dict(arch="qwen3", family="qwen3", types=["BF16"], config=dict(rope_parameters=ROPE, head_dim=16)),
    "gemma2": dict(arch="gemma2", family="gemma2", types=["Q8_0"], tokenizer="gemma",
                   config=dict(rope_parameters=ROPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=5,
                               layer_types=SLIDING_THEN_FULL, attn_logit_softcapping=2.0,
                               final_logit_softcapping=4.0)),
    "gemma3": dict(arch="gemma3", family="gemma3_text", types=["Q8_0"],
                   config=dict(num_hidden_layers=6, head_dim=16, query_pre_attn_scalar=16, sliding_window=5,
                               layer_types=["sliding_attention"] * 5 + ["full_attention"],
                               rope_parameters=dict(
                                   sliding_attention=dict(rope_type="default", rope_theta=10000.0),
                                   full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0)))),
    "phi3": dict(arch="phi3", family="phi3", types=["Q8_0"],
                 config=dict(original_max_position_embeddings=16, sliding_window=9, num_key_value_heads=4,
                             rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.5,
                                                  short_factor=[1.0, 1.5], long_factor=[1.0, 4.0]))),
    "smollm3": dict(arch="smollm3", family="smollm3", types=["Q8_0"], tokenizer="smollm",
                    config=dict(num_hidden_layers=4, rope_parameters=ROPE, tie_word_embeddings=True)),
}

TEXT = ["The rivers of the north were wider than the rivers of the south, and the lakes were deeper.",
        "I don't know what you'll find in 2024 or 1999: 1234567 fish, perhaps.", "größer, naïve, 数学 😀\n\n  indented"]
TEXTS = [*TEXT, "", " two  spaces   and\ttabs\n", "<|start|>hi<|end|> there<|start|>", "WE'LL see12345 67"]
SPECIAL = ["<pad>", "<|start|>", "<|end|>"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                 r"|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+",
}


def byte_level(kind: str) -> Tokenizer:
    """Trains the tokenizer that llama.cpp calls by this name."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if kind == "smollm":
        first = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        first = [pre_tokenizers.Split(Regex(SPLITS[kind]), "isolated"),
                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(first)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT * 3, trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def sentence_pieces(kind: str) -> list[tuple[str, float, int]]:
    """Returns a vocabulary of pieces with their scores and types, as SentencePiece's BPE would train one."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trained.train_from_iterator(TEXT * 3, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    merges = [merge for merge in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted({letter for text in TEXT for letter in text.replace(" ", "\u2581") if ord(letter) < 0x3000})
    control = [("<pad>", 3), ("<|start|>", 3), ("<|end|>", 3), ("<unk>", 2)]
    pieces = [(token, 0.0, kind_of) for token, kind_of in control]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = [left + right for left, right in merges if all(letter in letters for letter in left + right)]
    if kind == "gemma":  # Gemma's runs of spaces are added tokens, spelled with spaces
        pieces += [(" " * count, -1000.0, 4) for count in (2, 3)]
    pieces += [(word, -float(index), 1) for index, word in enumerate(dict.fromkeys(words))]
    pieces += [(letter, -1000.0 - index, 1) for index, letter in enumerate(letters)]
    return pieces


def write_tokenizer(writer: gguf.GGUFWriter, kind: str) -> tuple[int, Tokenizer | None]:
    writer.add_chat_template(TEMPLATE)
    if kind in ("llama", "gemma"):
        pieces = sentence_pieces(kind)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([piece for piece, _, _ in pieces])
        writer.add_token_scores([score for _, score, _ in pieces])
        writer.add_token_types([kind_of for _, _, kind_of in pieces])
        writer.add_unk_token_id(3)
        writer.add_add_space_prefix(kind == "llama")
        size, tokenizer = len(pieces), None
    else:
        tokenizer = byte_level(kind)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(kind)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
        size = len(tokens)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(kind in ("llama", "gemma"))
    return size, tokenizer


def random_model(family: str, config: dict, seed: int):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **config}), dtype=torch.float32,
                                             attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("norm.weight"):
                parameter.copy_((0 if family.startswith("gemma") else 1) + 0.3 * noise)
            elif key.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in key:
                parameter.copy_(0.4 * noise)
            else:
                parameter.copy_(noise * math.sqrt((4 if "proj" in key else 2) / parameter.shape[1]))
    return model


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Orders rows as convert_hf_to_gguf.py does (LlamaModel.permute)."""
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


def write_settings(writer: gguf.GGUFWriter, arch: str, config, vocab: int) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(vocab)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    if arch == "gemma3":
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch in ("qwen3", "gemma2", "gemma3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        if arch != "qwen3":
            writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "phi3":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_scaling_orig_ctx_len(16)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(64 / 16) / math.log(16)))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))
    elif rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, head_dim))
    elif rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def llama3_divisors(rope: dict, head_dim: int) -> np.ndarray:
    """As convert_hf_to_gguf.py computes them (LlamaModel.generate_extra_tensors)."""
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for frequency in 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim):
        length = 2 * math.pi / frequency
        if length < high:
            divisors.append(1)
        elif length > low:
            divisors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / length - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"])
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def write_tensors(writer: gguf.GGUFWriter, case: dict, model) -> None:
    """Writes the weights, and gives the model the values that the file has."""
    arch = case["arch"]
    wanted = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(wanted, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    turn = 0
    for key, parameter in model.named_parameters():
        module, kind = key.rsplit(".", 1)
        weights = parameter.detach().numpy().copy()
        order = np.arange(weights.shape[0])
        if arch in ("llama", "smollm3") and module.split(".")[-1] in heads:
            order = permuted(order, heads[module.split(".")[-1]])
        offset = 1 if arch.startswith("gemma") and key.endswith("norm.weight") else 0
        stored = (weights + np.float32(offset))[order]
        type_name = "F32"
        if weights.ndim == 2:
            type_name = case["types"][turn % len(case["types"])]
            turn += 1
        qtype = gguf.GGMLQuantizationType[type_name]
        data = gguf.quantize(stored, qtype)
        values = gguf.dequantize(data, qtype) - np.float32(offset)
        with torch.no_grad():
            parameter[torch.from_numpy(order)] = torch.from_numpy(np.ascontiguousarray(values))
        name = f"{names.get_name(module)}.{kind}"
        if type_name in ("F32", "F16"):
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, data, raw_dtype=qtype)


def golden_of(name: str, seed: int) -> dict:
    case = CASES[name]
    path = OUT / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, case["arch"])
    vocab, tokenizer = write_tokenizer(writer, case["tokenizer"]) if "tokenizer" in case else (96, None)
    model = random_model(case["family"], {**case["config"], "vocab_size": vocab}, seed)
    write_settings(writer, case["arch"], model.config, vocab)
    write_tensors(writer, case, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = torch.randint(3, vocab, (1, 20), generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        logits = model(ids).logits[0, -3:]
    golden = {"ids": ids[0].tolist(), "logits": [[float(f"{float(x):.7g}") for x in row] for row in logits]}
    if tokenizer is None and "tokenizer" in case:
        tokenizer = AutoTokenizer.from_pretrained(OUT, gguf_file=path.name)
        if case["tokenizer"] == "llama":
            # A space goes before each piece of text, as in llama.cpp and in the tokenizer.json of Llama 2.
            space = "\u2581"
            tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend(space), normalizers.Replace(" ", space)])
            tokenizer.backend_tokenizer.pre_tokenizer = None
        encode = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    elif tokenizer is not None:
        encode = lambda text: tokenizer.encode(text).ids  # noqa: E731
    if "tokenizer" in case:
        golden["texts"] = [[text, encode(text)] for text in TEXTS]
    print(name, path.stat().st_size, "bytes")
    return golden


def main() -> None:
    for package, version in PINNED.items():
        found = importlib.metadata.version(package)
        assert found.split("+")[0] == version, f"{package}: expected {version}, got {found}"
    OUT.mkdir(exist_ok=True)
    goldens = {name: golden_of(name, 100 + 10 * index) for index, name in enumerate(CASES)}
    text = json.dumps(goldens, ensure_ascii=False)
    (OUT / "models.json").write_text(text + "\n")
    print(len(text), "bytes of goldens")


if __name__ == "__main__":
    main()
