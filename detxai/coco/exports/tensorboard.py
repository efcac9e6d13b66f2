"""TensorBoard: AP, counts and costs of mistakes as scalars, the worst of each kind as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.exports.images import caption_of, pictured
from detxai.data.error_kinds import KINDS
from detxai.progress import progress_bar
from detxai.runs.interrupting import raise_if_interrupted


def to_tensorboard(run: ExplainedBoxes, folder: Path, *, most: int = 8, step: int = 0) -> int:
    """Write an event file: ``tensorboard --logdir FOLDER`` shows it.

    Args:
        run: from ``detxai.coco.load``, filtered or not.
        folder: of the event files; another run's are left as they are.
        most: pictures of each kind, those that cost most AP.
        step: of the training, so that several runs make a curve.

    Returns:
        How many pictures were written.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('tensorboard is not installed: pip install "detxai[tensorboard]"') from error
    chosen = worst(run, most)
    with SummaryWriter(str(folder)) as writer, progress_bar(None, len(chosen), "to TensorBoard", "box") as bar:
        for name, value in scalars(run).items():
            writer.add_scalar(f"detxai/{name}", value, step)
        places: dict[str, int] = {}
        for index in chosen:
            row = run.row(index)
            place = places[row["kind"]] = places.get(row["kind"], -1) + 1
            tag = f"{row['kind']}/{place:02d} {caption_of(row)}"
            writer.add_image(tag, pictured(run, index), step, dataformats="HWC")
            raise_if_interrupted()
            bar.update(1)
    return len(chosen)


def worst(run: ExplainedBoxes, most: int) -> list[int]:
    """The ``most`` rows of each kind that cost most AP; of true positives the surest."""
    table: list[dict[str, Any]] = run.table(["kind", "ap_loss", "score"]).to_pylist()
    ranked = sorted(range(len(table)), key=lambda i: (-(table[i]["ap_loss"] or 0), -(table[i]["score"] or 0), i))
    return [index for kind in KINDS for index in [i for i in ranked if table[i]["kind"] == kind][:most]]


def scalars(run: ExplainedBoxes) -> dict[str, float]:
    """AP, how many boxes are of each kind, and what each kind costs, of the whole run."""
    record = json.loads(run.folder.evaluation.read_text(encoding="utf-8"))
    named = {
        **record["summary"],
        **{f"boxes/{kind}": n for kind, n in record["kinds"].items()},
        **{f"delta AP/{kind}": gain for kind, gain in record.get("delta_ap", {}).items()},
    }
    return {name: float(value) for name, value in named.items() if value is not None}
