"""The front door: one call from a detector, an image and its boxes to explanations."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from torch import Tensor

from detxai.adapters.detector import Detector, Features
from detxai.adapters.registry import wrap
from detxai.detections import Detections, check_score_threshold
from detxai.explanation import Explanation
from detxai.images import Image, load_image
from detxai.low_passed import LowPassed
from detxai.messages import did_you_mean
from detxai.methods import METHODS
from detxai.settings import check_settings

DEFAULT_METHOD = "pixel_evidence"


class Method(Protocol):
    """A small frozen dataclass of settings, called with a detector, an image and many detections at once."""

    @property
    def name(self) -> str: ...

    @property
    def asks_about_boxes(self) -> bool: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def explain(
    detector: Detector | Any,
    image: Image | Features,
    method: str | Method = DEFAULT_METHOD,
    detections: Detections | None = None,
    *,
    score_threshold: float = 0.25,
    **settings: Any,
) -> list[Explanation]:
    """Explain detections of one image.

    Args:
        detector: from ``detxai.wrap``, or anything ``wrap`` takes.
        image: a ``PIL.Image``, a path, a uint8 (H, W, 3) RGB array or a float (3, H, W) tensor in [0, 1]; or the
            features of one, where a pass has been made already (``detector.features(image)``).
        method: a method's name (``layer_cam``), or a method with its settings (``EigenCAM(layers="model.15")``). The
            default, ``pixel_evidence``, takes some 300 passes a box (``max_passes=``); ``layer_cam`` takes one.
        detections: the boxes in question; default: what the detector finds above ``score_threshold``.
        score_threshold: in [0, 1]; only used where ``detections`` is None.
        settings: the method's settings, where it is given by name. Those that need gradients also take ``low_pass``:
            the highest spatial frequency that is kept, in cycles per image side, or ``"auto"``.

    Returns:
        One explanation for each detection, in their order; one for the image where the method asks no question of a
        box (``eigen_cam``).

    Raises:
        ValueError: an unknown method or setting, detections outside the image, or a bad image.
        TypeError: an argument of the wrong kind.
    """
    asked = make_method(method, **settings)
    check_threshold(score_threshold)
    if detections is not None and not isinstance(detections, Detections):
        raise TypeError(f"detections must be detxai.Detections, got {type(detections).__name__}")
    wrapped = wrap(detector)
    shown, (height, width) = _decoded(image)
    if detections is not None:
        check_boxes(detections, height, width)
    if not asked.asks_about_boxes:
        return list(asked(wrapped, _image_for(asked, shown)))
    if detections is not None:
        return list(asked(wrapped, _image_for(asked, shown), detections))
    with wrapped.borrowed():
        if not isinstance(shown, Features):
            shown = wrapped.shared_pass(shown)  # the boxes and their maps come of one pass through the backbone
        return list(asked(wrapped, _image_for(asked, shown), wrapped.detections(shown, score_threshold)))


def _decoded(image: Image | Features) -> tuple[Image | Features, tuple[int, int]]:
    """The image, a file read only once, and its (height, width)."""
    if isinstance(image, Features):
        return image, image.inputs.geometries[0].image_size
    array = load_image(image)
    return image if isinstance(image, Tensor) else array, (array.shape[0], array.shape[1])


def _image_for(method: Method, image: Image | Features) -> Image | Features:
    """What a method is called with: features only where it is one of detxai's own, which take them."""
    inner = method.method if isinstance(method, LowPassed) else method
    takes_features = type(inner) in METHODS.values()
    return image.inputs.original if isinstance(image, Features) and not takes_features else image


def make_method(method: str | Method, /, **settings: Any) -> Method:
    """The method called ``method`` with these settings; a method itself comes back as it is.

    Raises:
        ValueError: no such method or setting, or a setting out of range.
        TypeError: ``method`` is neither a name nor a method, settings are given beside a method, or a setting is of
            another type; the message names it.
    """
    if not isinstance(method, str):
        if not callable(method) or not hasattr(method, "asks_about_boxes"):
            raise TypeError(f"method must be a name or a detxai method, got {type(method).__name__}")
        if settings:
            raise TypeError(
                f"settings must be given to the method itself where method is not a name, got {sorted(settings)}"
            )
        return method
    if method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {method!r}{did_you_mean(method, METHODS)}")
    kind = METHODS[method]
    common = {name: settings.pop(name, default) for name, default in common_settings(kind).items()}
    check_settings(method, kind, settings)
    made: Method = kind(**settings)
    low_pass = common.get("low_pass")
    return made if low_pass is None else LowPassed(made, low_pass)


def setting_names(method: str) -> list[str]:
    """The settings that the method called ``method`` has; none where there is no such method."""
    if method not in METHODS:
        return []
    kind = METHODS[method]
    return [*(field.name for field in dataclasses.fields(kind)), *common_settings(kind)]


def common_settings(kind: type[Any]) -> dict[str, Any]:
    """The settings, with their defaults, that a method has by its kind when it is made by name.

    Every method that needs gradients takes ``low_pass``: see ``detxai.low_passed.LowPassed``.
    """
    return {"low_pass": None} if kind.needs == "gradients" else {}


def check_threshold(score_threshold: float) -> None:
    """Raise where ``score_threshold`` is no number in [0, 1]."""
    if isinstance(score_threshold, bool) or not isinstance(score_threshold, (int, float)):
        raise TypeError(f"score_threshold must be a number in [0, 1], got {type(score_threshold).__name__}")
    check_score_threshold(score_threshold)


def check_boxes(detections: Detections, height: int, width: int) -> None:
    """Raise ``ValueError`` where a box lies wholly outside the image: it comes from another one."""
    boxes = detections.boxes
    outside = (boxes[:, 2] < 0) | (boxes[:, 3] < 0) | (boxes[:, 0] > width) | (boxes[:, 1] > height)
    if bool(outside.any()):
        first = boxes[outside.nonzero()[0, 0]].tolist()
        raise ValueError(f"detections must lie in the image of {width} x {height} pixels, got the box {first}")
