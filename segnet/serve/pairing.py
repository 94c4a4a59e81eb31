"""Two time points of the same patient: lesions that the reader paired, and their response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segnet.metrics.response import RULES, Target, target_response
from segnet.serve.lesions import StoredLesion

Pair = tuple[StoredLesion | None, StoredLesion | None]


def response_of(pairs: Sequence[Pair], *, nadir_mm: float | None = None) -> dict[str, Any]:
    """The response of the target lesions among the pairs.

    A pair without a baseline is a new lesion, one without a follow-up is gone, and one whose mask is empty now is too small to measure.

    Raises
    ------
    InputError
        No pair is a target at baseline.
    """
    targets, shown, problems = [], [], []
    new = 0
    for number, (baseline, followup) in enumerate(pairs, 1):
        either = baseline or followup
        assert either is not None
        name = either.facts["name"] or f"lesion {number}"
        if baseline is None:
            new += 1
            shown.append({**_row(name, either), "followup_mm": _diameter(either), "note": "new lesion"})
            continue
        if baseline.facts["role"] not in ("target", "node"):
            problems.append(f"{name}: no target, so it enters no sum")
            continue
        for side, lesion in (("baseline", baseline), ("follow-up", followup)):
            if lesion is not None and not lesion.accepted:
                problems.append(f"{name}: its {side} mask was not accepted yet")
        too_small = followup is not None and followup.mask is None
        now = 0.0 if followup is None else _diameter(followup, node=baseline.facts["role"] == "node")
        target = Target(
            name, baseline.facts["site"], baseline.facts["role"] == "node", _diameter(baseline), now, too_small
        )
        note = "too small to measure, counts 5 mm" if too_small else "gone" if followup is None else None
        targets.append(target)
        shown.append(
            {**_row(name, baseline), "baseline_mm": target.baseline_mm, "followup_mm": target.counted_mm, "note": note}
        )
    found = target_response(targets, new_lesions=new, nadir_mm=nadir_mm)

    def percent(share: float | None) -> float | None:
        return None if share is None else 100 * share

    return {
        "rules": list(RULES),
        "targets": shown,
        "baseline_sum_mm": found.baseline_sum_mm,
        "followup_sum_mm": found.followup_sum_mm,
        "nadir_mm": found.nadir_mm,
        "change_from_baseline_percent": percent(found.change_from_baseline),
        "change_from_nadir_percent": percent(found.change_from_nadir),
        "change_from_nadir_mm": found.change_from_nadir_mm,
        "response": found.category,
        "new_lesions": found.new_lesions,
        "problems": [*found.problems, *problems],
    }


def _row(name: str, lesion: StoredLesion) -> dict[str, Any]:
    return {
        "name": name,
        "site": lesion.facts["site"],
        "node": lesion.facts["role"] == "node",
        "baseline_mm": None,
        "followup_mm": None,
    }


def _diameter(lesion: StoredLesion, *, node: bool | None = None) -> float:
    is_node = lesion.facts["role"] == "node" if node is None else node
    return float(lesion.facts["short_axis_mm" if is_node else "long_axis_mm"] or 0.0)
