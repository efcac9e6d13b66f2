"""What does `detxai coco` cost beside the bare calls that explain the same boxes? By turns, in one process.

    python examples/coco_overhead.py --model MODEL --images DIR --annotations FILE [--predictions FILE] [--rounds 3]

For each method and choice of boxes a round explains every image twice: once as a run does, with its rows, maps and
files, and once by `detxai.explain` of the image's file and boxes. Both are counted in processor seconds of the whole
process (one thread: run it with OMP_NUM_THREADS=1) and in wall time; a round's ratio is that of their sums, and the
median over rounds is printed. "explaining" is the step that explains, over `explain`. "whole" adds what the model is
asked besides: without ``--predictions`` a run makes them and sees where misses are lost, with them it looks whether the
model still makes them; the bare calls beside it are one `detect` and one `explain` an image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import detxai
from detxai.adapters.loading import load_detector
from detxai.coco.api import quiet_method
from detxai.coco.folder import CocoFolder
from detxai.coco.parts.image_detector import ImageDetector
from detxai.coco.parts.image_explainer import ImageExplainer
from detxai.coco.parts.maker import PartMaker
from detxai.coco.parts.misses import Miss
from detxai.coco.parts.plan import Job, plan
from detxai.coco.parts.prediction_chunks import PredictionChunks
from detxai.coco.selection import Selection, select
from detxai.data.categories import label_to_category
from detxai.data.coco_files import as_predictions, read_annotations, read_predictions
from detxai.data.cocoeval import evaluate, matching
from detxai.data.error_kinds import FALSE_POSITIVES, labelled_boxes
from detxai.data.image_files import ImageFile
from detxai.formats import to_coco_results

Answer = TypeVar("Answer")
METHODS: dict[str, dict[str, Any]] = {
    "ablation_cam": {"ratio_channels_to_ablate": 0.1},
    "eigen_cam": {},
    "d_rise": {"n_masks": 64},
}
KINDS = {
    "predictions": ("true_positive", *FALSE_POSITIVES),
    "misses too": ("true_positive", *FALSE_POSITIVES, "missed"),
}


@dataclass
class Clock:
    """Processor and wall seconds of several calls together."""

    spent: tuple[float, float] = (0.0, 0.0)

    def run(self, call: Callable[..., Answer], *given: Any) -> Answer:
        before = time.process_time(), time.perf_counter()
        answer = call(*given)
        self.spent = (
            self.spent[0] + time.process_time() - before[0], self.spent[1] + time.perf_counter() - before[1]
        )  # fmt: skip
        return answer

    def __add__(self, other: Clock) -> Clock:
        return Clock((self.spent[0] + other.spent[0], self.spent[1] + other.spent[1]))

    def __truediv__(self, other: Clock) -> tuple[float, float]:
        return self.spent[0] / other.spent[0], self.spent[1] / other.spent[1]


@dataclass(frozen=True)
class Question:
    """One method and choice of boxes: how a run goes about some images, and how the bare calls do."""

    explainer: ImageExplainer
    annotations: Any
    folder: Path

    def detecting(self, jobs: Sequence[Job]) -> dict[int, Miss]:
        """As a run without predictions does first."""
        labels = {label: category for category, label in self.explainer.category_to_label.items()}
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            threshold = self.explainer.score_threshold
            made = CocoFolder(Path(out))
            detecting = ImageDetector(self.explainer.detector, labels, threshold)
            making = PredictionChunks(detecting, made, annotations=self.annotations)
            for _ in making.make([job.file for job in jobs]):
                pass
            return making.misses(len(jobs))

    def explaining(self, jobs: Sequence[Job], misses: Mapping[int, Miss] | None) -> None:
        parts = plan([query.box for job in jobs for query in job.queries], [job.file for job in jobs], 32)
        PartMaker(replace(self.explainer, misses=misses), CocoFolder(self.folder)).make(parts)

    def bare(self, job: Job) -> None:
        explainer, boxes = self.explainer, [query.box for query in job.queries]
        detections = detxai.Detections(
            [box.box for box in boxes],
            [0.5 if box.score is None else box.score for box in boxes],
            [explainer.category_to_label[box.category_id] for box in boxes],
            explainer.detector.class_names,
        )
        detxai.explain(explainer.detector, job.file.path, explainer.method, detections)

    def ratios(self, jobs: Sequence[Job]) -> list[float]:
        """Explaining over bare ``explain``, processor and wall; the whole over ``detect`` and ``explain``, likewise."""
        detecting, explaining, detect, explain = Clock(), Clock(), Clock(), Clock()
        for start in range(0, len(jobs), 8):  # by turns: whatever else the machine does meets both
            some = jobs[start : start + 8]
            misses = None if self.explainer.from_file else detecting.run(self.detecting, some)
            explaining.run(self.explaining, some, misses)
            for job in some:
                detect.run(self.explainer.detector.detect, job.file.path, self.explainer.score_threshold)
                explain.run(self.bare, job)
        return [*(explaining / explain), *((detecting + explaining) / (detect + explain))]


def questions(given: argparse.Namespace, out: Path) -> dict[tuple[str, str], tuple[Question, list[Job]]]:
    """For each method and choice of boxes, the question and its images."""
    size = {} if given.input_size is None else {"input_size": given.input_size}
    detector = load_detector(given.model, **size)
    annotations = read_annotations(given.annotations)
    pairs = label_to_category(detector, annotations)
    files = [ImageFile.from_record(record, given.images) for record in annotations.dataset["images"]]
    found = {file.image_id: detector.detect(file.path, 0.001) for file in files[: given.max_images]}
    if given.predictions is None:
        records = [
            record for number, one in found.items() for record in to_coco_results(one, number, label_to_category=pairs)
        ]
        predictions = as_predictions(records, annotations)
    else:
        predictions = read_predictions(given.predictions, annotations)
    threshold = min(record["score"] for record in predictions.anns.values())
    every = labelled_boxes(annotations, predictions, matching(evaluate(annotations, predictions), 0.5))
    asked = {}
    for name in given.methods:
        for kinds, wanted in KINDS.items():
            explainer = ImageExplainer(
                detector, quiet_method(name, METHODS[name]), {category: label for label, category in pairs.items()},
                0.5, threshold, from_file=given.predictions is not None, fail_fast=True,
            )  # fmt: skip
            chosen = select(every, Selection(wanted, min_score=0.25, image_ids=list(found)))
            jobs = [job for part in plan(chosen, files, 32) for job in part.jobs]
            folder = out / f"{name} {kinds}"
            folder.mkdir()
            wants = annotations if "missed" in wanted else None
            if jobs:
                asked[name, kinds] = Question(explainer, wants, folder), jobs
    return asked


def table(measured: Mapping[tuple[str, str], Sequence[Sequence[float]]]) -> str:
    lines = [f"{'':<26}{'explaining':>20}{'whole':>20}"]
    lines += [f"{'method':<13}{'boxes':<13}{'processor':>10}{'wall':>10}{'processor':>10}{'wall':>10}"]
    for (method, kinds), rounds in measured.items():
        medians = "".join(f"{statistics.median(column):>10.3f}" for column in zip(*rounds))
        lines.append(f"{method:<13}{kinds:<13}{medians}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--annotations", required=True, type=Path)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--max-images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        asked = questions(given, Path(out))
        for question, jobs in asked.values():
            question.ratios(jobs[:2])  # what a first call sets up is no part of any
        rounds: dict[tuple[str, str], list[list[float]]] = {key: [] for key in asked}
        for _ in range(given.rounds):
            for key, (question, jobs) in asked.items():
                rounds[key].append(question.ratios(jobs))
    print(table(rounds))
    if given.json is not None:
        given.json.write_text(json.dumps({" ".join(key): value for key, value in rounds.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
