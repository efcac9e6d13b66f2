"""Reading and checking what a plain function returns for a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from detxai.detections import Candidates, Detections
from detxai.formats import from_coco, from_sahi, from_supervision, from_torchvision, from_ultralytics

Answer: TypeAlias = "Detections | Candidates"

NMS_IOU = 0.5  # torchvision's default; used where a function returns candidates and detxai suppresses them
MAX_NORMALISED = 1.25  # coordinates up to this are taken for fractions of the image, which boxes may exceed a little
NO_LABEL = -1  # of the boxes that pad a batch
EXPECTED = (
    "Detections, Candidates of one image, a dict of boxes, scores and labels, a dict of boxes and class_scores, an "
    "ultralytics Results, a supervision.Detections, a SAHI PredictionResult or a list of COCO records"
)


def read_answers(answers: Any, n_images: int) -> list[Answer]:
    """The function's answers for a batch, one for each image, on the CPU and detached.

    Raises:
        TypeError: ``answers`` is no list, or an entry is of no known form.
        ValueError: there are not ``n_images`` of them, or an entry has a wrong shape or value.
    """
    if not isinstance(answers, (list, tuple)):
        raise TypeError(
            f"the function must return a list with an answer for each of {n_images} image(s), got "
            f"{type(answers).__name__}"
        )
    if len(answers) != n_images:
        raise ValueError(f"the function must return an answer for each of {n_images} image(s), got {len(answers)}")
    return [_read_as(f"answers[{place}] of {n_images}", answer) for place, answer in enumerate(answers)]


def check_answers(answers: Sequence[Answer], sizes: Sequence[tuple[int, int]], n_classes: int | None) -> None:
    """Refuse answers that are well-formed but cannot be right.

    Args:
        sizes: (height, width) of each image.
        n_classes: how many class names there are, where all classes were named.

    Raises:
        ValueError: every box that has an area lies in the image's first pixel, so that coordinates are fractions of
            its size; or there are labels for which a list of all class names has no name.
    """
    for place, (answer, (height, width)) in enumerate(zip(answers, sizes, strict=True)):
        boxes = answer.boxes.reshape(-1, 4)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        if len(boxes) and min(height, width) > 2 and float(boxes.abs().max()) <= MAX_NORMALISED:
            raise ValueError(
                f"answers[{place}] of {len(answers)}: boxes must be in pixels of the image, {width} x {height}, got "
                f"coordinates up to {float(boxes.max()):.4g}; multiply x by the width and y by the height"
            )
        if n_classes:
            _check_names(f"answers[{place}] of {len(answers)}", answer, n_classes)


def _check_names(name: str, answer: Answer, n_classes: int) -> None:
    labels = set(answer.labels.tolist())
    if isinstance(answer, Candidates):
        fit = len(labels) == n_classes if labels == set(range(len(labels))) else max(labels, default=0) < n_classes
    else:
        fit = max(labels - set(answer.class_names), default=0) < n_classes
    if not fit:
        raise ValueError(
            f"{name}: class_names must name every label, got {n_classes} names, for labels 0 to {n_classes - 1}, and "
            f"labels up to {max(labels)}"
        )


def _read_as(name: str, answer: Any) -> Answer:
    try:
        return read_answer(answer)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error
    except (ValueError, LookupError, RuntimeError) as error:  # torch raises the last for ragged lists and the like
        raise ValueError(f"{name}: {error}") from error


def read_answer(answer: Any) -> Answer:
    """One image's answer as ``Detections`` or ``Candidates``: see ``FunctionAdapter`` for the forms it may have.

    Raises:
        TypeError: ``answer`` has none of these forms.
        ValueError: a shape or value is wrong.

    >>> read_answer({"boxes": [[0, 0, 4, 8]], "scores": [0.5], "labels": [2]}).labels
    tensor([2])
    >>> read_answer({"boxes": [[0, 0, 4, 8]], "class_scores": [[0.25, 0.5]]}).objectness
    tensor([[0.5000]])
    """
    if isinstance(answer, Detections):
        return Detections(answer.boxes.detach(), answer.scores.detach(), answer.labels, answer.class_names).to("cpu")
    if isinstance(answer, Candidates):
        return _one_image(answer)
    if isinstance(answer, Mapping):
        if "class_scores" in answer:
            return _candidates(answer)
        if not {"boxes", "scores", "labels"} <= set(answer):
            raise ValueError(f"a dict must have boxes, scores and labels, or boxes and class_scores, got {[*answer]}")
        return from_torchvision(answer)
    if all(hasattr(answer, name) for name in ("xyxy", "confidence", "class_id")):
        return from_supervision(answer)
    if all(hasattr(answer, name) for name in ("boxes", "names", "orig_shape")):
        return from_ultralytics(answer)
    if hasattr(answer, "object_prediction_list"):
        return from_sahi(answer)
    if isinstance(answer, (list, tuple)) and all(isinstance(record, Mapping) for record in answer):
        return from_coco(answer)
    raise TypeError(f"an answer must be {EXPECTED}; got {_described(answer)}")


def as_candidates(answers: Sequence[Answer]) -> Candidates:
    """The answers for a batch as one ``Candidates``, padded with empty boxes of score 0.

    Raises:
        ValueError: some are detections and others candidates, or candidates differ in their classes.
    """
    early = {i: answer for i, answer in enumerate(answers) if isinstance(answer, Candidates) and answer.boxes.shape[1]}
    late = {i: answer for i, answer in enumerate(answers) if isinstance(answer, Detections) and len(answer)}
    if early and late:
        raise ValueError(
            "the function must answer all images with detections or all with candidates (boxes and class_scores), "
            f"got candidates in answers[{next(iter(early))}] and detections in answers[{next(iter(late))}]"
        )
    nothing = Detections([], [], [])
    return _stacked(early, len(answers)) if early else _final([late.get(i, nothing) for i in range(len(answers))])


def suppressed(candidates: Candidates, score_threshold: float) -> Detections:
    """The detections of one image after non-maximum suppression within each class.

    Each candidate counts for its best class, with that class's score.
    """
    found = _best_classes(candidates)
    found = found[found.scores > score_threshold]
    return found[batched_nms(found.boxes, found.scores, found.labels, NMS_IOU)]


def _best_classes(candidates: Candidates) -> Detections:
    if not candidates.class_scores.numel():
        return Detections([], [], [])
    scores, column = candidates.class_scores[0].max(-1)
    boxes = candidates.boxes[0]
    own = column if boxes.shape[1] > 1 else torch.zeros_like(column)
    return Detections(boxes[torch.arange(len(boxes)), own], scores, candidates.labels[column])


def _final(found: Sequence[Detections]) -> Candidates:
    classes = torch.cat([one.labels for one in found]).unique()
    labels = pad_sequence([one.labels for one in found], batch_first=True, padding_value=NO_LABEL)
    scores = pad_sequence([one.scores for one in found], batch_first=True)
    boxes = pad_sequence([one.boxes for one in found], batch_first=True)
    one_hot = labels[..., None] == classes
    return Candidates(boxes[:, :, None], scores[..., None] * one_hot, scores, classes, final=True)


def _stacked(rows: Mapping[int, Candidates], n_images: int) -> Candidates:
    """Candidates of n images; images that are not among ``rows`` have none."""
    first, like = next(iter(rows.items()))
    for place, row in rows.items():
        if not torch.equal(row.labels, like.labels) or row.boxes.shape[2] != like.boxes.shape[2]:
            raise ValueError(
                f"candidates must be of the same classes for all images, got {len(like.labels)} classes and "
                f"{like.boxes.shape[2]} box(es) a candidate in answers[{first}], {len(row.labels)} and "
                f"{row.boxes.shape[2]} in answers[{place}]"
            )

    def stack(name: str) -> Tensor:
        none = getattr(like, name)[0, :0]
        return pad_sequence(
            [getattr(rows[i], name)[0] if i in rows else none for i in range(n_images)], batch_first=True
        )

    proposals = None if any(row.proposals is None for row in rows.values()) else stack("proposals")
    return Candidates(stack("boxes"), stack("class_scores"), stack("objectness"), like.labels, proposals)


def _candidates(answer: Mapping[str, Any]) -> Candidates:
    """Candidates of one image, from a dict of ``boxes`` and ``class_scores``, perhaps ``objectness``, ``classes``."""
    if "boxes" not in answer or {"scores", "labels"} & set(answer):
        raise ValueError(
            "a dict with class_scores must have boxes, may have objectness and classes, and has no scores and labels "
            f"(they follow from the class_scores); got {[*answer]}"
        )
    class_scores, boxes = _floats("class_scores", answer["class_scores"]), _floats("boxes", answer["boxes"])
    if not boxes.numel() and not class_scores.numel():
        n_classes = class_scores.shape[-1] if class_scores.ndim == 2 else 0
        boxes, class_scores = boxes.reshape(0, 4), class_scores.reshape(0, n_classes)
    if class_scores.ndim != 2:
        raise ValueError(f"class_scores must have shape (N, C), got {tuple(class_scores.shape)}")
    n, n_classes = class_scores.shape
    if boxes.shape not in ((n, 4), (n, n_classes, 4)):
        raise ValueError(
            f"boxes must have shape ({n}, 4) or ({n}, {n_classes}, 4) as class_scores do, got {tuple(boxes.shape)}"
        )
    best = class_scores.amax(-1) if n_classes else class_scores.new_zeros(n)
    objectness = best if answer.get("objectness") is None else _floats("objectness", answer["objectness"])
    if objectness.shape != (n,):
        raise ValueError(f"objectness must have shape ({n},) as class_scores do, got {tuple(objectness.shape)}")
    classes = _classes(answer.get("classes"), n_classes)
    boxes = boxes[:, None] if boxes.ndim == 2 else boxes
    return _checked(Candidates(boxes[None], class_scores[None], objectness[None], classes))


def _classes(numbers: Any, n_classes: int) -> Tensor:
    if numbers is None:
        return torch.arange(n_classes)
    classes = torch.as_tensor(numbers).cpu()
    if classes.shape != (n_classes,) or classes.is_floating_point():
        raise ValueError(
            f"classes must be {n_classes} class numbers, one for each column of class_scores, got "
            f"{classes.dtype} of shape {tuple(classes.shape)}"
        )
    return classes.long()


def _one_image(answer: Candidates) -> Answer:
    if len(answer) != 1:
        raise ValueError(f"Candidates must be of one image, got {len(answer)}")
    proposals = None if answer.proposals is None else _floats("proposals", answer.proposals)
    boxes, class_scores = _floats("boxes", answer.boxes), _floats("class_scores", answer.class_scores)
    objectness = _floats("objectness", answer.objectness)
    one = _checked(Candidates(boxes, class_scores, objectness, answer.labels.cpu(), proposals))
    return _best_classes(one) if answer.final else one


def _checked(candidates: Candidates) -> Candidates:
    for name in ("boxes", "class_scores", "objectness"):
        values = getattr(candidates, name)
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        if name != "boxes" and bool(((values < 0) | (values > 1 + 1e-6)).any()):
            low, high = float(values.min()), float(values.max())
            raise ValueError(f"{name} must be probabilities in [0, 1], got {low:.4g} to {high:.4g}")
    backwards = (candidates.boxes[..., 2:] < candidates.boxes[..., :2]).any(-1)
    if bool(backwards.any()):
        first = candidates.boxes[backwards][0].tolist()
        raise ValueError(f"boxes must be xyxy with x1 <= x2 and y1 <= y2, got {first}")
    return candidates


def _floats(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or array of numbers, got {type(values).__name__}: {error}") from error


def _described(answer: Any) -> str:
    kind = type(answer).__name__
    if isinstance(answer, (list, tuple)):
        return f"a {kind} of {', '.join(sorted({type(entry).__name__ for entry in answer}))}"
    shape = getattr(answer, "shape", None)
    return kind if shape is None else f"{kind} of shape {tuple(shape)}"
