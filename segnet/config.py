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
FOLD_FOLDER = "fold-{}"
"""Where the run of a fold goes, by its number."""
_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PrepareConfig(_Frozen):
    """How files become a dataset; `segnet.dataset.routes` says what each route does."""

    route: Literal["hu", "paper"] = "hu"
    """hu keeps a CT window at the image's own resolution; paper goes by 8-bit pictures of 256 x 256, as the paper did, and loses HU."""
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    """Lowest and highest value kept, by the route hu."""
    values: Literal["hu", "unit", "zscore"] = "hu"
    """What is stored of the window: int16 HU; float16 from 0 to 1; or float16 in standard deviations from the volume's own mean."""
    keep_png: bool = False
    """Keep the pictures of the route paper."""

    @model_validator(mode="after")
    def _window_is_ordered(self) -> PrepareConfig:
        low, high = self.window_hu
        if not -32768 <= low < high <= 32767:
            raise ValueError(
                f"window_hu: expected lowest < highest within int16, got ({low:g}, {high:g}); use (-1000, 400)"
            )
        return self

    @model_validator(mode="after")
    def _the_route_has_the_option(self) -> PrepareConfig:
        if self.route == "paper" and self.values != "hu":
            raise ValueError(
                f"values: expected none with the route paper, which stores 8-bit grey, got {self.values}; leave it out"
            )
        if self.route == "hu" and self.keep_png:
            raise ValueError("keep_png: expected the route paper, got hu, which makes no pictures; leave it out")
        return self


Depth = Annotated[int, Field(ge=1)]


class ModelConfig(_Frozen):
    """A network. The paper's own reading of a row stays a switch; the default is the repaired one."""

    name: str = "mamba-ahnet"
    """One of `segnet.models.names()`: the paper's, its peers', or one that a package registers."""
    in_channels: Annotated[int, Field(ge=1)] = 1
    """Slices shown at once, an odd number: the one to segment, and as many below as above it."""
    classes: Annotated[int, Field(ge=2)] = 2
    base_width: Annotated[int, Field(ge=4)] = 16
    """b, the width of the first level. Presets: 8 for tests, 16, 32 and 64."""
    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 2)
    dstate: Annotated[int, Field(ge=1)] = 16
    expand: Annotated[int, Field(ge=1)] = 2
    discretization: Literal["bilinear", "mamba", "zoh"] = "bilinear"
    """Of the scan: eq. 2's, what public Mamba code computes, or zero-order hold."""
    gate_target: Literal["up", "skip", "unused"] = "up"
    """What algorithm 1's gate multiplies: the upsampled features, the skip, or, to the letter, nothing."""
    gate_align: Literal["crop", "upsample"] = "crop"
    """Where algorithm 3's gating features differ in size: cropped at their centre, or resized as the prose says. Here sizes agree."""
    double_relu: bool = True
    """Algorithm 1's ReLU right after its convolution, before the norm and the second one."""
    decoder_residual: bool = True
    """Algorithm 2's residual, which its text leaves out: without it a decoder's block is algorithm 1."""
    decoder_vm_layers: bool = True
    """VM layers in mamba-ahnet's decoder. Off, they are in the encoder alone; in the decoder alone is mamba-ahnet-conv, nowhere ahnet."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    recon_head: Literal["thin", "full", "paper_softmax"] = "thin"
    """What a name ending in -r rebuilds the slice with: a decoder of `reconstruction_width` or of the whole width, or algorithm 4."""
    reconstruction_width: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Channels of the thin reconstruction decoder, as a share of the segmentation decoder's."""

    @property
    def reconstructs(self) -> bool:
        return self.name.endswith("-r")


