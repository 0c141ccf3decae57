"""Writes what the PPO trainer of LLaMA-Factory computes from fixed answers, for ppo.test.ts.

    python3 -m venv peers
    peers/bin/pip install trl==0.9.6 transformers==5.6.0 peft==0.18.1 datasets==4.0.0 tyro torch
    peers/bin/python test/parity/rewards/make_ppo.py

LLaMA-Factory 0.9.5 trains with `PPOTrainer.step` of TRL 0.9.6. Here it runs twice on given scores, log-probabilities and
values, with a model in its place that returns these.
"""

import json
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import torch
from trl import import_utils

for name, value in vars(import_utils).items():  # old TRL takes the pairs of transformers 5 to be true
    if name.endswith("_available") and isinstance(value, tuple):
        setattr(import_utils, name, value[0])

from trl.trainer import ppo_trainer  # noqa: E402
from trl.trainer.ppo_trainer import PPOTrainer  # noqa: E402
from trl.trainer.utils import AdaptiveKLController, RunningMoments  # noqa: E402

FIXTURES = Path(__file__).resolve().parent / "fixtures"
QUERIES, RESPONSES = [2, 3, 2, 4], [4, 2, 5, 3]
WIDTH = max(q + r for q, r in zip(QUERIES, RESPONSES)) - 1
BATCH = 2
np.random.permutation = np.arange  # each case keeps the order
ppo_trainer.PPODecorators.optimize_device_cache = False

torch.manual_seed(0)


def noise(scale):
    return [[round(x, 5) for x in row] for row in (torch.randn(4, WIDTH) * scale).tolist()]


def near(rows, scale):
    return [[round(a + b, 5) for a, b in zip(*pair)] for pair in zip(rows, noise(scale))]


def step():
    """What the models return in one step: `old` and `values` when it begins, the others while it updates."""
    old, values = near(noise(0.5), 0.0), noise(0.4)
    return {
        "old": old,
        "reference": near(old, 0.3),
        "values": values,
        "policy": near(old, 0.25),
        "predicted": near(values, 0.3),
        "scores": [round(x, 4) for x in torch.randn(4).tolist()],
    }


STEPS = [step(), step()]
CASES = {
    "default": {},
    "whitened": {"whiten_rewards": True},
    "normalized": {"use_score_scaling": True, "use_score_norm": True, "target": 0.1},
    "target": {"target": 1.5, "gamma": 0.95},
}


def run(case):
    config = SimpleNamespace(**{
        "batch_size": 4, "mini_batch_size": BATCH, "backward_batch_size": 4, "ppo_epochs": 1, "early_stopping": False,
        "use_score_scaling": False, "use_score_norm": False, "score_clip": None, "kl_penalty": "kl", "gamma": 1,
        "lam": 0.95, "whiten_rewards": False, "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1,
        "ratio_threshold": 10.0, "log_with": None, "target": 6, **case,
    })
    masks = torch.zeros(4, WIDTH, dtype=torch.long)
    for row, (query, response) in enumerate(zip(QUERIES, RESPONSES)):
        masks[row, query - 1 : query - 1 + response] = 1
    accelerator = SimpleNamespace(
        use_distributed=False, num_processes=1, accumulate=contextmanager(lambda model: (yield)))
    trainer = SimpleNamespace(
        config=config, accelerator=accelerator, current_device="cpu", is_distributed=False, is_encoder_decoder=False,
        is_peft_model=True, model=SimpleNamespace(train=lambda: None), optional_peft_ctx=nullcontext,
        _step_safety_checker=lambda size, *args: args,
        prepare_model_inputs=lambda *_: {"input_ids": torch.zeros(4, WIDTH + 1), "attention_mask": torch.ones(4, WIDTH + 1)},
        kl_ctl=AdaptiveKLController(0.2, config.target, 10000), running=RunningMoments(accelerator),
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.0}]), lr_scheduler=None,
    )
    for method in ["compute_rewards", "_kl_penalty", "compute_advantages", "loss", "record_step_stats"]:
        setattr(trainer, method, MethodType(getattr(PPOTrainer, method), trainer))
    steps = []
    for given in STEPS:
        tensors = {key: torch.tensor(given[key]) for key in ["old", "reference", "values", "policy", "predicted"]}
        passes, batches = [], []

        def forward(model, queries, responses, inputs, response_masks=None, return_logits=False):
            rows = [int(query[0]) for query in queries]
            passes.append(rows)
            if len(passes) <= 2:
                return tensors["old" if len(passes) == 1 else "reference"], None, tensors["values"], masks
            policy = tensors["policy"][rows].clone().requires_grad_()
            predicted = tensors["predicted"][rows].clone().requires_grad_()
            batches.append({"policy": policy, "predicted": predicted})
            return policy, torch.zeros(len(rows), WIDTH, 3), predicted, masks[rows]

        def train(old, values, logprobs, logits, vpreds, mask, advantages, returns):
            policy_loss, value_loss, stats = trainer.loss(
                old, values, logits, vpreds, logprobs, mask, advantages, returns)
            (policy_loss + value_loss).backward()
            batch = batches.pop()
            batches.append({
                "loss": (policy_loss + value_loss).item(),
                "gradients": [batch["policy"].grad.tolist(), batch["predicted"].grad.tolist()],
                "advantages": advantages.tolist(),
                "returns": returns.tolist(),
                "stats": {key: stats[key].item() for key in [
                    "loss/policy", "loss/value", "policy/approxkl", "policy/clipfrac", "val/clipfrac"]},
            })
            return stats

        trainer.batched_forward_pass, trainer.train_minibatch = forward, train
        queries = [torch.tensor([row] * query) for row, query in enumerate(QUERIES)]
        responses = [torch.ones(response) for response in RESPONSES]
        scores = [torch.tensor(score) for score in given["scores"]]
        stats = PPOTrainer.step(trainer, queries, responses, scores)
        steps.append({
            "batches": batches,
            "kl": float(stats["objective/kl"]),
            "non_score_reward": float(stats["ppo/mean_non_score_reward"]),
            "kl_coefficient": float(trainer.kl_ctl.value),
        })
    return {"case": case, "steps": steps}


if __name__ == "__main__":
    fixture = {
        "queries": QUERIES, "responses": RESPONSES, "batchSize": BATCH, "inputs": STEPS,
        "cases": {name: run(case) for name, case in CASES.items()},
    }
    (FIXTURES / "ppo.json").write_text(json.dumps(fixture) + "\n")
