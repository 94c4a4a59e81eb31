"""Log of a run: one line of JSON for each step and validation, and the same for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segnet.runtime.files import write_text

FILE, BOARD = "log.jsonl", "tensorboard"
SHOWN = ("loss", "learning_rate", "gradient_norm", "slices_per_s")
"""Values of a step that TensorBoard shows."""


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without the incomplete last line of a killed process."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Log:
    """Appends rows to `log.jsonl` and, where asked, scalars to `tensorboard/`.

    Parameters
    ----------
    folder : of the run
    kept : rows that stay; later ones are removed, since the run repeats their steps
    after : step at which the run resumes
    board : whether to write for TensorBoard
    """

    def __init__(self, folder: Path, *, kept: int, after: int, board: bool) -> None:
        path = folder / FILE
        rows = read(path)[:kept] if kept else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)
        self.board: Any = None
        if board:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / BOARD), purge_step=after + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Appends the row of a step, or of a validation, which has "val_dice"."""
        self.file.write(json.dumps(row) + "\n")
        if self.board is not None:
            shown = ("val_dice",) if "val_dice" in row else SHOWN
            for name in shown:
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
