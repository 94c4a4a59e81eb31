"""The API from Python: a few methods for notebooks, scripts and tests."""

from __future__ import annotations

import gzip
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from segnet.errors import InputError

Json = dict[str, Any]


class ServiceError(InputError):
    """The service refused a request.

    Attributes
    ----------
    status : of HTTP
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """A service and its token.

    Parameters
    ----------
    address : that `segnet serve` prints, with its token
    token : where the address holds none
    timeout_s : of one request
    transport : for tests: an application instead of a network

    Examples
    --------
    >>> client = Client("http://127.0.0.1:8642/?token=abc")
    >>> image = client.upload("scan.nii.gz")                             # doctest: +SKIP
    >>> lesion = client.click(image["image"], (-31.2, 14.0, 205.5))      # doctest: +SKIP
    >>> lesion["long_axis_mm"], lesion["volume_ml"]                      # doctest: +SKIP
    (30.5, 10.21)
    >>> client.save_mask(lesion["lesion"], "mask.nii.gz")                # doctest: +SKIP
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = 60,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(address)
        token = token or parse_qs(parts.query).get("token", [""])[0]
        base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/"
        # an answer that waits for its job comes before the timeout
        self._prefer = {"prefer": f"wait={max(1, min(20, int(timeout_s / 2)))}"}
        self._http = httpx.Client(
            base_url=base,
            headers={"authorization": f"Bearer {token}"},
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer below 400.

        Raises
        ------
        ServiceError
            The service refused, with its reason.
        """
        answer = self._http.request(method, path, **options)
        if answer.status_code >= 400:
            try:
                detail = str(answer.json()["detail"])
            except (ValueError, KeyError, TypeError):
                detail = f"service: expected an answer, got status {answer.status_code}; see its log"
            raise ServiceError(answer.status_code, detail)
        return answer

    def _json(self, method: str, path: str, **options: Any) -> Json:
        found: Json = self.request(method, path, **options).json()
        return found

    def about(self) -> Json:
        return self._json("GET", "about")

    def images(self) -> list[Json]:
        """The newest first."""
        found: list[Json] = self._json("GET", "images")["images"]
        return found

    def image(self, sha: str) -> Json:
        """An image with its lesions."""
        return self._json("GET", f"images/{sha}")

    def upload(self, path: str | Path, *, name: str | None = None) -> Json:
        """A file, or the files of a folder with a DICOM series, as an image of the service.

        Raises
        ------
        ServiceError
            The service cannot read it, or it is larger than the service takes.
        """
        path = Path(path)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        listed = [{"name": file.name, "size": file.stat().st_size} for file in files]
        upload = self._json("POST", "uploads", json={"files": listed, "name": name}, headers=_key())["upload"]
        for number, file in enumerate(files):
            with file.open("rb") as stream:
                size = {"content-length": str(file.stat().st_size)}
                self.request("PUT", f"uploads/{upload}/files/{number}", content=stream, headers=size)
        job = self.wait(self._json("POST", f"uploads/{upload}/complete")["job"])
        return self.image(job["result"]["image"])

    def wait(self, job: str, *, seconds: float = 600) -> Json:
        """A job that has ended well.

        Raises
        ------
        ServiceError
            It failed or was cancelled, or has not ended in time.
        """
        until = time.monotonic() + seconds
        while True:
            found = self._json("GET", f"jobs/{job}")
            if found["state"] == "done":
                return found
            if found["state"] in ("failed", "cancelled"):
                raise ServiceError(
                    422, found["error"] or f"job: expected to be done, got {found['state']}; start it again"
                )
            if time.monotonic() > until:
                raise ServiceError(504, f"job: expected to be done in {seconds:g} s, got {found['state']}; wait longer")
            time.sleep(0.05)

    def click(self, image: str, point: Sequence[float], **facts: Any) -> Json:
        """The lesion at a point in mm (RAS). `facts`: name, site, role, threshold."""
        return self._made("POST", f"images/{image}/lesions", {"click": list(point), **facts})

    def click_again(self, lesion: str, point: Sequence[float], *, add: bool = False) -> Json:
        """Another click in a lesion, instead of the others or besides them."""
        return self._made(
            "POST", f"lesions/{lesion}/clicks", {"click": list(point), "mode": "add" if add else "replace"}
        )

    def _made(self, method: str, path: str, body: Json) -> Json:
        made = self._json(method, path, json=body, headers={**self._prefer, **_key()})
        if "job" in made and "revision" not in made:
            self.wait(made["job"])
            return self.lesion(made["lesion"])
        return made

    def lesion(self, lesion: str) -> Json:
        return self._json("GET", f"lesions/{lesion}")

    def change(self, lesion: str, *, revision: int | None = None, **facts: Any) -> Json:
        """Changes name, site, role, accepted or threshold; at that revision alone, if one is given."""
        changed = self._json("PATCH", f"lesions/{lesion}", json=facts, headers={**self._prefer, **_match(revision)})
        if changed["state"] in ("queued", "running"):
            self.wait(changed["job"])
            return self.lesion(lesion)
        return changed

    def delete(self, lesion: str) -> None:
        self.request("DELETE", f"lesions/{lesion}")

    def mask(self, lesion: str) -> tuple[list[int], NDArray[np.bool_]] | None:
        """The box, as x, y, z and lengths, and the mask in it, (z, y, x); None for an empty mask."""
        answer = self.request("GET", f"lesions/{lesion}/mask")
        if answer.status_code == 204:
            return None
        box = [int(number) for number in answer.headers["x-box"].split(",")]
        return box, np.frombuffer(gzip.decompress(answer.content), np.uint8).reshape(box[:2:-1]).astype(np.bool_)

    def draw(
        self, lesion: str, corner_xyz: Sequence[int], mask_zyx: NDArray[Any], *, revision: int | None = None
    ) -> Json:
        """Replaces the mask of a lesion; `corner_xyz` is its first voxel."""
        box = ",".join(str(int(number)) for number in (*corner_xyz, *mask_zyx.shape[::-1]))
        body = gzip.compress(np.ascontiguousarray(mask_zyx != 0, np.uint8).tobytes(), 1)
        return self._json("PUT", f"lesions/{lesion}/mask", content=body, headers={"x-box": box, **_match(revision)})

    def save_mask(self, lesion: str, path: str | Path) -> None:
        """The mask on the grid of the uploaded file, as `segnet predict` writes it."""
        Path(path).write_bytes(self.request("GET", f"lesions/{lesion}/mask.nii.gz").content)

    def export(
        self,
        image: str,
        formats: Sequence[str],
        folder: str | Path | None = None,
        *,
        lesions: Sequence[str] | None = None,
        pacs: bool = False,
    ) -> Json:
        """Files of lesions, saved in `folder` if one is given.

        Parameters
        ----------
        formats : of nifti, csv, json, report, seg, sr
        pacs : also store SEG and SR in the PACS; success means that they were read back
        """
        body: Json = {"image": image, "formats": list(formats), "pacs": pacs}
        if lesions is not None:
            body["lesions"] = list(lesions)
        result: Json = self.wait(self._json("POST", "exports", json=body, headers=_key())["job"])["result"]
        if folder is not None:
            for file in result["files"]:
                content = self.request("GET", file["url"].removeprefix("v1/")).content
                (Path(folder) / Path(file["name"]).name).write_bytes(content)
        return result

    def compare(
        self,
        baseline: str,
        followup: str,
        pairs: Sequence[tuple[str | None, str | None]],
        *,
        nadir_mm: float | None = None,
    ) -> Json:
        """RECIST 1.1 target response of lesions paired by the reader."""
        listed = [{"baseline": first, "followup": second} for first, second in pairs]
        return self._json(
            "POST",
            "comparisons",
            json={"baseline": baseline, "followup": followup, "pairs": listed, "nadir_mm": nadir_mm},
        )

    def remove(self, image: str, *, accepted: bool = False) -> None:
        """Removes an image with its lesions; also accepted ones only if asked."""
        self.request("DELETE", f"images/{image}", params={"accepted": str(accepted).lower()})


def _key() -> dict[str, str]:
    return {"idempotency-key": uuid.uuid4().hex}


def _match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}
