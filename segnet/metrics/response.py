"""Response of target lesions by RECIST 1.1 (Eisenhauer et al., Eur J Cancer 2009;45:228-247)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from segnet.errors import InputError

Category = Literal["CR", "PR", "SD", "PD", "NE"]
MOST_TARGETS, MOST_IN_ORGAN = 5, 2
MEASURABLE_MM, MEASURABLE_NODE_MM = 10.0, 15.0
NORMAL_NODE_MM = 10.0
TOO_SMALL_MM = 5.0
DECREASE, INCREASE, LEAST_INCREASE_MM = 0.30, 0.20, 5.0
ROUNDING_MM = 1e-6
"""A sum this close to a limit has reached it: ten times 0.7 mm is 7 mm."""
RULES = (
    "Sum of diameters: the long axis of each target, the short axis of a lymph node.",
    "At most 5 targets, at most 2 in an organ; lymph nodes are one organ.",
    "Measurable at baseline: a long axis of 10 mm or more, a node's short axis of 15 mm or more.",
    "CR: all targets are gone, and each node's short axis is below 10 mm.",
    "PR: the sum is 30 % or more below the baseline.",
    "PD: the sum is 20 % or more and 5 mm or more above the smallest sum so far, or a lesion is new. PD outranks PR.",
    "SD: neither. NE: a target was not evaluated, and there is no PD.",
    "A target that is seen but too small to measure counts 5 mm; one that is gone counts 0 mm.",
)


@dataclass(frozen=True)
class Target:
    """A target lesion at two time points.

    Attributes
    ----------
    name : for messages
    organ : for the limit of two; None where it is unknown
    node : a lymph node, whose diameters are short axes
    baseline_mm : diameter at baseline
    followup_mm : diameter now; 0 where it is gone, None where it was not evaluated
    too_small : it is seen now, but cannot be measured
    """

    name: str
    organ: str | None
    node: bool
    baseline_mm: float
    followup_mm: float | None
    too_small: bool = False

    @property
    def counted_mm(self) -> float | None:
        """The diameter now that enters the sum."""
        return TOO_SMALL_MM if self.too_small else self.followup_mm

    @property
    def gone(self) -> bool:
        """As complete response asks."""
        now = self.counted_mm
        return now is not None and (now < NORMAL_NODE_MM if self.node else now == 0)


@dataclass(frozen=True)
class Response:
    """Response of target lesions.

    Attributes
    ----------
    nadir_mm : the smallest sum before this time point, at most that of the baseline
    change_from_baseline, change_from_nadir : shares, +0.2 is 20 % more; None without a sum
    problems : departures from the rules, for the reader to judge
    """

    category: Category
    baseline_sum_mm: float
    followup_sum_mm: float | None
    nadir_mm: float
    change_from_baseline: float | None
    change_from_nadir: float | None
    change_from_nadir_mm: float | None
    new_lesions: int
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def target_response(targets: Sequence[Target], *, new_lesions: int = 0, nadir_mm: float | None = None) -> Response:
    """Target response by `RULES`.

    Parameters
    ----------
    targets : one or more
    new_lesions : that were not there at baseline
    nadir_mm : the smallest sum of all earlier time points; None: the baseline's. A larger one than the baseline's counts as that

    Raises
    ------
    InputError
        There is no target, or a length or number is below 0.

    Examples
    --------
    >>> target_response([Target("1", "lung", False, 20.0, 13.0), Target("2", "liver", False, 30.0, 22.0)]).category
    'PR'
    """
    if not targets:
        raise InputError("targets: expected at least one target lesion, got none; mark a lesion as target or node")
    lengths = [mm for target in targets for mm in (target.baseline_mm, target.followup_mm) if mm is not None]
    if not all(0 <= mm < 1e5 for mm in (*lengths, nadir_mm or 0.0)) or new_lesions < 0:
        raise InputError(
            f"targets: expected diameters and numbers of 0 or more, got {lengths}, {nadir_mm} and {new_lesions}; measure them again"
        )
    before = sum(target.baseline_mm for target in targets)
    now = [target.counted_mm for target in targets]
    seen = [mm for mm in now if mm is not None]
    whole = len(seen) == len(now)
    after = sum(seen)
    nadir = before if nadir_mm is None else min(nadir_mm, before)
    growth = after - nadir
    grown = growth >= LEAST_INCREASE_MM - ROUNDING_MM and growth >= INCREASE * nadir - ROUNDING_MM
    category: Category
    if new_lesions or grown:  # targets that were not evaluated could only add to the sum
        category = "PD"
    elif not whole:
        category = "NE"
    elif all(target.gone for target in targets):
        category = "CR"
    elif before - after >= DECREASE * before - ROUNDING_MM:
        category = "PR"
    else:
        category = "SD"
    return Response(
        category,
        before,
        after if whole else None,
        nadir,
        (after - before) / before if whole and before else None,
        growth / nadir if whole and nadir else None,
        growth if whole else None,
        new_lesions,
        tuple(_problems(targets)),
    )


def _problems(targets: Sequence[Target]) -> list[str]:
    found = []
    if len(targets) > MOST_TARGETS:
        found.append(f"{len(targets)} targets: RECIST 1.1 takes at most {MOST_TARGETS}")
    organs = Counter("lymph nodes" if target.node else target.organ for target in targets)
    found += [
        f"{number} targets in {organ}: RECIST 1.1 takes at most {MOST_IN_ORGAN} in an organ"
        for organ, number in organs.items()
        if organ is not None and number > MOST_IN_ORGAN
    ]
    for target in targets:
        least = MEASURABLE_NODE_MM if target.node else MEASURABLE_MM
        if target.baseline_mm < least - ROUNDING_MM:
            axis = "short axis" if target.node else "long axis"
            found.append(
                f"{target.name}: {axis} of {target.baseline_mm:.1f} mm at baseline, below the {least:g} mm of a measurable lesion"
            )
        if target.counted_mm is None:
            found.append(f"{target.name}: not evaluated at this time point")
    return found
