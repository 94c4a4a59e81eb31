"""A training step of mamba-ahnet beside vm-unet of about as many multiply-adds, by our scan and by what public code runs on a CPU.

An element is a slice of 256 px. The public scans hold every state of every position: with a batch of two, vm-unet by mambapy takes
some 14 GB.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import PEERS
from torch import Tensor
from torch.nn import functional as F

from segnet.config import Config
from segnet.models import build, mamba
from segnet.training.loop import parameter_groups
from segnet.training.losses import JointLoss
from ssmcore._conventions import DIRECTIONS, roll_up, unroll

BATCH, SIDE = 2, 256
EQUAL_WIDTH = 10
"""b of the vm-unet with some fewer multiply-adds (2.3 G) than mamba-ahnet with 16 (2.4 G); the next width has more."""


def by_peer(peer: str) -> Any:
    """`ss2d` by four of a peer's scans."""

    def ss2d(
        x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, **_: Any
    ) -> Tensor:
        out = x * D.sum(0)
        for k in range(len(DIRECTIONS)):
            step = F.softplus(delta[:, :, :, k] + delta_bias[k])
            grids = {"u": x, "delta": step, "B": B[:, :, :, k], "C": C[:, :, :, k]}
            case = {name: unroll(grid, k).transpose(1, 2) for name, grid in grids.items()}
            y = PEERS[peer]({**case, "A": A[k]}).transpose(1, 2)
            out = out + roll_up(y, k, *x.shape[1:3])
        return out

    return ss2d


def config(name: str) -> Config:
    # the peers know Mamba's discretisation alone
    width = EQUAL_WIDTH if name == "vm-unet" else 16
    return Config.model_validate({"model": {"name": name, "base_width": width, "discretization": "mamba"}})


def error_of(ss2d: Any) -> float:
    """Of a small network's logits by that scan, against ours in float64."""
    torch.manual_seed(0)
    small = Config.model_validate({"model": {"name": "vm-unet", "base_width": 4, "discretization": "mamba"}})
    model, x = build(small.model).eval(), torch.rand(1, 1, 64, 64)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        wanted = model.double()(x.double())[0]
        patch.setattr(mamba, "ss2d", ss2d)
        found = model.float()(x)[0]
    return float((found - wanted).abs().max() / wanted.abs().max())


def step_of(name: str) -> Any:
    settings = config(name)
    torch.manual_seed(0)
    model = build(settings.model).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.rand(BATCH, 1, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    masks = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.long)
    masks[:, 80:120, 80:120] = 1
    groups = parameter_groups(model, settings.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.train.learning_rate, fused=True)
    loss_of = JointLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(*model(images), images, masks).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize(
    ("name", "scan"), [("mamba-ahnet", "ours"), ("vm-unet", "ours"), ("vm-unet", "mambapy"), ("vm-unet", "torch loop")]
)
def test_training_step(name: str, scan: str, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ss2d = mamba.ss2d if scan == "ours" else by_peer(scan)
    error = error_of(ss2d)
    monkeypatch.setattr(mamba, "ss2d", ss2d)
    # relative to the largest logit, some twenty blocks of float32 roundings deep
    measure(step_of(name), elements=BATCH, error=error, tolerance=1e-4, rounds=5 if scan == "ours" else 2)
