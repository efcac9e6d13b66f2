"""The run: features drawn, concepts fitted, each removed for every box, and the page; it can be stopped at any time."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import safe_open

from detxai.adapters.detector import Detector
from detxai.adapters.network import NetworkDetector, require_network
from detxai.adapters.registry import wrap
from detxai.concepts.clusters.box_records import box_records
from detxai.concepts.clusters.class_channels import kept_channels, key_of
from detxai.concepts.clusters.folder import ConceptFolder
from detxai.concepts.clusters.mixture_fit import FitRecord, Fitting, fit_mixture, import_mixture
from detxai.concepts.clusters.report import write_page
from detxai.concepts.clusters.samples import Sampling, sampled_cells
from detxai.concepts.clusters.summary import summarised
from detxai.data.matching import match_objects
from detxai.detections import Detections
from detxai.engine.concepts.concept_file import Concepts, shared_levels
from detxai.engine.concepts.mixture import Removal
from detxai.evaluate.photos.photo import Photo, Truth, fingerprint
from detxai.explain import check_threshold
from detxai.explanation import plain
from detxai.progress import progress_bar
from detxai.runs.failures import FailureGuard, expect_item_failure, message, release_tensors
from detxai.runs.interrupting import raise_if_interrupted, stops_on_ctrl_c
from detxai.runs.names import record_of_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Attributes:
        layers: names of the layers whose features are clustered; None: the detector's default ones.
        score_threshold: in [0, 1]; the boxes are the detector's own above it.
        removal: how a concept is removed: its direction projected out (``"project"``) or its cells moved to the mean of
            the others (``"mean"``).
        max_cells: cells that are clustered, from each set of levels: a seeded sample of all that were drawn.
        seed: of all draws.
    """

    layers: tuple[str, ...] | None = None
    score_threshold: float = 0.25
    removal: Removal = "project"
    max_cells: int = 8000
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    fitting: Fitting = field(default_factory=Fitting)

    def __post_init__(self) -> None:
        check_threshold(self.score_threshold)
        if self.removal not in get_args(Removal):
            raise ValueError(f"removal must be one of {list(get_args(Removal))}, got {self.removal!r}")


@dataclass(frozen=True, eq=False)
class FoundConcepts:
    """What a search found.

    Attributes:
        out: its folder, with ``concepts.safetensors``, ``summary.json`` and ``index.html``.
        summary: see ``clusters.summary``.
        failures: ``image`` and ``error``; tried again when the request is repeated.
    """

    out: Path
    summary: Mapping[str, Any]
    failures: Sequence[Mapping[str, str]]


