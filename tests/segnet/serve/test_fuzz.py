"""Requests made from the API's own description, and files of random bytes: no 5xx, and no answer that is not described."""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service import BALL_MM, TOKEN, Running, running

from segnet.serve.client import ServiceError

schemathesis = pytest.importorskip("schemathesis", reason="the fuzzer is in the extra dev")
# a point within the image, or a size within the limit: no schema can say
positive_data_acceptance = importlib.import_module("schemathesis.specs.openapi.checks").positive_data_acceptance


@schemathesis.serializer("application/gzip")
def packed(context: object, value: object) -> bytes:
    return gzip.compress(value if isinstance(value, bytes) else str(value).encode())


EXAMPLES = 200 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 12
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, picture: Path) -> Iterator[Running]:
    """A service with an image and a lesion, and small limits, so that queues fill up."""
    for service in running(tmp_path_factory.mktemp("fuzzed"), limits={"queue": 5, "upload_bytes": 2**20}):
        image = service.client.upload(picture)
        service.client.click(image["image"], BALL_MM)
        yield service


def test_the_api_keeps_to_its_description(fuzzed: Running) -> None:
    api = schemathesis.openapi.from_url(f"{fuzzed.address}/v1/openapi.json", headers=HEADERS)
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    known = {
        ("images", "sha"): (image := fuzzed.client.images()[0]["image"]),
        ("images", "axis"): "y",
        ("lesions", "number"): (lesion := fuzzed.client.image(image)["lesions"][0])["lesion"],
        ("jobs", "number"): lesion["job"],
        ("uploads", "number"): fuzzed.client.request(
            "POST", "uploads", json={"files": [{"name": "a", "size": 3}]}
        ).json()["upload"],
        ("uploads", "n"): 0,
        ("exports", "number"): fuzzed.client.request(
            "POST", "exports", json={"image": image, "formats": ["csv"]}
        ).json()["job"],
        ("exports", "name"): "lesions.csv",
    }
    problems = []
    operations.sort(key=lambda operation: operation.method == "delete")  # nothing is left after these
    for operation in operations:

        @given(operation.as_strategy(), st.integers(0, 3))
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        def keeps(case: Any, foreign: int) -> None:
            if foreign:  # mostly of what is there: strangers' numbers end at the first check
                for name in case.path_parameters:
                    case.path_parameters[name] = known.get((case.path.split("/")[2], name), case.path_parameters[name])
            case.call_and_validate(headers=HEADERS, timeout=60, excluded_checks=[positive_data_acceptance])

        try:
            keeps()
        except BaseExceptionGroup as error:  # the next operations are told of too
            problems.append(f"{operation.label}: {[str(one)[:2000] for one in error.exceptions]}")
    assert not problems, "\n".join(problems)


MAGIC = [
    b"",
    b"\x1f\x8b\x08\x00",
    b"NRRD0004\n",
    b"PK\x03\x04",
    b"\x5c\x01\x00\x00",
    b"\0" * 128 + b"DICM",
    b"ObjectType = Image\n",
    b"NDims = 3\n",
]


@given(st.sampled_from(MAGIC), st.binary(max_size=2000), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_bytes_are_refused_with_a_reason(fuzzed: Running, magic: bytes, body: bytes, packed: bool) -> None:
    content = gzip.compress(magic + body) if packed else magic + body
    path = fuzzed.settings.folder / "random.bin"
    path.write_bytes(content)
    with pytest.raises(ServiceError, match=r"expected .+, got .+") as refused:
        fuzzed.client.upload(path)
    assert refused.value.status == 422
    assert str(fuzzed.settings.folder) not in str(refused.value)
