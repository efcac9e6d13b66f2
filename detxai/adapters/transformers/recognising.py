"""Which models of transformers are query detectors, and why the others are not."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

from torch import nn

LIBRARY = "transformers"
DETECTOR = "ForObjectDetection"
SEGMENTERS_WITH_BOXES = ("DetrForSegmentation", "ConditionalDetrForSegmentation", "RfDetrForInstanceSegmentation")


def is_of_transformers(model: object) -> bool:
    """True for transformers' models, pipelines, and objects of their subclasses; imports nothing."""
    kinds = [kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] == LIBRARY]
    return bool(kinds) and (isinstance(model, nn.Module) or any("pipelines" in kind.__module__ for kind in kinds))


def check_model(model: object) -> None:
    """Raise ``TypeError`` where ``model`` is no query detector of transformers."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a network, got a {type(model).__name__}; use detxai.wrap(pipeline.model, "
            "processor=pipeline.image_processor)"
        )
    check_query_detector(type(model), getattr(model, "config", None))


def check_query_detector(kind: type, config: Any) -> None:
    """Raise ``TypeError`` where models of this class do not put out queries, each with a box and class scores.

    Args:
        kind: the model's class.
        config: its configuration.
    """
    names = [base.__name__ for base in kind.__mro__]
    if _needs_text(config):
        _refuse(kind, "finds what a text asks for, which detxai cannot ask; wrap a function with the text fixed in it")
    if any(name in SEGMENTERS_WITH_BOXES for name in names):
        return
    if any("OCR" in name for name in names):
        _refuse(kind, "finds lines of text by a mask and has no queries")
    if not any(name.endswith(DETECTOR) for name in names):
        task = next((name.partition("For")[2] for name in names if "For" in name and name != DETECTOR), "")
        _refuse(kind, f"answers with {_answer(task)} and no boxes")


def load_transformers(name: str = "") -> Any:
    """The module ``transformers``, or ``transformers.name``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(f"{LIBRARY}.{name}" if name else LIBRARY)
    except ModuleNotFoundError as error:
        if error.name != LIBRARY:
            raise
        raise ImportError('this model needs transformers: pip install "detxai[transformers]"') from error


def _needs_text(config: Any) -> bool:
    names = load_transformers("models.auto.modeling_auto").MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
    return getattr(config, "model_type", None) in names


def _answer(task: str) -> str:
    if "Classification" in task:
        return "classes of the whole image"
    return "masks" if "Segmentation" in task else "features" if not task else f"what {task} needs"


def _refuse(kind: type, reason: str) -> NoReturn:
    raise TypeError(
        f"model must be one of transformers' AutoModelForObjectDetection, got {kind.__module__}.{kind.__qualname__}, "
        f"which {reason}"
    )