class DataConfig(_Frozen):
    """How a slice reaches the network."""

    route: Literal["hu", "paper"] = PrepareConfig().route
    """Of the dataset: images are brought to the network the way it was prepared."""
    window_hu: tuple[float, float] = PrepareConfig().window_hu
    """As the dataset was prepared; the route paper has none."""
    patch_px: Annotated[int, Field(ge=16)] = 64
    """Side of the square field of view, in pixels of the image."""
    input_px: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Side of the network's input, to which the field of view is resampled."""
    lesion_fraction: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of training slices drawn from those that hold lesion."""
    click_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of training fields of view around a click in the lesion; the others lie as windows cover a slice without one."""
    lone_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Where several slices are shown: share of neighbours in training that only repeat the slice, as beyond a volume's end."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How evenly lesion slices are drawn over size classes, patients and lesions: 0 each slice, 1 each size class as often as another."""
    beside_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the slices without lesion that are drawn from those close beside one; the others are drawn from all of them."""
    split: Literal["stratified", "patient", "slice-paper"] = "stratified"
    """Patients by chance within each set and class of lesion size; patients by chance; or, as the paper's sample counts betray, single
    slices by chance, a tenth for test and a fifth of the others for validation, so that neighbours of a test slice are trained on."""
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Patients for training, validation and test."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Parts the patients are dealt into, of which one is held out for test; the others are training and validation patients."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The one held out, counted from 0; each in turn unless it is given."""

    @model_validator(mode="before")
    @classmethod
    def _fold_0_was_the_default(cls, values: Any) -> Any:
        """States and checkpoints from then name it without folds."""
        if isinstance(values, Mapping) and values.get("folds") is None and values.get("fold") == 0:
            return {name: value for name, value in values.items() if name != "fold"}
        return values

    @property
    def window(self) -> tuple[float, float]:
        """What becomes 0 and 1 of the values the network is shown: HU, or the paper's 8-bit grey."""
        return (0.0, 255.0) if self.route == "paper" else self.window_hu


Share = Annotated[float, Field(ge=0, le=1)]
Magnitude = Annotated[float, Field(ge=0)]


class AugmentConfig(_Frozen):
    """How a training slice is changed. A probability is the share of slices that a change comes over, a magnitude its largest size.

    A preset gives the fields that are not given themselves.
    """

    preset: Literal["default", "strong"] = "default"
    flip_probability: Share = 0.5
    quarter_turns: bool = True
    """Turns by 0, 90, 180 or 270 degrees, each as often."""
    rotation_rad: Magnitude = 0.25
    """Of a further turn to either side, in radians. What turn and scale bring in from beyond what is read is black."""
    scale_log: Magnitude = 0.2
    """Of the natural logarithm of the field of view's scale, to either side."""
    elastic_probability: Share = 0.0
    elastic_px: Magnitude = 5.0
    """Displacement of a control point along each axis, in pixels of the image; less than a third of the spacing, so
    that nothing folds."""
    elastic_spacing_px: Annotated[float, Field(gt=0)] = 16.0
    """Between control points, in pixels of the image."""
    paste_probability: Share = 0.0
    """Share of the slices without lesion that get one: that of another slice of the batch, or a shape with its grey."""
    paste_level: Magnitude = 0.05
    """By how much a pasted lesion is brighter or darker than the one it is of, as a share of the window."""
    paste_soft_px: Magnitude = 1.0
    """Of a pasted lesion's edge: standard deviation, in pixels of the image."""
    shapes: str | None = None
    """Folder of lesion shapes (`segnet.dataset.shapes`); none: only lesions of the batch are pasted."""
    shape_fraction: Share = 0.5
    """Share of the pasted lesions that have a shape of that folder, where one is given."""
    fade_probability: Share = 0.4
    """Of a lesion to be faded towards what surrounds it, as if it were a faint one."""
    fade_kept: Share = 0.2
    """Least share of its contrast that a faded lesion keeps."""
    agent_probability: Share = 0.0
    agent_hu: Annotated[float, Field(ge=0, lt=100)] = 80.0
    """By how much a simulated contrast agent, or the lack of one, raises or lowers lesion and tissue, each by its own, in HU. From 100
    on darker tissue could become brighter than what was brighter."""
    agent_band_hu: tuple[float, float] = (-25.0, 200.0)
    """What takes up contrast agent: neither air and fat below nor bone above, in HU."""
    gamma_log: Magnitude = 0.2
    """Of the natural logarithm of the exponent that grey levels are raised to, to either side."""
    contrast: Share = 0.15
    """Of the factor that grey levels are multiplied by, from 1 to either side."""
    brightness: Magnitude = 0.05
    """Of what is added to grey levels, to either side, as a share of the window."""
    low_resolution_probability: Share = 0.0
    low_resolution_factor: Annotated[float, Field(ge=1)] = 2.0
    """How many times larger than those of the image the pixels become that a slice is brought to and back from."""
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
    def _elastic_does_not_fold(self) -> AugmentConfig:
        if 3 * self.elastic_px >= self.elastic_spacing_px:
            raise ValueError(f"elastic_px: expected less than a third of elastic_spacing_px, got {self.elastic_px}")
        return self

    @model_validator(mode="after")
    def _band_is_ordered(self) -> AugmentConfig:
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
"""What a preset of `augment` changes of its defaults."""


