"""Makes folders for PEFT and transformers to load, and their golden logits, in float32 on the CPU.

    peers/bin/pip install -r test/parity/requirements.txt
    peers/bin/python test/parity/loading/make_loading.py      # rewrites test/parity/loading/fixtures/

`fixtures/base/` is a small random Llama with an untied head. `fixtures/adapters/<case>/` are adapters for it as PEFT
saves them, `fixtures/models/<case>/` models stored in other ways than save_pretrained does.
`expected.safetensors` holds the logits of `manifest.json`'s ids for each, after loading the folder again in the peer.
`loraConfig.json` lists the fields of PEFT's LoraConfig and their defaults, as an adapter_config.json spells them, and
its sub-configurations when they are switched on.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402  (starts Python again with a fixed hash seed)
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import config as lora_config  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

OUT = HERE / "fixtures"
IDS = [[1, 5, 9, 13, 2, 20, 17, 3]]
SHAPE = dict(
    hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    vocab_size=24, rms_norm_eps=1e-5, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0),
)


def random_llama(seed: int, **options) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            else:
                parameter.uniform_(0.6, 1.4)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits


# --- Adapters ----------------------------------------------------------------------------------------------------

QV = dict(target_modules=["q_proj", "v_proj"])
ADAPTERS: dict[str, dict] = {
    "init-false": dict(**QV, init_lora_weights=False),
    "init-gaussian": dict(**QV, init_lora_weights="gaussian"),
    "init-orthogonal": dict(**QV, init_lora_weights="orthogonal"),
    "init-eva": dict(**QV, init_lora_weights="eva", eva_config=lora_config.EvaConfig()),
    "init-mica": dict(**QV, init_lora_weights="mica"),
    "converted-pissa": dict(**QV, init_lora_weights="pissa"),
    "head": dict(target_modules=["q_proj", "lm_head"]),
    "head-changed": dict(target_modules=["q_proj", "lm_head"], use_dora=True),
    "embeddings": dict(target_modules=["q_proj"]),
    "exclude-list": dict(target_modules="all-linear", exclude_modules=["down_proj", "model.layers.1.self_attn.q_proj"]),
    "exclude-regex": dict(target_modules=["q_proj", "up_proj"], exclude_modules=r".*\.0\.self_attn\..*"),
    "foreign-names": dict(target_modules=["q_proj", "query_key_value", "v_proj", "c_attn"]),
    "layers-pattern": dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "full-name-and-layers": dict(
        target_modules=["q_proj", "model.layers.0.mlp.up_proj"], layers_to_transform=1),
    "no-layers-listed": dict(target_modules=["o_proj"], layers_to_transform=[]),
}


def train(peft: PeftModel, seed: int) -> None:
    """Replaces training: sets what would be trained to random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.requires_grad and "lora_" in key:
                parameter.add_(0.2 * noise)


def write_adapter(name: str, options: dict, seed: int) -> torch.Tensor:
    folder = OUT / "adapters" / name
    torch.manual_seed(seed)  # PEFT draws some of the first weights
    model = LlamaForCausalLM.from_pretrained(OUT / "base")
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM", **copy.deepcopy(options))).eval()
    config = peft.peft_config["default"]
    config.base_model_name_or_path = "base"
    how = {}
    with tempfile.TemporaryDirectory() as initial:
        if name.startswith("converted"):
            config.init_lora_weights = True
            peft.save_pretrained(f"{initial}/initial")
            how["path_initial_model_for_weight_conversion"] = f"{initial}/initial"
        train(peft, seed)
        trained = logits(peft)
        with torch.no_grad():
            if name == "head-changed":
                peft.base_model.model.lm_head.base_layer.weight.mul_(1.5)
            if name == "embeddings":
                peft.base_model.model.model.embed_tokens.weight.mul_(-1)
                peft.base_model.model.lm_head.weight.add_(0.1)
                how["save_embedding_layers"] = True
        trained = logits(peft)
        peft.save_pretrained(folder, **how)
    (folder / "README.md").unlink(missing_ok=True)
    fresh = LlamaForCausalLM.from_pretrained(OUT / "base")
    loaded = logits(PeftModel.from_pretrained(fresh, folder).eval())
    assert torch.allclose(loaded, trained, atol=1e-5), f"{name}: PEFT loads another model than was trained"
    return loaded


