"""A model that makes its detections in its own way: candidates hold every one of them, or it is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import boxes as box_ops

import detxai
from detxai.adapters.detector import Detector
from detxai.adapters.structure import TwoStage


def colder(self: RoIHeads, logits: Tensor, *others: Any) -> Any:
    return RoIHeads.postprocess_detections(self, logits / 3, *others)


class ColderHeads(RoIHeads):
    postprocess_detections = colder


class Flips(FasterRCNN):
    """Answers of the image's mirror image."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        answers = super().forward([image.flip(-1) for image in images])
        for image, answer in zip(images, answers):
            answer["boxes"][:, [2, 0]] = image.shape[-1] - answer["boxes"][:, [0, 2]]
        return answers


class Counts(FasterRCNN):
    """Overrides what it runs, and changes nothing."""

    runs = 0

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        self.runs += 1
        return super().forward(images, targets)


def one_box_for_all_classes(self: RoIHeads, logits: Tensor, deltas: Tensor, proposals: Any, sizes: Any) -> Any:
    boxes = box_ops.clip_boxes_to_image(self.box_coder.decode(deltas, proposals)[:, 0], sizes[0])
    scores, labels = logits.softmax(-1)[:, 1:].max(-1)
    keep = box_ops.batched_nms(boxes, scores, labels, self.nms_thresh)[:20]
    keep = keep[scores[keep] > self.score_thresh]
    return [boxes[keep]], [scores[keep]], [labels[keep] + 1]


def subclassed_heads(model: Any) -> None:
    model.roi_heads.__class__ = ColderHeads


def patched_heads(model: Any) -> None:
    model.roi_heads.postprocess_detections = MethodType(colder, model.roi_heads)


def patched_and_certain_of_little(model: Any) -> None:
    patched_heads(model)
    model.roi_heads.score_thresh = 0.99  # nothing is found: weaker boxes are asked for


def hooked(model: Any) -> None:
    def halve(module: nn.Module, given: Any, answers: Any) -> None:
        for answer in answers:
            answer["scores"] = answer["scores"] / 2

    model.register_forward_hook(halve)


def flipping(model: Any) -> None:
    model.__class__ = Flips


def counting(model: Any) -> None:
    model.__class__ = Counts


def watched(model: Any) -> None:
    model.register_forward_hook(lambda *_: None)
    model.roi_heads.register_forward_pre_hook(lambda *_: None)


def class_agnostic(model: Any) -> None:
    model.roi_heads.box_predictor.bbox_pred = nn.Linear(1024, 4)
    model.roi_heads.postprocess_detections = MethodType(one_box_for_all_classes, model.roi_heads)


def questions(detector: Detector, image: Any, found: detxai.Detections) -> dict[str, Callable[[], Any]]:
    return {
        "candidates": lambda: detector.candidates(image),
        "layer_cam": lambda: detxai.LayerCAM()(detector, image, found),
        "ablation_cam": lambda: detxai.AblationCAM(0.05, ranking="energy", unablated_weights="zero", progress=False)(
            detector, image, found
        ),
        "d_rise": lambda: detxai.DRISE(n_masks=16, progress=False)(detector, image, found),
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (subclassed_heads, "roi_heads.postprocess_detections"),
        (patched_heads, "roi_heads.postprocess_detections"),
        (patched_and_certain_of_little, "roi_heads.postprocess_detections"),
        (hooked, "a hook on model"),
        (flipping, "model.forward"),
    ],
)
def test_a_model_whose_detections_are_not_among_the_candidates_is_refused_by_name(
    change: Callable[[Any], None], named: str
) -> None:
    model = small_faster_rcnn()
    found = detxai.wrap(model).detect(photo(), 0.1)[:1]
    change(model)
    threshold, detector = model.roi_heads.score_thresh, detxai.wrap(model)
    for ask in questions(detector, photo(), found).values():
        with pytest.raises(ValueError, match=rf"model: .*{named}.* is not the family's own"):
            ask()
    with torch.no_grad():
        assert torch.equal(detector.detect(photo(), 0).scores, model([photo()])[0]["scores"])
    assert model.roi_heads.score_thresh == threshold
    if change is flipping:
        with pytest.raises(ValueError, match="in the model's own pass backbone:fine outputs something else"):
            detxai.EigenCAM()(detector, photo())
    else:
        detxai.EigenCAM()(detector, photo())


