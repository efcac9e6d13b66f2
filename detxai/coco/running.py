"""From annotations and predictions to a dataset of explanations: a run that can be killed at any time and goes on."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detxai.adapters.adapter import Adapter
from detxai.coco.ap_loss import ap_losses
from detxai.coco.asking import Asker, Row, box_row, failure
from detxai.coco.decoding import ImageFile, decoded
from detxai.coco.detecting import CHUNK, Detecting
from detxai.coco.errors import Case, cases
from detxai.coco.evaluation import evaluation_record
from detxai.coco.folder import Folder
from detxai.coco.manifest import begin, fingerprint, weights_fingerprint
from detxai.coco.matching import evaluate, matching
from detxai.coco.overlays import save_overlays
from detxai.coco.planning import Part, Shard, plan
from detxai.coco.reading import as_predictions
from detxai.coco.report import write_report
from detxai.coco.schema import BOX_COLUMNS, FAILURE_COLUMNS
from detxai.coco.selecting import Selection, select
from detxai.explain import Method, check_threshold
from detxai.explanation import settings_of
from detxai.formats import category_names

log = logging.getLogger(__name__)

MADE_AT = 0.001  # score down to which the detector's own predictions are kept, as evaluations do for the sake of AP
HOPELESS = 10  # so many images failing one after the other from the start are no accident


@dataclass(frozen=True)
class Options:
    """How a run goes about it.

    Args:
        iou: from which a prediction finds an annotation; one of the evaluation's.
        score_threshold: at which the detector is asked; None: 0.001, or, where predictions come from a file, the
            lowest score in it.
        map_stride: image pixels to a stored one; 1 keeps the image's resolution, 8 about that of a detector's layers.
        rows_per_part: about how many explanations a killed run loses at most.
        shard: which parts this process does; all shards write into one folder, or their folders are merged.
        workers: processes that decode images ahead; None: 2 where the detector is on an accelerator, else 0, as they
            would only take the processor away from the model.
        overlays: also write a picture of each explanation.
        report: write ``report.html`` once all parts are there.
        fail_fast: stop at the first failure.
        retry_failed: do parts with failures anew.
        progress: bars; None: where standard error is a terminal.
    """

    iou: float = 0.5
    score_threshold: float | None = None
    map_stride: int = 1
    rows_per_part: int = 32
    shard: Shard = field(default_factory=Shard)
    workers: int | None = None
    overlays: bool = False
    report: bool = True
    fail_fast: bool = False
    retry_failed: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.score_threshold is not None:
            check_threshold(self.score_threshold)
        for name, least in (("map_stride", 1), ("rows_per_part", 1), ("workers", 0)):
            given = getattr(self, name)
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < least):
                raise ValueError(f"{name} must be a whole number from {least}, got {given!r}")

    def bar(self, total: int, done: int, unit: str, what: str) -> tqdm:
        hidden = not sys.stderr.isatty() if self.progress is None else not self.progress
        return tqdm(total=total, initial=done, unit=unit, desc=what, disable=hidden, smoothing=0.1)


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    Attributes:
        folder: where everything is.
        evaluation: AP, by class too, and how many boxes are of each kind: the content of ``evaluation.json``.
        n_selected: boxes to explain, in all shards.
        n_explained: of these, how many are explained, in all shards so far.
        failures: rows of ``failures.parquet``.
        complete: whether every part is there, in all shards.
    """

    folder: Path
    evaluation: Mapping[str, Any]
    n_selected: int
    n_explained: int
    failures: Sequence[Row]
    complete: bool


