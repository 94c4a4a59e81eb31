"""What the cython and numba backends share: they allocate, hand plain arrays to kernels, and sum the partial gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._conventions import CHECKPOINT_STEPS, DIRECTIONS, centre

Array = NDArray[Any]


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


LINE = 64
"""Bytes of a cache line, which is also the widest vector."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """np.empty that starts on a cache line. np.empty starts 16 bytes into one, so that each row's vectors of 64 bytes straddle two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def aligned(array: Array) -> Array:
    """The array, or a copy of one whose strides are no multiples of its numbers', such as a field of packed records."""
    return array if array.flags.aligned else array.copy()


def cast(dtype: np.dtype[Any], *arrays: Array | None, contiguous: bool = False) -> list[Any]:
    """The arrays as `dtype`, copied only where they are not that already."""
    if contiguous:
        return [None if a is None else aligned(np.ascontiguousarray(a, dtype=dtype)) for a in arrays]
    return [None if a is None else aligned(np.asarray(a, dtype=dtype)) for a in arrays]


class MatrixGradient(NamedTuple):
    """Where a kernel writes the gradient of B or C: one of the two, and the sum that finishes it."""

    varying: Array | None
    constant: Array | None

    @classmethod
    def like(cls, matrix: Array, parts: int, nblocks: int) -> MatrixGradient:
        if matrix.ndim == 2:
            return cls(None, empty((parts, *matrix.shape), matrix.dtype))
        # no block where there is no channel: the sum over none of them is the zero gradient
        return cls(empty((nblocks, *matrix.shape), matrix.dtype), None)

    def total(self) -> Array:
        partial = self.constant if self.varying is None else self.varying
        assert partial is not None
        return _sum_first(partial)


def split(matrix: Array) -> tuple[Array | None, Array | None]:
    """(varying, None) or (None, constant), the two being different arguments of a kernel."""
    return (None, np.ascontiguousarray(matrix)) if matrix.ndim == 2 else (matrix, None)


def broadcast_diagonal(A: Array, B: Array, delta: Array) -> tuple[Array, Array, tuple[int, ...], np.dtype[Any]]:
    """A and delta, flat and of the common shape (..., dstate), that shape, and the compute dtype."""
    dtype = compute_dtype(np.result_type(A, B, delta))
    shape = np.broadcast_shapes(A.shape, B.shape, (*delta.shape, 1))
    wide_A = np.ascontiguousarray(np.broadcast_to(A, shape), dtype=dtype).reshape(-1)
    wide_delta = np.ascontiguousarray(np.broadcast_to(delta[..., None], shape), dtype=dtype).reshape(-1)
    return wide_A, wide_delta, shape, dtype


