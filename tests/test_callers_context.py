"""What a caller has set around a call: every question is answered as without it, or in the caller's own precision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of

IMAGE = (photo(0, 60, 80).permute(1, 2, 0).numpy() * 255).astype(np.uint8)


@cache
def detector(kind: str) -> Detector:
    if kind == "faster_rcnn":
        return detxai.wrap(small_faster_rcnn())
    if kind == "function":
        inner = detxai.wrap(small_faster_rcnn())

        def function(images: list[Any]) -> list[dict[str, Any]]:
            found = [inner.detect(image, 0.02) for image in images]
            return [{name: getattr(one, name).tolist() for name in ("boxes", "scores", "labels")} for one in found]

        return detxai.wrap(function)
    pytest.importorskip("ultralytics")
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent / "adapters"))
    from yolo_seeded import seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    return YOLOAdapter(seeded("v8"), input_size=64)


def detect(detector: Detector) -> list[Tensor]:
    found = detector.detect(IMAGE, 0.1)
    return [found.boxes, found.scores, found.labels]


def candidates(detector: Detector) -> list[Tensor]:
    seen = detector.candidates(IMAGE)
    return [seen.boxes.detach(), seen.class_scores.detach(), seen.objectness.detach()]


def explained(method: Any, detector: Detector, n_boxes: int = 2) -> list[Tensor]:
    if not method.asks_about_boxes:
        return [torch.from_numpy(one.values) for one in method(detector, IMAGE)]
    boxes, scores, labels = answers(detector, detect)
    found = detxai.Detections(boxes, scores, labels)[:n_boxes]
    return [torch.from_numpy(explanation.values) for explanation in method(detector, IMAGE, found)]


QUESTIONS: dict[str, Callable[[Detector], list[Tensor]]] = {
    "detect": detect,
    "candidates": candidates,
    "eigen_cam": partial(explained, detxai.EigenCAM()),
    "layer_cam": partial(explained, detxai.LayerCAM()),
    "ablation_cam": partial(
        explained, detxai.AblationCAM(0.2, ranking="first_order", unablated_weights="first_order", progress=False)
    ),
    "ablation_cam tracked": partial(explained, detxai.AblationCAM(0.2, fill="mean", progress=False)),
    "d_rise": partial(explained, detxai.DRISE(n_masks=16, progress=False)),
    "region_shapley": partial(explained, detxai.RegionShapley(max_passes=64, progress=False), n_boxes=1),
    "pixel_evidence": partial(explained, detxai.PixelEvidence(max_passes=110, progress=False), n_boxes=1),
}
OF_A_FUNCTION = ("detect", "candidates", "d_rise", "region_shapley", "pixel_evidence")
OF_NOTHING_ELSE = ("pixel_evidence",)  # it is made of region_shapley and layer_cam: once is enough


def skip_what_is_not_asked(kind: str, question: str) -> None:
    if kind == "function" and question not in OF_A_FUNCTION:
        pytest.skip("a function has no layers: tests/adapters/test_function.py")
    if kind != "function" and question in OF_NOTHING_ELSE:
        pytest.skip("asked of a function only")


@cache
def answers(detector: Detector, question: Callable[[Detector], list[Tensor]]) -> list[Tensor]:
    """Without anything around the call."""
    return question(detector)


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def another_device_by_default() -> Iterator[None]:
    """The meta device: whatever is made on it by mistake cannot be read."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)
        forget_default_device()


def forget_default_device() -> None:
    """torch 2.6 keeps the None that takes it back and trips over it, also in what other packages do in later tests."""
    vars(torch._GLOBAL_DEVICE_CONTEXT).pop("device_context", None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "default dtype": double_by_default,
    "default device": another_device_by_default,
    "deterministic": deterministic,
}


def test_a_default_device_that_was_taken_back_changes_nothing() -> None:
    asked = detector("function")
    expected = QUESTIONS["detect"](asked)
    torch.set_default_device("cpu")
    torch.set_default_device(None)
    try:
        found = QUESTIONS["detect"](asked)
    finally:
        forget_default_device()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", ["faster_rcnn", "yolo", "function"])
def test_the_answer_is_that_of_a_bare_call(kind: str, question: str, context: str) -> None:
    skip_what_is_not_asked(kind, question)
    asked, ask = detector(kind), QUESTIONS[question]
    expected = answers(asked, ask)
    with CONTEXTS[context]():
        found = ask(asked)
    assert len(expected) > 0
    if context == "autocast" and question in ("detect", "candidates"):
        # what the model answers in the caller's precision; rounded so, a random network finds other boxes
        assert all(bool(one.isfinite().all()) for one in found)
        return
    for ours, bare in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, bare, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", ["faster_rcnn", "yolo", "function"])
def test_two_threads_get_the_answers_of_one(kind: str, question: str) -> None:
    skip_what_is_not_asked(kind, question)
    asked, ask = detector(kind), QUESTIONS[question]
    expected = answers(asked, ask)
    found: list[list[Tensor]] = []
    threads = [threading.Thread(target=lambda: found.extend(ask(asked) for _ in range(2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        for ours, alone in zip(one, expected, strict=True):
            torch.testing.assert_close(ours, alone, atol=1e-6, rtol=1e-4)
    if kind != "function":
        assert not any(module.training for module in module_of(asked).modules())


def test_a_model_made_in_inference_mode_is_explained_where_no_gradients_are_needed() -> None:
    with torch.inference_mode():
        made = detxai.wrap(small_faster_rcnn())
    boxes, scores, labels = answers(detector("faster_rcnn"), detect)
    found = detxai.Detections(boxes, scores, labels)[:1]
    assert torch.equal(candidates(made)[1], candidates(detector("faster_rcnn"))[1])
    for method in (detxai.EigenCAM(), detxai.AblationCAM(0.2, fill="mean", progress=False)):
        plain = explained(method, detector("faster_rcnn"))
        torch.testing.assert_close(explained(method, made)[0], plain[0], atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match=r"model must have gradients.+made in inference mode"):
        detxai.LayerCAM()(made, IMAGE, found)
