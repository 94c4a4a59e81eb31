"""Selective scan: the recurrence of Mamba, forward and vector-Jacobian product. Derivation: selective_scan.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backends
from .._conventions import CHECKPOINT_STEPS
from .._spec import Argument, ArgumentTypeError, Case, Cases, OpSpec, Output, Sizes, Tolerance
from ..backends._threads import resolve

Array = NDArray[Any]
ENTRIES = ("selective_scan_fwd", "selective_scan_bwd")


class SelectiveScanGradients(NamedTuple):
    """Gradients in the shapes of the arguments; None for an argument that was not given."""

    u: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    z: Array | None
    delta_bias: Array | None
    initial_state: Array


def make_case(
    rng: np.random.Generator,
    dtype: Any,
    *,
    batch: int = 2,
    dim: int = 6,
    seqlen: int = 17,
    dstate: int = 4,
    ngroups: int | None = None,
    constant_B: bool = False,
    constant_C: bool = False,
    uniform_A: bool = False,
    complex_A: bool = False,
    extras: bool = True,
    layout: str = "bdl",
    **options: Any,
) -> Case:
    """Arguments of realistic size: A negative, steps near those of a trained model. `uniform_A`: the same for all states. `complex_A`: so are
    B, C and the initial state."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    def sequence() -> Array:
        return normal(batch, dim, seqlen) if layout == "bdl" else normal(batch, seqlen, dim)

    def matrix(constant: bool) -> Array:
        if constant:
            return normal(dim, dstate)
        if ngroups is None:
            return normal(batch, dstate, seqlen) if layout == "bdl" else normal(batch, seqlen, dstate)
        return normal(batch, ngroups, dstate, seqlen) if layout == "bdl" else normal(batch, seqlen, ngroups, dstate)

    softplus = options.get("delta_softplus", False)
    delta = sequence() - 2 if softplus else np.exp(sequence() - 3)
    case: Case = {
        "u": sequence(),
        "delta": delta.astype(dtype),
        "A": -np.exp(rng.uniform(-1, 2, (dim, 1 if uniform_A else dstate))).astype(dtype) * np.ones((1, dstate), dtype),
        "B": matrix(constant_B),
        "C": matrix(constant_C),
    }
    if extras:
        bias = 0.1 * normal(dim)
        case |= {"D": normal(dim), "z": sequence(), "delta_bias": bias if softplus else abs(bias)}
        case["initial_state"] = normal(batch, dim, dstate)
    if complex_A:
        wide = np.result_type(dtype, np.complex64)
        for name in {"A", "B", "C", "initial_state"} & set(case):
            case[name] = (case[name] + 1j * normal(*case[name].shape)).astype(wide)
    return case | {"layout": layout} | options


_cases = Cases(make_case, batch=2, dim=6, seqlen=5, dstate=4, extras=False)
_sample, _broken = _cases.sample, _cases.broken

