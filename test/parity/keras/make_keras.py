"""A small PyTorch classifier with a PEFT adapter, for applyLoRA on Keras models: golden numbers in float32 on the CPU.

    peers/bin/pip install -r test/parity/requirements.txt
    peers/bin/python test/parity/keras/make_keras.py      # rewrites test/parity/keras/fixtures/

`base.safetensors` holds the network's weights, `initial/` and `final/` the adapter as PEFT saves it before and after ten steps of
AdamW on one batch. `expected.safetensors` holds the batch, the logits before and after, and the gradients of the first
step; `manifest.json` the losses and the optimizer's settings.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_fixtures as parity  # noqa: E402, F401  (pins versions, starts Python again with a fixed hash seed)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from network import Network  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

OUT = HERE / "fixtures"
STEPS = 10
SETTINGS = dict(lr=0.02, betas=(0.9, 0.99), eps=1e-7, weight_decay=0.05)
LORA = dict(r=3, lora_alpha=6, target_modules=["fc1", "fc2", "fc3"], rank_pattern={"fc2": 2}, alpha_pattern={"fc2": 5})


def save_adapter(peft, name: str) -> None:
    peft.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    torch.manual_seed(1)
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.6)
    save_file({key: value.clone() for key, value in network.state_dict().items()}, OUT / "base.safetensors")
    peft = get_peft_model(network, LoraConfig(**LORA))
    peft.peft_config["default"].base_model_name_or_path = "network"
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if "lora_" in key:
                parameter.normal_(0, 0.4)
    save_adapter(peft, "initial")
    x, labels = torch.randn(16, 10), torch.randint(0, 4, (16,))
    expected = {"x": x, "y": F.one_hot(labels, 4).float(), "logits": peft(x).detach()}
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], **SETTINGS)
    losses = []
    for step in range(STEPS):
        loss = F.cross_entropy(peft(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for key, parameter in peft.named_parameters():
                if parameter.requires_grad:
                    expected["gradient:" + key.replace(".default", "")] = parameter.grad.clone()
        optimizer.step()
    expected["finalLogits"] = peft(x).detach()
    save_adapter(peft, "final")
    save_file({key: value.contiguous() for key, value in expected.items()}, OUT / "expected.safetensors")
    manifest = dict(losses=losses, optimizer={**SETTINGS, "betas": list(SETTINGS["betas"])})
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
