"""The list of planted faults is up to date. Planting them takes minutes: `python tests/plant_faults.py`."""

from __future__ import annotations

import pytest
from plant_faults import FAULTS, ROOT, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_changes_still_stands_in_its_file(fault: Fault) -> None:
    assert fault.old in (ROOT / fault.file).read_text()
    assert (ROOT / fault.tests.split()[0]).exists()
