"""``report.html``: a run on one page for a team meeting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detxai.coco.dataset import ExplainedBoxes
from detxai.coco.folder import CocoFolder
from detxai.coco.parts.misses import STAGES
from detxai.coco.summaries.confusion import NOTHING, Confusion
from detxai.coco.summaries.findings import EVERY_CLASS, Findings, Row, gather
from detxai.data.error_kinds import KINDS, LabelledBox
from detxai.data.image_files import ImageFolder
from detxai.methods import METHODS
from detxai.pages.coco_report import (
    AverageMap,
    BoxCard,
    CocoReport,
    KindRow,
    MatrixCell,
    MatrixTable,
    StageRow,
    coco_report_page,
)
from detxai.pages.pictures import data_uri, fitted, heat_picture, outline, under_map
from detxai.runs.interrupting import raise_if_interrupted

log = logging.getLogger(__name__)

CARDS = 24  # of each kind
WIDTH = 380  # of a photo, pixels
PAIRS = 40  # of confused classes, those that occur most often, of which the gallery shows cases
MATRIX_CLASSES = 20  # of the confusion matrix: those with the most mistakes
ANNOTATED, SUPPRESSING, NEAREST = (110, 231, 160), (255, 170, 60), (90, 170, 255)
KIND_MEANINGS = {
    "true_positive": "found an annotation of its class",
    "localisation": "the right class, but overlaps the object too little",
    "classification": "on an object, but of another class",
    "both": "near an object of another class, and overlaps it too little",
    "duplicate": "on an object that a box with a higher score has found already",
    "background": "where nothing is annotated",
    "missed": "annotated, and no prediction found it",
    "ignored": "on a crowd or an ignored annotation: counts neither way",
    "unannotated": "nobody annotated these images: neither right nor wrong",
}
STAGE_MEANINGS = {
    "found_now": "a box of its class covers it: COCOeval gave that box to a neighbour, or the file is of another run",
    "no_proposal": "no candidate covers it",
    "wrong_class": "candidates cover it, but for another class",
    "low_score": "candidates cover it, but score too low",
    "suppressed": "a box of its class with a higher score suppressed the candidate",
    "cut_off": "scored enough and was not suppressed: a limit inside the detector",
}


def write_report(
    folder: CocoFolder, evaluation: dict[str, Any], images: ImageFolder, tick: Callable[[int], object] = lambda n: None
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
    confusion = Confusion(folder.read_boxes())
    findings = gather(explained, CARDS, confusion, tick)
    manifest = explained.manifest
    method = str(manifest["question"]["method"])
    cards = [card for row in _shown(findings, confusion) if (card := _card(explained, row, confusion)) is not None]
    report = CocoReport(
        method=method,
        asks_about_boxes=getattr(METHODS.get(method), "asks_about_boxes", True),
        n_explained=findings.n,
        n_failures=len(folder.failures()),
        evaluation=evaluation,
        kinds=_kinds(evaluation, findings),
        stages=[
            StageRow(stage, STAGE_MEANINGS[stage], nearest.n, nearest.score, nearest.iou)
            for stage in STAGES
            if (nearest := findings.stages.get(stage)) is not None
        ],
        matrix=_matrix(confusion, cards),
        averages=_averages(findings),
        cards=cards,
        outside={
            category: (findings.found.get(category), findings.wrong.get(category))
            for category in {**findings.found, **findings.wrong}
        },
        unreproduced=findings.unreproduced,
        command=str(manifest.get("command", "")),
        versions=manifest["versions"],
    )
    path = folder.root / "report.html"
    folder.write_text(path, coco_report_page(report))
    return path


def _shown(findings: Findings, confusion: Confusion) -> list[int]:
    """The rows of the gallery: the worst of each kind, and of the pairs of classes that are confused most often."""
    worst = [index for kind in KINDS for index in findings.worst[kind]]
    pairs = [index for pair, _ in confusion.confused()[:PAIRS] for index in findings.of_pairs.get(pair, ())]
    return list(dict.fromkeys([*worst, *pairs]))


def _matrix(confusion: Confusion, cards: Sequence[BoxCard]) -> MatrixTable:
    """The classes with the most mistakes, and for each pair of them how many, and whether the gallery shows one."""
    shown = {(card.annotated, card.predicted) for card in cards}
    every = confusion.classes(len(confusion.counts))
    classes = [*every[:MATRIX_CLASSES], NOTHING]
    rows = [
        [MatrixCell(a, p, confusion.counts[a, p], (a, p) in shown) for p in classes if (a, p) != (NOTHING, NOTHING)]
        for a in classes
    ]
    return MatrixTable(classes, rows, max(0, len(every) - MATRIX_CLASSES))


def _kinds(evaluation: dict[str, Any], findings: Findings) -> list[KindRow]:
    rows = []
    for kind, n in evaluation["kinds"].items():
        average, n_empty = findings.averages.get((kind, EVERY_CLASS)), findings.flat[kind]
        n_explained = n_empty + (0 if average is None else average.n)
        gain = evaluation.get("delta_ap", {}).get(kind)  # runs of earlier versions have none
        rows.append(KindRow(kind, KIND_MEANINGS[kind], n, n_explained, n_empty, bool(findings.worst.get(kind)), gain))
    return rows


def _averages(findings: Findings) -> list[AverageMap]:
    """Every average as a picture; all on one scale, so that they can be compared."""
    top = max((float(average.mean().max()) for average in findings.averages.values()), default=0.0) or 1.0
    order: dict[str, int] = {kind: place for place, kind in enumerate(KINDS)}
    in_order = sorted(findings.averages.items(), key=lambda item: (order[item[0][0]], item[0]))
    return [
        AverageMap(kind, category, average.n, data_uri(heat_picture(average.mean() / top), "PNG", optimize=True))
        for (kind, category), average in in_order
        if average.n
    ]


def _card(explained: ExplainedBoxes, index: int, confusion: Confusion) -> BoxCard | None:
    """One box of the gallery; None where its image is gone."""
    row = explained.row(index)
    try:
        explanation = explained[index]
    except (OSError, ValueError) as error:
        raise_if_interrupted()
        log.warning("report: row %d is not shown: %s", index, error)
        return None
    photo = explanation.image
    scale = min(1.0, WIDTH / max(photo.shape[:2]))
    size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
    plain, mapped = fitted(photo, size), under_map(explanation, size)
    for picture in (plain, mapped):
        for name, colour in (
            ("candidate_box", NEAREST),
            ("annotation_box", ANNOTATED),
            ("suppressor_box", SUPPRESSING),
        ):
            if row[name] is not None:
                outline(picture, row[name], scale=scale, colour=colour)
        if row["score"] is not None:
            outline(picture, row["box"], scale=scale)
    annotated, predicted = confusion.pair_of(LabelledBox.from_row(row)) or (None, None)
    return BoxCard(
        row["kind"],
        row["category"],
        row["score"],
        row["ap_loss"],
        None if explanation.values.max() <= 0 else 1 - row["energy_box"],
        _story(row),
        data_uri(plain, "WEBP", quality=72),
        data_uri(mapped, "WEBP", quality=72),
        annotated,
        predicted,
        row["stage"],
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
        "unannotated": "nobody annotated this image",
    }[kind]
    return said + ("; the detector does not report it now" if row["reproduced"] is False else "")


def _story_of_miss(row: Row) -> str:
    score, iou = row["candidate_score"], row["candidate_iou"]
    best = f"best candidate {score:.3f} at IoU {iou:.2f}"
    if row["found_below"] is not None:
        best += f"; found only by a prediction with score {row['found_below']:.3f}, below the operating point"
    return {
        "found_now": f"found now ({best}): COCOeval gave that box away, or the predictions are of another run",
        "no_proposal": f"no candidate covers it: {best}",
        "wrong_class": f"seen as {row['other_category']} ({row['other_score'] or 0:.3f}); {best}",
        "low_score": f"covered, but scored too low: {best}",
        "suppressed": f"suppressed by the orange box ({row['suppressor_score'] or 0:.3f}); {best}",
        "cut_off": f"cut off by a limit of the detector: {best}",
    }[row["stage"]]
