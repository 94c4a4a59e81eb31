"""What tests of the service share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import uvicorn
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import nn
from torch.utils.hooks import RemovableHandle

from segnet.config import Config
from segnet.prediction.model import Model
from segnet.serve.app import make_app
from segnet.serve.client import Client
from segnet.serve.segmenting import Segmenter
from segnet.serve.server import configured
from segnet.serve.settings import Settings, prepare_folder
from segnet.serve.worker import Worker

BALL_MM = np.array([12.0, -31.0, 140.0])
RADIUS_MM = 10.0
SHAPE = (40, 64, 72)


def _affine() -> NDArray[np.float64]:
    turned = Rotation.from_euler("xyz", (4, -3, 7), degrees=True).as_matrix()
    axes = turned @ np.array([[0, -0.9, 0], [0, 0, 0.9], [-1.5, 0, 0]])  # z first and downwards, x to the left
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = BALL_MM - axes @ (np.array(SHAPE) * 0.45)
    return affine


AFFINE = _affine()
TOKEN = "token-of-the-tests"


def ball_hu(
    shape: tuple[int, int, int], affine: NDArray[np.float64], radius_mm: float = RADIUS_MM
) -> NDArray[np.float64]:
    """HU of a soft ball at `BALL_MM`, on the grid of a file."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    away = np.linalg.norm(voxels @ affine[:3, :3].T + affine[:3, 3] - BALL_MM, axis=-1)
    return -900 + 1000 / (1 + np.exp((away - radius_mm) / 0.8))


class Brightness(nn.Module):
    """Lesion as far as the middle slice is bright."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        logit = (x[:, 2:3] - 0.5) * 10
        return torch.cat([-logit, logit], 1), None


class Bright(Segmenter):
    """The segmenter of the service, with that network."""

    def __init__(self) -> None:
        config = Config.model_validate({"data": {"fields": {}, "input_px": 64}})
        self.model = Model.of(Brightness().eval(), config)
        self.model.names = ("bright",)
        self._open = OrderedDict()


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    settings: Settings
    address: str
    client: Client
    worker: Worker

    def hold(self, event: threading.Event) -> RemovableHandle:
        """Makes the network wait for an event, until the handle is removed."""

        def wait(*_: object) -> None:
            event.wait(120)  # a busy machine takes long for what comes in between

        return self.worker.segmenter.model.networks[0].register_forward_hook(wait)


def running(folder: Path, **changes: object) -> Iterator[Running]:
    """A service on a port of its own, until the generator is closed."""
    settings = Settings.model_validate({"folder": folder, "token": TOKEN, "port": 0, **changes})
    prepare_folder(folder)
    app = make_app(settings, TOKEN)
    worker = Worker(settings, Bright())
    server = uvicorn.Server(configured(app, port=0))
    threads = [threading.Thread(target=run, daemon=True) for run in (server.run, worker.run)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with Client(address, TOKEN) as client:
        yield Running(settings, address, client, worker)
    worker.stop()
    server.should_exit = True
    for thread in threads:
        thread.join(10)
