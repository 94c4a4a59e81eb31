"""One configuration: defaults < YAML file < environment SEGNET_* < flags. Every default lives here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segnet.errors import InputError

ENVIRONMENT_PREFIX = "SEGNET_"
INPUT_MULTIPLE = 32
"""Sides of the network's input are multiples of it: every network halves them five times at most."""
FOLD_FOLDER = "fold-{}"
"""Folder of a fold's run, by its number."""
_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PrepareConfig(_Frozen):
    """Settings of `segnet prepare`; see `segnet.dataset.routes` for the routes."""

    route: Literal["hu", "paper"] = "hu"
    """hu keeps a CT window at the image's own resolution; paper makes 8-bit pictures of 256 x 256, like the paper, and loses HU."""
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    """Lowest and highest value kept by the route hu."""
    values: Literal["hu", "unit", "zscore"] = "hu"
    """Stored values: int16 HU; float16 from 0 to 1; or float16 standard deviations from the volume's mean."""
    keep_png: bool = False
    """Keep the pictures of the route paper."""

    @model_validator(mode="after")
    def _fields_agree(self) -> PrepareConfig:
        low, high = self.window_hu
        if not -32768 <= low < high <= 32767:
            raise ValueError(
                f"window_hu: expected lowest < highest within int16, got ({low:g}, {high:g}); use (-1000, 400)"
            )
        if self.route == "paper" and self.values != "hu":
            raise ValueError(
                f"values: expected none with the route paper, which stores 8-bit grey, got {self.values}; leave it out"
            )
        if self.route == "hu" and self.keep_png:
            raise ValueError("keep_png: expected the route paper, got hu, which makes no pictures; leave it out")
        return self


Depth = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class ModelConfig(_Frozen):
    """A network. Where the paper's letter is repaired, a switch restores the letter."""

    name: str = "mamba-ahnet"
    """One of `segnet.models.names()`: a network of the paper, a peer, or one that a package registers."""
    in_channels: Annotated[int, Field(ge=1)] = 1
    """Input slices, an odd number: the slice to segment, and equally many below and above it."""
    guide_channels: Literal[0, 3] = 0
    """Channels after the slices: none; or the middle slice in the soft-tissue window, and two maps of the click (`segnet.dataset.fields`)."""
    classes: Annotated[int, Field(ge=2)] = 2
    base_width: Annotated[int, Field(ge=4)] = 16
    """b, the width of the first level. Presets: 8 (tests), 16, 32 and 64."""
    encoder: Literal["residual", "convolution", "vss"] = "residual"
    """Encoder of mamba-ahnet: residual convolutions from stride 2 or AHNet's from stride 1, both with Mamba at coarse strides only; or VSS
    stages alone."""
    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 2)
    """VSS blocks in each stage of a VSS encoder."""
    coarse_depths: tuple[Count, Count, Count] = (0, 0, 1)
    """VSS blocks after mamba-ahnet's convolutions at strides 4, 8 and 16."""
    dstate: Annotated[int, Field(ge=1)] = 16
    """Default: 4 for mamba-ahnet with convolutions, else 16."""
    expand: Annotated[int, Field(ge=1)] = 2
    """Default: 1 for mamba-ahnet with convolutions, else 2."""
    discretization: Literal["bilinear", "mamba", "zoh"] = "bilinear"
    """Discretization of the scan: equation 2, that of public Mamba code, or zero-order hold."""
    gate_target: Literal["up", "skip", "unused"] = "up"
    """Features that algorithm 1's gate multiplies: upsampled features, skip, or (the paper's letter) none."""
    gate_align: Literal["crop", "upsample"] = "crop"
    """Treatment of gating features of another size in algorithm 3: central crop, or resizing as in the prose. Here sizes agree."""
    double_relu: bool = True
    """Algorithm 1's ReLU directly after its convolution, in addition to the ReLU after the norm."""
    decoder_residual: bool = True
    """Algorithm 2's residual, which its text omits. Without it a decoder block is algorithm 1."""
    decoder_vm_layers: bool = True
    """VM layers in mamba-ahnet's decoder, in addition to its VSS encoder."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    recon_head: Literal["thin", "full", "paper_softmax"] = "thin"
    """Reconstruction head of names ending in -r: decoder of `reconstruction_width`, decoder of full width, or algorithm 4."""
    reconstruction_width: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Width of the thin reconstruction decoder, as a share of the segmentation decoder."""

    @model_validator(mode="before")
    @classmethod
    def _scan_by_encoder(cls, values: Any) -> Any:
        """Sizes of the scan that are not given, by the network and its encoder."""
        if not isinstance(values, Mapping):
            return values
        name = values.get("name", cls.model_fields["name"].default)
        encoder = values.get("encoder", cls.model_fields["encoder"].default)
        coarse = name in ("mamba-ahnet", "mamba-ahnet-r") and encoder != "vss"
        return {**({"dstate": 4, "expand": 1} if coarse else {}), **values}

    @property
    def inputs(self) -> int:
        """Channels of the network's input: slices, then guides."""
        return self.in_channels + self.guide_channels

    @property
    def reconstructs(self) -> bool:
        return self.name.endswith("-r")