class TrainConfig(_Frozen):
    """The recipe."""

    seed: int = 0
    minutes: Annotated[float, Field(gt=0)] = 20.0
    """Time of training, by `clock`; the cosine schedule runs over it."""
    clock: Literal["wall", "processor"] = "wall"
    """What counts the minutes: the wall, or the process's processor time by thread, which other work on the machine does not shorten."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop, and end the schedule, after this many steps instead."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.03
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    reconstruction_weight: Annotated[float, Field(ge=0)] = 0.1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients one step of the optimizer takes the mean of."""
    validations: Annotated[int, Field(ge=1)] = 20
    """Spread evenly over the run. Of given minutes there are fewer where, by the time that a case takes, they would need over a fifth of them; at
    least the last one."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Stop when more than so many validations in a row were no better than the best."""
    save_every_s: Annotated[float, Field(gt=0)] = 60.0
    """At most so much of a run is done again after a kill."""
    threads: Annotated[int, Field(ge=1)] | None = None
    bfloat16: bool = False
    """bfloat16 autocast of convolutions; the scan stays float32."""
    deterministic: bool = False
    """Refuse operations that may differ from run to run. On CPUs the networks here have none: the same seed, steps and threads repeat."""
    tensorboard: bool = True


class Config(_Frozen):
    """What a training run was made with; goes into its checkpoint."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    def each_fold(self) -> dict[str, Config]:
        """One configuration for each of `data.folds`, by the name of its folder."""
        folds = {FOLD_FOLDER.format(k): self.data.model_copy(update={"fold": k}) for k in range(self.data.folds or 0)}
        return {name: self.model_copy(update={"data": data}) for name, data in folds.items()}

    @model_validator(mode="before")
    @classmethod
    def _fading_was_of_data(cls, values: Any) -> Any:
        """Files and checkpoints from before there was a section for augmentation name it data.fade_fraction."""
        if not isinstance(values, Mapping) or not isinstance(values.get("augment", {}), Mapping):
            return values
        if isinstance(data := values.get("data"), Mapping) and "fade_fraction" in data:
            kept = {name: value for name, value in data.items() if name != "fade_fraction"}
            augment = {"fade_probability": data["fade_fraction"], **values.get("augment", {})}
            return {**values, "data": kept, "augment": augment}
        return values

    @model_validator(mode="after")
    def _slices_have_a_middle(self) -> Config:
        if self.model.in_channels % 2 == 0:
            raise ValueError(f"model.in_channels: expected an odd number of slices, got {self.model.in_channels}")
        return self

    @model_validator(mode="after")
    def _grey_is_no_hu(self) -> Config:
        if self.data.route == "paper" and self.augment.agent_probability > 0:
            raise ValueError(
                f"augment.agent_probability: expected 0 with data.route paper, whose grey is no HU, got {self.augment.agent_probability}"
            )
        return self

    @model_validator(mode="after")
    def _fold_exists(self) -> Config:
        if self.data.folds is not None and self.data.split == "slice-paper":
            raise ValueError(
                "data.folds: expected none with data.split slice-paper, which knows no patients; leave it out"
            )
        if self.data.fold is None:
            return self
        if self.data.folds is None:
            raise ValueError(f"data.fold: expected data.folds beside it, got {self.data.fold} alone; say of how many")
        if self.data.folds is not None and self.data.fold >= self.data.folds:
            raise ValueError(f"data.fold: expected 0 to {self.data.folds - 1}, got {self.data.fold}")
        return self

    @model_validator(mode="after")
    def _window_is_ordered(self) -> Config:
        low, high = self.data.window_hu
        if not low < high:
            raise ValueError(f"data.window_hu: expected low < high, got {low} {high}")
        return self


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and "preset" in value:
            merged[key] = dict(value)  # fields that an earlier source gave would hide those of the preset
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
    """A field's value written as YAML: ``0.5``, ``true``, ``[1, 1, 2, 1]``.

    Raises
    ------
    InputError
        It is no YAML.
    """
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
    prepared : how the dataset was, which gives the defaults of `data.route` and `data.window_hu`

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
    """Flags of `segnet prepare` over their defaults; None is left out.

    Raises
    ------
    InputError
        A field is out of range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    return _validated(PrepareConfig, given, "see `segnet prepare --help`")


def _validated(kind: type[_Model], values: Mapping[str, Any], remedy: str) -> _Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise InputError(f"config: {where}: {first['msg']}, got {first['input']!r}; {remedy}") from None
