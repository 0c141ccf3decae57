"""Golden numbers of bases that others quantized: GPTQ, AWQ and 8-bit floats, on the CPU.

    peers/bin/pip install -r test/parity/requirements.txt compressed-tensors==0.20.1
    peers/bin/pip download --no-deps --no-binary :all: gptqmodel==7.7.0 autoawq==0.2.9    # unpack them below SOURCES
    SOURCES=... peers/bin/python test/parity/bases/make_bases.py      # rewrites test/parity/bases/fixtures/

Every case is a small random Llama whose linear layers are quantized as in published folders. `fixtures/<case>/` has
`model/` (config.json, model.safetensors) and `expected.safetensors`: some weights as the peer dequantizes them, logits,
and the loss and gradients of `fixtures/adapter/` (all-linear, A and B random).

GPTQModel and AutoAWQ only install beside a CUDA compiler, so the functions that dequantize are taken from their source
packages as they are: AutoAWQ's `awq/utils/packing_utils.py`, and GPTQModel's `convert_gptq_v1_to_v2_format_module` and
`dequantize_weight`, whose arithmetic for 4 and 8 bits is `dequantize_gptq` below, line by line. compressed-tensors and
transformers dequantize their 8-bit floats themselves.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402  (starts Python again with a fixed hash seed)
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402
from transformers import CompressedTensorsConfig, FineGrainedFP8Config  # noqa: E402

assert importlib.metadata.version("compressed-tensors") == "0.20.1", "pip install compressed-tensors==0.20.1"
SOURCES = Path(os.environ["SOURCES"])
OUT = HERE / "fixtures"
WIDTH, INNER = 64, 128
IDS = [1, 9, 33, 7, 60, 2, 41, 5, 17, 28]


def awq_functions():
    path = SOURCES / "autoawq-0.2.9/awq/utils/packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


awq = awq_functions()


def plain_model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(20)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=64, tie_word_embeddings=False, rms_norm_eps=1e-5, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=None))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            else:
                parameter.uniform_(0.6, 1.4)
    return model.to(dtype)


def linears(model: LlamaForCausalLM) -> dict[str, torch.nn.Linear]:
    return {name: module for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def affine(weight: torch.Tensor, bits: int, index: torch.Tensor, groups: int, sym: bool):
    """Rounds `[out, in]` to codes with a scale and a zero for each row and group: `[in, out]`, `[groups, out]`."""
    most = 2**bits - 1
    scales, zeros = torch.empty(groups, len(weight)), torch.empty(groups, len(weight), dtype=torch.int32)
    codes = torch.empty(weight.shape[1], len(weight), dtype=torch.int32)
    for group in range(groups):
        part = weight[:, index == group].float()
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if sym:
            high = torch.maximum(-low, high)
            low = -high
        scale = ((high - low) / most).clamp(min=1e-5).half()
        zero = torch.full_like(scale, (most + 1) / 2) if sym else (-low / scale.float()).round().clamp(1, most)
        scales[group], zeros[group] = scale.float(), zero.int()
        codes[index == group] = (part / scale.float()[:, None] + zero[:, None]).round().clamp(0, most).int().T
    return codes, scales.half(), zeros


def packed(numbers: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Packs along a dimension, the first number of a word in its lowest bits, as GPTQModel's `pack`."""
    per = 32 // bits
    words = numbers.to(torch.int64).movedim(dim, 0)
    words = words.reshape(-1, per, words.shape[1])
    shifts = torch.arange(0, 32, bits, dtype=torch.int64)[None, :, None]
    total = (words << shifts).sum(1)
    return torch.where(total >= 2**31, total - 2**32, total).to(torch.int32).movedim(0, dim).contiguous()


