"""Loads files of this library in transformers and PEFT, and compares their results with ours.

    npx tsx test/parity/write_for_peers.ts /tmp/for-peers       # ours: saves folders and our own logits
    peers/bin/python test/parity/check_in_peers.py /tmp/for-peers

(Quantized folders also need `pip install bitsandbytes==0.50.2 accelerate==1.15.0`.)

`/tmp/for-peers/<case>/` holds `check.json` ({base?, adapter?, model?, network?, text?, inputs?,
tolerance}: paths relative to it),
`expected.safetensors` with our `logits`, and the folders. Exits 1 if anything differs or does not load strictly.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch  # noqa: E402
from peft import PeftModel, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from huggingface_hub import ModelCard  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()
torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parent / "keras"))
from network import Network  # noqa: E402


def load(folder: Path) -> PreTrainedModel:
    # Quantized folders need bitsandbytes, and accelerate, which loads them onto a device.
    quantized = "quantization_config" in json.loads((folder / "config.json").read_text())
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
        **({"device_map": {"": "cpu"}} if quantized else {}))
    for module in model.modules():
        # On processors with AVX512-BF16, bitsandbytes would multiply 4-bit weights in bfloat16.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    problems = {k: sorted(v) for k, v in info.items() if v and k != "error_msgs"}
    assert not problems and not info.get("error_msgs"), f"{folder} does not load cleanly: {problems}"
    return model.eval()


def check_exported(folder: Path, text: dict) -> None:
    """Checks a folder for sharing: its tokenizer, generation config and card load, and the weights are complete."""
    ids = AutoTokenizer.from_pretrained(folder)(text["text"])["input_ids"]
    assert ids == text["ids"], f"tokens differ: {ids}, ours {text['ids']}"
    assert GenerationConfig.from_pretrained(folder).eos_token_id is not None
    metadata = ModelCard.load(folder / "README.md").data
    assert metadata.library_name == "transformers" and metadata.base_model == "a/base", metadata
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = {name for shard in folder.glob("model-*.safetensors") for name in load_file(shard)}
    assert stored == set(index["weight_map"]), "the index does not name the tensors of the shards"


def check(folder: Path) -> str:
    task = json.loads((folder / "check.json").read_text())
    if "network" in task:  # a Keras model of ours, as a PyTorch module
        model = Network()
        model.load_state_dict(load_file(folder / task["network"]))
    else:
        model = load((folder / (task.get("model") or task["base"])).resolve())
    if "adapter" in task:
        adapter = (folder / task["adapter"]).resolve()
        model = PeftModel.from_pretrained(model, adapter).eval()
        stored, loaded = load_file(adapter / "adapter_model.safetensors"), get_peft_model_state_dict(model)
        assert stored.keys() == loaded.keys(), f"keys differ: {sorted(stored.keys() ^ loaded.keys())}"
        for key, tensor in stored.items():
            assert torch.equal(tensor.float(), loaded[key]), f"{key} was not loaded as stored"
    if "text" in task:
        check_exported((folder / task["model"]).resolve(), task["text"])
    expected = load_file(folder / "expected.safetensors")
    ours = expected["logits"]
    inputs = {k: torch.tensor(v) for k, v in task["inputs"].items()} if "inputs" in task else {"x": expected["x"]}
    with torch.no_grad():
        output = model(**inputs)
    logits = output if "network" in task else output.logits
    assert logits.shape == ours.shape, f"shape {tuple(logits.shape)}, ours {tuple(ours.shape)}"
    keep = inputs.get("attention_mask", torch.ones(logits.shape[:2])).bool()
    difference = float((logits - ours)[keep].abs().max() / logits[keep].abs().max())
    assert difference <= task["tolerance"], f"logits differ by {difference:.2e} (allowed {task['tolerance']})"
    return f"logits within {difference:.1e}"


def main() -> int:
    root = Path(sys.argv[1])
    failed = 0
    tasks = sorted(p.parent for p in root.glob("*/check.json"))
    assert tasks, f"{root}: no */check.json; run write_for_peers.ts first"
    for folder in tasks:
        try:
            print(f"ok    {folder.name}: {check(folder)}")
        except Exception as error:  # noqa: BLE001 - every case is reported, whatever it raises
            failed += 1
            print(f"FAIL  {folder.name}: {type(error).__name__}: {error}")
    print(f"{len(tasks) - failed} of {len(tasks)} folders agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
