"""The usual layouts of exported detectors' outputs, recognised by shape and checked by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.adapters.exported.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Answer = dict[str, Array]  # of one image: boxes (N, 4) xyxy in input pixels, and class_scores or scores and labels
Size = tuple[int, int]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))  # of YOLO heads
ANCHORS_A_CELL = (3, 4)  # of YOLOv3 to v5 and v7; YOLOX, YOLOv6 and those from YOLOv8 on have one
MAX_COORDINATE = 2.0  # of a plausible box, in sides of the input
LIKELY_SCORE = 0.25  # from which a box must be plausible


@dataclass(frozen=True)
class Layout:
    """One way to lay out what a detector answers.

    Attributes:
        name: what ``layout=`` calls it.
        says: its shapes, for messages.
        preparation: how networks that answer so mostly want their images.
        recognise: whether outputs of an input of a size (height, width) have its shapes.
        read: the answers, one an image; shapes are known to fit.
    """

    name: str
    says: str
    preparation: Preparation
    recognise: Callable[[Outputs, Size], bool]
    read: Callable[[Outputs, Size], list[Answer]]


def cells(size: Size, strides: tuple[int, ...]) -> int:
    """How many cells the levels of a head have together."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def plausible(answers: list[Answer], size: Size) -> bool:
    """Whether scores are probabilities, and boxes with likely scores lie in the image or near it."""
    for answer in answers:
        scores = answer["class_scores"] if "class_scores" in answer else answer["scores"]
        boxes = answer["boxes"]
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            return False
        if scores.size and (scores.min() < 0 or scores.max() > 1 + 1e-4):
            return False
        likely = boxes[(scores.max(-1) if scores.ndim == 2 else scores) > LIKELY_SCORE] if scores.size else boxes[:0]
        if not _lie_in(likely, size):
            return False
    return True


def _lie_in(boxes: Array, size: Size) -> bool:
    if not len(boxes):
        return True
    height, width = size
    sides = boxes[:, 2:] - boxes[:, :2]
    if (sides < 0).any() or np.abs(boxes).max() > MAX_COORDINATE * max(size):
        return False
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= 0) & (centres <= (width, height))).all(1)
    return bool(inside.mean() > 0.9 and np.median(sides) > 1)  # not a pixel wide: those are shares of the input


def _rows(outputs: Outputs) -> Array | None:
    """The one output with three axes; None where there is none or several. Outputs of other heads are ignored."""
    three_axes = [one for one in outputs.values() if one.ndim == 3]
    return three_axes[0] if len(three_axes) == 1 else None


def _rows_of(outputs: Outputs) -> Array:
    found = _rows(outputs)
    assert found is not None  # recognised
    return found


def _xyxy(cxcywh: Array) -> Array:
    centre, half = cxcywh[..., :2], np.maximum(cxcywh[..., 2:4], 0) / 2
    return np.concatenate([centre - half, centre + half], -1)


def _is_yolo(outputs: Outputs, size: Size) -> bool:
    found = _rows(outputs)
    return found is not None and found.shape[1] > 4 and found.shape[2] in {cells(size, some) for some in STRIDES}


def _read_yolo(outputs: Outputs, size: Size) -> list[Answer]:
    rows = _rows_of(outputs).transpose(0, 2, 1)
    return [{"boxes": _xyxy(one), "class_scores": one[:, 4:]} for one in rows]


def _with_objectness(outputs: Outputs, size: Size, per_cell: tuple[int, ...]) -> Array | None:
    """The output (B, N, 5 + C) of a head with this many boxes in each cell; None where it has another shape."""
    found = _rows(outputs)
    counts = {n * cells(size, some) for some in STRIDES for n in per_cell}
    return found if found is not None and found.shape[2] > 5 and found.shape[1] in counts else None


def _spans(found: Array, size: Size) -> bool:
    """Whether the centres span the image; offsets that were not decoded yet are only a few units."""
    return float(found[..., :2].max()) > max(size) / 2


def _is_decoded(outputs: Outputs, size: Size) -> bool:
    found = _with_objectness(outputs, size, (1, *ANCHORS_A_CELL))
    return found is not None and _spans(found, size)


def _is_yolox(outputs: Outputs, size: Size) -> bool:
    found = _with_objectness(outputs, size, (1,))
    return found is not None and not _spans(found, size)


def _read_objectness(outputs: Outputs, size: Size) -> list[Answer]:
    return [
        {"boxes": _xyxy(one), "class_scores": one[:, 5:] * one[:, 4:5], "objectness": one[:, 4]}
        for one in _rows_of(outputs)
    ]


