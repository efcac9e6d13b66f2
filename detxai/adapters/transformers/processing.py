"""The image processor of a query detector: how it prepares images, and how it scores a query's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_convert

from detxai.adapters.detector import one_if_equal
from detxai.adapters.transformers.recognising import load_transformers
from detxai.detections import Candidates
from detxai.geometry import box_iou
from detxai.images import to_uint8

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
PUBLISHED_WITH = {  # for families missing in transformers' table of processors: the one that their checkpoints name
    "dab-detr": "ConditionalDetrImageProcessor",
    "d_fine": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
}
Scoring = Callable[[Tensor], tuple[Tensor, Tensor]]  # logits (B, Q, K) -> class scores (B, Q, C), objectness (B, Q)


def saved_processor(place: str | PathLike[str]) -> Any | None:
    """The image processor saved in a folder, or under a name whose files lie in the local cache; nothing is fetched.

    None where there is none.

    Raises:
        ValueError: there is one in the folder, and it does not load.
    """
    try:
        return load_transformers().AutoImageProcessor.from_pretrained(
            place, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        if any((Path(place) / name).is_file() for name in PROCESSOR_FILES):
            raise ValueError(f"processor: the one saved in {place} does not load: {error}") from error
        return None


def default_processor(config: Any) -> Any:
    """The family's own image processor with its own settings, and the input size where the configuration fixes it.

    Raises:
        ValueError: transformers knows none for this configuration.
    """
    chosen = _processor_class(config)
    size = _fixed_size(config)
    return chosen() if size is None else chosen(size={"height": size[0], "width": size[1]}, do_pad=False)


def _processor_class(config: Any) -> Any:
    published = PUBLISHED_WITH.get(config.model_type)
    if published is not None:
        return getattr(load_transformers(), published)
    auto = load_transformers("models.auto.image_processing_auto")
    try:
        classes = auto.IMAGE_PROCESSOR_MAPPING[type(config)]
    except KeyError:
        raise ValueError(
            f"processor must be given: transformers has no image processor for a {type(config).__name__}"
        ) from None
    backends = classes if isinstance(classes, Mapping) else dict(zip(("pil", "torchvision"), classes, strict=False))
    return backends.get("torchvision") or backends.get("pil")


def check_processor(processor: Any) -> None:
    """Raise ``TypeError`` where ``processor`` is no image processor of a detector."""
    if callable(processor) and callable(getattr(processor, "post_process_object_detection", None)):
        return
    raise TypeError(
        "processor must be the model's image processor, with post_process_object_detection, as "
        f"AutoImageProcessor.from_pretrained gives it, got {type(processor).__name__}"
    )


def processed(processor: Any, arrays: Sequence[npt.NDArray[Any]], **settings: Any) -> Mapping[str, Tensor]:
    """The processor's output for RGB arrays (H, W, 3), as the model takes it: at least ``pixel_values``.

    The processor is called as its users call it, so the resampling is that of its own backend. A float array in [0, 1]
    stays float where the backend is torchvision's, and is rounded to 8 bits where it is Pillow's.
    """
    if getattr(processor, "backend", None) == "torchvision":
        images = [array if array.dtype == np.uint8 else array * np.float32(255) for array in arrays]
    else:
        images = [to_uint8(array) for array in arrays]
    found: Mapping[str, Tensor] = processor(
        images=images, return_tensors="pt", input_data_format="channels_last", **settings
    )
    return found


def resized_sizes(
    processor: Any, inputs: Mapping[str, Tensor], arrays: Sequence[npt.NDArray[Any]]
) -> list[tuple[int, int]]:
    """(height, width) of each image in the processor's output: at the top left, padded to the right and below.

    Args:
        inputs: of ``processed``.
        arrays: the images.

    Raises:
        ValueError: the processor places images in another way.
    """
    pixels = inputs["pixel_values"]
    mask = inputs.get("pixel_mask")
    input_size = (pixels.shape[-2], pixels.shape[-1])
    if mask is not None:
        resized = [(int(one.amax(1).sum()), int(one.amax(0).sum())) for one in mask]
        if not torch.equal(mask, pixel_mask(input_size, resized, mask.device)):
            raise ValueError("processor: its pixel_mask must show each image at the top left, whole, and nothing else")
        return resized
    if not getattr(processor, "do_pad", False):
        return [input_size] * len(arrays)
    alone = [processed(processor, [array], do_pad=False)["pixel_values"][0] for array in arrays]
    resized = [(one.shape[-2], one.shape[-1]) for one in alone]
    for one, padded, (height, width) in zip(alone, pixels, resized, strict=True):
        if not torch.equal(one, padded[:, :height, :width]):
            raise ValueError("processor must place an image at the top left of its padding, or say where by pixel_mask")
    return resized


def pixel_mask(input_size: tuple[int, int], resized: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(B, height, width) int64: 1 where an image is, 0 in its padding."""
    different = one_if_equal(resized)
    mask = torch.zeros((len(different), *input_size), dtype=torch.int64, device=device)
    for one, (height, width) in zip(mask, different, strict=True):
        one[:height, :width] = 1
    return mask.expand(len(resized), -1, -1)