@dataclass(frozen=True)
class Run:
    """A run, before it starts.

    Attributes:
        detector: the detector.
        method: the method.
        images: folder of the images.
        annotations: a ``COCO``.
        predictions: a ``COCO``; None: the detector makes them.
        label_to_category: label -> category id.
        folder: where everything goes.
        selection: which boxes are explained.
        options: how.
        evaluation: a finished COCOeval of these; None: one is made.
        about: further entries of the manifest, such as the command.
    """

    detector: Adapter
    method: Method
    images: Path
    annotations: Any
    predictions: Any | None
    label_to_category: Mapping[int, int]
    folder: Folder
    selection: Selection
    options: Options = field(default_factory=Options)
    evaluation: Any | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Finished:
        """Do what is still to do."""
        begin(self.folder, self._question(), self._about())
        predictions = self._predicted() if self.predictions is None else self.predictions
        record, chosen = self._labelled(predictions)
        failed = {row["image_id"] for row in self.folder.failures() if row["step"] in ("reading", "detecting")}
        failed &= set() if self.predictions is not None else failed
        parts = plan(
            chosen, [file for file in self._files() if file.image_id not in failed], self.options.rows_per_part
        )
        self._expect_same_plan(parts)
        try:
            self._explain(parts)
        finally:
            failures = self._collected_failures()
        complete = all(self.folder.has_part(part.number) for part in parts)
        if complete and self.options.report and chosen:
            with self.options.bar(len(chosen), 0, "box", "report") as bar:
                write_report(self.folder, record, bar.update)
        n_missing = sum(row["n_boxes"] for row in failures)
        n_there = sum(part.n_boxes for part in parts if self.folder.has_part(part.number))
        return Finished(self.folder.root, record, len(chosen), n_there - n_missing, failures, complete)

    @property
    def _threshold(self) -> float:
        if self.options.score_threshold is not None:
            return self.options.score_threshold
        scores = [] if self.predictions is None else [p["score"] for p in self.predictions.anns.values()]
        return min(max(min(scores, default=MADE_AT), 0.0), 1.0)

    @property
    def _workers(self) -> int:
        if self.options.workers is not None:
            return self.options.workers
        return 0 if self.detector.device.type == "cpu" else 2

    @property
    def _names(self) -> dict[int, str]:
        return category_names(self.annotations.dataset["categories"])

    def _files(self) -> list[ImageFile]:
        return [ImageFile.of(record, self.images) for record in self.annotations.dataset["images"]]

    def _answerable(self) -> list[ImageFile]:
        """The images without those that failed while predictions were made: they would only fail again."""
        failed = {row["image_id"] for row in self.folder.failures("detecting")}
        return [file for file in self._files() if file.image_id not in failed]

    def _question(self) -> dict[str, Any]:
        """All that decides what the dataset holds."""
        return {
            "model": self.detector.describe(),
            "weights_sha256": weights_fingerprint(self.detector),
            "annotations_sha256": fingerprint(self.annotations),
            "predictions_sha256": None if self.predictions is None else fingerprint(self.predictions),
            "label_to_category": {str(label): category for label, category in self.label_to_category.items()},
            "method": self.method.name,
            "settings": settings_of(self.method),
            "selection": self.selection.record(),
            "iou": self.options.iou,
            "score_threshold": self._threshold,
            "map_stride": self.options.map_stride,
            "rows_per_part": self.options.rows_per_part,
        }

    def _about(self) -> dict[str, Any]:
        names = {str(label): name for label, name in self.detector.class_names.items()}
        return {"images": str(self.images.resolve()), "class_names": names, **self.about}

    def _predicted(self) -> Any:
        """The detector's own predictions, as a ``COCO``; written to ``predictions.json`` too."""
        path, files = self.folder.root / "predictions.json", self._files()
        options = self.options
        if options.retry_failed and any(self.folder.parts.glob("failures-detecting-*.parquet")):
            raise ValueError("retry_failed: images failed while predictions were made; give a new folder")
        making = Detecting(
            self.detector, self.label_to_category, self._threshold, self.folder, self._workers, options.fail_fast
        )
        first = options.shard.index * len(files) // (CHUNK * options.shard.of)
        with options.bar(len(files), 0, "image", "detecting") as bar:
            for n_images in making.chunks(files, first):
                bar.update(n_images)
        results = making.results(len(files))
        if not path.is_file():
            self.folder.write_json(path, results)
        return as_predictions(results, self.annotations)

    def _labelled(self, predictions: Any) -> tuple[dict[str, Any], list[Case]]:
        """What COCOeval says, written to ``evaluation.json`` and ``boxes.parquet``; and the boxes to explain."""
        evaluation = evaluate(self.annotations, predictions) if self.evaluation is None else self.evaluation
        found = cases(self.annotations, predictions, matching(evaluation, self.options.iou))
        losses = ap_losses(found, evaluation, self.options.iou)
        found = [replace(case, ap_loss=loss) for case, loss in zip(found, losses, strict=True)]
        record = evaluation_record(evaluation, found, self._names, self.options.iou)
        self.folder.write_json(self.folder.root / "evaluation.json", record)
        file_names = {file.image_id: file.file_name for file in self._files()}
        rows = [{"file_name": file_names[case.image_id], **box_row(case, self._names)} for case in found]
        self.folder.write_table(self.folder.root / "boxes.parquet", rows, BOX_COLUMNS)
        chosen = select(found, self.selection, self._names)
        known = set(self.label_to_category.values())
        return record, [case for case in chosen if case.category_id in known]

    def _expect_same_plan(self, parts: Sequence[Part]) -> None:
        """The parts that are there must be of this plan: predictions made on another machine may differ a little."""
        digest = hashlib.sha256()
        for part in parts:
            for job in part.jobs:
                digest.update(repr((part.number, job.file.file_name, [one.case for one in job.asked])).encode())
        path = self.folder.parts / "plan.txt"
        if not path.is_file():
            self.folder.write_text(path, digest.hexdigest())
        elif path.read_text(encoding="utf-8") != digest.hexdigest():
            raise ValueError(
                f"out: {self.folder.root} was begun with other boxes: the predictions or images are no longer what "
                "they were; give a new folder"
            )

    def _explain(self, parts: Sequence[Part]) -> None:
        """Every part of this shard that is not there yet."""
        mine = self.options.shard.mine(parts)
        if self.options.retry_failed:
            for part in mine:
                if self.folder.failures_of(f"part-{part.number:06d}").is_file():
                    self.folder.part(part.number).unlink(missing_ok=True)
        todo = [part for part in mine if not self.folder.has_part(part.number)]
        total, left = sum(part.n_boxes for part in mine), sum(part.n_boxes for part in todo)
        with self.options.bar(total, total - left, "box", "explaining") as bar:
            for part, rows, failures in self._answers(todo, bar):
                self.folder.write_part(part.number, rows, failures)

    def _answers(self, parts: Sequence[Part], bar: tqdm) -> Iterator[tuple[Part, list[Row], list[Row]]]:
        """The rows and failures of each part; images are decoded ahead across parts."""
        asker, unlucky = self._asker(), 0
        images = decoded([job.file for part in parts for job in part.jobs], self._workers)
        for part in parts:
            rows: list[Row] = []
            failures: list[Row] = []
            for job in part.jobs:
                _, image = next(images)
                if isinstance(image, str):
                    if self.options.fail_fast:
                        raise ValueError(image)
                    failures.append(failure(job.file, "reading", image, len(job.asked)))
                else:
                    answer = asker.ask(job.file, image, job.asked)
                    unlucky = unlucky + 1 if not answer.rows and unlucky >= 0 else -1
                    if unlucky == HOPELESS:
                        raise ValueError(f"the first {HOPELESS} images all failed: {answer.failures[-1]['reason']}")
                    rows += answer.rows
                    failures += answer.failures
                    if self.options.overlays:
                        save_overlays(self.folder, answer)
                bar.update(len(job.asked))
            yield part, rows, failures

    def _asker(self) -> Asker:
        options = self.options
        return Asker(
            self.detector,
            self.method,
            {category: label for label, category in self.label_to_category.items()},
            self._names,
            options.iou,
            self._threshold,
            from_file=self.predictions is not None,
            map_stride=options.map_stride,
            fail_fast=options.fail_fast,
        )

    def _collected_failures(self) -> list[Row]:
        failures = self.folder.failures()
        self.folder.write_table(self.folder.root / "failures.parquet", failures, FAILURE_COLUMNS)
        return failures
