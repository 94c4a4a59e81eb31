"""What a user would pick instead of the kernels: the selective scan of torch users and of mambapy, channel-first, without extras."""

from __future__ import annotations

import torch


def torch_loop(case: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scan as plain torch users write it: all decays at once, then a loop over time."""
    u, delta, A, B, C = (case[k] for k in ("u", "delta", "A", "B", "C"))
    decay = torch.exp(delta.unsqueeze(-1) * A.unsqueeze(1))
    entering = (delta * u).unsqueeze(-1) * B.transpose(1, 2).unsqueeze(1)
    h, steps = torch.zeros_like(decay[:, :, 0]), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + entering[:, :, t]
        steps.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(steps, 2)


def mambapy_scan(case: dict[str, torch.Tensor]) -> torch.Tensor:
    """mambapy's parallel scan, with the discretisation its Mamba block does around it."""
    from mambapy.pscan import pscan

    u, delta, A, B, C = (case[k] for k in ("u", "delta", "A", "B", "C"))
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    decay = torch.exp(delta.unsqueeze(-1) * A)
    entering = (delta * u).unsqueeze(-1) * B.unsqueeze(2)
    return (pscan(decay, entering) @ C.unsqueeze(-1)).squeeze(3).transpose(1, 2)


PEERS = {"torch loop": torch_loop, "mambapy": mambapy_scan}