Millimetres = Annotated[float, Field(gt=0)]


class FieldsConfig(_Frozen):
    """Fields of view in mm around a click, for a network that is told where the click is. `segnet.dataset.fields` cuts them."""

    sides_mm: tuple[Millimetres, ...] = (44.0, 88.0, 176.0, 352.0)
    """Sides of the square fields of view, rising. The image decides which one a lesion needs."""
    offsets_mm: tuple[float, ...] = (-5.0, -2.0, 0.0, 2.0, 5.0)
    """Distances of the input slices from the slice to segment, along z; an odd number, rising, with 0 in the middle."""
    soft_hu: tuple[float, float] = (-160.0, 240.0)
    """Soft-tissue window in HU, in which the middle slice is shown once more: the wide window hides muscle beside tumour."""
    near_mm: Millimetres = 4.0
    """Standard deviation of the narrow click map."""
    wide_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Standard deviation of the wide click map, as a share of the side."""

    @model_validator(mode="after")
    def _fields_agree(self) -> FieldsConfig:
        sides, offsets = self.sides_mm, self.offsets_mm
        if not sides or list(sides) != sorted(set(sides)):
            raise ValueError(f"sides_mm: expected rising lengths, got {sides}; sort them")
        if len(offsets) % 2 == 0 or list(offsets) != sorted(set(offsets)) or offsets[len(offsets) // 2] != 0:
            raise ValueError(
                f"offsets_mm: expected rising distances with 0 in the middle, got {offsets}; use (-2, 0, 2)"
            )
        return self


class DataConfig(_Frozen):
    """Choice of slices, field of view and split."""

    route: Literal["hu", "paper"] = PrepareConfig().route
    """Route of the dataset; images are shown to the network in the same way."""
    window_hu: tuple[float, float] = PrepareConfig().window_hu
    """Window of the dataset; the route paper has none."""
    fields: FieldsConfig | None = None
    """Fields of view in mm around a click that the network is told; default: fields of `patch_px`, and no click is told."""
    patch_px: Annotated[int, Field(ge=16)] = 64
    """Side of the square field of view, in pixels of the image."""
    input_px: Annotated[int, Field(ge=INPUT_MULTIPLE, multiple_of=INPUT_MULTIPLE)] = 128
    """Side of the network's input; the field of view is resampled to it."""
    lesion_fraction: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of training slices with lesion."""
    click_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of training fields of view around a click in the lesion; the others are windows of a slice."""
    lone_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Of several input slices, share of neighbours that repeat the middle slice in training, as at a volume's end."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Balance of lesion slices over size classes, patients and lesions: 0 draws slices evenly, 1 draws size classes evenly."""
    beside_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the slices without lesion that are drawn close beside a lesion; the others are drawn from all."""
    split: Literal["stratified", "patient", "slice-paper"] = "stratified"
    """Random patients within each set and size class; random patients; or random slices, as the paper's counts imply, which leaks."""
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of patients for training, validation and test."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Number of folds. One is held out for test; the others are training and validation patients."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The fold held out, counted from 0; default: each in turn."""

    @model_validator(mode="before")
    @classmethod
    def _fold_0_was_the_default(cls, values: Any) -> Any:
        """Accepts `fold: 0` without `folds` from old states and checkpoints."""
        if isinstance(values, Mapping) and values.get("folds") is None and values.get("fold") == 0:
            return {name: value for name, value in values.items() if name != "fold"}
        return values

    @property
    def window(self) -> tuple[float, float]:
        """Values that become 0 and 1 in the network's input: HU, or the paper's 8-bit grey."""
        return (0.0, 255.0) if self.route == "paper" else self.window_hu


Share = Annotated[float, Field(ge=0, le=1)]
Magnitude = Annotated[float, Field(ge=0)]


class AugmentConfig(_Frozen):
    """Changes of training slices. A probability is the share of slices changed; a magnitude is the largest size of the change.

    A preset sets the fields that are not given.
    """

    preset: Literal["default", "strong"] = "default"
    flip_probability: Share = 0.5
    quarter_turns: bool = True
    """Rotation by 0, 90, 180 or 270 degrees, equally often."""
    rotation_rad: Magnitude = 0.25
    """Further rotation to either side, in radians. Areas from beyond the image are black."""
    scale_log: Magnitude = 0.2
    """Natural logarithm of the field of view's scale, to either side."""
    elastic_probability: Share = 0.0
    elastic_px: Magnitude = 5.0
    """Displacement of a control point along each axis, in pixels of the image; below a third of the spacing, which prevents folds."""
    elastic_spacing_px: Annotated[float, Field(gt=0)] = 16.0
    """Distance between control points, in pixels of the image."""
    paste_probability: Share = 0.0
    """Share of slices without lesion that get one: a lesion of another slice of the batch, or a shape with that lesion's grey."""
    paste_level: Magnitude = 0.05
    """Brightness change of a pasted lesion to either side, as a share of the window."""
    paste_soft_px: Magnitude = 1.0
    """Standard deviation of a pasted lesion's soft edge, in pixels of the image."""
    shapes: str | None = None
    """Folder of lesion shapes (`segnet.dataset.shapes`); default: only lesions of the batch are pasted."""
    shape_fraction: Share = 0.5
    """Share of pasted lesions with a shape of that folder."""
    fade_probability: Share = 0.4
    """Share of slices whose lesion is faded towards its surroundings."""
    fade_kept: Share = 0.2
    """Smallest share of contrast that a faded lesion keeps."""
    agent_probability: Share = 0.0
    agent_hu: Annotated[float, Field(ge=0, lt=100)] = 80.0
    """Shift of lesion and of tissue by a simulated contrast agent, to either side, in HU. At 100 or more the order of greys could change."""
    agent_band_hu: tuple[float, float] = (-25.0, 200.0)
    """Range of HU that takes up contrast agent, without air and fat below and bone above."""
    gamma_log: Magnitude = 0.2
    """Natural logarithm of the exponent of grey levels, to either side."""
    contrast: Share = 0.15
    """Difference from 1 of the factor of grey levels, to either side."""
    brightness: Magnitude = 0.05
    """Offset of grey levels to either side, as a share of the window."""
    low_resolution_probability: Share = 0.0
    low_resolution_factor: Annotated[float, Field(ge=1)] = 2.0
    """Factor by which pixels become larger before the slice is resampled back."""
    blur_probability: Share = 0.0
    blur_px: Magnitude = 1.0
    """Standard deviation of the blur, in pixels of the image."""
    noise_sd: Magnitude = 0.02
    """Standard deviation of Gaussian noise, as a share of the window."""

    @model_validator(mode="before")
    @classmethod
    def _by_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = values.get("preset", "default")
        return {**(AUGMENT_PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}

    @model_validator(mode="after")
    def _fields_agree(self) -> AugmentConfig:
        if 3 * self.elastic_px >= self.elastic_spacing_px:
            raise ValueError(f"elastic_px: expected less than a third of elastic_spacing_px, got {self.elastic_px}")
        low, high = self.agent_band_hu
        if not low < high:
            raise ValueError(f"agent_band_hu: expected low < high, got {low} {high}")
        return self


AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "strong": {
        "elastic_probability": 0.3,
        "paste_probability": 0.5,
        "agent_probability": 0.3,
        "gamma_log": 0.3,
        "contrast": 0.25,
        "brightness": 0.1,
        "low_resolution_probability": 0.2,
        "blur_probability": 0.2,
        "noise_sd": 0.04,
    },
}
"""Fields that a preset of `augment` sets."""


