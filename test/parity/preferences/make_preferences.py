"""Writes what LLaMA-Factory logs and learns in its preference stages, for preferences.test.ts.

    python3 -m venv peers
    peers/bin/pip install --no-deps llamafactory==0.9.5
    peers/bin/pip install datasets==4.0.0 transformers==5.6.0 peft==0.18.1 trl==0.24.0 omegaconf fire torch
    peers/bin/python test/parity/preferences/make_preferences.py

Each run trains the model of examples/quickstart for 30 steps, from the same adapter, on the pairs of fixtures/pairs.json,
or in the stages `kto` and `sft` on the answers of fixtures/verdicts.json. Stage `rm` starts from the adapter's value head, without the
dropout before it, and ends with a prediction.
LLaMA-Factory 0.9.5 does not pass the name of the loss on to TRL 0.24, whose default is `sigmoid`; here it is passed. TRL
no longer has `kto_pair`: its formula is that of TRL 0.8.
"""

import importlib.machinery
import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

os.environ.update(DISABLE_VERSION_CHECK="1", HF_HUB_OFFLINE="1", WANDB_DISABLED="true")
torchaudio = types.ModuleType("torchaudio")  # imported for sound, of which there is none here
torchaudio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules.setdefault("torchaudio", torchaudio)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from llamafactory.train.dpo import trainer as dpo  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trl import DPOTrainer  # noqa: E402

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
MODEL = HERE.parents[2] / "examples/quickstart/model"

TOPICS = ["water", "roads", "schools", "forests", "taxes", "farms", "health", "trade", "energy", "housing", "courts", "parks"]


