"""``report.html``: a run on one page for a team meeting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.errors import KINDS
from detxai.coco.findings import Findings, Row, gather
from detxai.coco.folder import CocoFolder
from detxai.coco.pictures import average_picture, photo_under_map
from detxai.coco.report_page import Average, Card, page
from detxai.runs.interrupting import raise_if_interrupted

log = logging.getLogger(__name__)

CARDS = 24  # of each kind


def write_report(
    folder: CocoFolder, evaluation: dict[str, Any], images: Path, tick: Callable[[int], object] = lambda n: None
) -> Path:
    """Write the page of a dataset; a pass over its rows, one part in memory at a time.

    Args:
        folder: of the run.
        evaluation: the content of ``evaluation.json``.
        images: the folder of the images.
        tick: called with 1 after each row.

    Returns:
        The path of ``report.html``.
    """
    explained = ExplainedBoxes(folder.root, images)
    findings = gather(explained, CARDS, tick)
    cards = [card for kind in KINDS for index in findings.worst[kind] if (card := _card(explained, index)) is not None]
    text = page(evaluation, explained.manifest, findings, _averages(findings), cards, len(folder.failures()))
    path = folder.root / "report.html"
    folder.write_text(path, text)
    return path


def _averages(findings: Findings) -> list[Average]:
    """Every average as a picture; all on one scale, so that they can be compared."""
    top = max((float(average.mean().max()) for average in findings.averages.values()), default=0.0)
    order: dict[str, int] = {kind: place for place, kind in enumerate(KINDS)}
    return [
        Average(kind, category, average.n, average_picture(average.mean(), top))
        for (kind, category), average in sorted(
            findings.averages.items(), key=lambda item: (order[item[0][0]], item[0])
        )
        if average.n
    ]


def _card(explained: ExplainedBoxes, index: int) -> Card | None:
    """One box of the gallery; None where its image is gone."""
    row = explained.row(index)
    try:
        explanation = explained[index]
    except (OSError, ValueError) as error:
        raise_if_interrupted()
        log.warning("report: row %d is not shown: %s", index, error)
        return None
    photo, under_map = (
        photo_under_map(explanation.image, explanation.heatmap, row, with_map=with_map) for with_map in (False, True)
    )
    return Card(
        row["kind"],
        row["category"],
        row["score"],
        row["ap_loss"],
        row["energy_box"],
        _story(row),
        photo,
        under_map,
        flat=bool(explanation.values.max() <= 0),
    )


def _story(row: Row) -> str:
    """What happened to a box, in a sentence."""
    kind, iou = row["kind"], row["iou"]
    if kind == "missed":
        return _story_of_miss(row)
    said = {
        "true_positive": f"found, IoU {iou or 0:.2f}",
        "localisation": f"in the wrong place: IoU {iou or 0:.2f} with the {row['annotation_category']}",
        "classification": f"is a {row['annotation_category']} (IoU {iou or 0:.2f})",
        "both": f"wrong class and place: near a {row['annotation_category']} (IoU {iou or 0:.2f})",
        "duplicate": f"a second box on the same {row['annotation_category']} (IoU {iou or 0:.2f})",
        "background": f"nothing annotated here (largest IoU {iou or 0:.2f})",
        "ignored": "on a crowd: counts neither way",
    }[kind]
    return said + ("; the detector no longer says so" if row["reproduced"] is False else "")


def _story_of_miss(row: Row) -> str:
    score, iou = row["candidate_score"], row["candidate_iou"]
    best = f"best candidate {score:.3f} at IoU {iou:.2f}"
    if row["found_below"] is not None:
        best += f"; found only by a prediction of {row['found_below']:.3f}, below the operating point"
    return {
        "found_now": f"found now ({best}): COCOeval gave that box away, or the predictions are of another run",
        "no_proposal": f"no candidate covers it: {best}",
        "wrong_class": f"seen as {row['other_category']} ({row['other_score'] or 0:.3f}); {best}",
        "low_score": f"covered, but scored too low: {best}",
        "suppressed": f"suppressed by the orange box ({row['suppressor_score'] or 0:.3f}); {best}",
        "cut_off": f"cut off by a limit of the detector: {best}",
    }[row["stage"]]