class TrainConfig(_Frozen):
    """Optimizer, schedule, validation and saving."""

    seed: int = 0
    minutes: Annotated[float, Field(gt=0)] = 20.0
    """Length of training by `clock`, and of the cosine schedule."""
    clock: Literal["wall", "processor"] = "wall"
    """Clock of the minutes: wall, or the process's processor time for each thread, which other work on the machine does not affect."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Length of training and schedule in steps, instead of minutes."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.03
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    reconstruction_weight: Annotated[float, Field(ge=0)] = 0.1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches averaged for each step of the optimizer."""
    validations: Annotated[int, Field(ge=1)] = 20
    """Number of validations, spread evenly. Timed runs validate less often if validation would exceed 20 % of the minutes."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Stop after more than this many validations in a row without improvement."""
    save_every_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time of training that a kill costs."""
    threads: Annotated[int, Field(ge=1)] | None = None
    bfloat16: bool = False
    """bfloat16 autocast of convolutions; the scan stays float32."""
    deterministic: bool = False
    """Refuse operations that may differ between runs. On CPUs these networks have none: equal seed, steps and threads repeat."""
    tensorboard: bool = True


class Config(_Frozen):
    """Configuration of a training run, stored in its checkpoint."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    def each_fold(self) -> dict[str, Config]:
        """One configuration for each fold, by the name of its folder."""
        folds = {FOLD_FOLDER.format(k): self.data.model_copy(update={"fold": k}) for k in range(self.data.folds or 0)}
        return {name: self.model_copy(update={"data": data}) for name, data in folds.items()}

    @model_validator(mode="before")
    @classmethod
    def _fields_decide_channels(cls, values: Any) -> Any:
        """With `data.fields`, the network's input channels follow from them unless they are given."""
        if not isinstance(values, Mapping) or not isinstance(data := values.get("data"), Mapping | DataConfig):
            return values
        model = values.get("model", {})
        fields = DataConfig.model_validate(data).fields if isinstance(model, Mapping) else None
        if fields is None:
            return values
        return {**values, "model": {"in_channels": len(fields.offsets_mm), "guide_channels": 3, **model}}

    @model_validator(mode="before")
    @classmethod
    def _fading_was_of_data(cls, values: Any) -> Any:
        """Accepts data.fade_fraction of old files and checkpoints."""
        if not isinstance(values, Mapping) or not isinstance(values.get("augment", {}), Mapping):
            return values
        if isinstance(data := values.get("data"), Mapping) and "fade_fraction" in data:
            kept = {name: value for name, value in data.items() if name != "fade_fraction"}
            augment = {"fade_probability": data["fade_fraction"], **values.get("augment", {})}
            return {**values, "data": kept, "augment": augment}
        return values

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        if self.model.in_channels % 2 == 0:
            raise ValueError(f"model.in_channels: expected an odd number of slices, got {self.model.in_channels}")
        fields = self.data.fields
        if (fields is None) != (self.model.guide_channels == 0):
            raise ValueError(
                f"model.guide_channels: expected 3 with data.fields and 0 without, got {self.model.guide_channels}; leave it out"
            )
        if fields is not None and self.model.in_channels != len(fields.offsets_mm):
            raise ValueError(
                f"model.in_channels: expected {len(fields.offsets_mm)}, one for each of data.fields.offsets_mm,"
                f" got {self.model.in_channels}; leave it out"
            )
        if fields is not None and self.data.split == "slice-paper":
            raise ValueError("data.split: expected patients with data.fields, got slice-paper; leave it out")
        if fields is not None and self.data.route == "paper":
            raise ValueError(
                "data.fields: expected none with data.route paper, whose slices have no mm; prepare by the route hu"
            )
        low, high = self.data.window_hu
        if not low < high:
            raise ValueError(f"data.window_hu: expected low < high, got {low} {high}")
        if self.data.route == "paper" and self.augment.agent_probability > 0:
            raise ValueError(
                f"augment.agent_probability: expected 0 with data.route paper, which has no HU, got {self.augment.agent_probability}"
            )
        if self.data.folds is not None and self.data.split == "slice-paper":
            raise ValueError(
                "data.folds: expected none with data.split slice-paper, which does not split patients; leave it out"
            )
        if self.data.fold is None:
            return self
        if self.data.folds is None:
            raise ValueError(
                f"data.fold: expected data.folds as well, got {self.data.fold} alone; give the number of folds"
            )
        if self.data.fold >= self.data.folds:
            raise ValueError(f"data.fold: expected 0 to {self.data.folds - 1}, got {self.data.fold}")
        return self


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and "preset" in value:
            merged[key] = dict(value)  # fields of an earlier source would override the preset
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _from_environment() -> dict[str, Any]:
    """SEGNET_TRAIN__MINUTES=5 sets train.minutes; values are read as YAML."""
    found: dict[str, Any] = {}
    for variable, text in os.environ.items():
        section, double, field = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and double:
            found.setdefault(section, {})[field] = read_value(text, variable)
    return found


