"""The work of an evaluation: detect, choose the detections, explain and measure them; what is finished is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from detxai.adapters.detector import Detector
from detxai.data.matching import match_objects
from detxai.detections import Detections
from detxai.evaluate.baselines import PlantedMask
from detxai.evaluate.contestants import Contestant
from detxai.evaluate.folder import EvaluationFolder
from detxai.evaluate.measuring import RepeatedMaps, make_maps, measure_some, measured_together
from detxai.evaluate.photos.photo import Photo, fingerprint
from detxai.evaluate.photos.selection import EvaluatedDetections, draw_detections
from detxai.evaluate.results.records import Record, from_json
from detxai.evaluate.results.time_left import TimeLeft
from detxai.metrics import Measure
from detxai.runs.failures import FailureGuard, expect_item_failure, message, release_tensors
from detxai.runs.interrupting import raise_if_interrupted

log = logging.getLogger(__name__)

NO_PART: Mapping[str, Any] = {"detections": {}}
DETECTIONS = "0_detections"  # the name of a part; no method is called so: their names begin with a letter


@dataclass(frozen=True)
class _Found:
    """What was found in an image, the object that each detection is of, and the image's fingerprint."""

    detections: Detections
    object_of: list[int]
    content: str


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """What is the same for every image of an evaluation.

    Attributes:
        detector, photos, methods, measures, folder: the request.
        hides_bar: no progress bar.
        on_estimate: told, once, how long the rest will take.
        failures: ``image``, ``method`` and ``error`` of what failed so far.
    """

    detector: Detector
    photos: Sequence[Photo]
    methods: Mapping[str, Contestant]
    measures: Sequence[Measure]
    folder: EvaluationFolder
    hides_bar: bool
    on_estimate: Callable[[TimeLeft], None] | None = None
    failures: list[dict[str, str | None]] = field(default_factory=list)

    def select(self, score_threshold: float, n: int | None, seed: int, *, unmatched: bool) -> list[EvaluatedDetections]:
        """The detections to measure, by image.

        Args:
            score_threshold: of the detections.
            n: a seeded sample of so many, drawn over all images; None: all.
            seed: of the sample.
            unmatched: take also detections that are of no annotated object.

        Raises:
            ValueError: there are none.
        """
        found = self._detect(score_threshold)
        eligible = {
            number: [place for place, owner in enumerate(one.object_of) if owner >= 0 or unmatched]
            for number, one in found.items()
        }
        drawn = draw_detections(eligible, n, seed)
        if not drawn and found:
            n_found = sum(len(one.detections) for one in found.values())
            raise ValueError(
                f"there is nothing to measure: of {n_found} detections above {score_threshold} in {len(found)} images "
                "none is of an annotated object; lower score_threshold, or take unmatched ones too"
            )
        if not drawn and not self.failures:
            raise ValueError("there is nothing to measure: photos must hold at least one image, got none")
        return [
            EvaluatedDetections(
                number,
                self.photos[number],
                found[number].detections[places],
                tuple(places),
                tuple(found[number].object_of[place] for place in places),
                found[number].content,
            )
            for number, places in drawn.items()
        ]

    def records(self, selected: Sequence[EvaluatedDetections]) -> Iterator[Record]:
        """Every detection under every method; what an earlier run finished is only read."""
        total = sum(len(one.detections) for one in selected) * len(self.methods)
        told = self.on_estimate is None
        with tqdm(total=total, desc="explaining", unit="map", disable=self.hides_bar) as bar:
            for place, one in enumerate(selected):
                n_missing, start = 0 if told else self._n_missing([one]), time.perf_counter()
                for name, method in self.methods.items():
                    raise_if_interrupted()
                    try:
                        yield from self._records_of(one, name, method, bar)
                    except Exception as error:
                        self._record_failure(one.photo, name, error)
                if n_missing:
                    told = True
                    self._tell_estimate((time.perf_counter() - start) / n_missing, selected[place + 1 :])

    def _detect(self, score_threshold: float) -> dict[int, _Found]:
        """Number of the image -> what is found in it; images that fail are left out."""
        found: dict[int, _Found] = {}
        guard = FailureGuard()
        for number, photo in enumerate(tqdm(self.photos, desc="detecting", unit="image", disable=self.hides_bar)):
            try:
                found[number] = self._detect_one(number, photo, score_threshold)
            except Exception as error:
                self._record_failure(photo, None, error)
                guard.failed(f"{photo.name}: {self.failures[-1]['error']}")
            else:
                guard.succeeded()
        return found

    def _detect_one(self, number: int, photo: Photo, score_threshold: float) -> _Found:
        image, truth = photo.load()
        content = fingerprint(image, truth)
        part = self.folder.read_part(number, DETECTIONS, content)
        if part is None:
            detections = self.detector.detect(image, score_threshold).to("cpu")
            part = {
                "image": photo.name,
                "boxes": detections.boxes.tolist(),
                "scores": detections.scores.tolist(),
                "labels": detections.labels.tolist(),
                "object_of": match_objects(detections, truth.objects.boxes, truth.objects.labels),
            }
            self.folder.write_part(number, DETECTIONS, content, part)
        names = self.detector.class_names
        return _Found(Detections(part["boxes"], part["scores"], part["labels"], names), part["object_of"], content)

    def _records_of(self, one: EvaluatedDetections, name: str, method: Contestant, bar: Any) -> list[Record]:
        """The records of one method on one image; each is kept as soon as it is measured."""
        kept = self.folder.read_part(one.number, name, one.content)
        part = kept or {"image": one.photo.name, "method": name, "detections": {}}
        done = part["detections"]
        missing = [place for place in range(len(one.detections)) if str(one.places[place]) not in done]
        bar.update(len(one.detections) - len(missing))
        if missing:
            image, truth = one.photo.load()
            maps, seconds = make_maps(method, self.detector, one, image, truth)
            part.setdefault("seconds", seconds / len(one.detections))
            repeated = None if isinstance(method, PlantedMask) else RepeatedMaps(method, one.detections)
            for places in measured_together(method, missing, maps[0].numel()):
                measured = measure_some(
                    self.measures, method, self.detector, one, places, image, truth, maps[places], repeated
                )
                done |= {str(one.places[place]): values for place, values in zip(places, measured, strict=True)}
                self.folder.write_part(one.number, name, one.content, part)
                bar.update(len(places))
        return [_record(one, place, name, part) for place in range(len(one.detections))]

    def _n_missing(self, selected: Sequence[EvaluatedDetections]) -> int:
        """How many maps no earlier run has finished."""
        return sum(
            str(place) not in done
            for one in selected
            for name in self.methods
            for done in [(self.folder.read_part(one.number, name, one.content) or NO_PART)["detections"]]
            for place in one.places
        )

    def _tell_estimate(self, seconds_each: float, selected: Sequence[EvaluatedDetections]) -> None:
        n_maps = self._n_missing(selected)
        if n_maps and self.on_estimate is not None:
            n_detections = sum(len(one.detections) for one in selected)
            self.on_estimate(TimeLeft(seconds_each * n_maps, n_maps, n_detections, len(self.methods)))

    def _record_failure(self, photo: Photo, method: str | None, error: Exception) -> None:
        expect_item_failure(error)
        log.warning("%s%s: %s", photo.name, "" if method is None else f", {method}", error)
        log.debug("traceback", exc_info=error)
        self.failures.append({"image": photo.name, "method": method, "error": message(error)})
        release_tensors(error)


def _record(one: EvaluatedDetections, place: int, method: str, part: Mapping[str, Any]) -> Record:
    detection = one.detections[place]
    measured = part["detections"][str(one.places[place])]
    return Record(
        image=one.photo.name,
        kind=one.photo.kind,
        number=one.number,
        place=one.places[place],
        box=tuple(detection.boxes[0].tolist()),
        label=int(detection.labels[0]),
        name=detection.name(0),
        score=float(detection.scores[0]),
        of_object=one.object_of[place],
        method=method,
        seconds=part["seconds"],
        values=from_json(measured["values"]),
        curves=measured["curves"],
        thumbnail=measured["thumbnail"],
    )