def write_data():
    """Pairs as LLaMA-Factory's two formats have them; answers of different lengths, some cut off."""
    alpaca, sharegpt = [], []
    for i in range(24):
        topic, other = TOPICS[i % 12], TOPICS[(i + 5) % 12]
        alpaca.append(
            {
                "instruction": f"Summarize the bill about {topic}.",
                "input": f"A bill to fund {topic} and {other} in section {i + 1}." if i % 3 else "",
                "chosen": f"This bill funds {topic}." if i % 2 else f"This bill funds {topic} and also {other} until 20{30 + i}.",
                "rejected": f"I do not know what {other} is." if i % 4 else "No.",
                **({"system": "Answer in one sentence.", "history": [["Hello", "Good day."]]} if i % 5 == 0 else {}),
            }
        )
    for i in range(6):
        topic = TOPICS[(3 * i) % 12]
        sharegpt.append(
            {
                "conversations": [
                    {"from": "human", "value": "What is this bill?"},
                    {"from": "gpt", "value": "Which one?"},
                    {"from": "human", "value": f"The one about {topic}."},
                ],
                "chosen": {"from": "gpt", "value": f"It funds {topic} for {i + 2} years."},
                "rejected": {"from": "gpt", "value": "It says nothing." * (1 + i % 3)},
            }
        )
    verdicts = [
        {
            "instruction": record["instruction"],
            "input": record["input"],
            "output": record["chosen" if i % 7 in (0, 1, 2, 4) else "rejected"],
            "label": i % 7 in (0, 1, 2, 4),
        }
        for i, record in enumerate(alpaca)
    ]
    verdict_turns = [
        {
            "conversations": record["conversations"] + [record["chosen" if i % 2 else "rejected"]],
            "label": i % 2 == 1,
        }
        for i, record in enumerate(sharegpt)
    ]
    info = {
        "pairs": {"file_name": "pairs.json", "ranking": True, "columns": {
            "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected", "system": "system",
            "history": "history"}},
        "turns": {"file_name": "turns.json", "ranking": True, "formatting": "sharegpt", "columns": {
            "messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        "verdicts": {"file_name": "verdicts.json", "columns": {
            "prompt": "instruction", "query": "input", "response": "output", "kto_tag": "label"}},
        "answers": {"file_name": "verdicts.json", "columns": {
            "prompt": "instruction", "query": "input", "response": "output"}},
        "verdict_turns": {"file_name": "verdict_turns.json", "formatting": "sharegpt", "columns": {
            "messages": "conversations", "kto_tag": "label"}},
    }
    files = {"pairs": alpaca, "turns": sharegpt, "verdicts": verdicts, "verdict_turns": verdict_turns}
    for name, value in {**files, "dataset_info": info}.items():
        (FIXTURES / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


def write_adapter(folder, seed, rank):
    """An adapter whose B is not zero, so that the first rewards are not either, and a value head."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.peft_config["default"].base_model_name_or_path = "examples/quickstart/model"
    model.save_pretrained(FIXTURES / folder)
    (FIXTURES / folder / "README.md").unlink(missing_ok=True)
    head = torch.nn.Linear(base.config.hidden_size, 1)
    tensors = {f"v_head.summary.{name}": tensor.detach() for name, tensor in head.named_parameters()}
    save_file(tensors, FIXTURES / folder / "value_head.safetensors", metadata={"format": "pt"})


def kto_pair(self, chosen, rejected, reference_chosen, reference_rejected):
    chosen_ratios, rejected_ratios = chosen - reference_chosen, rejected - reference_rejected
    chosen_kl, rejected_kl = chosen_ratios.mean().clamp(min=0), rejected_ratios.mean().clamp(min=0)
    losses = torch.cat((1 - F.sigmoid(self.beta * (chosen_ratios - rejected_kl)),
                        1 - F.sigmoid(self.beta * (chosen_kl - rejected_ratios))))
    return losses, self.beta * chosen_ratios.detach(), self.beta * rejected_ratios.detach()


def dpo_loss(self, *logps):
    if self.loss_type == "kto_pair":
        return kto_pair(self, *logps)
    return DPOTrainer.dpo_loss(self, *logps, loss_type=self.loss_type)


dpo.CustomDPOTrainer.dpo_loss = dpo_loss

RUNS = {
    "sigmoid": {},
    "sigmoid-mixed": {"pref_beta": 0.3, "pref_ftx": 0.5, "dpo_label_smoothing": 0.1, "ld_alpha": 0.5},
    "hinge": {"pref_loss": "hinge"},
    "ipo": {"pref_loss": "ipo"},
    "kto_pair": {"pref_loss": "kto_pair"},
    "orpo": {"pref_loss": "orpo"},
    "simpo": {"pref_loss": "simpo", "simpo_gamma": 0.7, "pref_beta": 2.0},
    "reference": {"ref_model": "model", "ref_model_adapters": "reference", "eval_strategy": "no"},
    "full": {"finetuning_type": "full", "adapter_name_or_path": None, "learning_rate": 1e-4, "ref_model": "model",
             "ref_model_adapters": "reference", "eval_strategy": "no"},
    "asft": {"stage": "sft", "dataset": "answers", "finetuning_type": "full", "adapter_name_or_path": None,
             "learning_rate": 1e-4, "use_asft_loss": True, "asft_alpha": 0.5, "gradient_accumulation_steps": 1,
             "eval_strategy": "no"},
    "reward": {"stage": "rm", "do_predict": True},
    "kto": {"stage": "kto", "dataset": "verdicts", "eval_dataset": "verdict_turns"},
    "kto-mixed": {"stage": "kto", "dataset": "verdicts", "eval_dataset": "verdict_turns", "pref_beta": 0.3, "pref_ftx": 0.5,
                  "kto_chosen_weight": 1.5, "kto_rejected_weight": 0.7, "logging_steps": 2},
}


def float32_model(folder):
    """Copies the model with float32 in its config, in which LLaMA-Factory then computes, and no dropout for a value head."""
    model = Path(folder) / "model"
    shutil.copytree(MODEL, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32", "summary_dropout_prob": 0}))
    return model


def run(name, keys):
    with tempfile.TemporaryDirectory() as folder:
        places = {"model": str(float32_model(folder)), "reference": str(FIXTURES / "reference")}
        args = {
            "stage": "dpo",
            "model_name_or_path": places["model"],
            "adapter_name_or_path": str(FIXTURES / "adapter"),
            "do_train": True,
            "finetuning_type": "lora",
            "dataset": "pairs",
            "eval_dataset": "turns",
            "dataset_dir": str(FIXTURES),
            "template": "llama3",
            "cutoff_len": 64,
            "output_dir": f"{folder}/output",
            "logging_steps": 1,
            "save_strategy": "no",
            "eval_strategy": "steps",
            "eval_steps": 10,
            "per_device_train_batch_size": 3,
            "per_device_eval_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "max_steps": 30,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 3,
            "disable_shuffling": True,
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "overwrite_cache": True,
            **{key: places.get(value, value) for key, value in keys.items()},
        }
        if args["eval_strategy"] == "no":
            del args["eval_dataset"]
        run_exp(args)
        history = json.loads((Path(folder) / "output/trainer_state.json").read_text())["log_history"]
        output = Path(folder) / "output"
        if name in ("sigmoid", "reward"):
            shutil.copyfile(output / "adapter_model.safetensors", FIXTURES / f"{name}.safetensors")
        if name == "reward":
            shutil.copyfile(output / "value_head.safetensors", FIXTURES / "reward_value_head.safetensors")
            shutil.copyfile(output / "generated_predictions.jsonl", FIXTURES / "reward_predictions.jsonl")
            shutil.copyfile(output / "predict_results.json", FIXTURES / "reward_results.json")
    (FIXTURES / f"{name}.json").write_text(json.dumps({"keys": keys, "history": history}, indent=1) + "\n")


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    write_data()
    write_adapter("adapter", seed=0, rank=4)
    write_adapter("reference", seed=1, rank=1)
    for name, keys in RUNS.items():
        if sys.argv[1:] in ([], [name]):
            run(name, keys)