def gives_mask(processor: Any) -> bool:
    """Whether the processor returns a ``pixel_mask`` that says where in its batch the images are.

    Raises:
        ValueError: it crops images.
    """
    if getattr(processor, "do_center_crop", False):
        raise ValueError("processor must show the model the whole image, got one with do_center_crop=True")
    return "pixel_mask" in processed(processor, [np.zeros((12, 24, 3), dtype=np.uint8)])


def scoring_of(processor: Any, n_labels: int) -> Scoring:
    """How the processor's own post-processing scores the classes of a query, found by running it on random logits.

    Raises:
        ValueError: neither by a sigmoid of each class nor by a softmax whose last class is "no object".
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 16, n_labels + 1, generator=generator)
    boxes = torch.rand(1, 16, 4, generator=generator) * 0.4 + 0.1
    outputs = load_transformers("models.detr.modeling_detr").DetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)
    try:
        (found,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(40, 60)])
    except Exception as error:  # whatever a processor that wants more than logits and boxes raises
        raise ValueError(
            f"processor: {type(processor).__name__} must make detections of logits and boxes alone, got {error!r}"
        ) from error
    for scoring in (sigmoid_scores, softmax_scores):
        candidates = query_candidates(logits, boxes, scoring, [(40, 60)])
        if len(found["scores"]) and _all_among(found, candidates):
            return scoring
    raise ValueError(
        f"processor: {type(processor).__name__} scores classes neither by a sigmoid nor by a softmax with a last class "
        "'no object', and detxai cannot see how"
    )


def sigmoid_scores(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each class by itself; the objectness is the highest of them."""
    scores = logits.sigmoid()
    return scores, scores.amax(-1)


def softmax_scores(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Exclusive classes, the last of them "no object"; the objectness is the sum of the others."""
    scores = logits.softmax(-1)[..., :-1]
    return scores, scores.sum(-1)


def query_candidates(logits: Tensor, boxes: Tensor, scoring: Scoring, sizes: Sequence[tuple[int, int]]) -> Candidates:
    """Every query as a candidate.

    Args:
        logits: (B, Q, K).
        boxes: (B, Q, 4) centre x, centre y, width, height, as fractions of the image.
        scoring: of the processor.
        sizes: (height, width) of each image, pixels.
    """
    scale = sides_of(tuple(sizes), boxes.device, boxes.dtype)
    corners = box_convert(boxes, "cxcywh", "xyxy") * scale[:, None]
    scores, objectness = scoring(logits)
    return Candidates(corners[:, :, None], scores, objectness, torch.arange(scores.shape[-1]))


@lru_cache(maxsize=32)  # the same few images are explained many times: no transfer to the device for each pass
def sides_of(sizes: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(B, 4) width, height, width, height; B is 1 for versions of one image."""
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        of_each = [(width, height, width, height) for height, width in one_if_equal(sizes)]
        return torch.tensor(of_each, dtype=dtype, device="cpu").to(device)


def _all_among(found: Mapping[str, Tensor], candidates: Candidates) -> bool:
    labels = found["labels"].long()
    if int(labels.max()) >= len(candidates.labels):
        return False
    boxes, scores = candidates.of_labels(labels)
    same_box = box_iou(boxes[:, 0], found["boxes"][:, None]) > 1 - 1e-4
    same_score = (scores[:, 0] - found["scores"][:, None]).abs() < 1e-5
    return bool((same_box & same_score).any(1).all())


def _fixed_size(config: Any) -> tuple[int, int] | None:
    """(height, width) of the input that anchors or windows were laid out for; None: any."""
    size: Any = getattr(config, "anchor_image_size", None)
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)
    backbone: Any = getattr(config, "backbone_config", None)
    n_windows = getattr(backbone, "num_windows_side", None) or getattr(backbone, "num_windows", None)
    if n_windows is None:
        return None
    step = n_windows * backbone.patch_size  # every window holds as many patches
    side = math.ceil(backbone.image_size / step) * step
    return side, side
