"""The table of pairs that the packaged weights are trained on: CT with a licence that lets weights be published.

    python bench/weights.py DATA > pairs.csv

DATA holds the sets as folders: `lidc`, `context`, `whole` (LIDC-IDRI, CC BY 3.0; one volume of RIDER Lung CT, CC BY 4.0), `voi` (LIDC-IDRI and
4D-Lung, CC BY 3.0), `sarcoma` (Soft-tissue-Sarcoma, CC BY 3.0).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from segnet.io.pairs import find_pairs

SETS = ("lidc", "context", "whole", "voi", "sarcoma")
SAME_PATIENT = {"ULS23_lidcidri_195": "LIDC-IDRI-0314"}
"""Patients that two sets name differently: the same scan, shifted by 7 mm. Otherwise a patient would be on both sides of a split."""


def main(data: Path) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "mask", "case", "patient", "set"])
    for name in SETS:
        for pair in find_pairs(data / name, set_name=name):
            if "MR_" in pair.case:  # some sarcomas were also imaged by MR
                continue
            patient = SAME_PATIENT.get(pair.patient, pair.patient)
            case = f"{name}_{pair.case}" if name in ("lidc", "whole") else pair.case
            writer.writerow([pair.image.absolute(), pair.mask.absolute(), case, patient, name])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
