"""The PACS of the settings: searched and fetched over DICOMweb; exports stored over DICOMweb or C-STORE."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnet.errors import InputError
from segnet.serve.pacs import DicomNode, DicomNodeSettings, DicomWeb, DicomWebSettings
from segnet.serve.settings import PacsSettings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class Archive:
    """One PACS.

    Parameters
    ----------
    settings : passwords and tokens come from the environment's variables that they name

    Raises
    ------
    InputError
        A variable is missing, or an address is none.
    """

    def __init__(self, settings: PacsSettings) -> None:
        self.settings = settings
        self._web = DicomWeb(
            DicomWebSettings(
                settings.url,
                user=settings.user or "",
                password=_secret(settings.password_variable) if settings.user else "",
                token=_secret(settings.token_variable) if settings.token_variable else "",
                timeout_s=settings.timeout_s,
                ca_bundle=settings.ca_file,
            )
        )

    def studies(
        self, *, patient_id: str | None, name: str | None, date: str | None, modality: str
    ) -> list[dict[str, Any]]:
        """Studies as plain values, the newest first."""
        found = self._web.studies(patient_id=patient_id or "", name=name or "", date=date or "", modality=modality)
        return [asdict(study) for study in found]

    def series(self, study: str) -> list[dict[str, Any]]:
        return [asdict(series) for series in self._web.series(study)]

    def fetch(self, study: str, series: str, folder: Path, progress: Callable[[int, int], None]) -> None:
        """All files of a series, or none and an InputError."""
        self._web.fetch(study, series, folder, progress)

    def store(self, objects: Sequence[Dataset]) -> list[str]:
        """UIDs of objects that the PACS holds now: they were read back and compared.

        Raises
        ------
        InputError
            The PACS refused one, holds another than was sent, or the settings forbid it.
        """
        settings = self.settings
        if settings.store == "none":
            raise InputError("pacs.store: expected stow or cstore, got none; change the server's settings")
        if settings.store == "stow":
            return self._web.store(objects)
        if settings.host is None:
            raise InputError("pacs.host: expected the host of C-STORE, got none; change the server's settings")
        node = DicomNodeSettings(
            settings.host, settings.port, settings.called_ae_title, settings.ae_title, settings.timeout_s
        )
        return DicomNode(node).store(objects, read_back=self._web.read)


def _secret(variable: str) -> str:
    if variable not in os.environ:
        raise InputError(
            f"pacs: expected a secret in the environment's variable {variable}, got none; set it for the server"
        )
    return os.environ[variable]