def gptq_tensors(name, weight, bits, group_size, act_order, sym, v2):
    columns = weight.shape[1]
    size = columns if group_size == -1 else group_size
    index = torch.arange(columns, dtype=torch.int32) // size
    if act_order:
        index = index[torch.randperm(columns)].contiguous()
    codes, scales, zeros = affine(weight, bits, index, columns // size, sym)
    return {
        f"{name}.qweight": packed(codes, bits, 0),
        f"{name}.qzeros": packed(zeros if v2 else zeros - 1, bits, 1),
        f"{name}.scales": scales,
        f"{name}.g_idx": index,
    }


def dequantize_gptq(tensors, name, bits, v2) -> torch.Tensor:
    qweight, qzeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"].clone()
    scales, g_idx = tensors[f"{name}.scales"], tensors[f"{name}.g_idx"]
    if not v2:
        qzeros.data += 0b00010001000100010001000100010001 if bits == 4 else 0b00000001000000010000000100000001
    wf = torch.tensor(list(range(0, 32, bits)), dtype=torch.int32).unsqueeze(0)
    dequant_dtype, maxq, factor = torch.int16 if bits == 8 else torch.int8, 2**bits - 1, 32 // bits
    zeros = torch.bitwise_right_shift(
        torch.unsqueeze(qzeros, 2).expand(-1, -1, factor), wf.unsqueeze(0)).to(dequant_dtype)
    zeros = torch.bitwise_and(zeros, maxq).reshape(qzeros.shape[0], -1)
    weight = torch.bitwise_and(torch.bitwise_right_shift(
        torch.unsqueeze(qweight, 1).expand(-1, factor, -1), wf.unsqueeze(-1)).to(dequant_dtype), maxq)
    weight = weight.reshape(weight.shape[0] * weight.shape[1], weight.shape[2])
    return (scales[g_idx.long()] * (weight - zeros[g_idx.long()])).T.contiguous()


def awq_tensors(name, weight, group_size):
    columns = weight.shape[1]
    size = columns if group_size == -1 else group_size
    codes, scales, zeros = affine(weight, 4, torch.arange(columns) // size, columns // size, False)
    order = [8 * (i // 8) + awq.AWQ_ORDER[i % 8] for i in range(codes.shape[1])]
    return {
        f"{name}.qweight": packed(codes[:, order], 4, 1),
        f"{name}.qzeros": packed(zeros[:, order], 4, 1),
        f"{name}.scales": scales,
    }


def dequantize_awq(tensors, name, group_size) -> torch.Tensor:
    qweight = tensors[f"{name}.qweight"]
    size = len(qweight) if group_size == -1 else group_size
    parts = (qweight, tensors[f"{name}.qzeros"], tensors[f"{name}.scales"])
    return awq.dequantize_gemm(*parts, 4, size).T.contiguous()


def float8(weight: torch.Tensor, rows: int, cols: int):
    """8-bit floats with a scale for each `[rows, cols]`."""
    blocks = weight.float().reshape(weight.shape[0] // rows, rows, weight.shape[1] // cols, cols)
    scales = blocks.abs().amax((1, 3), keepdim=True) / 448
    return (blocks / scales).reshape(weight.shape).to(torch.float8_e4m3fn), scales[:, 0, :, 0].contiguous()


def fp8_tensors(name, weight):
    values, scales = float8(weight, 32, 32)
    return {f"{name}.weight": values, f"{name}.weight_scale_inv": scales}


def compressed_tensors(name, weight, strategy):
    values, scales = float8(weight, len(weight) if strategy == "tensor" else 1, weight.shape[1])
    scales = scales.to(weight.dtype).reshape([1] if strategy == "tensor" else [-1, 1])
    extra = {f"{name}.input_scale": torch.tensor([0.05])} if strategy == "tensor" else {}
    return {f"{name}.weight": values, f"{name}.weight_scale": scales, **extra}


def gptq_case(bits=4, group_size=32, act_order=False, sym=True, v2=False):
    config = dict(quant_method="gptq", bits=bits, group_size=group_size, desc_act=act_order, sym=sym, lm_head=False,
                  checkpoint_format="gptq_v2" if v2 else "gptq", damp_percent=0.1, true_sequential=True)
    return (torch.float16, config, lambda n, w: gptq_tensors(n, w, bits, group_size, act_order, sym, v2),
            lambda t, n: dequantize_gptq(t, n, bits, v2))


def awq_case(group_size):
    config = dict(quant_method="awq", bits=4, group_size=group_size, zero_point=True, version="gemm",
                  modules_to_not_convert=None)
    return (torch.float16, config, lambda n, w: awq_tensors(n, w, group_size),
            lambda t, n: dequantize_awq(t, n, group_size))


def compressed_case(strategy):
    activations = dict(num_bits=8, type="float", symmetric=True, strategy="tensor" if strategy == "tensor" else "token",
                       dynamic=strategy != "tensor")
    weights = dict(num_bits=8, type="float", symmetric=True, strategy=strategy, dynamic=False)
    config = dict(quant_method="compressed-tensors", format="float-quantized", quantization_status="compressed",
                  ignore=["lm_head"], kv_cache_scheme=None,
                  config_groups=dict(group_0=dict(targets=["Linear"], weights=weights, input_activations=activations,
                                                  output_activations=None)))
    return torch.bfloat16, config, lambda n, w: compressed_tensors(n, w, strategy), None


CASES = {
    "gptq": gptq_case(group_size=32),
    "gptq-act-order": gptq_case(group_size=32, act_order=True, sym=False),
    "gptq-v2-whole-rows": gptq_case(group_size=-1, sym=False, v2=True),
    "gptq-8-bits": gptq_case(bits=8, group_size=64, act_order=True),
    "awq-32": awq_case(32),
    "awq-64": awq_case(64),
    "fp8-blocks": (torch.bfloat16, dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
                                        weight_block_size=[32, 32]), fp8_tensors, None),
    "compressed-channel": compressed_case("channel"),
    "compressed-tensor": compressed_case("tensor"),
}
DEQUANTIZING = {"fp8": FineGrainedFP8Config, "compressed-tensors": CompressedTensorsConfig}


def write(name: str) -> None:
    dtype, config, quantize, dequantize = CASES[name]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = plain_model(dtype)
    model.save_pretrained(folder / "model")
    torch.manual_seed(21)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    tensors = {}
    for module, linear in linears(model).items():
        del state[f"{module}.weight"]
        tensors |= quantize(module, linear.weight.detach())
    save_file({**state, **tensors}, folder / "model/model.safetensors", {"format": "pt"})
    path = folder / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}, indent=2) + "\n")
    (folder / "model/generation_config.json").unlink()
    if dequantize:
        weights = {f"{module}.weight": dequantize(tensors, module) for module in linears(model)}
    else:
        quantization = DEQUANTIZING[config["quant_method"]]
        loaded = AutoModelForCausalLM.from_pretrained(
            folder / "model", dtype=dtype, quantization_config=quantization(dequantize=True))
        weights = {f"{module}.weight": loaded.get_parameter(f"{module}.weight").detach() for module in linears(model)}
    assert all(weight.dtype == dtype for weight in weights.values()), name
    model = LlamaForCausalLM(model.config).float().eval()  # a new one, because `to` also rounds the rotary tables
    model.load_state_dict({**state, **weights})
    expected = {f"weight:{key}": weights[key] for key in weights if "down_proj" in key or "q_proj" in key}
    ids = torch.tensor([IDS])
    with torch.no_grad():
        expected["logits"] = model(ids).logits
    peft = parity.attach(model, "parity/bases", "all-linear", 22)
    parity.save_adapter(peft, OUT / "adapter", "parity/bases")  # the same for all cases
    total, count = parity.loss_sum(peft(ids).logits, [IDS])
    (total / count).backward()
    expected["adapterLoss"] = (total / count).reshape(1)
    expected |= {f"gradient:{key}": value for key, value in parity.gradients_by_file_key(peft).items()}
    parity.write_tensors(folder / "expected.safetensors", expected)


def main() -> None:
    if len(sys.argv) == 1:
        shutil.rmtree(OUT, ignore_errors=True)
    for case in sys.argv[1:] or CASES:
        write(case)
        print(case)


if __name__ == "__main__":
    main()
