"""Linear time-invariant systems of tensors, in torch's own operations on any device, and the layer S4D."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .._hippo import s4d_diagonal
from .._lti import fast_length
from .._spec import Call, check_count, check_option, fail
from ..backends.torch_ import forward
from ..ops.ssm_recurrence import SPEC
from ._common import check_tensors
from ._discretize import discretize

_COMPLEX = ("A_bar", "B_bar", "C", "u", "kernel", "D", "initial_state")


def _lead(operation: str, **shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The broadcast of leading axes, or ArgumentError."""
    try:
        return tuple(torch.broadcast_shapes(*shapes.values()))
    except RuntimeError:
        found = ", ".join(str(shape) for shape in shapes.values())
        fail(operation, ", ".join(shapes), "leading axes that broadcast", found, "make them agree")


def _check_system(operation: str, A_bar: Tensor, B_bar: Tensor, C: Tensor) -> None:
    if A_bar.ndim < 1:
        fail(operation, "A_bar", "(..., dstate)", tuple(A_bar.shape), "pass the diagonal")
    for name, x in (("B_bar", B_bar), ("C", C)):
        if x.ndim < 1 or x.shape[-1] != A_bar.shape[-1]:
            expected = f"(..., dstate) with dstate {A_bar.shape[-1]}, as A_bar has"
            fail(operation, name, expected, tuple(x.shape), "make them agree")


def _powers(A: Tensor, vector: Tensor, count: int) -> Tensor:
    """(..., count, dstate): A^k vector for k < count, by doubling: each power is a product of two known ones."""
    rows, step = torch.broadcast_tensors(A, vector)[1][..., None, :], A[..., None, :]
    while rows.shape[-2] < count:
        rows = torch.cat([rows, rows * step], dim=-2)
        step = step * step
    return rows[..., :count, :]


