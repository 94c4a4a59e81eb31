"""Pictures and texts of a training run that has ended: curves, validation cases, model card."""

from __future__ import annotations

from segnet.models import checkpoint
from segnet.report.cases import telling_cases
from segnet.report.model_card import FILE as CARD_FILE
from segnet.report.model_card import model_card
from segnet.report.overlay import overlay_png
from segnet.runtime.files import write_text
from segnet.training.loop import FinishedRun, lesion_in

CURVES_FILE, CASES_FOLDER = "curves.png", "cases"


def draw_run(run: FinishedRun) -> None:
    """Write `curves.png`, `MODEL_CARD.md`, and pictures of the worst, median and best validation case in `cases/`.

    Pass it to `segnet.training.loop.train` as `on_end`.
    """
    from segnet.report.charts import curves_png  # matplotlib only when a run ends

    curves_png(run.folder / CURVES_FILE, run.history)
    model, config = checkpoint.load(run.folder)
    (run.folder / CASES_FOLDER).mkdir(exist_ok=True)
    for rank, name in telling_cases(run.dice_by_case).items():
        case = run.validation.named(name)
        overlay_png(
            run.folder / CASES_FOLDER / f"{rank}.png",
            case.image,
            lesion_in(model, case, config),
            case.mask > 0,
            window_hu=config.data.window,
            spacing_zyx_mm=case.spacing_zyx_mm,
            title=f"{name} ({rank})",
        )
    write_text(run.folder / CARD_FILE, model_card(run.folder))
