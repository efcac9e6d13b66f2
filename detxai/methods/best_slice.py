"""Methods that need a network, on detectors that take an image slice by slice."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from detxai.adapters.detector import Detector
from detxai.adapters.sliced import is_sliced
from detxai.adapters.sliced.parts import ImageParts, intersections
from detxai.detections import Detections
from detxai.engine.masking.part_views import PartViews, parts_read
from detxai.explanation import Cost, Explanation
from detxai.images import Image
from detxai.targets import ClassScoreTarget, score_targets

Call = TypeVar("Call", bound=Callable[..., Any])


def on_best_slice(call: Call) -> Call:
    """A method's call, which on a sliced detector explains each box in the slice that holds it best.

    That is the slice (or the whole image, where the detector sees that too) with the candidate of the highest
    ``IoU * p(label)``: the one that the box's score is read from. The map is the method's own on that slice, and 0
    around it, which is not to say that nothing there matters to what other slices find. ``details["slice"]`` are the
    slice's corners, xyxy in pixels of the image.
    """

    @functools.wraps(call)
    def called(method: Any, detector: Detector, image: Image, detections: Detections) -> list[Explanation]:
        if not is_sliced(detector):
            return call(method, detector, image, detections)
        inputs = detector.prepare(image)
        parts = detector.parts(inputs)
        if parts.inner.network is None:
            return call(method, parts.inner, image, detections)
        start = time.perf_counter()
        pixels = parts.pixels(inputs.tensor)
        views = PartViews(detector, parts, pixels)
        with detector.borrowed():
            best = _best_parts(views, detections) if len(detections) else []
            found: dict[int, Explanation] = {}
            n_passes = views.n_passes
            for part in sorted(set(best)):
                mine = [place for place, its in enumerate(best) if its == part]
                moved = detections[mine]
                corner = parts.windows[part][[0, 1, 0, 1]].to(moved.boxes)
                (cut,) = parts.images(parts.crop(pixels, part))
                with parts.inner.borrowed_afresh():
                    explained = call(method, parts.inner, cut, replace(moved, boxes=moved.boxes - corner))
                n_passes += explained[0].cost.forward_passes
                found.update(zip(mine, explained, strict=True))
        cost = Cost(time.perf_counter() - start, n_passes)
        return [
            _on_image(found[place], parts, best[place], inputs.images[0], detections[place], cost, detector.describe())
            for place in range(len(detections))
        ]

    return called  # type: ignore[return-value]


def _best_parts(views: PartViews, detections: Detections) -> list[int]:
    """The part that each box is found in best; where none finds it, the smallest of those that show most of it."""
    targets, parts = ClassScoreTarget.of(detections), views.parts
    read = np.flatnonzero(parts_read(targets, parts).any(0))
    scores = score_targets(targets, views.of_image(read.tolist())).cpu()
    shared = intersections(detections.boxes.cpu(), parts.reach[read])
    windows = parts.windows[read]
    areas = (windows[:, 2:] - windows[:, :2]).prod(1)
    order = np.lexsort((np.broadcast_to(areas.numpy(), scores.shape), -shared.numpy(), -scores.numpy()), axis=-1)
    return [int(read[place]) for place in order[:, 0]]


def _on_image(
    found: Explanation,
    parts: ImageParts,
    part: int,
    image: npt.NDArray[np.uint8],
    detection: Detections,
    cost: Cost,
    about: Mapping[str, Any],
) -> Explanation:
    """An explanation of a slice, as one of the image."""
    left, top, right, bottom = corners = parts.windows[part].tolist()

    def pasted(values: Any) -> Any:
        if values is None:
            return None
        whole = np.zeros(image.shape[:2], dtype=np.float32)
        whole[top:bottom, left:right] = values
        return whole

    return replace(
        found,
        values=pasted(found.values),
        standard_error=pasted(found.standard_error),
        image=image,
        detection=detection,
        cost=cost,
        model={**found.model, **about},
        details={**found.details, "slice": corners},
    )