# --- Models ------------------------------------------------------------------------------------------------------


def without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("model."): value for key, value in tensors.items()}


def write_models() -> dict[str, torch.Tensor]:
    expected = {}

    def write(name: str, model: LlamaForCausalLM, change) -> None:
        folder = OUT / "models" / name
        model.save_pretrained(folder)
        path = folder / "model.safetensors"
        save_file({key: value.contiguous().clone() for key, value in change(load_file(path)).items()}, path,
                  metadata={"format": "pt"})
        (folder / "generation_config.json").unlink()
        expected[f"models/{name}"] = logits(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())

    tied = random_llama(31, tie_word_embeddings=True)
    untied = random_llama(32, tie_word_embeddings=False)
    table = "model.embed_tokens.weight"
    torch.manual_seed(33)
    other = torch.randn(SHAPE["vocab_size"], SHAPE["hidden_size"])
    write("tied-differs", tied, lambda all: {**all, "lm_head.weight": other})
    write("tied-differs-bfloat16", copy.deepcopy(tied).to(torch.bfloat16),
          lambda all: {**all, "lm_head.weight": other.to(torch.bfloat16)})
    write("tied-equal", tied, lambda all: {**all, "lm_head.weight": all[table]})
    write("tied-head-only", tied, lambda all: {
        **{key: value for key, value in all.items() if key != table}, "lm_head.weight": all[table]})
    write("no-prefix", tied, without_prefix)
    write("no-prefix-head", untied, without_prefix)
    write("value-head", untied, lambda all: {
        **all, "v_head.summary.weight": torch.ones(1, SHAPE["hidden_size"]), "v_head.summary.bias": torch.zeros(1)})
    return expected


# --- LoraConfig --------------------------------------------------------------------------------------------------


def write_lora_config() -> None:
    written = LoraConfig().to_dict()
    fields = [field.name for field in dataclasses.fields(LoraConfig)]
    defaults = {name: written.get(name) for name in fields}
    defaults["runtime_config"] = dataclasses.asdict(lora_config.LoraRuntimeConfig())
    defaults["peft_type"] = "LORA"
    switched_on = {
        "arrow_config": lora_config.ArrowConfig(),
        "corda_config": lora_config.CordaConfig(),
        "eva_config": lora_config.EvaConfig(),
        "kasa_config": lora_config.KasaConfig(),
        "loftq_config": lora_config.LoftQConfig(),
        "lora_ga_config": lora_config.LoraGAConfig(),
        "monteclora_config": lora_config.MontecloraConfig(),
        "use_bdlora": lora_config.BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2),
        "velora_config": lora_config.VeloraConfig(),
    }
    on = {name: dataclasses.asdict(value) for name, value in switched_on.items()}
    text = json.dumps({"peft": parity.PINNED["peft"], "defaults": defaults, "switchedOn": on}, indent=2)
    (OUT / "loraConfig.json").write_text(text + "\n")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    random_llama(30, tie_word_embeddings=False).save_pretrained(OUT / "base")
    (OUT / "base" / "generation_config.json").unlink()
    expected = {"base": logits(LlamaForCausalLM.from_pretrained(OUT / "base").eval())}
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        expected[f"adapters/{name}"] = write_adapter(name, options, seed)
    expected |= write_models()
    for name in ("head", "head-changed"):  # PEFT writes the file's head into the table that a tied head shares
        tied = LlamaForCausalLM.from_pretrained(OUT / "models" / "tied-equal", dtype=torch.float32)
        expected[f"tied-equal/{name}"] = logits(PeftModel.from_pretrained(tied, OUT / "adapters" / name).eval())
    parity.write_tensors(OUT / "expected.safetensors", expected)
    parity.write_json(OUT / "manifest.json", {"inputs": {"inputIds": IDS}, "adapters": list(ADAPTERS),
                                              "models": sorted(path.name for path in (OUT / "models").iterdir())})
    write_lora_config()
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
