"""One method on one image: its maps, what they took, and every measure of them."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detxai.adapters.detector import Detector
from detxai.detections import Detections
from detxai.engine.rank_correlation import PIXELS_AT_ONCE
from detxai.evaluate.baselines import PlantedMask
from detxai.evaluate.contestants import Contestant, may_be_zero_outside_boxes
from detxai.evaluate.photos.photo import Pixels, Truth
from detxai.evaluate.photos.selection import EvaluatedDetections
from detxai.evaluate.results.records import as_json, thumbnail
from detxai.explain import Method
from detxai.messages import did_you_mean
from detxai.metrics import MEASURES, Case, InsertionDeletion, Measure
from detxai.metrics.inputs.case import Redo
from detxai.settings import check_settings

# measured only where asked for by name: the first two take a method's own time many times over, the third some thirty
# gradients a box, the others as much as insertion_deletion or more
COSTLY = ("stability", "randomisation", "attack_agreement", "road", "infidelity")


def make_measures(
    measures: Sequence[str | Measure] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **shared: Any,
) -> list[Measure]:
    """Measures with their settings.

    Args:
        measures: names, or measures; default: the cheap ones, that is all but ``COSTLY``.
        settings: name -> settings of that measure alone.
        shared: settings for every measure that has them, such as ``steps``, ``fill`` and ``score``; None
            leaves the measure's own. A list of fills is for ``insertion_deletion``, the others take its first.

    Raises:
        ValueError: an unknown measure or setting, or the settings of a measure that is not taken.
    """
    given = dict(settings or {})
    chosen = [name for name in MEASURES if name not in COSTLY] if measures is None else list(measures)
    made = []
    for measure in chosen:
        if not isinstance(measure, str):
            made.append(measure)
            continue
        if measure not in MEASURES:
            hint = did_you_mean(measure, MEASURES)
            raise ValueError(f"measures must be some of {', '.join(MEASURES)}; got {measure!r}{hint}")
        kind: Any = MEASURES[measure]
        names = [part.name for part in dataclasses.fields(kind)]
        own = dict(given.pop(measure, {}))
        taken = {name: value for name, value in shared.items() if name in names and value is not None}
        if kind is not InsertionDeletion and isinstance(taken.get("fill"), list):
            taken["fill"] = taken["fill"][0]
        check_settings(measure, kind, {**taken, **own})
        made.append(kind(**{**taken, **own}))
    if given:
        raise ValueError(f"settings are for {', '.join(given)}, which is not among the measures")
    if not made:
        raise ValueError("measures must name at least one measure, got none")
    return made


def make_maps(
    method: Contestant, detector: Detector, one: EvaluatedDetections, image: Pixels, truth: Truth
) -> tuple[Tensor, float]:
    """A method's maps (T, H, W) of the detections, and the seconds that they took together."""
    start = time.perf_counter()
    if isinstance(method, PlantedMask):
        maps = method.maps(one, truth)
    else:
        maps = explained(method, detector, image, one.detections)
    return maps, time.perf_counter() - start


def explained(method: Method, detector: Detector, image: Pixels, detections: Detections) -> Tensor:
    """A method's maps (T, H, W); the same for every detection where it asks about no box."""
    if not method.asks_about_boxes:
        values = torch.from_numpy(method(detector, image)[0].values)
        return values.expand(len(detections), -1, -1)
    explanations = method(detector, image, detections.to(detector.device))
    if any(explanation.partial for explanation in explanations):
        raise KeyboardInterrupt  # the method made do with what it had when Ctrl-C came: no map to compare with others
    return torch.from_numpy(np.stack([explanation.values for explanation in explanations]))


@dataclass(eq=False)
class RepeatedMaps:
    """The method once more, for measures that ask for it: for all detections of the image at once, and only once.

    Detections are measured one by one, but a method answers for all of them in one pass; so its maps of a changed
    image, or with changed weights, are kept for the next detection.

    Attributes:
        method: the method.
        detections: all of the image's.
        maps: those that it made so far.
    """

    method: Method
    detections: Detections
    maps: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def at(self, places: Sequence[int]) -> Redo:
        """``redo`` for a case of the detections at these places."""
        return lambda detector, image, seed: self._maps_of(detector, image, seed)[list(places)]

    def _maps_of(self, detector: Detector, image: Pixels, seed: int) -> Tensor:
        key = (zlib.crc32(image.tobytes()), image.shape, seed, _weights(detector))
        if key not in self.maps:
            method: Any = self.method
            if any(part.name == "seed" for part in dataclasses.fields(method)):
                method = dataclasses.replace(method, seed=method.seed + seed)  # 0 is the method's own
            self.maps[key] = explained(method, detector, image, self.detections)
        return self.maps[key]


def _weights(detector: Detector) -> tuple[float, ...]:
    """Sums that tell one set of weights from another; empty without a network."""
    if detector.network is None:
        return ()
    parameters = list(detector.network.parameters())
    with torch.no_grad():
        sums = [s for p in parameters for s in (p.float().sum(), p.float().abs().sum())]
        return tuple(torch.stack(sums).tolist()) if sums else ()


def measured_together(method: Contestant, missing: Sequence[int], n_pixels: int) -> list[list[int]]:
    """The detections to measure together: one by one, so that stopping loses no more than the one in hand.

    A method that asks about no box has one map for all: they are measured in the passes of one.

    Args:
        method: whose maps.
        missing: places of the detections.
        n_pixels: of the image; there are no more detections in one go than fit the memory that a sort may take.
    """
    most = 1 if method.asks_about_boxes else max(1, PIXELS_AT_ONCE // n_pixels)
    return [list(missing[start : start + most]) for start in range(0, len(missing), most)]


def measure_some(
    measures: Iterable[Measure],
    method: Contestant,
    detector: Detector,
    one: EvaluatedDetections,
    places: Sequence[int],
    image: Pixels,
    truth: Truth,
    maps: Tensor,
    repeated: RepeatedMaps | None,
) -> list[dict[str, Any]]:
    """Every measure of the maps (T, H, W) of the detections at T places, each as JSON can hold it."""
    case = Case(
        detector,
        image,
        one.detections[list(places)],
        maps,
        redo=None if repeated is None else repeated.at(places),
        allow_cropped=may_be_zero_outside_boxes(method),
        **one.known(truth, places),  # type: ignore[arg-type]
    )
    values: dict[str, Tensor] = {}
    curves: dict[str, Tensor] = {}
    for measure in measures:
        if isinstance(measure, InsertionDeletion):
            by_fill = measure.curves_by_fill(case)
            values |= measure.summaries(by_fill, case.reference(measure.reference)[2])
            drawn = by_fill[0]
            fractions = drawn.fractions.expand_as(drawn.insertion)
            curves = {"fractions": fractions, "insertion": drawn.insertion, "deletion": drawn.deletion}
        else:
            values |= measure(case)
    return [
        {
            "values": as_json({name: float(found[row]) for name, found in values.items()}),
            "curves": {name: curve[row].tolist() for name, curve in curves.items()},
            "thumbnail": thumbnail(maps[row]),
        }
        for row in range(len(places))
    ]
