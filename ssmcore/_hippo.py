"""Matrices that remember: HiPPO systems x' = A x + B u, and the diagonals S4D starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spec import check_count, check_option, fail

Array = NDArray[Any]
MEASURES = ("legs", "legt", "lagt", "fourier")
DIAGONALS = ("real", "lin", "inv", "legs")


def hippo(measure: str, dstate: int) -> tuple[Array, Array]:
    """A and B of the HiPPO system x' = A x + B u whose states are coefficients of the input's past.

    - ``legs``: Legendre polynomials P_n(2 e^-age - 1) of all the past, whose weight falls as e^-age; with A and B divided by t,
      of [0, t], whose moments all weigh the same
    - ``legt``: Legendre polynomials of the last unit of time
    - ``lagt``: Laguerre functions e^(-age/2) L_n(age) of all the past
    - ``fourier``: a constant, then cosines and sines of the last unit of time: 1, (nothing), cos 1, sin 1, cos 2, ...

    All are orthonormal. Time is in units of the window or of the decay: scale A and B by 1/length for another, or choose the
    step of `discretize` so.

    Parameters
    ----------
    measure : "legs", "legt", "lagt" or "fourier"
    dstate : number of states, at least 1; even for "fourier", in whose second place a sine of frequency 0 stays 0

    Returns
    -------
    A : (dstate, dstate) float64
    B : (dstate,) float64

    Raises
    ------
    ArgumentError
        A measure that is none of these, or a number of states that is not positive or, for "fourier", not even.

    Source: Gu et al., HiPPO (2020), theorems 1 to 3; Fourier from Gu et al., How to train your HiPPO (2022).

    Examples
    --------
    >>> import ssmcore
    >>> A, B = ssmcore.hippo("lagt", 2)
    >>> A.tolist(), B.tolist()
    ([[-0.5, 0.0], [-1.0, -0.5]], [1.0, 1.0])
    """
    check_option("hippo", "measure", measure, MEASURES)
    check_count("hippo", "dstate", dstate, 1, "states")
    n = np.arange(dstate)
    if measure == "lagt":
        return 0.5 * np.eye(dstate) - np.tri(dstate), np.ones(dstate)
    if measure == "fourier":
        if dstate % 2:
            fail("hippo", "dstate", "an even number for 'fourier'", dstate, f"pass {dstate + 1}")
        # cos' = -2 pi k sin and sin' = 2 pi k cos; what leaves the window is twice the series at its end, which is the mean of
        # both ends, less what enters
        turn = np.zeros((dstate, dstate))
        cosine, sine = n[2::2], n[3::2]
        turn[cosine, sine] = -np.pi * cosine
        turn[sine, cosine] = np.pi * cosine
        ends = np.where(n % 2 == 0, np.sqrt(2.0), 0.0)
        ends[0] = 1
        return turn - 2 * np.outer(ends, ends), 2 * ends
    root = np.sqrt(2 * n + 1.0)
    past = np.tril(np.outer(root, root), -1)
    if measure == "legs":
        return -past - np.diag(n + 1.0), root
    signs = np.where((n[:, None] - n) % 2, -1.0, 1.0)
    return -past - np.diag(root**2) - np.triu(signs * np.outer(root, root), 1), root


def s4d_diagonal(kind: str, dstate: int) -> Array:
    """The diagonal A that S4D starts from.

    - ``real``: -(n + 1), what Mamba starts from
    - ``lin``: -1/2 + i pi n
    - ``inv``: -1/2 + i (N/pi) (N/(2n + 1) - 1), N being 2 dstate
    - ``legs``: eigenvalues of the normal part of HiPPO-LegS of 2 dstate states, slowest first

    All but ``real`` are one of each pair of conjugates: a real output is twice the real part of their sum.

    Parameters
    ----------
    kind : "real", "lin", "inv" or "legs"
    dstate : number of entries, at least 1

    Returns
    -------
    A : (dstate,) float64 for "real", else complex128

    Raises
    ------
    ArgumentError
        A kind that is none of these, or a number of states that is not positive.

    Source: Gu et al., On the parameterization and initialization of diagonal state space models (2022), section 4.

    Examples
    --------
    >>> import ssmcore
    >>> ssmcore.s4d_diagonal("real", 3).tolist()
    [-1.0, -2.0, -3.0]
    """
    check_option("s4d_diagonal", "kind", kind, DIAGONALS)
    check_count("s4d_diagonal", "dstate", dstate, 1, "states")
    n = np.arange(dstate)
    if kind == "real":
        return -(n + 1.0)
    if kind == "lin":
        return -0.5 + 1j * np.pi * n
    if kind == "inv":
        full = 2 * dstate
        return -0.5 + 1j * (full / np.pi * (full / (2 * n + 1) - 1))
    A, B = hippo("legs", 2 * dstate)
    # A + B B^T/2 is -1/2 on the diagonal and skew beside it; i times the skew part is Hermitian
    skew = A + np.outer(B, B) / 2
    np.fill_diagonal(skew, 0)
    return -0.5 + 1j * np.linalg.eigvalsh(1j * skew)[dstate:]