def read_value(text: str, name: str) -> Any:
    """A field's value from YAML such as ``0.5``, ``true``, ``[1, 1, 2, 1]``; InputError if it is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{name}: expected a value in YAML, got {text!r}; close its brackets and quotes") from None


def load_config(
    path: Path | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    prepared: PrepareConfig | None = None,
) -> Config:
    """Resolves the configuration.

    Parameters
    ----------
    path : YAML file with the sections model, data, augment, train; any may be missing
    flags : section -> field -> value; None values are left out
    prepared : settings of the dataset, which are the defaults of `data.route` and `data.window_hu`

    Raises
    ------
    InputError
        The file cannot be read, or a field is unknown or out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                f"config {path}: expected a YAML file, got {type(error).__name__}: {error}; check the path and its syntax"
            ) from None
        if not isinstance(values, dict):
            raise InputError(
                f"config {path}: expected sections model, data, augment, train, got {type(values).__name__}; see `segnet info --show-config`"
            )
    if prepared is not None:
        values = _merge({"data": {"route": prepared.route, "window_hu": prepared.window_hu}}, values)
    values = _merge(values, _from_environment())
    given = {s: {k: v for k, v in fields.items() if v is not None} for s, fields in (flags or {}).items()}
    return _validated(Config, _merge(values, given), "see `segnet info --show-config` for the fields")


def checked_prepare_config(flags: Mapping[str, Any]) -> PrepareConfig:
    """Flags of `segnet prepare` that are not None, over the defaults; InputError if a field is out of range."""
    given = {name: value for name, value in flags.items() if value is not None}
    return _validated(PrepareConfig, given, "see `segnet prepare --help`")


def _validated(kind: type[_Model], values: Mapping[str, Any], remedy: str) -> _Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise InputError(f"config: {where}: {first['msg']}, got {first['input']!r}; {remedy}") from None