def find_concepts(
    detector: Detector | Any,
    photos: Sequence[Photo],
    out: str | PathLike[str],
    search: Search | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> FoundConcepts:
    """Find the concepts that a detector uses, and measure what each does for each class.

    Args:
        detector: from ``detxai.wrap``, or anything ``wrap`` takes; a network.
        photos: from ``detxai.evaluate.annotated_photos`` or ``scene_photos``.
        out: the folder: a new one, or that of a run to go on with.
        search: the settings.
        source: where the photos come from, for the record.
        progress: bars; None: where standard error is a terminal.

    Raises:
        TypeError: the detector is a black box.
        ValueError: a setting is wrong, ``out`` holds something else, nothing was detected, or all images failed.
        LookupError: a layer is unknown.
        ImportError: scikit-learn is not installed.
    """
    import_mixture()
    network = require_network(wrap(detector))
    settings = search or Search()
    if not photos:
        raise ValueError("photos must hold at least one image, got none")
    folder = ConceptFolder(Path(out))
    request = _request(network, photos, settings, source)
    folder.expect_same(folder.open({"request": request})["request"], request)
    run = _Run(network, photos, folder, settings, progress)
    with stops_on_ctrl_c():
        run.draw_samples()
        concepts = run.fitted()
        records = run.records(concepts)
        if not records:
            raise ValueError(f"nothing was detected above {settings.score_threshold} in {len(photos)} images")
        found = summarised(records, network.class_names, settings.seed)
        found["classes"] = run.with_kept_channels(found["classes"], records)
    summary = {**concepts.card, "request": request, **found}
    folder.write_json(folder.summary, summary)
    folder.write_json(folder.root / "failures.json", run.failures)
    write_page(folder.page, summary, records, photos)
    return FoundConcepts(folder.root, summary, run.failures)


@dataclass(frozen=True, eq=False)
class _Run:
    detector: NetworkDetector
    photos: Sequence[Photo]
    folder: ConceptFolder
    search: Search
    progress: bool | None
    failures: list[dict[str, str]] = field(default_factory=list)

    def draw_samples(self) -> None:
        """Detect, and keep the features drawn from every image; one image in memory at a time."""
        guard = FailureGuard()
        with progress_bar(self.progress, len(self.photos), "drawing features", "image") as bar:
            for number, photo in enumerate(self.photos):
                raise_if_interrupted()
                if self.folder.read_detections(number) is None:
                    try:
                        self._draw(number, photo)
                        guard.succeeded()
                    except Exception as error:
                        self._record_failure(photo, error)
                        guard.failed(f"{photo.name}: {self.failures[-1]['error']}")
                bar.update()

    def _draw(self, number: int, photo: Photo) -> None:
        image, truth = photo.load()
        found = self.detector.detect(image, self.search.score_threshold).to("cpu")
        features = self.detector.features(image, self.search.layers)
        cells = sampled_cells(
            self.detector, features, found, self.search.sampling, self.search.seed * 1_000_003 + number
        )
        detections = {"boxes": found.boxes.tolist(), "scores": found.scores.tolist(), "labels": found.labels.tolist()}
        levels = [list(names) for names in shared_levels(features.levels)]
        content = {"levels": levels, "content": fingerprint(image, truth)}
        self.folder.write_samples(number, cells, {**detections, **content})

    def fitted(self) -> Concepts:
        """The concepts: those of the folder, or fitted now."""
        if self.folder.concepts.is_file():
            return Concepts.load(self.folder.concepts)
        drawn = [number for number in range(len(self.photos)) if self.folder.read_detections(number) is not None]
        if not drawn:
            raise ValueError(f"every image failed; the first, {self.failures[0]['image']}: {self.failures[0]['error']}")
        first = self.folder.read_detections(drawn[0])
        assert first is not None
        mixtures, records = [], []
        with progress_bar(self.progress, len(first["levels"]), "clustering", "mixture") as bar:
            for place, levels in enumerate(first["levels"]):
                mixture, record = fit_mixture(levels, *self._cells(place, drawn), self.search.fitting, self.search.seed)
                mixtures.append(mixture)
                records.append(record)
                bar.update()
        names = self.detector.layer_names(self.search.layers)
        card = {"model": self.detector.model_name, "mixtures": _card(mixtures, records)}
        concepts = Concepts(tuple(mixtures), names, self.detector.fingerprint(), self.search.removal, card)
        concepts.save(self.folder.concepts)
        return concepts

    def _cells(self, place: int, drawn: Sequence[int]) -> tuple[Any, Any]:
        """A seeded sample of all the cells drawn from one set of levels, and their labels; read image by image."""
        sizes = []
        for number in drawn:
            with safe_open(self.folder.samples_of(number), "pt") as file:
                sizes.append(file.get_slice(f"{place}.cells").get_shape()[0])
        total = sum(sizes)
        chosen = np.random.default_rng(self.search.seed).permutation(total)[: self.search.max_cells]
        is_chosen = np.zeros(total, dtype=bool)
        is_chosen[chosen] = True
        cells, labels, start = [], [], 0
        for number, size in zip(drawn, sizes, strict=True):
            mine = torch.from_numpy(is_chosen[start : start + size])
            start += size
            with safe_open(self.folder.samples_of(number), "pt") as file:
                cells.append(file.get_tensor(f"{place}.cells")[mine])
                labels.append(file.get_tensor(f"{place}.labels")[mine])
        return torch.cat(cells).double().numpy(), torch.cat(labels).numpy()

    def records(self, concepts: Concepts) -> list[dict[str, Any]]:
        """The records of every box, each with the name and the number of its image."""
        key = self.folder.key()
        found: list[dict[str, Any]] = []
        with progress_bar(self.progress, len(self.photos), "removing concepts", "image") as bar:
            for number, photo in enumerate(self.photos):
                raise_if_interrupted()
                detected = self.folder.read_detections(number)
                boxes = None if detected is None else self.folder.read_part(self.folder.boxes_of(number), key)
                if detected is not None and boxes is None:
                    try:
                        boxes = self._measure(photo, detected, concepts)
                        self.folder.write_boxes(number, key, photo.name, boxes)
                    except Exception as error:
                        self._record_failure(photo, error)
                found += [{**box, "image": photo.name, "photo": number} for box in boxes or []]
                bar.update()
        return found

    def _measure(self, photo: Photo, detected: Mapping[str, Any], concepts: Concepts) -> list[dict[str, Any]]:
        image, truth = photo.load()
        if fingerprint(image, truth) != detected["content"]:
            raise ValueError("the image is another than when its features were drawn; give a new folder")
        names = self.detector.class_names
        found = Detections(detected["boxes"], detected["scores"], detected["labels"], names)
        return box_records(self.detector, image, found, concepts, _evidence(found, truth))

    def with_kept_channels(
        self, classes: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The classes, each with the channels that keep its most typical box; None where that failed."""
        found = []
        with progress_bar(self.progress, len(classes), "channels that keep a box", "class") as bar:
            for of_class in classes:
                raise_if_interrupted()
                record = records[of_class["typical"][0]]
                path, key = self.folder.channels_of(of_class["label"]), key_of(record)
                kept = self.folder.read_part(path, key)
                if kept is None:
                    photo = self.photos[record["photo"]]
                    try:
                        kept = kept_channels(self.detector, photo.load()[0], record, self.search.layers)
                        self.folder.write_json(path, {"key": key, "content": kept})
                    except Exception as error:
                        self._record_failure(photo, error)
                found.append({**of_class, "kept_channels": kept})
                bar.update()
        return found

    def _record_failure(self, photo: Photo, error: Exception) -> None:
        expect_item_failure(error)
        log.warning("%s: %s", photo.name, error)
        log.debug("traceback", exc_info=error)
        self.failures.append({"image": photo.name, "error": message(error)})
        release_tensors(error)


def _evidence(found: Detections, truth: Truth) -> torch.Tensor | None:
    """(T, H, W) bool, what decides each box; nothing where it is of no annotated object; None where nobody knows."""
    if truth.evidence is None or len(found) == 0:
        return None
    owners = match_objects(found, truth.objects.boxes, truth.objects.labels)
    nowhere = torch.zeros(truth.evidence.shape[1:], dtype=torch.bool)
    return torch.stack([truth.evidence[owner] if owner >= 0 else nowhere for owner in owners])


def _card(mixtures: Sequence[Any], records: Sequence[FitRecord]) -> list[dict[str, Any]]:
    return [
        {
            "levels": list(mixture.levels),
            "n_concepts": len(mixture),
            "weights": mixture.weights.tolist(),
            **asdict(record),
        }
        for mixture, record in zip(mixtures, records, strict=True)
    ]


def _request(
    detector: NetworkDetector, photos: Sequence[Photo], search: Search, source: Mapping[str, Any] | None
) -> dict[str, Any]:
    request: dict[str, Any] = plain(
        {
            "model": {name: value for name, value in detector.describe().items() if name != "weights"},
            "weights": detector.fingerprint(),
            "class_names": detector.class_names,
            "photos": record_of_names([photo.name for photo in photos]),
            "search": {**asdict(search), "layers": list(detector.layer_names(search.layers))},
            "source": dict(source or {}),
        }
    )
    as_saved: dict[str, Any] = json.loads(json.dumps(request))
    return as_saved
