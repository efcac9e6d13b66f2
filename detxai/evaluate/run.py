"""Every method on the same detections: explain, measure, keep, and go on where an earlier run stopped."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from detxai.adapters.detector import Detector
from detxai.adapters.registry import wrap
from detxai.detections import Detections
from detxai.evaluate.baselines import PlantedMask
from detxai.evaluate.contestants import Contestant, Methods, contestants
from detxai.evaluate.folder import Folder
from detxai.evaluate.measuring import Again, at_once, make_maps, make_measures, measure_some
from detxai.evaluate.records import Record, from_json, quantities_of, write_parquet
from detxai.evaluate.report import write_report
from detxai.evaluate.samples import Photo, Sample, draw, fingerprint, objects_of, some
from detxai.evaluate.summary import Summary
from detxai.evaluate.time_left import TimeLeft
from detxai.explain import check_threshold
from detxai.explanation import plain, settings_of
from detxai.metrics import Measure
from detxai.progress import hides_bar
from detxai.runs.failures import FailureGuard, expect_item_failure, let_go
from detxai.runs.files import write_json
from detxai.runs.interrupting import ctrl_c_is_heard, raise_if_interrupted
from detxai.runs.tables import import_pyarrow

log = logging.getLogger(__name__)

NOTHING: Mapping[str, Any] = {"detections": {}}
FOUND = "0_detections"  # no method is called so: methods' names have no part of theirs before a letter


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        out: its folder, with ``results.parquet``, ``summary.json``, ``failures.json`` and ``index.html``.
        records: one for each detection and method.
        summary: the rankings.
        failures: ``image``, ``method`` (None: all of them) and ``error``; tried again when the request is repeated.
            An image that cannot be read is in no figure.
        request: what was asked for.
    """

    out: Path
    records: Sequence[Record]
    summary: Summary
    failures: Sequence[Mapping[str, str | None]]
    request: Mapping[str, Any]


