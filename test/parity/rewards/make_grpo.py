"""Writes what TRL's GRPO computes from fixed answers, for grpo.test.ts.

    python3 -m venv peers
    peers/bin/pip install trl==0.24.0 transformers==5.6.0 peft==0.18.1 datasets==4.0.0 torch
    peers/bin/python test/parity/rewards/make_grpo.py

The methods are GRPOTrainer's own; the log-probabilities that a model would compute are given, and so are rewards.
"""

import json
from collections import defaultdict, deque
from pathlib import Path
from types import SimpleNamespace

import torch
from trl import import_utils

for name, value in vars(import_utils).items():  # TRL 0.24 takes the pairs of transformers 5 to be true
    if name.endswith("_available") and isinstance(value, tuple):
        setattr(import_utils, name, value[0])

from trl.trainer import grpo_trainer  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402

FIXTURES = Path(__file__).resolve().parent / "fixtures"
LENGTHS = [5, 3, 4, 2]
WIDTH = 6
grpo_trainer.gather = grpo_trainer.gather_object = lambda value: value
accelerator = SimpleNamespace(num_processes=1, process_index=0, gather=lambda value: value, device="cpu")


def round_trip(tensor):
    return [[round(x, 5) for x in row] for row in tensor.tolist()]


torch.manual_seed(0)
policy = -torch.rand(4, WIDTH) * 2
INPUTS = {
    "lengths": LENGTHS,
    "policy": round_trip(policy),
    "old": round_trip(policy + torch.randn(4, WIDTH) * 0.3),
    "reference": round_trip(policy + torch.randn(4, WIDTH) * 0.2),
    "advantages": [1.2, -0.7, 0.4, -1.5],
    "maxNewTokens": WIDTH,
}

LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "on-policy": {"loss_type": "grpo", "old": False},
    "kl": {"loss_type": "grpo", "beta": 0.3},
    "epsilon-high": {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.28, "beta": 0.04},
    "delta": {"loss_type": "bnpo", "delta": 1.1},
    "sequence": {"loss_type": "grpo", "level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    "sequence-kl": {"loss_type": "dr_grpo", "level": "sequence", "beta": 0.2, "epsilon": 0.1},
    "truncated": {"loss_type": "grpo", "masked": [1]},
    "truncated-dapo": {"loss_type": "dapo", "masked": [0, 3]},
}


def loss_of(case):
    logps = torch.tensor(INPUTS["policy"], requires_grad=True)
    mask = torch.tensor([[int(t < length) for t in range(WIDTH)] for length in LENGTHS])
    tokens = mask.sum()
    for row in case.get("masked", []):
        mask[row] = 0
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.ones(4, WIDTH, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor(INPUTS["advantages"]),
        "num_items_in_batch": tokens,
        "ref_per_token_logps": torch.tensor(INPUTS["reference"]),
    }
    if case.get("old", True):
        inputs["old_per_token_logps"] = torch.tensor(INPUTS["old"])
    epsilon = case.get("epsilon", 0.2)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps)),
        top_entropy_quantile=1.0,
        beta=case.get("beta", 0.0),
        importance_sampling_level=case.get("level", "token"),
        epsilon_low=epsilon,
        epsilon_high=case.get("epsilon_high", epsilon),
        args=SimpleNamespace(delta=case.get("delta")),
        use_vllm=False,
        loss_type=case["loss_type"],
        current_gradient_accumulation_steps=1,
        max_completion_length=WIDTH,
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    metrics = {key: values[0] for key, values in trainer._metrics["train"].items() if key != "entropy"}
    return {"case": case, "loss": loss.item(), "gradient": logps.grad.tolist(), "metrics": metrics}


NAN = float("nan")
REWARDS = [[1.0, 0.5], [2.0, NAN], [0.0, 0.25], [4.0, 1.0], [3.0, NAN], [3.0, NAN]]
ADVANTAGES = {
    "group": {"scale": "group"},
    "batch": {"scale": "batch"},
    "none": {"scale": "none"},
    "weighted": {"scale": "group", "weights": [0.5, 2.0], "generations": 2},
}


def advantages_of(case):
    ids = [[5, 6, 2], [5, 6, 7], [5, 2], [5, 2], [6, 2], [7, 7, 7]]
    trainer = SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(
            per_device_train_batch_size=6, steps_per_generation=1, gradient_accumulation_steps=1),
        num_iterations=1,
        use_vllm=False,
        beta=0.0,
        mask_truncated_completions=False,
        eos_token_id=2,
        pad_token_id=0,
        processing_class=SimpleNamespace(batch_decode=lambda rows, **_: ["" for _ in rows]),
        _generate_single_turn=lambda prompts, images: ([[1]] * 6, ids, None, {}),
        _calculate_rewards=lambda *_: torch.tensor(REWARDS),
        reward_weights=torch.tensor(case.get("weights", [1.0, 1.0])),
        num_generations=case.get("generations", 3),
        scale_rewards=case["scale"],
        reward_func_names=["first", "second"],
        state=SimpleNamespace(num_input_tokens_seen=0),
        _metrics={"train": defaultdict(list)},
        _logs={"prompt": deque(), "completion": deque(), "advantages": deque(), "rewards": defaultdict(deque)},
    )
    trainer._generate = lambda prompts, images: GRPOTrainer._generate(trainer, prompts, images)
    output = GRPOTrainer._generate_and_score_completions(trainer, [{"prompt": "p"}] * 6)
    metrics = {key: values[0] for key, values in trainer._metrics["train"].items() if key != "num_tokens"}
    return {"case": case, "advantages": output["advantages"].tolist(), "metrics": metrics}


if __name__ == "__main__":
    fixture = {
        "inputs": INPUTS,
        "losses": {name: loss_of(case) for name, case in LOSSES.items()},
        "rewards": [[None if x != x else x for x in row] for row in REWARDS],
        "advantages": {name: advantages_of(case) for name, case in ADVANTAGES.items()},
    }
    (FIXTURES / "grpo.json").write_text(json.dumps(fixture, indent=1) + "\n")
