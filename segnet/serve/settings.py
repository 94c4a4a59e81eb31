"""Settings of the service. Only the server's own command line, environment and file set them, never a request."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segnet.errors import InputError
from segnet.runtime.files import write_text

MIB, GIB = 2**20, 2**30
TOKEN_FILE = "token"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """What one client may ask for."""

    body_bytes: int = Field(default=MIB, gt=0)
    """Of a request that is no upload of a file."""
    upload_bytes: int = Field(default=GIB, gt=0)
    """Of all files of one upload."""
    upload_files: int = Field(default=5000, gt=0)
    mask_bytes: int = Field(default=64 * MIB, gt=0)
    """Of a mask that was drawn, packed."""
    mask_voxels: int = Field(default=2**28, gt=0)
    """Of the box of a mask that was drawn."""
    queue: int = Field(default=50, gt=0)
    """Jobs that wait; more are refused."""
    ingest_bytes: int = Field(default=12 * GIB, gt=0)
    """Memory of the process that reads an upload."""
    ingest_seconds: float = Field(default=600, gt=0)
    store_bytes: int = Field(default=50 * GIB, gt=0)
    """Of all images. The least recently used ones without accepted lesions go first."""
    store_days: float = Field(default=7, gt=0)
    """After which an unused image without accepted lesions is removed."""


class PacsSettings(_Frozen):
    """The archive. Passwords are read from the environment, so that no file holds them."""

    url: str
    """Of DICOMweb, such as https://pacs.example/dicom-web."""
    user: str | None = None
    password_variable: str = "SEGNET_PACS_PASSWORD"
    """Name of the environment's variable."""
    token_variable: str | None = None
    """Of a bearer token instead of user and password."""
    ca_file: Path | None = None
    timeout_s: float = Field(default=30, gt=0)
    store: Literal["none", "stow", "cstore"] = "stow"
    """How exports are sent."""
    host: str | None = None
    """Of C-STORE."""
    port: int = Field(default=104, gt=0, lt=65536)
    ae_title: str = Field(default="SEGNET", min_length=1, max_length=16)
    called_ae_title: str = Field(default="PACS", min_length=1, max_length=16)


class Settings(_Frozen):
    """All of the service's settings."""

    folder: Path
    """Database, images and exports; readable for its owner alone."""
    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, lt=65536)
    hosts: tuple[str, ...] = LOOPBACK_NAMES
    """Names that a request's Host may have, without port."""
    token: str | None = Field(default=None, min_length=16)
    """Password of the service. None: one is drawn at the first start and kept in the folder."""
    trusted_proxy: str | None = None
    """Address of a proxy that has checked the user. Its header is trusted instead of the token."""
    user_header: str = "X-Forwarded-User"
    models: tuple[Path, ...] = ()
    """Checkpoints; the packaged weights where empty."""
    threads: int | None = Field(default=None, gt=0)
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers segment, and share the folder."""
    limits: Limits = Limits()
    pacs: PacsSettings | None = None


def load_settings(file: Path | None, given: dict[str, object]) -> Settings:
    """Settings of a YAML file, then those given.

    Raises
    ------
    InputError
        The file cannot be read, or a setting has an unknown name or a wrong value.
    """
    values: dict[str, object] = {}
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(
                f"settings: expected a readable YAML file, got {file} ({error}); see docs/serving.md"
            ) from error
        if not isinstance(values, dict):
            raise InputError(
                f"settings: expected names and values in {file}, got {type(values).__name__}; see docs/serving.md"
            )
    try:
        return Settings.model_validate(values | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"settings, {place}: {first['msg']}, got {first['input']!r}; see docs/serving.md") from error


def token_of(settings: Settings) -> str:
    """The service's token: as set, or drawn once and kept in the folder."""
    if settings.token is not None:
        return settings.token
    file = settings.folder / TOKEN_FILE
    if not file.exists():
        old = os.umask(0o077)
        try:
            write_text(file, secrets.token_urlsafe(24))
        finally:
            os.umask(old)
    return file.read_text(encoding="utf-8").strip()


def prepare_folder(folder: Path) -> None:
    """Makes the folder, for its owner alone.

    Raises
    ------
    InputError
        It cannot be made, or others may read it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(
            f"folder: expected a writable place, got {folder} ({error.strerror}); choose another"
        ) from error
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            f"folder: expected rights for its owner alone (700), got {mode:o} at {folder}; it will hold patients' images, so run"
            f" chmod 700 {folder}, or choose another"
        )