class Discretize:
    """`discretize` and its vjp for diagonal systems over one kernel module."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    @staticmethod
    def limits(structure: str, complex_too: bool) -> str | None:
        if structure == "dense" or complex_too:
            return "its kernels discretise real diagonal systems; the numpy and torch backends also do dense and complex ones"
        return None

    def forward(
        self, A: Array, B: Array, delta: Array, *, method: str, structure: str, num_threads: int
    ) -> tuple[Array, Array]:
        wide_A, wide_delta, shape, dtype = broadcast_diagonal(A, B, delta)
        A_bar, gain = empty(wide_A.shape, dtype), empty(wide_A.shape, dtype)
        code = self.kernels.DISCRETIZATIONS.index(method)
        self.kernels.discretize(wide_A, wide_delta, code, A_bar, gain, num_threads)
        return A_bar.reshape(shape), gain.reshape(shape) * B

    def backward(
        self,
        dA_bar: Array,
        dB_bar: Array,
        A: Array,
        B: Array,
        delta: Array,
        *,
        method: str,
        structure: str,
        num_threads: int,
    ) -> tuple[Array, Array, Array]:
        wide_A, wide_delta, shape, dtype = broadcast_diagonal(A, B, delta)
        code = self.kernels.DISCRETIZATIONS.index(method)
        A_bar, gain = empty(wide_A.shape, dtype), empty(wide_A.shape, dtype)
        dA, ddelta = empty(wide_A.shape, dtype), empty(wide_A.shape, dtype)
        self.kernels.discretize(wide_A, wide_delta, code, A_bar, gain, num_threads)
        dgain = np.ascontiguousarray(np.broadcast_to(dB_bar * B, shape), dtype=dtype).reshape(-1)
        flat_dA_bar = np.ascontiguousarray(dA_bar, dtype=dtype).reshape(-1)
        self.kernels.discretize_vjp(flat_dA_bar, dgain, wide_A, wide_delta, code, dA, ddelta, num_threads)
        return dA.reshape(shape), dB_bar * gain.reshape(shape), ddelta.reshape(shape).sum(axis=-1)


class LinearRecurrence:
    """`ssm_recurrence` of diagonal systems over one kernel module; `extra` as for `SelectiveScan`."""

    def __init__(self, kernels: Any, *, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.extra = extra

    @staticmethod
    def limits(structure: str) -> str | None:
        return (
            "its kernels run diagonal systems; the numpy and torch backends also dense ones"
            if structure == "dense"
            else None
        )

    def run(
        self,
        A_bar: Array,
        B_bar: Array,
        C: Array,
        u: Array,
        initial_state: Array,
        lead: tuple[int, ...],
        *,
        structure: str,
        num_threads: int,
    ) -> tuple[Array, Array]:
        dtype = np.result_type(A_bar, B_bar, C, u, initial_state)
        real = np.dtype(np.float64 if dtype in (np.float64, np.complex128) else np.float32)
        rows, dstate, seqlen = math.prod(lead), A_bar.shape[-1], u.shape[-1]
        width = -(-dstate // self.kernels.STATES) * self.kernels.STATES
        both = dtype.kind == "c"

        def parts(array: Array, last: int, imaginary: bool) -> list[Any]:
            """(rows, last) of real and imaginary parts, zeros after what there is."""
            found = []
            for part in (array.real, array.imag)[: 1 + imaginary]:
                wide = np.zeros((rows, last), real)
                wide.reshape(*lead, last)[..., : array.shape[-1]] = part
                found.append(wide)
            return [*found, None][:2]

        state = parts(initial_state, width, both)
        y: list[Any] = [empty((rows, seqlen), real), empty((rows, seqlen), real) if both else None]
        if rows and seqlen:
            systems = [part for array in (A_bar, B_bar, C) for part in parts(array, width, both)]
            self.kernels.ssm_recurrence(
                *systems, *parts(u, seqlen, u.dtype.kind == "c"), *state, *y, num_threads, *self.extra()
            )
        out, last = y[0], state[0]
        if both:
            out, last = y[0] + 1j * y[1], state[0] + 1j * state[1]
        return out.reshape(*lead, seqlen), last.reshape(*lead, width)[..., :dstate].copy()


class GateCrop:
    """`gate_crop` and its vjp over kernels that copy (outer, height, width) rows."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def forward(self, g: Array, size: tuple[int, ...]) -> Array:
        dtype = compute_dtype(g.dtype)
        lead, trailing = g.shape[: g.ndim - len(size)], g.shape[g.ndim - len(size) :]
        outer = g
        # axes before the last two are slices of views; the kernel copies the planes
        for axis, (full, part) in enumerate(zip(trailing[:-2], size[:-2], strict=True), start=len(lead)):
            first = (full - part) // 2
            outer = outer[(slice(None),) * axis + (slice(first, first + part),)]
        full_plane, plane = self._plane(trailing), self._plane(size)
        out = empty((*lead, *size), dtype)
        planes = math.prod((*lead, *size[:-2]))
        source = np.ascontiguousarray(outer, dtype=dtype).reshape(planes, *full_plane)
        top, left = ((f - p) // 2 for f, p in zip(full_plane, plane, strict=True))
        self.kernels.gate_crop(source, top, left, out.reshape(planes, *plane))
        return out.astype(g.dtype, copy=False)

    def backward(self, dout: Array, g_size: tuple[int, ...]) -> Array:
        dtype = compute_dtype(dout.dtype)
        lead, size = dout.shape[: dout.ndim - len(g_size)], dout.shape[dout.ndim - len(g_size) :]
        full_plane, plane = self._plane(g_size), self._plane(size)
        top, left = ((f - p) // 2 for f, p in zip(full_plane, plane, strict=True))
        count = math.prod((*lead, *size[:-2]))
        planes = empty((*lead, *size[:-2], *g_size[-2:]), dtype)
        source = np.ascontiguousarray(dout, dtype=dtype).reshape(count, *plane)
        self.kernels.gate_crop_vjp(source, top, left, planes.reshape(count, *full_plane))
        if len(g_size) <= 2:
            return planes.astype(dout.dtype, copy=False)
        dg = np.zeros((*lead, *g_size), dout.dtype)
        window = tuple(slice((f - p) // 2, (f - p) // 2 + p) for f, p in zip(g_size[:-2], size[:-2], strict=True))
        dg[(slice(None),) * len(lead) + window] = planes
        return dg

    @staticmethod
    def _plane(size: tuple[int, ...]) -> tuple[int, int]:
        return (1, size[0]) if len(size) == 1 else (size[-2], size[-1])


class SelectiveScan:
    """`selective_scan` and its vjp over one kernel module.

    `contiguous` kernels want C-contiguous sequences, the others take any strides; `extra` gives the arguments only this
    module's kernels have.
    """

    def __init__(self, kernels: Any, *, contiguous: bool, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.contiguous = contiguous
        self.extra = extra

    def forward(
        self,
        u: Array,
        delta: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        z: Array | None,
        delta_bias: Array | None,
        initial_state: Array | None,
        *,
        delta_softplus: bool,
        discretization: str,
        channel_first: bool,
        keep_checkpoints: bool,
        num_threads: int,
    ) -> tuple[Array, Array, Array | None]:
        dtype = compute_dtype(u.dtype)
        batch, seqlen, dim = u.shape
        dstate = A.shape[1]
        wide_u, delta, B, C, z = cast(dtype, u, delta, B, C, z, contiguous=self.contiguous)
        A, D, delta_bias, initial_state = cast(dtype, A, D, delta_bias, initial_state, contiguous=True)
        out = empty_sequence(u.shape, dtype, channel_first and not self.contiguous)
        last_state = empty((batch, dim, dstate), dtype)
        checkpoints = empty((batch, -(-seqlen // CHECKPOINT_STEPS), dstate, dim), dtype) if keep_checkpoints else None
        self.kernels.selective_scan_fwd(
            wide_u,
            delta,
            A,
            *split(B),
            *split(C),
            D,
            z,
            delta_bias,
            initial_state,
            out,
            last_state,
            checkpoints,
            self.kernels.DISCRETIZATIONS.index(discretization),
            delta_softplus,
            num_threads,
            *self.extra(),
        )
        return out.astype(u.dtype, copy=False), last_state, checkpoints

    def step(
        self,
        state: Array,
        x: Array,
        dt: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        z: Array | None,
        dt_bias: Array | None,
        *,
        dt_softplus: bool,
        discretization: str,
        num_threads: int,
    ) -> Array:
        """One step of `forward` on `state` (batch, dim, dstate), in place, without its copies.

        All of one dtype, float32 or float64; x, dt, z (batch, dim), B, C (batch, ngroups, dstate), of any strides, the others
        contiguous. A unit of the kernels reads its channels' states before it writes them, and no other unit reads them.
        """
        out = np.empty(x.shape, x.dtype)
        self.kernels.selective_scan_fwd(
            x[:, None],
            dt[:, None],
            A,
            B[:, None],
            None,
            C[:, None],
            None,
            D,
            None if z is None else z[:, None],
            dt_bias,
            state,
            out[:, None],
            state,
            None,
            self.kernels.DISCRETIZATIONS.index(discretization),
            dt_softplus,
            num_threads,
            *self.extra(),
        )
        return out

    def backward(
        self,
        dout: Array,
        dlast_state: Array | None,
        u: Array,
        delta: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        z: Array | None,
        delta_bias: Array | None,
        initial_state: Array | None,
        checkpoints: Array | None,
        *,
        delta_softplus: bool,
        discretization: str,
        channel_first: bool,
        num_threads: int,
    ) -> tuple[Array | None, ...]:
        dtype = compute_dtype(u.dtype)
        batch, seqlen, dim = u.shape
        if checkpoints is None:
            _, _, checkpoints = self.forward(
                u,
                delta,
                A,
                B,
                C,
                D,
                z,
                delta_bias,
                initial_state,
                delta_softplus=delta_softplus,
                discretization=discretization,
                channel_first=channel_first,
                keep_checkpoints=True,
                num_threads=num_threads,
            )
        wide_u, delta, B, C, z, dout = cast(dtype, u, delta, B, C, z, dout, contiguous=self.contiguous)
        A, D, delta_bias, dlast_state = cast(dtype, A, D, delta_bias, dlast_state, contiguous=True)
        ngroups = next((m.shape[2] for m in (B, C) if m.ndim == 4), 1)
        parts = self.kernels.parts_of(batch, seqlen)
        nblocks = -(-(dim // ngroups) // self.kernels.block_of(dim // ngroups, parts * ngroups))
        transposed = channel_first and not self.contiguous
        du, ddelta = (empty_sequence(u.shape, dtype, transposed) for _ in range(2))
        dz = None if z is None else empty_sequence(u.shape, dtype, transposed)
        dB, dC = MatrixGradient.like(B, parts, nblocks), MatrixGradient.like(C, parts, nblocks)
        dA, dinitial_state = (empty((n, *A.shape), dtype) for n in (parts, batch))
        dD = None if D is None else empty((parts, dim), dtype)
        ddelta_bias = None if delta_bias is None else empty((parts, dim), dtype)
        self.kernels.selective_scan_bwd(
            dout,
            dlast_state,
            wide_u,
            delta,
            A,
            *split(B),
            *split(C),
            D,
            z,
            delta_bias,
            checkpoints,
            du,
            ddelta,
            dA,
            *dB,
            *dC,
            dD,
            dz,
            ddelta_bias,
            dinitial_state,
            self.kernels.DISCRETIZATIONS.index(discretization),
            delta_softplus,
            num_threads,
            *self.extra(),
        )
        grads = (
            du,
            ddelta,
            _sum_first(dA),
            dB.total(),
            dC.total(),
            None if dD is None else _sum_first(dD),
            dz,
            None if ddelta_bias is None else _sum_first(ddelta_bias),
            dinitial_state,
        )
        return tuple(None if g is None else g.astype(u.dtype, copy=False) for g in grads)


class SS2D:
    """`ss2d` and its vjp over a kernel module that walks a grid as it lies."""

    def __init__(self, kernels: Any, *, extra: Callable[[], tuple[int, ...]]) -> None:
        self.kernels = kernels
        self.extra = extra

    @staticmethod
    def _positions(dtype: np.dtype[Any], *grids: Array) -> list[Any]:
        """(batch, height, width, ...) as (batch, position, ...), a copy only where strides or dtype ask for one."""
        wide = cast(dtype, *grids)
        return [g.reshape(g.shape[0], g.shape[1] * g.shape[2], *g.shape[3:]) for g in wide]

    def forward(
        self,
        x: Array,
        delta: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        delta_bias: Array | None,
        *,
        delta_softplus: bool,
        discretization: str,
        keep_checkpoints: bool,
        num_threads: int,
    ) -> tuple[Array, Array | None]:
        dtype = compute_dtype(x.dtype)
        (batch, height, width, dim), dstate = x.shape, A.shape[-1]
        out = empty(x.shape, dtype)
        checkpoints = None
        if keep_checkpoints:
            chunks = -(-height * width // CHECKPOINT_STEPS)
            checkpoints = empty((len(DIRECTIONS), batch, chunks, dstate, dim), dtype)
        wide_x, delta, B, C, out_positions = self._positions(dtype, x, delta, B, C, out)
        A, D, delta_bias = cast(dtype, A, D, delta_bias, contiguous=True)
        self.kernels.ss2d_fwd(
            wide_x,
            delta,
            A,
            B,
            C,
            D,
            delta_bias,
            out_positions,
            checkpoints,
            width,
            self.kernels.DISCRETIZATIONS.index(discretization),
            delta_softplus,
            num_threads,
            *self.extra(),
        )
        return out.astype(x.dtype, copy=False), checkpoints

    def backward(
        self,
        dout: Array,
        x: Array,
        delta: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        delta_bias: Array | None,
        checkpoints: Array | None,
        *,
        delta_softplus: bool,
        discretization: str,
        num_threads: int,
    ) -> tuple[Array | None, ...]:
        dtype = compute_dtype(x.dtype)
        if checkpoints is None:
            _, checkpoints = self.forward(
                x,
                delta,
                A,
                B,
                C,
                D,
                delta_bias,
                delta_softplus=delta_softplus,
                discretization=discretization,
                keep_checkpoints=True,
                num_threads=num_threads,
            )
        (batch, height, width, dim), k = x.shape, len(DIRECTIONS)
        parts = self.kernels.parts_of(batch, height * width)
        # no block where there is no channel: the sum over none of them is the zero gradient
        nblocks = -(-dim // self.kernels.block_of(dim, parts))
        dx, ddelta = empty(x.shape, dtype), empty(delta.shape, dtype)
        dB, dC = (empty((nblocks, *matrix.shape), dtype) for matrix in (B, C))
        # zeros, which stay where the grid has no position
        dA = np.zeros((parts, *A.shape), dtype)
        dD = None if D is None else np.zeros((parts, k, dim), dtype)
        dbias = None if delta_bias is None else np.zeros((parts, k, dim), dtype)
        wide_dout, wide_x, delta, B, C, dx_positions, ddelta_positions = self._positions(
            dtype, dout, x, delta, B, C, dx, ddelta
        )
        A, D, delta_bias = cast(dtype, A, D, delta_bias, contiguous=True)
        self.kernels.ss2d_bwd(
            wide_dout,
            wide_x,
            delta,
            A,
            B,
            C,
            D,
            delta_bias,
            checkpoints,
            dx_positions,
            ddelta_positions,
            dA,
            dB.reshape(nblocks, *B.shape),
            dC.reshape(nblocks, *C.shape),
            dD,
            dbias,
            width,
            self.kernels.DISCRETIZATIONS.index(discretization),
            delta_softplus,
            num_threads,
            *self.extra(),
        )
        sums = (None if part is None else _sum_first(part) for part in (dA, dB, dC, dD, dbias))
        grads = (dx, ddelta, *sums)
        return tuple(None if g is None else g.astype(x.dtype, copy=False) for g in grads)


class CausalConv1d:
    """`causal_conv1d` and its vjp over one kernel module; `contiguous` and `extra` as for `SelectiveScan`."""

    def __init__(self, kernels: Any, *, contiguous: bool, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.contiguous = contiguous
        self.extra = extra

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        initial_states: Array | None,
        *,
        silu: bool,
        channel_first: bool,
        num_threads: int,
    ) -> Array:
        dtype = compute_dtype(x.dtype)
        (wide_x,) = cast(dtype, x, contiguous=self.contiguous)
        weight, bias, initial_states = cast(dtype, weight, bias, initial_states, contiguous=True)
        out = empty_sequence(x.shape, dtype, channel_first and not self.contiguous)
        self.kernels.causal_conv1d_fwd(wide_x, weight, bias, initial_states, out, silu, num_threads, *self.extra())
        return out.astype(x.dtype, copy=False)

    def step(self, x: Array, past: Array, weight: Array, bias: Array | None, *, silu: bool, num_threads: int) -> Array:
        """One step of `forward` after `past` (batch, dim, taps - 1): x (batch, dim), all of one dtype, float32 or float64, and
        contiguous but for x."""
        out = np.empty(x.shape, x.dtype)
        self.kernels.causal_conv1d_fwd(x[:, None], weight, bias, past, out[:, None], silu, num_threads, *self.extra())
        return out

    def backward(
        self,
        dout: Array,
        x: Array,
        weight: Array,
        bias: Array | None,
        initial_states: Array | None,
        *,
        silu: bool,
        channel_first: bool,
        num_threads: int,
    ) -> tuple[Array, Array, Array | None, Array]:
        dtype = compute_dtype(x.dtype)
        batch, _, dim = x.shape
        wide_dout, wide_x = cast(dtype, dout, x, contiguous=self.contiguous)
        weight, bias, initial_states = cast(dtype, weight, bias, initial_states, contiguous=True)
        dx = empty_sequence(x.shape, dtype, channel_first and not self.contiguous)
        # zeros, which stay where the sequence has no step
        dweight, dinitial = (np.zeros((batch, dim, n), dtype) for n in (weight.shape[1], weight.shape[1] - 1))
        dbias = None if bias is None else np.zeros((batch, dim), dtype)
        self.kernels.causal_conv1d_bwd(
            wide_dout,
            wide_x,
            weight,
            bias,
            initial_states,
            dx,
            dweight,
            dbias,
            dinitial,
            silu,
            num_threads,
            *self.extra(),
        )
        if dbias is not None:
            dbias = _sum_first(dbias).astype(x.dtype, copy=False)
        dx, dweight, dinitial = (g.astype(x.dtype, copy=False) for g in (dx, _sum_first(dweight), dinitial))
        return dx, dweight, dbias, dinitial


class ChunkScan:
    """`chunk_scan` and its vjp over one kernel module; `contiguous` and `extra` as for `SelectiveScan`."""

    def __init__(self, kernels: Any, *, contiguous: bool, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.contiguous = contiguous
        self.extra = extra

    def _rows(self, dtype: np.dtype[Any], *arrays: Array) -> list[Any]:
        """The arrays as `dtype`, their last axis in one piece."""
        found = cast(dtype, *arrays, contiguous=self.contiguous)
        return [a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a) for a in found]

    @staticmethod
    def _block(batch: int, nheads: int, ngroups: int) -> int:
        """Heads a unit covers: few enough that there are units to share out, else several, which share the product of C and B."""
        return max(1, min(4, batch * nheads // 8, nheads // ngroups))

    def forward(
        self,
        x: Array,
        dt: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        initial_states: Array | None,
        starts: Array | None,
        *,
        keep_states: bool,
        num_threads: int,
    ) -> tuple[Array, Array, Array | None]:
        dtype = compute_dtype(x.dtype)
        batch, seqlen, nheads, headdim = x.shape
        ngroups, dstate = B.shape[2:]
        shape = (batch, -(-seqlen // CHECKPOINT_STEPS), nheads, dstate, headdim)
        states = empty(shape, dtype) if keep_states else None
        out, last = empty(x.shape, dtype), empty((batch, nheads, headdim, dstate), dtype)
        if out.size == 0:
            last[...] = 0 if initial_states is None else initial_states
        else:
            starts = None if starts is None else np.ascontiguousarray(starts)
            wide_x, wide_B, wide_C = self._rows(dtype, x, B, C)
            dt, A, D, initial_states = cast(dtype, dt, A, D, initial_states, contiguous=True)
            self.kernels.chunk_scan_fwd(
                wide_x,
                dt,
                A,
                wide_B,
                wide_C,
                D,
                initial_states,
                starts,
                out,
                last,
                states,
                self._block(batch, nheads, ngroups),
                num_threads,
                *self.extra(),
            )
        return out.astype(x.dtype, copy=False), last, states

    def backward(
        self,
        dout: Array,
        dfinal_states: Array | None,
        x: Array,
        dt: Array,
        A: Array,
        B: Array,
        C: Array,
        D: Array | None,
        initial_states: Array | None,
        starts: Array | None,
        states: Array | None,
        *,
        num_threads: int,
    ) -> tuple[Array | None, ...]:
        dtype = compute_dtype(x.dtype)
        batch, _, nheads, headdim = x.shape
        ngroups, dstate = B.shape[2:]
        if states is None:
            _, _, states = self.forward(
                x, dt, A, B, C, D, initial_states, starts, keep_states=True, num_threads=num_threads
            )
        block = self._block(batch, nheads, ngroups)
        nblocks = -(-(nheads // ngroups) // block)
        dx, ddt = empty(x.shape, dtype), empty(dt.shape, dtype)
        dA, dB, dC = (empty((n, *a.shape), dtype) for n, a in ((batch, A), (nblocks, B), (nblocks, C)))
        dD = None if D is None else empty((batch, nheads, headdim), dtype)
        dinitial = empty((batch, nheads, headdim, dstate), dtype)
        if dx.size == 0:
            for gradient in (ddt, dA, dB, dC, *([] if dD is None else [dD])):
                gradient[...] = 0
            dinitial[...] = 0 if dfinal_states is None else dfinal_states
        else:
            starts = None if starts is None else np.ascontiguousarray(starts)
            wide_dout, wide_x, wide_B, wide_C = self._rows(dtype, dout, x, B, C)
            wide_dt, wide_A, wide_D, dfinal_states = cast(dtype, dt, A, D, dfinal_states, contiguous=True)
            self.kernels.chunk_scan_bwd(
                wide_dout,
                dfinal_states,
                wide_x,
                wide_dt,
                wide_A,
                wide_B,
                wide_C,
                wide_D,
                starts,
                states,
                dx,
                ddt,
                dA,
                dB,
                dC,
                dD,
                dinitial,
                block,
                num_threads,
                *self.extra(),
            )
        grads = (
            dx,
            ddt,
            _sum_first(dA),
            _sum_first(dB),
            _sum_first(dC),
            None if dD is None else _sum_first(dD),
            dinitial,
        )
        return tuple(None if g is None else g.astype(x.dtype, copy=False) for g in grads)


class DepthwiseConv2d:
    """`depthwise_conv2d` and its vjp over one kernel module; `contiguous` and `extra` as for `SelectiveScan`."""

    def __init__(self, kernels: Any, *, contiguous: bool, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.contiguous = contiguous
        self.extra = extra

    def forward(self, x: Array, weight: Array, bias: Array | None, *, silu: bool, num_threads: int) -> Array:
        dtype = compute_dtype(x.dtype)
        (wide_x,) = cast(dtype, x, contiguous=self.contiguous)
        weight, bias = cast(dtype, weight, bias, contiguous=True)
        out = empty(x.shape, dtype)
        self.kernels.depthwise_conv2d_fwd(wide_x, weight, bias, out, silu, num_threads, *self.extra())
        return out.astype(x.dtype, copy=False)

    def backward(
        self, dout: Array, x: Array, weight: Array, bias: Array | None, *, silu: bool, num_threads: int
    ) -> tuple[Array, Array, Array | None]:
        dtype = compute_dtype(x.dtype)
        wide_dout, wide_x = cast(dtype, dout, x, contiguous=self.contiguous)
        weight, bias = cast(dtype, weight, bias, contiguous=True)
        dx = empty(x.shape, dtype)
        # zeros, which stay where the grid has no position
        dweight = np.zeros((x.shape[0], *weight.shape), dtype)
        dbias = None if bias is None else np.zeros((x.shape[0], *bias.shape), dtype)
        self.kernels.depthwise_conv2d_bwd(
            wide_dout, wide_x, weight, bias, dx, dweight, dbias, silu, num_threads, *self.extra()
        )
        if dbias is not None:
            dbias = _sum_first(dbias).astype(x.dtype, copy=False)
        return dx.astype(x.dtype, copy=False), _sum_first(dweight).astype(x.dtype, copy=False), dbias


class AttentionGate:
    """`attention_gate` and its vjp over the passes of one kernel module; `contiguous` and `extra` as for `SelectiveScan`."""

    def __init__(self, kernels: Any, *, contiguous: bool, extra: Callable[[], tuple[int, ...]] = tuple) -> None:
        self.kernels = kernels
        self.contiguous = contiguous
        self.extra = extra

    def forward(
        self,
        x: Array,
        theta: Array,
        phi: Array,
        theta_weight: Array,
        phi_weight: Array,
        shift: Array,
        psi: Array,
        psi_weight: Array,
        psi_shift: Array,
        statistics: Array | None,
        *,
        eps: float,
        num_threads: int,
    ) -> tuple[Array, Array, Array]:
        dtype = compute_dtype(x.dtype)
        wide_x, wide_theta, window = self._grids(dtype, x, theta, phi[centre(phi, theta)])
        rows = _strip_rows(theta)
        common = (rows, num_threads, *self.extra())
        used = np.empty((2 * theta.shape[3] + 1, 2))
        if statistics is None:
            counts, partial = _strips(theta, rows, dtype)
            self.kernels.moments(wide_theta, window, partial, *common)
            used[:-1] = _joined_moments(partial, counts)
        else:
            used[:] = statistics
        coefficients = _coefficients(used, theta_weight, phi_weight, shift, psi, eps)
        q, out = empty(theta.shape[:3], dtype), empty(x.shape, dtype)
        self.kernels.compare(wide_theta, window, coefficients.astype(dtype), q, *common)
        if statistics is None:
            mean = q.mean(dtype=np.float64)
            used[-1] = mean, np.square(q - mean).mean(dtype=np.float64)
        gain = float(psi_weight[0]) / np.sqrt(used[-1, 1] + eps)
        self.kernels.apply(wide_x, q, gain, float(psi_shift[0]) - gain * used[-1, 0], out, *common)
        return out.astype(x.dtype, copy=False), q, used.astype(dtype)

    def backward(
        self,
        dout: Array,
        x: Array,
        theta: Array,
        phi: Array,
        theta_weight: Array,
        phi_weight: Array,
        shift: Array,
        psi: Array,
        psi_weight: Array,
        psi_shift: Array,
        statistics: Array,
        q: Array,
        *,
        given: bool,
        eps: float,
        num_threads: int,
    ) -> tuple[Array, ...]:
        """`given`: the statistics were, so that no gradient goes through them."""
        dtype, dim = compute_dtype(x.dtype), theta.shape[3]
        wide_dout, wide_x, wide_theta, window = self._grids(dtype, dout, x, theta, phi[centre(phi, theta)])
        (wide_q,) = cast(dtype, q, contiguous=True)
        rows = _strip_rows(theta)
        common = (rows, num_threads, *self.extra())
        used = statistics.astype(np.float64)
        deviation = np.sqrt(used[:, 1] + eps)
        gain = float(psi_weight[0]) / deviation[-1]
        dx, dm = empty(x.shape, dtype), empty(q.shape, dtype)
        offset = float(psi_shift[0]) - gain * used[-1, 0]
        self.kernels.retract(wide_dout, wide_x, wide_q, gain, offset, dx, dm, *common)
        q_hat = (wide_q - used[-1, 0]) / deviation[-1]
        dpsi_shift, dpsi_weight = dm.sum(dtype=np.float64), (dm * q_hat).sum(dtype=np.float64)
        # the mean over no position is never used
        positions = max(q.size, 1)
        dq = dm if given else dm - dpsi_shift / positions - q_hat * (dpsi_weight / positions)
        dq = np.ascontiguousarray(dq * gain, dtype=dtype)
        coefficients = _coefficients(used, theta_weight, phi_weight, shift, psi, eps)
        _, partial = _strips(theta, rows, dtype)
        self.kernels.sums(wide_theta, window, coefficients.astype(dtype), dq, partial, *common)
        da, da_theta, da_phi, dpsi = partial.sum(axis=0, dtype=np.float64)
        if not given:
            means, covariances = np.tile(da / positions, (2, 1)), np.stack([da_theta, da_phi]) / positions
            scales, variances = coefficients[:2], used[:-1, 1].reshape(2, dim) + eps
            coefficients[6::2] = -scales * means
            coefficients[7::2] = -scales * covariances / variances
        dtheta = empty(theta.shape, dtype)
        dphi = (empty if phi.shape == theta.shape else np.zeros)(phi.shape, dtype)
        dwindow = dphi[centre(phi, theta)]
        written = empty(theta.shape, dtype) if self.contiguous else dwindow
        self.kernels.spread(wide_theta, window, coefficients.astype(dtype), dq, dtheta, written, *common)
        if self.contiguous:
            dwindow[:] = written
        sums = (da_theta / deviation[:dim], da_phi / deviation[dim:-1], da, dpsi)
        ends = (np.array([dpsi_weight]), np.array([dpsi_shift]))
        return tuple(g.astype(x.dtype, copy=False) for g in (dx, dtheta, dphi, *sums, *ends))

    def _grids(self, dtype: np.dtype[Any], *grids: Array) -> list[Array]:
        """As `dtype`, with channels that are adjacent, or contiguous where the kernels want that."""
        wide = cast(dtype, *grids, contiguous=self.contiguous)
        return [g if g.shape[-1] < 2 or g.strides[-1] == g.itemsize else np.ascontiguousarray(g) for g in wide]


def _strip_rows(grid: Array) -> int:
    """Rows of (batch, height, width, dim) that make a unit of work: some 500 positions. Sums depend on nothing else."""
    width: int = grid.shape[2]
    return max(1, 512 // max(width, 1))


def _strips(grid: Array, rows: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Positions of each strip, and unset memory (strips, 4, dim) for its sums."""
    batch, height, width, dim = grid.shape
    heights = np.minimum(rows, height - np.arange(0, height, rows))
    counts = np.tile(heights * width, batch)
    return counts, empty((len(counts), 4, dim), dtype)


def _joined_moments(partial: Array, counts: Array) -> Array:
    """(2 dim, 2): mean and variance of theta and phi from each strip's mean and sum of squares about it."""
    means, squares = partial[:, ::2].astype(np.float64), partial[:, 1::2].astype(np.float64)
    share = (counts / counts.sum())[:, None, None]
    mean = (share * means).sum(axis=0)
    variance = squares.sum(axis=0) / counts.sum() + (share * (means - mean) ** 2).sum(axis=0)
    return np.stack([mean.ravel(), variance.ravel()], axis=1)


def _coefficients(
    statistics: Array, theta_weight: Array, phi_weight: Array, shift: Array, psi: Array, eps: float
) -> Array:
    """Rows of attention_gate.h; those of gradients through statistics are 0."""
    dim = len(shift)
    (mean_theta, var_theta), (mean_phi, var_phi) = statistics[:dim].T, statistics[dim:-1].T
    rows = np.zeros((10, dim))
    rows[0], rows[1] = theta_weight / np.sqrt(var_theta + eps), phi_weight / np.sqrt(var_phi + eps)
    rows[2] = shift - rows[0] * mean_theta - rows[1] * mean_phi
    rows[3], rows[4], rows[5] = psi, mean_theta, mean_phi
    return rows


def empty_sequence(shape: tuple[int, ...], dtype: np.dtype[Any], channel_first: bool) -> Array:
    """Unset (batch, seqlen, dim), contiguous as (batch, dim, seqlen) where `channel_first`."""
    if channel_first:
        return empty((shape[0], shape[2], shape[1]), dtype).swapaxes(1, 2)
    return empty(shape, dtype)


def _sum_first(parts: Array) -> Array:
    """The sum over the first axis, without a copy where it has one entry."""
    total: Array = parts[0] if len(parts) == 1 else parts.sum(axis=0)
    return total