def evaluate(
    detector: Detector | Any,
    photos: Sequence[Photo],
    methods: Methods,
    out: str | PathLike[str],
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    measures: Sequence[str | Measure] | None = None,
    max_images: int | None = None,
    max_detections: int | None = None,
    score_threshold: float = 0.25,
    unmatched: bool = False,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    on_estimate: Callable[[TimeLeft], None] | None = None,
) -> Evaluation:
    """Rank explanation methods on a detector and images.

    Every method is asked about the same detections, and its maps are measured in the same way. What is finished is
    kept, detection by detection, in ``out/parts``: the same call goes on from there, whenever it was stopped.

    Args:
        detector: from ``detxai.wrap``, or anything ``wrap`` takes.
        photos: from ``coco_photos`` or ``scene_photos``.
        methods: names, methods, or a mapping from names to either: see ``contestants``.
        out: the folder.
        settings: name of a method -> its settings.
        measures: names or measures, see ``make_measures``; default: all but the dear ones.
        max_images: a seeded sample of so many images; None: all.
        max_detections: a seeded sample of so many detections, drawn over all images; None: all.
        score_threshold: in [0, 1]; the detections are the detector's own above it.
        unmatched: take also detections that are of no annotated object.
        seed: of the samples and the bootstrap.
        source: where the photos come from, for the record.
        progress: a bar; None: where standard error is a terminal.
        on_estimate: told, once, how long the rest will take, after the first image that is not finished yet.

    Raises:
        ValueError: a setting is wrong, ``out`` holds another evaluation, there is nothing to measure, every image
            failed, or the first twenty did.
        WriteError: ``out`` cannot be written to; what is finished is kept.
        ImportError: pyarrow is not installed.
    """
    import_pyarrow()
    competing = contestants(methods, settings)
    taken = make_measures(measures)
    quantities_of(taken)
    check_threshold(score_threshold)
    for name, value in (("max_images", max_images), ("max_detections", max_detections)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number from 1, or None, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0, got {seed!r}")
    adapter = wrap(detector)
    chosen = some(photos, max_images, seed)
    request = {
        **_request(adapter, chosen, competing, taken),
        "max_images": max_images,
        "max_detections": max_detections,
        "score_threshold": score_threshold,
        "unmatched": unmatched,
        "seed": seed,
        "source": plain(dict(source or {})),
    }
    run = _Run(adapter, chosen, competing, taken, Folder.of(out, request), hides_bar(progress), on_estimate)
    with ctrl_c_is_heard():
        records = list(run.records(run.samples(score_threshold, max_detections, seed, unmatched=unmatched)))
    if not records:
        raise ValueError(f"every image failed; the first, {run.failures[0]['image']}: {run.failures[0]['error']}")
    summary = Summary(records, taken, seed)
    evaluation = Evaluation(run.folder.path, records, summary, tuple(run.failures), request)
    _write(evaluation, {name: _settings(method) for name, method in competing.items()}, chosen)
    return evaluation


@dataclass(frozen=True, eq=False)
class _Run:
    """What is the same for every image of an evaluation."""

    detector: Detector
    photos: Sequence[Photo]
    methods: Mapping[str, Contestant]
    measures: Sequence[Measure]
    folder: Folder
    hidden: bool
    on_estimate: Callable[[TimeLeft], None] | None = None
    failures: list[dict[str, str | None]] = field(default_factory=list)

    def samples(self, score_threshold: float, n: int | None, seed: int, *, unmatched: bool) -> list[Sample]:
        """The detections to measure, by image."""
        found: dict[int, tuple[Detections, list[int], str]] = {}
        guard = FailureGuard()
        for number, photo in enumerate(tqdm(self.photos, desc="detecting", unit="image", disable=self.hidden)):
            try:
                found[number] = self._find(number, photo, score_threshold)
            except Exception as error:
                self._failed(photo, None, error)
                guard.failed(f"{photo.name}: {self.failures[-1]['error']}")
            else:
                guard.succeeded()
        eligible = {
            number: [place for place, owner in enumerate(owners) if owner >= 0 or unmatched]
            for number, (_, owners, _) in found.items()
        }
        drawn = draw(eligible, n, seed)
        if not drawn and found:
            n_found = sum(len(detections) for detections, _, _ in found.values())
            raise ValueError(
                f"there is nothing to measure: of {n_found} detections above {score_threshold} in {len(found)} images "
                "none is of an annotated object; lower score_threshold, or take unmatched ones too"
            )
        if not drawn and not self.failures:
            raise ValueError("there is nothing to measure: photos must hold at least one image, got none")
        return [
            Sample(
                number,
                self.photos[number],
                found[number][0][places],
                tuple(places),
                tuple(found[number][1][place] for place in places),
                found[number][2],
            )
            for number, places in drawn.items()
        ]

    def records(self, samples: Sequence[Sample]) -> Iterator[Record]:
        """Every detection under every method; what an earlier run finished is only read."""
        total = sum(len(sample.detections) for sample in samples) * len(self.methods)
        asked = self.on_estimate is None
        with tqdm(total=total, desc="explaining", unit="map", disable=self.hidden) as bar:
            for place, sample in enumerate(samples):
                n_missing, start = 0 if asked else self._n_missing([sample]), time.perf_counter()
                for name, method in self.methods.items():
                    raise_if_interrupted()
                    try:
                        yield from self._part(sample, name, method, bar)
                    except Exception as error:
                        self._failed(sample.photo, name, error)
                if n_missing:
                    asked = True
                    self._estimate((time.perf_counter() - start) / n_missing, samples[place + 1 :])

    def _n_missing(self, samples: Sequence[Sample]) -> int:
        """How many maps no earlier run has finished."""
        return sum(
            str(place) not in done
            for sample in samples
            for name in self.methods
            for done in [(self.folder.read(sample.number, name, sample.content) or NOTHING)["detections"]]
            for place in sample.places
        )

    def _estimate(self, seconds_each: float, samples: Sequence[Sample]) -> None:
        n_maps = self._n_missing(samples)
        if n_maps and self.on_estimate is not None:
            n_detections = sum(len(sample.detections) for sample in samples)
            self.on_estimate(TimeLeft(seconds_each * n_maps, n_maps, n_detections, len(self.methods)))

    def _find(self, number: int, photo: Photo, score_threshold: float) -> tuple[Detections, list[int], str]:
        """What is found in an image, the object that each detection is of, and the image's fingerprint."""
        image, truth = photo.load()
        content = fingerprint(image, truth)
        part = self.folder.read(number, FOUND, content)
        if part is None:
            detections = self.detector.detect(image, score_threshold).to("cpu")
            part = {
                "image": photo.name,
                "boxes": detections.boxes.tolist(),
                "scores": detections.scores.tolist(),
                "labels": detections.labels.tolist(),
                "object_of": objects_of(detections, truth.objects),
            }
            self.folder.write(number, FOUND, content, part)
        names = self.detector.class_names
        return Detections(part["boxes"], part["scores"], part["labels"], names), part["object_of"], content

    def _part(self, sample: Sample, name: str, method: Contestant, bar: Any) -> list[Record]:
        """The records of one method on one image; each is kept as soon as it is measured."""
        kept = self.folder.read(sample.number, name, sample.content)
        part = kept or {"image": sample.photo.name, "method": name, "detections": {}}
        done = part["detections"]
        missing = [place for place in range(len(sample.detections)) if str(sample.places[place]) not in done]
        bar.update(len(sample.detections) - len(missing))
        if missing:
            image, truth = sample.photo.load()
            maps, seconds = make_maps(method, self.detector, sample, image, truth)
            part.setdefault("seconds", seconds / len(sample.detections))
            again = None if isinstance(method, PlantedMask) else Again(method, sample.detections)
            for places in at_once(method, missing, maps[0].numel()):
                measured = measure_some(
                    self.measures, method, self.detector, sample, places, image, truth, maps[places], again
                )
                done |= {str(sample.places[place]): of for place, of in zip(places, measured, strict=True)}
                self.folder.write(sample.number, name, sample.content, part)
                bar.update(len(places))
        return [_record(sample, place, name, part) for place in range(len(sample.detections))]

    def _failed(self, photo: Photo, method: str | None, error: Exception) -> None:
        expect_item_failure(error)
        log.warning("%s%s: %s", photo.name, "" if method is None else f", {method}", error)
        log.debug("traceback", exc_info=error)
        text = " ".join(str(error).split()) or type(error).__name__
        self.failures.append({"image": photo.name, "method": method, "error": text})
        let_go(error)


def _record(sample: Sample, place: int, method: str, part: Mapping[str, Any]) -> Record:
    detection = sample.detections[place]
    measured = part["detections"][str(sample.places[place])]
    return Record(
        image=sample.photo.name,
        kind=sample.photo.kind,
        number=sample.number,
        place=sample.places[place],
        box=tuple(detection.boxes[0].tolist()),
        label=int(detection.labels[0]),
        name=detection.name(0),
        score=float(detection.scores[0]),
        of_object=sample.object_of[place],
        method=method,
        seconds=part["seconds"],
        values=from_json(measured["values"]),
        curves=measured["curves"],
        thumbnail=measured["thumbnail"],
    )


def _request(
    detector: Detector, photos: Sequence[Photo], methods: Mapping[str, Contestant], measures: Sequence[Measure]
) -> dict[str, Any]:
    names = json.dumps([photo.name for photo in photos])
    return {
        "detxai": importlib.metadata.version("detxai"),
        "torch": torch.__version__,
        "model": {name: value for name, value in plain(detector.describe()).items() if name != "weights"},
        "weights": detector.fingerprint(),
        "class_names": plain(detector.class_names),
        "device": detector.device.type,
        "photos": {"n": len(photos), "names": hashlib.sha256(names.encode()).hexdigest()[:16]},
        "methods": {name: {"method": method.name, **_settings(method)} for name, method in methods.items()},
        "measures": {measure.name: settings_of(measure) for measure in measures},
    }


def _settings(method: Contestant) -> dict[str, Any]:
    return {name: value for name, value in settings_of(method).items() if name != "progress"}


def _write(evaluation: Evaluation, settings: Mapping[str, Mapping[str, Any]], photos: Sequence[Photo]) -> None:
    out, summary = evaluation.out, evaluation.summary
    write_parquet(out / "results.parquet", evaluation.records, summary.measures, settings)
    for name, content in (("summary.json", summary.as_json()), ("failures.json", list(evaluation.failures))):
        write_json(out / name, content)
    write_report(out / "index.html", summary, photos, evaluation.request, evaluation.failures)
