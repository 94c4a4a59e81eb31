"""Initial matrices of S4 and S4D: HiPPO systems x' = A x + B u, and diagonals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._spec import check_count, check_option, fail

Array = NDArray[Any]
MEASURES = ("legs", "legt", "lagt", "fourier")
DIAGONALS = ("real", "lin", "inv", "legs")


def hippo(measure: str, dstate: int) -> tuple[Array, Array]:
    """A and B of the HiPPO system x' = A x + B u. Its states are coefficients of the input's past.

    - ``legs``: Legendre polynomials P_n(2 e^-age - 1) of the whole past, weighted by e^-age. With A and B divided by t they
      belong to [0, t], with equal weights.
    - ``legt``: Legendre polynomials of the last unit of time
    - ``lagt``: Laguerre functions e^(-age/2) L_n(age) of the whole past
    - ``fourier``: a constant, then cosines and sines of the last unit of time: 1, (nothing), cos 1, sin 1, cos 2, ...

    All are orthonormal. The unit of time is the window or the decay. For another unit, scale A and B by 1/length, or the step of
    `discretize`.

    Parameters
    ----------
    measure : "legs", "legt", "lagt" or "fourier"
    dstate : number of states, at least 1; even for "fourier", whose second state, the sine of frequency 0, stays 0

    Returns
    -------
    A : (dstate, dstate) float64
    B : (dstate,) float64

    Raises
    ------
    ArgumentError
        The measure is unknown, or the number of states is not positive or, for "fourier", not even.

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
        # cos' = -2 pi k sin and sin' = 2 pi k cos. The series at the window's end is the mean of both ends of the input, so the
        # value that leaves is twice the series there, less the value that enters.
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
    """The initial diagonal A of S4D.

    - ``real``: -(n + 1), as in Mamba
    - ``lin``: -1/2 + i pi n
    - ``inv``: -1/2 + i (N/pi) (N/(2n + 1) - 1), N being 2 dstate
    - ``legs``: eigenvalues of the normal part of HiPPO-LegS of 2 dstate states, slowest first

    All but ``real`` hold one of each pair of conjugates: a real output is twice the real part of their sum.

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
        The kind is unknown, or the number of states is not positive.

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
