"""The blocks of equations 5 to 7 against direct transcriptions, and their initialisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ssmcore
from segnet.models.mamba import SS2D, DropPath, PatchMerging, VMLayer, VSSConfig, VSSModule
from ssmcore._conventions import DIRECTIONS

CONFIG = VSSConfig(dstate=4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rank", [2, 7])
def test_ss2d_is_the_sum_of_four_scans(rank: int) -> None:
    """Direction by direction on NumPy, positions visited one by one; delta by one narrow product, and by four."""
    ss2d = SS2D(5, rank, VSSConfig(dstate=3)).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    got = ss2d(x).detach().numpy()
    grid = x.numpy()
    order = [(i, j) for i in range(3) for j in range(4)]
    orders = {"row": order, "column": sorted(order, key=lambda p: (p[1], p[0]))}
    orders |= {f"{name}_reversed": path[::-1] for name, path in orders.items()}
    weight = ss2d.x_proj.weight.detach().numpy().reshape(4, rank + 2 * 3, 5)
    total = np.zeros_like(grid)
    for k, direction in enumerate(DIRECTIONS):
        path = orders[direction]
        u = np.stack([grid[:, i, j] for i, j in path], 1)
        projected = u @ weight[k].T
        y = ssmcore.selective_scan(
            u,
            projected[..., :rank] @ ss2d.dt_weight[k].detach().numpy().T,
            -np.exp(ss2d.A_log[k].detach().numpy()),
            projected[..., rank : rank + 3],
            projected[..., rank + 3 :],
            ss2d.D[k].detach().numpy(),
            delta_bias=ss2d.dt_bias[k].detach().numpy(),
            delta_softplus=True,
            discretization="bilinear",
            layout="bld",
            backend="numpy",
        )
        for t, (i, j) in enumerate(path):
            total[:, i, j] += y[:, t]
    assert np.allclose(got, total, rtol=1e-12, atol=1e-12)


def test_the_vss_module_is_equation_7() -> None:
    module = VSSModule(6, CONFIG)
    with torch.no_grad():
        module.norm.weight.uniform_(0.5, 2)
        module.norm.bias.normal_()
    w = torch.randn(2, 4, 5, 6)
    convolved = F.conv2d(
        module.linear1(w).permute(0, 3, 1, 2), module.dwconv.weight, module.dwconv.bias, padding=1, groups=12
    )
    w1 = F.layer_norm(module.ss2d(F.silu(convolved).permute(0, 2, 3, 1)), (12,), module.norm.weight, module.norm.bias)
    w2 = F.silu(module.linear2(w))
    torch.testing.assert_close(module(w), module.out(w1 * w2))


def test_the_vm_layer_is_equations_5_and_6() -> None:
    layer = VMLayer(6, CONFIG)
    assert torch.equal(layer.s, torch.ones(6))
    assert layer.second_norm is not layer.norm
    with torch.no_grad():
        layer.s.uniform_(0.5, 2)
        layer.second_norm.weight.uniform_(0.5, 2)
    m = torch.randn(2, 4, 4, 6)
    inner = layer.vssm(layer.norm(m)) + layer.s * m
    torch.testing.assert_close(layer(m), layer.projection(layer.second_norm(inner)))


def test_initialisation_of_the_scan() -> None:
    ss2d = SS2D(512, 16, VSSConfig())
    step = F.softplus(ss2d.dt_bias)
    assert step.min() >= 1e-4
    assert step.min() < 1.2e-3
    assert 0.08 < step.max() <= 0.1001
    # log-uniform: the median of 2048 is within 5 % of the geometric mean of the ends, 0.01, nineteen times of twenty
    assert 0.008 < step.median() < 0.0125
    assert torch.allclose(torch.exp(ss2d.A_log[0, 0]), torch.arange(1.0, 17.0))
    assert torch.equal(ss2d.D, torch.ones(4, 512))
    assert ss2d.dt_weight.abs().max() <= 16**-0.5


def test_patch_merging_joins_neighbours() -> None:
    merging = PatchMerging(1)
    x = torch.arange(16.0).reshape(1, 4, 4, 1)
    seen: list[torch.Tensor] = []
    merging.norm.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
    assert merging(x).shape == (1, 2, 2, 2)
    assert sorted(seen[0][0, 0, 1].tolist()) == [2, 3, 6, 7]


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(20000, 2, 2))
    values = kept[:, 0, 0]
    assert torch.equal(values.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert torch.equal(kept, values[:, None, None].expand_as(kept))
    assert abs(values.mean() - 1) < 5 * math.sqrt(0.25 / 0.75 / 20000)
    assert torch.equal(drop.eval()(kept), kept)