def ssm_kernel(A_bar: Tensor, B_bar: Tensor, C: Tensor, length: int) -> Tensor:
    """`ssmcore.ssm_kernel` of a diagonal system of tensors, differentiable.

    Raises
    ------
    ArgumentError
        A shape, dtype, device or length is wrong.

    Source: Mamba-AHNet, eq. 4; Gu et al., On the parameterization and initialization of diagonal state space models (2022).
    """
    check_tensors("ssm_kernel", {"A_bar": A_bar, "B_bar": B_bar, "C": C}, complex_too=_COMPLEX)
    _check_system("ssm_kernel", A_bar, B_bar, C)
    check_count("ssm_kernel", "length", length, 0, "steps")
    _lead("ssm_kernel", A_bar=A_bar.shape[:-1], B_bar=B_bar.shape[:-1], C=C.shape[:-1])
    # k = root i + j: the kernel is a product of two short tables of powers
    root = math.isqrt(max(length - 1, 0)) + 1
    blocks = -(-length // root)
    near, far = _powers(A_bar, B_bar, root), _powers(A_bar**root, C, blocks)
    dtype = torch.promote_types(near.dtype, far.dtype)
    kernel = far.to(dtype) @ near.to(dtype).transpose(-1, -2)
    return kernel.flatten(-2)[..., :length]


def ssm_convolve(u: Tensor, kernel: Tensor, *, D: Tensor | None = None) -> Tensor:
    """`ssmcore.ssm_convolve` of tensors, differentiable.

    Raises
    ------
    ArgumentError
        A shape, dtype or device is wrong.

    Source: Mamba-AHNet, eq. 3.
    """
    check_tensors("ssm_convolve", {"u": u, "kernel": kernel, "D": D}, complex_too=_COMPLEX)
    for name, x in (("u", u), ("kernel", kernel)):
        if x.ndim < 1:
            fail("ssm_convolve", name, "at least one axis, time", tuple(x.shape), "pass a sequence")
    leads = {"u": u.shape[:-1], "kernel": kernel.shape[:-1]}
    lead = _lead("ssm_convolve", **leads, **({} if D is None else {"D": D.shape}))
    seqlen = u.shape[-1]
    kernel = kernel[..., :seqlen]
    if 0 in (seqlen, kernel.shape[-1], *lead):
        y = (u * kernel.sum(-1, keepdim=True)).expand(*lead, seqlen) * 0
    else:
        real = not (u.is_complex() or kernel.is_complex())
        size = fast_length(seqlen + kernel.shape[-1] - 1, real=real)
        forward, back = (torch.fft.rfft, torch.fft.irfft) if real else (torch.fft.fft, torch.fft.ifft)
        y = back(forward(u, size) * forward(kernel, size), size)[..., :seqlen]
    return y if D is None else y + D[..., None] * u


def ssm_recurrence(
    A_bar: Tensor, B_bar: Tensor, C: Tensor, u: Tensor, *, D: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`ssmcore.ssm_recurrence` of a diagonal system of tensors, differentiable.

    Raises
    ------
    ArgumentError
        A shape, dtype or device is wrong.

    Source: Mamba-AHNet, eq. 2, whose printed index is a misprint.
    """
    tensors = {"A_bar": A_bar, "B_bar": B_bar, "C": C, "u": u, "D": D, "initial_state": initial_state}
    check_tensors("ssm_recurrence", tensors, complex_too=_COMPLEX)
    _check_system("ssm_recurrence", A_bar, B_bar, C)
    start = torch.zeros_like(A_bar) if initial_state is None else initial_state
    if u.ndim < 1 or start.shape[-1:] != A_bar.shape[-1:]:
        got = f"{tuple(u.shape)} and {tuple(start.shape)}"
        fail("ssm_recurrence", "u, initial_state", "(..., seqlen) and (..., dstate)", got, "make them agree with A_bar")
    arrays = {"A_bar": A_bar, "B_bar": B_bar, "C": C, "u": u, "initial_state": start}
    leads = {name: x.shape[:-1] for name, x in arrays.items()} | ({} if D is None else {"D": D.shape})
    lead = _lead("ssm_recurrence", **leads)
    y, x = forward(Call(SPEC, arrays, {"structure": "diagonal", "lead": lead}))
    return (y if D is None else y + D[..., None] * u), x


class S4D(nn.Module):
    """Structured state space layer: a diagonal system and a learned step for each channel.

    y = conv(u, K) + D u with K[k] = 2 Re(C A_bar^k B_bar). A_bar and B_bar discretise A and B = 1 at step exp(log_delta).
    `forward` convolves by Fourier transforms. `step` computes the same output one step at a time, from a state.

    Parameters
    ----------
    dim : channels
    dstate : states of a channel: pairs of conjugates, or single states for init "real"
    init : "lin", "inv", "legs" or "real"
        Initial A, see `ssmcore.s4d_diagonal`.
    discretization : "zoh", "bilinear" or "mamba"
    delta_range : smallest and largest initial step; the steps are drawn log-uniformly between them

    Shapes
    ------
    u, y : (batch, seqlen, dim)
    state : (batch, dim, dstate), complex but for init "real"

    Raises
    ------
    ArgumentError
        An option, a shape or a number is wrong.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models (2022), sections 3 and 4;
    Mamba-AHNet, section III-A and eqs. 2 to 4.

    Examples
    --------
    >>> import torch, ssmcore.torch
    >>> layer = ssmcore.torch.S4D(dim=8, dstate=16)
    >>> layer(torch.randn(2, 100, 8)).shape
    torch.Size([2, 100, 8])
    """

    frequency: Tensor | None

    def __init__(
        self,
        dim: int,
        dstate: int = 32,
        *,
        init: str = "lin",
        discretization: str = "zoh",
        delta_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        check_count("S4D", "dim", dim, 1, "channels")
        check_option("S4D", "discretization", discretization, ("zoh", "bilinear", "mamba"))
        low, high = delta_range
        if not 0 < low <= high:
            fail("S4D", "delta_range", "(low, high) with 0 < low <= high", delta_range, "pass steps in units of time")
        A = np.tile(s4d_diagonal(init, dstate), (dim, 1))
        self.dim, self.dstate, self.discretization = dim, dstate, discretization
        self.log_delta = nn.Parameter(torch.empty(dim).uniform_(math.log(low), math.log(high)))
        self.log_decay = nn.Parameter(torch.from_numpy(np.log(-A.real)).float())
        if np.iscomplexobj(A):
            self.frequency = nn.Parameter(torch.from_numpy(A.imag.copy()).float())
        else:
            self.register_parameter("frequency", None)
        # real and imaginary part: optimisers and half precision know no complex numbers
        self.C = nn.Parameter(torch.randn(dim, dstate, 1 if self.frequency is None else 2) / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(dim))

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """A_bar, B_bar and C, (dim, dstate) each; C such that y is the real part of C x."""
        decay = -self.log_decay.exp()
        if self.frequency is None:
            A, C = decay, self.C[..., 0]
        else:
            A, C = torch.complex(decay, self.frequency), 2 * torch.view_as_complex(self.C)
        A_bar, B_bar = discretize(A, torch.ones_like(A), self.log_delta.exp(), method=self.discretization)
        return A_bar, B_bar, C

    def kernel(self, length: int) -> Tensor:
        """The impulse response of every channel, (dim, length)."""
        return ssm_kernel(*self.system(), length).real

    def _check(self, u: Tensor, axes: str) -> None:
        if u.ndim != len(axes.split()) or u.shape[-1] != self.dim:
            fail("S4D", "u", f"({axes.replace(' ', ', ')}) with dim {self.dim}", tuple(u.shape), "transpose it")

    def forward(self, u: Tensor) -> Tensor:
        self._check(u, "batch seqlen dim")
        y = ssm_convolve(u.to(self.D.dtype).transpose(1, 2), self.kernel(u.shape[1]), D=self.D)
        return y.transpose(1, 2).to(u.dtype)

    def initial_state(self, batch: int) -> Tensor:
        """The state before the first step, zeros."""
        A_bar, _, _ = self.system()
        return A_bar.new_zeros(batch, self.dim, self.dstate)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step, u (batch, dim): y (batch, dim) and the state after it."""
        self._check(u, "batch dim")
        A_bar, B_bar, C = self.system()
        y, state = ssm_recurrence(A_bar, B_bar, C, u[..., None].to(self.D.dtype), D=self.D, initial_state=state)
        return y[..., 0].real.to(u.dtype), state

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.dstate}, discretization={self.discretization!r}"