@pytest.mark.parametrize("change", [counting, watched])
def test_a_change_that_changes_nothing_is_followed_as_before(change: Callable[[Any], None]) -> None:
    model = small_faster_rcnn()
    change(model)
    detector, plain = detxai.wrap(model), detxai.wrap(small_faster_rcnn())
    found = plain.detect(photo(), 0.1)[:1]
    with torch.no_grad():
        assert torch.equal(detector.candidates(photo()).class_scores, plain.candidates(photo()).class_scores)
    for name, ask in questions(detector, photo(), found).items():
        expected = questions(plain, photo(), found)[name]()
        if name != "candidates":
            torch.testing.assert_close(*(torch.from_numpy(each[0].values) for each in (ask(), expected)))


def test_a_change_made_later_is_asked_about_again() -> None:
    model = small_faster_rcnn()
    detector = detxai.wrap(model)
    detector.candidates(photo())
    patched_heads(model)
    with pytest.raises(ValueError, match="postprocess_detections"):
        detector.candidates(photo())


def test_one_box_for_all_classes_is_honoured() -> None:
    model = small_faster_rcnn()
    class_agnostic(model)
    detector = detxai.wrap(model)
    found = detector.detect(photo(), 0)
    with torch.no_grad():
        candidates = detector.candidates(photo())
        boxes, scores = candidates.of_labels(found.labels)
        off = (boxes[:, 0] - found.boxes[:, None]).abs().amax(-1) + (scores[:, 0] - found.scores[:, None]).abs()
        assert len(found) > 0
        assert off.amin(1).max() < 1e-3
        with detector.borrowed():
            assert not isinstance(detector.structure(detector.features(photo())), TwoStage)
    for ask in questions(detector, photo(), found[:1]).values():
        ask()


def cool(scores: Tensor) -> Tensor:
    return torch.sigmoid(torch.logit(scores, eps=1e-6) / 3)  # without eps a certain score has no gradient but NaN


def colder_yolo(network: Any) -> None:
    head = network.model[-1]
    inference = head._inference

    def colder_inference(*given: Any) -> Tensor:
        answer: Tensor = inference(*given)
        return torch.cat([answer[:, :4], cool(answer[:, 4:])], 1)

    head._inference = colder_inference


def flipping_yolo(network: Any) -> None:
    forward = network.forward
    network.forward = lambda images, *others, **named: forward(images.flip(-1), *others, **named)


def counting_yolo(network: Any) -> None:
    forward = network.forward
    network.forward = lambda *given, **named: forward(*given, **named)
    network.model[-1].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("change", "named"),
    [(colder_yolo, None), (flipping_yolo, "model.forward"), (counting_yolo, None)],
)
def test_the_same_for_yolo(change: Callable[[Any], None], named: str | None) -> None:
    pytest.importorskip("ultralytics")
    from yolo_seeded import SIZE, bus, largest_gap, seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    yolo = copy.deepcopy(seeded("v8").model)
    found = YOLOAdapter(yolo, input_size=SIZE).detect(bus(), 0.3)[:1]
    change(yolo)
    detector = YOLOAdapter(yolo, input_size=SIZE)
    for ask in questions(detector, bus(), found).values():
        if named is None:
            ask()
            continue
        with pytest.raises(ValueError, match=rf"model: .*{named}.* is not the family's own"):
            ask()
    if named is None:
        assert largest_gap(detector.detect(bus(), 0.25), detector.candidates(bus())) < 1e-3
