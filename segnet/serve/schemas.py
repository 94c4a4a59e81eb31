"""Requests and answers of the API, as OpenAPI documents them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Point = Annotated[
    list[Finite], Field(min_length=3, max_length=3, description="mm in RAS", examples=[[-31.2, 14.0, 205.5]])
]
Name = Annotated[str, Field(max_length=200)]
Role = Literal["target", "non-target", "node"]
Site = Literal[
    "lung", "lymph node", "liver", "adrenal", "kidney", "pancreas", "bone", "soft tissue", "brain", "pleura", "other"
]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Format = Literal["nifti", "csv", "json", "report", "seg", "sr"]
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def _like(example: dict[str, Any]) -> ConfigDict:
    """A request's example in the description of the API."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Every error: the field, what was expected, what came, and the remedy."""

    detail: str = Field(examples=["click: expected a point within the image, got (512, 3, 9); click again"])


class FileOfUpload(_Request):
    name: Annotated[str, Field(min_length=1, max_length=500)]
    size: Annotated[int, Field(ge=0, le=2**50)]


class NewUpload(_Request):
    """An image to come: one file, or all files of a DICOM folder."""

    model_config = _like({"files": [{"name": "scan.nii.gz", "size": 18874368}]})

    files: Annotated[list[FileOfUpload], Field(min_length=1, max_length=100_000)]
    name: Name | None = None


class FileState(BaseModel):
    n: int
    name: str
    size: int
    received: int


class Upload(BaseModel):
    upload: str
    files: list[FileState]
    job: str | None = None


class Started(BaseModel):
    """A job was accepted: nothing of it is lost from now on."""

    job: str
    lesion: str | None = None


class JobState(BaseModel):
    id: str
    kind: Literal["segment", "scan", "ingest", "import", "export"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    message: str
    result: dict[str, Any] | None
    error: str | None
    position: int


class Axes(BaseModel):
    """Both ends of each axis in mm (RAS), and their slice."""

    slice: int
    long: list[list[float]]
    short: list[list[float]]


class Lesion(BaseModel):
    lesion: str
    image: str
    created: float
    revision: int
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    job: str | None
    error: str | None
    name: str | None
    site: Site | None
    role: Role | None
    accepted: bool
    edited: bool
    clicks: list[list[float]]
    threshold: float
    volume_ml: float | None
    long_axis_mm: float | None
    short_axis_mm: float | None
    axes: Axes | None
    mean_hu: float | None
    box: list[int] | None
    field_of_view_mm: float | None
    warnings: list[str]
    tracking_uid: str


class Image(BaseModel):
    image: str
    name: str
    added: float
    source: Literal["nifti", "dicom", "metaimage", "nrrd"]
    shape: list[int]
    spacing_mm: list[float]
    affine: list[list[float]]
    modality: str | None
    window_hu: list[float]
    range_hu: list[float]
    deidentified: bool
    pacs_export: bool
    warnings: list[str]
    study_date: str | None
    lesions: list[Lesion] = []


class Images(BaseModel):
    images: list[Image]


class NewLesion(_Request):
    """A click in a lesion."""

    model_config = _like({"click": [-31.2, 14.0, 205.5], "name": "nodule", "site": "lung", "role": "target"})

    click: Point
    name: Name | None = None
    site: Site | None = None
    role: Role | None = None
    threshold: Threshold = 0.5


class NewClick(_Request):
    """Another click in the same lesion: instead of the others, or besides them."""

    model_config = _like({"click": [-29.0, 15.5, 207.0], "mode": "add"})

    click: Point
    mode: Literal["replace", "add"] = "replace"


class LesionChange(_Request):
    model_config = _like({"accepted": True})

    name: Name | None = None
    site: Site | None = None
    role: Role | None = None
    accepted: bool | None = None
    threshold: Threshold | None = None


class NewScan(_Request):
    """A whole image without a click."""

    model_config = _like({"threshold": 0.5})

    threshold: Threshold = 0.5


class NewExport(_Request):
    model_config = _like({"image": "0" * 64, "formats": ["nifti", "csv", "seg", "sr"], "pacs": False})

    image: Sha
    lesions: Annotated[list[Number], Field(max_length=1000)] | None = Field(None, description="All where left out")
    formats: Annotated[list[Format], Field(max_length=6)] = Field(examples=[["nifti", "csv"]])
    pacs: bool = False


class Pair(_Request):
    baseline: Number | None
    followup: Number | None


class NewComparison(_Request):
    """Two time points, paired by the reader. A lesion with one side alone has appeared or disappeared."""

    model_config = _like(
        {"baseline": "0" * 64, "followup": "1" * 64, "pairs": [{"baseline": "0" * 32, "followup": "1" * 32}]}
    )

    baseline: Sha
    followup: Sha
    pairs: Annotated[list[Pair], Field(min_length=1, max_length=100)]
    nadir_mm: Annotated[float, Field(ge=0, le=1e5)] | None = None


class NewImport(_Request):
    model_config = _like({"study": "1.2.840.113619.2.55.3", "series": "1.2.840.113619.2.55.3.7"})

    study: Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")]
    series: Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")]


class About(BaseModel):
    version: str
    research_only: bool
    limits: dict[str, int]
    model: dict[str, Any] | None
    pacs: bool
    pacs_store: bool
