"""An overlay of each explanation, on request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.folder import CocoFolder
from detxai.coco.parts.plan import Part
from detxai.data.image_files import ImageFolder
from detxai.runs.failures import expect_item_failure
from detxai.runs.files import make_folder, remove_abandoned
from detxai.runs.interrupting import raise_if_interrupted
from detxai.runs.names import safe_name

log = logging.getLogger(__name__)


def save_overlays(
    folder: CocoFolder, images: ImageFolder, parts: Sequence[Part], tick: Callable[[int], object] = lambda n: None
) -> None:
    """Write ``overlays/000012_cat_localisation.png`` for row 12 and so on, where it is not there yet.

    They are drawn from the dataset, so a finished run gets them too, without its detector; where maps are kept coarser
    than the image, these are what is drawn.

    Args:
        folder: of the run.
        images: the folder of the images; one that is missing gets no overlay, which is logged.
        parts: whose rows.
        tick: called with 1 after each row.
    """
    explained = ExplainedBoxes(folder.root, images)
    wanted = {query.row for part in parts for job in part.jobs for query in job.queries}
    make_folder(folder.overlays)
    remove_abandoned(folder.overlays)
    for index in range(len(explained)):
        row = explained.row(index)
        if row["row"] not in wanted:
            continue
        path = folder.overlays / _name(row)
        try:
            if not path.is_file():
                explained[index].save(path, caption=_caption(row))
        except Exception as error:
            expect_item_failure(error)
            log.warning("row %d gets no overlay: %s", row["row"], error)
        raise_if_interrupted()
        tick(1)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['row']:06d}_{safe_name(row['category'])}_{row['kind']}.png"


def _caption(row: Mapping[str, Any]) -> str:
    caption = f"{row['category']}, {row['kind'].replace('_', ' ')}"
    caption += "" if row["score"] is None else f", {row['score']:.2f}"
    return f"{caption} · {row['method']}"
