"""From annotations and predictions to a dataset of explanations: a run that can be killed at any time and goes on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detxai.adapters.detector import Detector
from detxai.coco.asking import Asker
from detxai.coco.checking import check_request
from detxai.coco.detecting import CHUNK, Detecting
from detxai.coco.evaluation import evaluation_record
from detxai.coco.folder import CocoFolder
from detxai.coco.labelling import label
from detxai.coco.manifest import begin, fingerprint, mark_refused
from detxai.coco.options import Finished, Options
from detxai.coco.overlays import save_overlays
from detxai.coco.parts import Explaining
from detxai.coco.plan import Part, plan
from detxai.coco.report import write_report
from detxai.coco.reusing import ArchivedRows, archive_parts, delete_archive
from detxai.coco.rows import Row, box_row
from detxai.coco.schema import BOX_COLUMNS, FAILURE_COLUMNS, arrow_schema
from detxai.coco.selecting import Selection, select
from detxai.data.coco_files import as_predictions
from detxai.data.cocoeval import evaluate
from detxai.data.error_kinds import Case
from detxai.data.image_files import ImageFile
from detxai.explain import Method
from detxai.explanation import settings_of
from detxai.formats import category_names
from detxai.runs.failures import AllFailedError
from detxai.runs.files import WriteError
from detxai.runs.interrupting import ctrl_c_is_heard

log = logging.getLogger(__name__)

DEFAULT_SCORE_THRESHOLD = 0.001  # the detector's own predictions are kept down to it, for the sake of AP


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

    detector: Detector
    method: Method
    images: Path
    annotations: Any
    predictions: Any | None
    label_to_category: Mapping[int, int]
    folder: CocoFolder
    selection: Selection
    options: Options = field(default_factory=Options)
    evaluation: Any | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Finished:
        """Do what is still to do.

        Raises:
            ValueError: the request cannot be answered (then nothing is written), the folder holds another run, or the
                first twenty images all failed.
            WriteError: the folder cannot be written to: what is finished is kept, and the same run goes on.
        """
        check_request(self)
        with ctrl_c_is_heard():
            return self._run()

    def _run(self) -> Finished:
        begin(self.folder, self._question(), self._about())
        predictions = self._predicted() if self.predictions is None else self.predictions
        record, chosen = self._labelled(predictions)
        parts = plan(chosen, self._answerable(), self.options.rows_per_part)
        self._expect_same_plan(parts)
        try:
            self._explain(parts)
        except WriteError:  # nor could the failures be
            raise
        except AllFailedError:
            mark_refused(self.folder)
            raise
        except BaseException:
            self._collected_failures()
            raise
        failures = self._collected_failures()
        complete = all(self.folder.has_part(part.number) for part in parts)
        if complete:
            delete_archive(self.folder)
        self._show(parts, record, complete=complete)
        n_missing = sum(row["n_boxes"] for row in failures)
        n_there = sum(part.n_boxes for part in parts if self.folder.has_part(part.number))
        return Finished(self.folder.root, record, len(chosen), n_there - n_missing, failures, complete)

    def _show(self, parts: Sequence[Part], record: dict[str, Any], *, complete: bool) -> None:
        """Overlays of this shard's rows, and the report once every shard is done, where they are wanted."""
        options = self.options
        mine = options.shard.mine(parts)
        if options.overlays and mine:
            with options.bar(sum(part.n_boxes for part in mine), 0, "box", "overlays") as bar:
                save_overlays(self.folder, self.images, mine, bar.update)
        if complete and options.report and parts:
            with options.bar(sum(part.n_boxes for part in parts), 0, "box", "report") as bar:
                write_report(self.folder, record, self.images, bar.update)

    @property
    def _threshold(self) -> float:
        if self.options.score_threshold is not None:
            return self.options.score_threshold
        scores = [] if self.predictions is None else [p["score"] for p in self.predictions.anns.values()]
        return min(max(min(scores, default=DEFAULT_SCORE_THRESHOLD), 0.0), 1.0)

    @property
    def _operating_point(self) -> float:
        return max(self.options.operating_point, self._threshold)

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
        failed = self._failed_images()
        return [file for file in self._files() if file.image_id not in failed]

    def _failed_images(self) -> set[int]:
        return {row["image_id"] for row in self.folder.failures("detecting")}

    def _question(self) -> dict[str, Any]:
        """All that decides what the dataset holds."""
        return {
            "model": self.detector.describe(),
            "weights_sha256": self.detector.fingerprint(),
            "annotations_sha256": fingerprint(self.annotations),
            "predictions_sha256": None if self.predictions is None else fingerprint(self.predictions),
            "label_to_category": {str(label): category for label, category in self.label_to_category.items()},
            "method": self.method.name,
            "settings": settings_of(self.method),
            "selection": self.selection.record(),
            "iou": self.options.iou,
            "operating_point": self._operating_point,
            "score_threshold": self._threshold,
            "map_stride": self.options.map_stride,
            "rows_per_part": self.options.rows_per_part,
        }

    def _about(self) -> dict[str, Any]:
        names = {str(label): name for label, name in self.detector.class_names.items()}
        return {"images": str(self.images.resolve()), "class_names": names, **self.about}

    @property
    def _detecting(self) -> Detecting:
        return Detecting(
            self.detector,
            self.label_to_category,
            self._threshold,
            self.folder,
            self._workers,
            self.options.fail_fast,
            self.annotations if "missed" in self.selection.kinds else None,
            self.options.iou,
            self._operating_point,
        )

    def _predicted(self) -> Any:
        """The detector's own predictions, as a ``COCO``; written to ``predictions.json`` too."""
        path, files = self.folder.root / "predictions.json", self._files()
        options = self.options
        if options.retry_failed and self.folder.failures("detecting"):
            path.unlink(missing_ok=True)
            self._detecting.forget_failed()
        first = options.shard.index * len(files) // (CHUNK * options.shard.of)
        with options.bar(len(files), 0, "image", "detecting") as bar:
            for n_images in self._detecting.chunks(files, first):
                bar.update(n_images)
        results = self._detecting.results(len(files))
        if not self.folder.has_whole_json(path):
            self.folder.write_json(path, results)
        return as_predictions(results, self.annotations)

    def _labelled(self, predictions: Any) -> tuple[dict[str, Any], list[Case]]:
        """What COCOeval says, written to ``evaluation.json`` and ``boxes.parquet``; and the boxes to explain."""
        files, failed = self._files(), self._failed_images()
        left_out = [file.file_name for file in files if file.image_id in failed]
        evaluation = self.evaluation
        if evaluation is None:
            seen = [file.image_id for file in files if file.image_id not in failed]
            evaluation = evaluate(self.annotations, predictions, image_ids=seen if failed else None)
        point = self._operating_point
        found = label(self.annotations, predictions, evaluation, self.options.iou, point)
        record = evaluation_record(evaluation, found, self._names, self.options.iou, point, left_out)
        self.folder.write_json(self.folder.root / "evaluation.json", record)
        file_names = {file.image_id: file.file_name for file in files}
        rows = [{"file_name": file_names[case.image_id], **box_row(case, self._names)} for case in found]
        self.folder.write_table(self.folder.root / "boxes.parquet", rows, arrow_schema(BOX_COLUMNS))
        chosen = select(found, self.selection, self._names)
        known = set(self.label_to_category.values())
        return record, [case for case in chosen if case.category_id in known]

    def _expect_same_plan(self, parts: Sequence[Part]) -> None:
        """The parts that are there must be of this plan: predictions made on another machine may differ a little.

        Where failed images are tried again, those that no longer fail make another plan of it.
        """
        digest = hashlib.sha256()
        for part in parts:
            for job in part.jobs:
                digest.update(repr((part.number, job.file.file_name, [one.case for one in job.asked])).encode())
        path = self.folder.parts / "plan.txt"
        before = self._saved_plan(path)
        if before == digest.hexdigest():
            return
        if before is not None and self.options.retry_failed:
            archive_parts(self.folder, before)
        elif before is not None:
            raise ValueError(
                f"out: {self.folder.root} was begun with other boxes: the predictions or images are no longer what "
                "they were; give a new folder, or retry_failed to keep what is asked as before"
            )
        self.folder.write_text(path, digest.hexdigest())

    def _saved_plan(self, path: Path) -> str | None:
        saved = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        if saved is None or len(saved) == len(hashlib.sha256().hexdigest()):
            return saved
        if self.folder.has_rows():
            raise ValueError(f"out: {path} is damaged; give a new folder")
        return None

    def _explain(self, parts: Sequence[Part]) -> None:
        """Every part of this shard that is not there yet; on request also those in which something failed."""
        mine = self.options.shard.mine(parts)
        again = [part for part in mine if self.options.retry_failed and self._has_failures(part)]
        todo = [part for part in mine if part in again or not self.folder.has_part(part.number)]
        total, left = sum(part.n_boxes for part in mine), sum(part.n_boxes for part in todo)
        stride = self.options.map_stride
        making = Explaining(
            self._asker(),
            self.folder,
            1 if stride == "layer" else stride,
            self._workers,
            ArchivedRows(self.folder, self._names, [self.folder.part(part.number) for part in again]),
        )
        with self.options.bar(total, total - left, "box", "explaining") as bar:
            making.make(todo, bar.update)

    def _has_failures(self, part: Part) -> bool:
        return self.folder.failures_of(f"part-{part.number:06d}").is_file()

    def _asker(self) -> Asker:
        options = self.options
        wanted = self.predictions is None and "missed" in self.selection.kinds
        return Asker(
            self.detector,
            self.method,
            {category: label for label, category in self.label_to_category.items()},
            self._names,
            options.iou,
            self._threshold,
            from_file=self.predictions is not None,
            misses=self._detecting.misses(len(self._files())) if wanted else None,
            layer_maps=options.map_stride == "layer",
            fail_fast=options.fail_fast,
            operating_point=self._operating_point,
        )

    def _collected_failures(self) -> list[Row]:
        """All failures of all shards, written to ``failures.parquet``."""
        failures = None
        while failures != (now := self.folder.failures()):  # a shard that ends at the same instant may have added some
            failures = now
            self.folder.write_table(self.folder.root / "failures.parquet", failures, arrow_schema(FAILURE_COLUMNS))
        return failures