SPEC = OpSpec(
    name="selective_scan",
    summary="h[t] = A_bar h[t-1] + B_bar u[t], y[t] = C[t] h[t] + D u[t], delta, B, C depending on time; gated by silu(z)",
    formula="delta + bias → softplus → h[t] = A_bar h[t-1] + B_bar u[t] → y = C h → + D u → · silu(z)",
    source="Mamba-AHNet III-B eq. 2; Gu and Dao, Mamba, algorithm 2",
    entries=ENTRIES,
    arguments=(
        Argument("u", ("batch seqlen dim",), "input"),
        Argument("delta", ("batch seqlen dim",), "step, before bias and softplus"),
        Argument("A", ("dim dstate",), "diagonal of the system matrix"),
        Argument("B", ("batch seqlen ngroups dstate", "batch seqlen dstate", "dim dstate"), "input matrix"),
        Argument("C", ("batch seqlen ngroups dstate", "batch seqlen dstate", "dim dstate"), "output matrix"),
        Argument("D", ("dim",), "skip", optional=True),
        Argument("z", ("batch seqlen dim",), "gate, through SiLU", optional=True),
        Argument("delta_bias", ("dim",), "added to delta", optional=True),
        Argument("initial_state", ("batch dim dstate",), "state before the first step", optional=True),
    ),
    outputs=(
        Output("out", "batch seqlen dim"),
        Output("last_state", "batch dim dstate", wide=True),
        Output("checkpoints", "batch chunks dstate dim", wide=True, kept=True, public=False),
    ),
    options={"discretization": ("mamba", "bilinear", "zoh"), "layout": ("bdl", "bld")},
    forward=Tolerance(
        float32=4e-6,
        float64=1e-13,
        reason="a state sums over the steps it remembers; each adds about one rounding of A_bar and one of h, 2^-24 each, and "
        "the read-out adds dstate more; 64 roundings bound what the samples reach",
    ),
    gradient=Tolerance(
        float32=2e-5,
        float64=1e-12,
        reason="two recurrences in sequence, and sums over time, batch and channels of terms of either sign",
    ),
    samples=(
        _sample("plain", extras=False),
        _sample("everything", delta_softplus=True),
        _sample("channel-last", layout="bld", delta_softplus=True),
        _sample("bilinear", discretization="bilinear"),
        _sample("zoh", discretization="zoh"),
        _sample("groups", ngroups=3, dim=12),
        _sample("groups, channel-last", ngroups=2, dim=10, layout="bld"),
        _sample("one channel a group", ngroups=6),
        _sample("constant B", constant_B=True),
        _sample("constant C", constant_C=True, ngroups=2),
        _sample("constant both", constant_B=True, constant_C=True, discretization="bilinear"),
        _sample("no step", seqlen=0),
        _sample("one step", seqlen=1),
        _sample("past one chunk", seqlen=65, dim=3, dstate=2),
        _sample("two chunks", seqlen=128, dim=3, dstate=1, discretization="zoh"),
        _sample("past a lane", dim=17, dstate=3),
        _sample("past a block", dim=131, dstate=1, seqlen=5),
        _sample("past a wide block", batch=9, dim=400, dstate=2, seqlen=33),
        _sample("wide state", dim=5, dstate=37, discretization="bilinear"),
        _sample("16 states", dim=33, dstate=16, seqlen=70, delta_softplus=True),
        _sample("uniform A", uniform_A=True, dim=33, dstate=16, seqlen=70, delta_softplus=True),
        _sample("uniform A, bilinear", uniform_A=True, dim=17, dstate=9, discretization="bilinear"),
        _sample("complex A", complex_A=True, delta_softplus=True),
        _sample("complex A, zoh, groups", complex_A=True, discretization="zoh", ngroups=3, dim=12, layout="bld"),
        _sample("complex A, bilinear, constant B and C", complex_A=True, discretization="bilinear", constant_B=True,
                constant_C=True, extras=False),
        _sample("no channel", dim=0),
        _sample("empty batch", batch=0),
    ),
    error_samples=(
        _broken("delta transposed", ("selective_scan: delta: expected shape (2, 6, 5) like u, got (2, 5, 6)", "layout"),
                delta=lambda rng: np.ones((2, 5, 6), np.float32)),
        _broken("A of another dim", ("selective_scan: A: expected shape (6, dstate) like u, got (7, 4)",),
                A=lambda rng: -np.ones((7, 4), np.float32)),
        _broken("groups that do not divide", ("selective_scan: B: expected", "divides dim = 6", "got 4"),
                B=lambda rng: np.ones((2, 4, 4, 5), np.float32)),
        _broken("groups of B alone", ("selective_scan: C: expected 3 groups like the other of B and C, got (2, 4, 5)",),
                B=lambda rng: np.ones((2, 3, 4, 5), np.float32)),
        _broken("C of another dstate", ("selective_scan: C: expected shape (2, 4, 5)", "got (2, 3, 5)"),
                C=lambda rng: np.ones((2, 3, 5), np.float32)),
        _broken("integer u", ("selective_scan: u: expected dtype", "got int64", "astype"), TypeError,
                u=lambda rng: np.ones((2, 6, 5), np.int64)),
        _broken("complex u", ("selective_scan: u: expected dtype", "got complex64"), TypeError,
                u=lambda rng: np.ones((2, 6, 5), np.complex64)),
        _broken("complex B of a real A", ("selective_scan: B: expected a real dtype like A", "got complex64", "A.astype"), TypeError,
                B=lambda rng: np.ones((2, 4, 5), np.complex64)),
        _broken("a list", ("selective_scan: u: expected a NumPy array, got list", "numpy.asarray"), TypeError, u=[1.0]),
        _broken("D of two axes", ("selective_scan: D: expected shape (6)", "got (6, 1)"),
                D=lambda rng: np.ones((6, 1), np.float32)),
        _broken("unknown discretization", ("selective_scan: discretization: expected one of 'mamba', 'bilinear', 'zoh', got 'euler'",),
                discretization="euler"),
        _broken("unknown layout", ("selective_scan: layout: expected one of 'bdl', 'bld', got 'ldb'",), layout="ldb"),
        _broken("no state", ("selective_scan: A: expected a dstate of at least 1, got shape (6, 0)",),
                A=lambda rng: np.ones((6, 0), np.float32)),
    ),
    benchmarks=(
        _sample("B1 D512 L4096 N16", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld"),
        _sample("B1 D512 L4096 N16 softplus D z", batch=1, dim=512, seqlen=4096, dstate=16, layout="bld", delta_softplus=True),
        _sample("B1 D512 L4096 N16 channel-first", batch=1, dim=512, seqlen=4096, dstate=16, extras=False),
        _sample("B1 D512 L4096 N16 uniform A", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld",
                uniform_A=True),
        _sample("B1 D512 L4096 N16 bilinear", batch=1, dim=512, seqlen=4096, dstate=16, extras=False, layout="bld",
                discretization="bilinear"),
        _sample("Mamba-130m: B1 D1536 L2048 N16 softplus D z", batch=1, dim=1536, seqlen=2048, dstate=16, delta_softplus=True),
        _sample("Mamba-130m decode step: B1 D1536 L1 N16 softplus D z", batch=1, dim=1536, seqlen=1, dstate=16,
                delta_softplus=True),
    ),
    derived={"chunks": lambda sizes: -(-sizes["seqlen"] // CHECKPOINT_STEPS)},
)  # fmt: skip


def canonical(name: str, x: Any, layout: str) -> Any:
    """A view of an argument as (batch, seqlen, dim), or (batch, seqlen, ngroups, dstate) for B and C."""
    if x is None:
        return None
    if name in ("B", "C"):
        if x.ndim == 3:
            x = x[:, None] if layout == "bdl" else x[:, :, None]
        if x.ndim == 4 and layout == "bdl":
            x = x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
        return x
    return x.swapaxes(1, 2) if name in ("u", "delta", "z", "out") and x.ndim == 3 and layout == "bdl" else x


def uncanonical(name: str, x: Any, layout: str, ndim: int) -> Any:
    """Inverse of `canonical` for a result, contiguous; `ndim` is that of the argument it belongs to."""
    if x is None:
        return None
    if name in ("B", "C"):
        if x.ndim == 4 and layout == "bdl":
            x = x.transpose(0, 2, 3, 1) if isinstance(x, np.ndarray) else x.permute(0, 2, 3, 1)
        if ndim == 3:
            x = x[:, 0] if layout == "bdl" else x[:, :, 0]
    elif name in ("u", "delta", "z", "out") and layout == "bdl":
        x = x.swapaxes(1, 2)
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


def checkpoint_shape(batch: int, dim: int, seqlen: int, dstate: int) -> tuple[int, int, int, int]:
    """Shape of the states kept for the backward pass: those before every CHECKPOINT_STEPS-th step."""
    return batch, -(-seqlen // CHECKPOINT_STEPS), dstate, dim


ARGUMENTS = tuple(argument.name for argument in SPEC.arguments)


def check(shapes: Mapping[str, tuple[int, ...] | None], *, discretization: str, layout: str) -> Sizes:
    """Sizes of the axes, from shapes in the caller's layout. Raises ArgumentError."""
    SPEC.check_option("discretization", discretization)
    SPEC.check_option("layout", layout)
    A = shapes["A"]
    if A is not None and len(A) == 2 and A[1] < 1:
        SPEC.fail("A", "a dstate of at least 1", f"shape {A}", "use a state of one entry and A = 0 for none")
    other = "bld" if layout == "bdl" else "bdl"
    in_layout = {"bdl": _BDL, "bld": SPEC}[layout]
    sizes = in_layout.check_shapes(shapes, hint=f'transpose it, or pass layout="{other}" for all of them')
    ngroups = sizes.setdefault("ngroups", 1)
    for name in ("B", "C"):
        rank = len(shapes[name] or ())
        if rank == 4 and (ngroups < 1 or sizes["dim"] % ngroups):
            expected = f"a number of groups that divides dim = {sizes['dim']}"
            SPEC.fail(name, expected, ngroups, "channel d reads group d // (dim // ngroups)")
        if rank == 3 and ngroups != 1:
            SPEC.fail(
                name, f"{ngroups} groups like the other of B and C", shapes[name], "repeat it along a groups axis"
            )
    return sizes


MAY_BE_COMPLEX = ("A", "B", "C", "initial_state")


def check_complex(dtypes: Mapping[str, Any], is_complex: Callable[[Any], bool]) -> None:
    """Raises ArgumentTypeError where a real A has complex company."""
    if dtypes["A"] is None or is_complex(dtypes["A"]):  # without A the shapes' check says so
        return
    for name, dtype in dtypes.items():
        if dtype is not None and is_complex(dtype):
            remedy = "make A complex too, A.astype(numpy.complex64), of which one of each pair of conjugates counts"
            SPEC.fail(name, f"a real dtype like A ({dtypes['A']})", dtype, remedy, kind=ArgumentTypeError)


def _case(A: Any) -> dict[str, bool]:
    """What the choice of a backend depends on."""
    return {"complex_too": True} if getattr(A, "dtype", None) in (np.complex64, np.complex128) else {}


def _channel_first(argument: Argument) -> Argument:
    shapes = {
        "batch seqlen dim": "batch dim seqlen",
        "batch seqlen dstate": "batch dstate seqlen",
        "batch seqlen ngroups dstate": "batch ngroups dstate seqlen",
    }
    return Argument(
        argument.name, tuple(shapes.get(s, s) for s in argument.shapes), argument.meaning, argument.optional
    )


_BDL = OpSpec(**{**vars(SPEC), "arguments": tuple(_channel_first(a) for a in SPEC.arguments)})


def _prepare(arrays: Mapping[str, Array | None], discretization: str, layout: str) -> tuple[Sizes, list[Any]]:
    shapes = SPEC.shapes_of(arrays, complex_too=MAY_BE_COMPLEX)
    check_complex({name: None if a is None else a.dtype for name, a in arrays.items()}, lambda dtype: dtype.kind == "c")
    sizes = check(shapes, discretization=discretization, layout=layout)
    return sizes, [canonical(name, arrays[name], layout) for name in ARGUMENTS]


def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    discretization: str = "mamba",
    initial_state: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> Any:
    """Selective scan, the recurrence of Mamba.

    ``h[t] = A_bar h[t-1] + B_bar u[t]``, ``y[t] = C[t] h[t] + D u[t]``, ``out = y silu(z)``, with delta + delta_bias, through
    softplus where asked (identity above 20), and

    - ``mamba``: A_bar = exp(delta A), B_bar = delta B
    - ``bilinear``: A_bar = (1 + delta A/2)/(1 - delta A/2), B_bar = delta B/(1 - delta A/2)
    - ``zoh``: A_bar = exp(delta A), B_bar = (exp(delta A) - 1)/A B

    Parameters
    ----------
    u, delta, z : (batch, dim, seqlen), or (batch, seqlen, dim) for layout "bld"
        Any strides. float32, float64, or float16 computed in float32.
    A : (dim, dstate)
        Diagonal, real; or complex, one of each pair of conjugates: then B, C and states may be complex too, and y takes twice the
        real part of C h. No compiled kernel runs a complex A.
    B, C : (dim, dstate) | (batch, dstate, seqlen) | (batch, ngroups, dstate, seqlen)
        For layout "bld": (dim, dstate) | (batch, seqlen, dstate) | (batch, seqlen, ngroups, dstate).
        Channel d reads group d // (dim // ngroups).
    D, delta_bias : (dim,)
    initial_state : (batch, dim, dstate)
        Zero where not given.
    return_last_state : bool
        Also return the state after the last step, (batch, dim, dstate); float32 where u is float16.
    num_threads : int
        Results are the same to the bit for any number. Default: torch's setting where torch is loaded, else the processors
        this process may use; SSMCORE_NUM_THREADS overrides both.
    backend : str
        A backend's name; it runs or raises. Default: the fastest that can, see `ssmcore.explain`.

    Returns
    -------
    out, or (out, last_state)
        out as u in shape and dtype, C-contiguous.

    Raises
    ------
    ArgumentError
        A shape, dtype or option is wrong; the message names argument, expectation, value and remedy.
    BackendError
        The backend named cannot run.

    Source: Mamba-AHNet, eq. 2 (whose x_k = A x_k is a misprint for x_{k-1}); Gu and Dao, Mamba, algorithm 2.

    Examples
    --------
    A decaying sum: one channel, one state, A_bar = 1/2.

    >>> import numpy as np, ssmcore
    >>> one = np.ones((1, 1, 3))
    >>> ssmcore.selective_scan(one, one, np.full((1, 1), -np.log(2)), one, one).round(6)
    array([[[1.  , 1.5 , 1.75]]])
    """
    arrays = dict(zip(ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    choice = backends.choose("selective_scan", ENTRIES, backend, **_case(A))
    _, views = _prepare(arrays, discretization, layout)
    out, last_state, _ = backends.entry(choice, "selective_scan_fwd")(
        *views,
        delta_softplus=bool(delta_softplus),
        discretization=discretization,
        channel_first=layout == "bdl",
        keep_checkpoints=False,
        num_threads=resolve(num_threads),
    )
    out = uncanonical("out", out, layout, 3)
    return (out, last_state) if return_last_state else out


def selective_scan_vjp(
    dout: Array,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    dlast_state: Array | None = None,
    discretization: str = "mamba",
    initial_state: Array | None = None,
    layout: str = "bdl",
    num_threads: int | None = None,
    backend: str | None = None,
) -> SelectiveScanGradients:
    """Vector-Jacobian product of `selective_scan`: gradients of sum(dout out) + sum(dlast_state last_state).

    Complex gradients are torch's: of a real function f, df/d(real part) + i df/d(imaginary part).

    Parameters
    ----------
    dout : as u
    dlast_state : (batch, dim, dstate)
        Zero where not given.
    Others as in `selective_scan`.

    Returns
    -------
    SelectiveScanGradients
        In the shapes of the arguments; that of initial_state also where none was given.

    Raises
    ------
    ArgumentError, BackendError
        As in `selective_scan`.

    Source: reverse-mode differentiation of eq. 2, see ops/selective_scan.md.
    """
    arrays = dict(zip(ARGUMENTS, (u, delta, A, B, C, D, z, delta_bias, initial_state), strict=True))
    choice = backends.choose("selective_scan", ENTRIES, backend, **_case(A))
    sizes, views = _prepare(arrays, discretization, layout)
    SPEC.check_dtype("dout", dout)
    if dout.shape != u.shape:
        SPEC.fail("dout", f"shape {u.shape} like u", dout.shape, "pass the gradient of the output as it came out")
    state_shape = (sizes["batch"], sizes["dim"], sizes["dstate"])
    if dlast_state is not None and dlast_state.shape != state_shape:
        SPEC.fail("dlast_state", f"shape {state_shape}", dlast_state.shape, "its axes are (batch, dim, dstate)")
    grads = backends.entry(choice, "selective_scan_bwd")(
        canonical("out", dout, layout),
        dlast_state,
        *views,
        None,
        delta_softplus=bool(delta_softplus),
        discretization=discretization,
        channel_first=layout == "bdl",
        num_threads=resolve(num_threads),
    )
    return SelectiveScanGradients(
        *(
            uncanonical(name, g, layout, 3 if (x := arrays[name]) is None else x.ndim)
            for name, g in zip(ARGUMENTS, grads, strict=True)
        )
    )
