"""What does `detxai coco` cost beside the bare calls that explain the same boxes? By turns, in one process.

    python examples/coco_overhead.py --model MODEL --images DIR --annotations FILE [--predictions FILE] [--rounds 3]

Without ``--predictions`` the model makes them first, as a run does; with them a run also asks the model what it finds
now, to see which of them it still makes. For each method and choice of boxes a round explains every image twice: once
as a run does, with its rows, maps and files, and once by `detxai.explain` of the image's file and boxes. Both are
counted in processor seconds of the whole process (one thread: run it with OMP_NUM_THREADS=1) and in wall time; the
ratio of each round is that of their sums, and the median over rounds is printed. A row that says where a miss was lost,
or whether a prediction is still made, takes an answer of the detector that no explanation needs; the last two columns
count one bare `candidates` or `detect` for such an image too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import detxai
from detxai.adapters.loading import load_detector
from detxai.coco.asking import Asker
from detxai.coco.categories import label_to_category
from detxai.coco.decoding import ImageFile
from detxai.coco.errors import FALSE_POSITIVES, cases
from detxai.coco.explaining import quiet_method
from detxai.coco.folder import Folder
from detxai.coco.matching import evaluate, matching
from detxai.coco.parts import Explaining
from detxai.coco.planning import Job, plan
from detxai.coco.reading import as_predictions, read_annotations, read_predictions
from detxai.coco.selecting import Selection, select
from detxai.formats import category_names, to_coco_results

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

    spent: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def run(self, call: Callable[[], object]) -> None:
        before = time.process_time(), time.perf_counter()
        call()
        after = time.process_time(), time.perf_counter()
        self.spent = [total + end - start for total, start, end in zip(self.spent, before, after, strict=True)]

    def over(self, *others: Clock) -> list[float]:
        return [own / sum(their) for own, *their in zip(self.spent, *(other.spent for other in others), strict=True)]


@dataclass(frozen=True)
class Question:
    """One method and choice of boxes: how a run goes about an image, and how the bare calls do."""

    asker: Asker
    folder: Folder

    def by_run(self, jobs: Sequence[Job]) -> Callable[[], object]:
        parts = plan([one.case for job in jobs for one in job.asked], [job.file for job in jobs], 32)
        return lambda: Explaining(self.asker, self.folder).make(parts)

    def bare(self, job: Job) -> Callable[[], object]:
        labels = [self.asker.category_to_label[one.case.category_id] for one in job.asked]
        scores = [0.5 if one.case.score is None else one.case.score for one in job.asked]
        boxes = detxai.Detections([one.case.box for one in job.asked], scores, labels, self.asker.detector.class_names)
        return lambda: detxai.explain(self.asker.detector, job.file.path, self.asker.method, boxes)

    def asked_beside(self, job: Job) -> Callable[[], object]:
        detector, missed = self.asker.detector, any(one.case.kind == "missed" for one in job.asked)
        if self.asker.from_file:
            return lambda: detector.detect(job.file.path, self.asker.score_threshold)
        return torch.no_grad()(lambda: detector.candidates(job.file.path)) if missed else lambda: None

    def ratios(self, jobs: Sequence[Job]) -> list[float]:
        """Run over bare calls, processor and wall; then over bare calls and what else a row asks for."""
        run, bare, beside = Clock(), Clock(), Clock()
        for start in range(0, len(jobs), 8):  # by turns: whatever else the machine does meets both
            some = jobs[start : start + 8]
            run.run(self.by_run(some))
            for job in some:
                bare.run(self.bare(job))
                beside.run(self.asked_beside(job))
        return [*run.over(bare), *run.over(bare, beside)]


def questions(given: argparse.Namespace, out: Path) -> dict[tuple[str, str], tuple[Question, list[Job]]]:
    """For each method and choice of boxes, the question and its images."""
    size = {} if given.input_size is None else {"input_size": given.input_size}
    detector = load_detector(given.model, **size)
    annotations = read_annotations(given.annotations)
    names = category_names(annotations.dataset["categories"])
    pairs = label_to_category(detector, annotations)
    files = [ImageFile.of(record, given.images) for record in annotations.dataset["images"]]
    found = {file.image_id: detector.detect(file.path, 0.001) for file in files[: given.max_images]}
    if given.predictions is None:
        records = [
            record for number, one in found.items() for record in to_coco_results(one, number, label_to_category=pairs)
        ]
        predictions = as_predictions(records, annotations)
    else:
        predictions = read_predictions(given.predictions, annotations)
    threshold = min(record["score"] for record in predictions.anns.values())
    every = cases(annotations, predictions, matching(evaluate(annotations, predictions), 0.5))
    asked = {}
    for name in given.methods:
        for kinds, wanted in KINDS.items():
            asker = Asker(
                detector, quiet_method(name, METHODS[name]), {category: label for label, category in pairs.items()},
                names, 0.5, threshold, from_file=given.predictions is not None,
                made=found.__getitem__ if given.predictions is None else None, fail_fast=True,
            )  # fmt: skip
            chosen = select(every, Selection(wanted, image_ids=list(found)), names)
            jobs = [job for part in plan(chosen, files, 32) for job in part.jobs]
            if jobs:
                asked[name, kinds] = Question(asker, Folder(out / f"{name} {kinds}")), jobs
    return asked


def table(measured: Mapping[tuple[str, str], Sequence[Sequence[float]]]) -> str:
    lines = [f"{'method':<13}{'boxes':<13}{'processor':>10}{'wall':>8}{'beside asked: processor':>25}{'wall':>8}"]
    for (method, kinds), rounds in measured.items():
        processor, wall, processor_beside, wall_beside = (statistics.median(column) for column in zip(*rounds))
        lines.append(
            f"{method:<13}{kinds:<13}{processor:>10.3f}{wall:>8.3f}{processor_beside:>25.3f}{wall_beside:>8.3f}"
        )
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