def _read_yolox(outputs: Outputs, size: Size) -> list[Answer]:
    raw = _rows_of(outputs)
    strides = next(some for some in STRIDES if cells(size, some) == raw.shape[1])
    corners, steps = [], []
    for stride in strides:
        rows, columns = np.indices((-(-size[0] // stride), -(-size[1] // stride)))
        corners.append(np.stack([columns.ravel(), rows.ravel()], 1))
        steps.append(np.full((rows.size, 1), stride))
    step = np.concatenate(steps)
    centre = (raw[..., :2] + np.concatenate(corners)) * step
    with np.errstate(over="ignore"):  # decoded boxes, read as logarithms, are too large: they are not plausible
        side = np.exp(raw[..., 2:4]) * step
    decoded = np.concatenate([centre, side, raw[..., 4:]], -1)
    return _read_objectness({"decoded": decoded}, size)


def _is_end_to_end(outputs: Outputs, size: Size) -> bool:
    found = _rows(outputs)
    if found is None or found.shape[2] != 6 or _with_objectness(outputs, size, (1, *ANCHORS_A_CELL)) is not None:
        return False
    return bool((found[..., 5] == found[..., 5].round()).all())


def _read_end_to_end(outputs: Outputs, size: Size) -> list[Answer]:
    answers = []
    for one in _rows_of(outputs):
        kept = one[one[:, 4] > 0]
        answers.append({"boxes": kept[:, :4], "scores": kept[:, 4], "labels": kept[:, 5].astype(np.int64)})
    return answers


def _parts(outputs: Outputs) -> Answer | None:
    """torchvision's boxes, scores and labels, by name or by dtype and shape; None where they are not these."""
    three = dict(outputs)
    if {"boxes", "scores", "labels"} <= set(three):
        return {name: three[name] for name in ("boxes", "scores", "labels")}
    boxes = [one for one in three.values() if one.ndim == 2 and one.shape[1] == 4]
    lists = [one for one in three.values() if one.ndim == 1]
    labels = [one for one in lists if np.issubdtype(one.dtype, np.integer)]
    scores = [one for one in lists if np.issubdtype(one.dtype, np.floating)]
    if len(three) != 3 or not len(boxes) == len(labels) == len(scores) == 1:
        return None
    return {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}


def _is_torchvision(outputs: Outputs, size: Size) -> bool:
    found = _parts(outputs)
    return found is not None and found["boxes"].ndim == 2 and len({len(one) for one in found.values()}) == 1


def _read_torchvision(outputs: Outputs, size: Size) -> list[Answer]:
    found = _parts(outputs)
    assert found is not None  # recognised
    return [{**found, "labels": found["labels"].astype(np.int64)}]


def _queries(outputs: Outputs) -> tuple[Array, Array] | None:
    """DETR's logits (B, Q, K) and boxes (B, Q, 4); None where they are not these."""
    three_axes = {name: one for name, one in outputs.items() if one.ndim == 3}
    if {"logits", "pred_boxes"} <= set(three_axes):
        return three_axes["logits"], three_axes["pred_boxes"]
    boxes = [one for one in three_axes.values() if one.shape[2] == 4]
    logits = [one for one in three_axes.values() if one.shape[2] != 4]
    if len(outputs) != 2 or len(boxes) != 1 or len(logits) != 1 or boxes[0].shape[:2] != logits[0].shape[:2]:
        return None
    return logits[0], boxes[0]


def _no_object_share(outputs: Outputs) -> float | None:
    """The fraction of queries whose strongest class is the last: most, where the last class is "no object"."""
    found = _queries(outputs)
    return None if found is None else float((found[0].argmax(-1) == found[0].shape[2] - 1).mean())


def _is_softmax(outputs: Outputs, size: Size) -> bool:
    share = _no_object_share(outputs)
    return share is not None and share > 0.5


def _is_sigmoid(outputs: Outputs, size: Size) -> bool:
    share = _no_object_share(outputs)
    return share is not None and share <= 0.5


def _read_queries(scores: Callable[[Array], Array]) -> Callable[[Outputs, Size], list[Answer]]:
    def read(outputs: Outputs, size: Size) -> list[Answer]:
        found = _queries(outputs)
        assert found is not None  # recognised
        sides = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
        return [
            {"boxes": _xyxy(boxes) * sides, "class_scores": scores(logits)}
            for logits, boxes in zip(*found, strict=True)
        ]

    return read


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray((powers / powers.sum(-1, keepdims=True))[:, :-1])


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), dtype=np.float32)


CENTRE, STRETCH = Preparation(), Preparation("stretch")
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("yolo", "(B, 4 + C, N): YOLOv8 and later", CENTRE, _is_yolo, _read_yolo),
        Layout(
            "yolo_objectness",
            "(B, N, 5 + C), boxes decoded: YOLOv5 to v7",
            CENTRE,
            _is_decoded,
            _read_objectness,
        ),
        Layout(
            "yolox",
            "(B, N, 5 + C), boxes not decoded",
            Preparation("top left", "bgr", 255.0),
            _is_yolox,
            _read_yolox,
        ),
        Layout(
            "end_to_end", "(B, N, 6): x1, y1, x2, y2, score, label", CENTRE, _is_end_to_end, _read_end_to_end
        ),
        Layout("torchvision", "boxes (N, 4), scores (N,), labels (N,)", STRETCH, _is_torchvision, _read_torchvision),
        Layout(
            "detr",
            "logits (B, Q, C + 1), the last class no object, and boxes (B, Q, 4)",
            Preparation("stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            _is_softmax,
            _read_queries(_softmax),
        ),
        Layout(
            "detr_sigmoid",
            "logits (B, Q, C) and boxes (B, Q, 4): RT-DETR, D-FINE",
            STRETCH,
            _is_sigmoid,
            _read_queries(_sigmoid),
        ),
    )
}  # fmt: skip
