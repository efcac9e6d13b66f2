"""The Python and the command line that do what the page did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from detxai.app.options import ModelChoice
from detxai.commands.model_options import model_arguments
from detxai.detections import Detections


def command_line(
    choice: ModelChoice, image: str, place: int, score_threshold: float, method: str, settings: Mapping[str, Any]
) -> str:
    """``detxai explain`` for one box.

    Args:
        choice: of the detector.
        image: the picture's file.
        place: of the box among the detections from ``score_threshold`` on.
        score_threshold: of the detections.
        method: its name.
        settings: those that are not the method's own.
    """
    words = ["detxai", "explain", image, *model_words(choice), "--method", method]
    words += ["--score-threshold", f"{score_threshold:g}", "--boxes", str(place), "--out", "explained"]
    for name, value in settings.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def python_code(
    choice: ModelChoice, image: str, place: int, score_threshold: float, method: str, settings: Mapping[str, Any]
) -> str:
    """The same as a script: see ``command_line``."""
    wrapped = [repr(choice.model)]
    if choice.weights is not None:
        wrapped.append(f"weights={str(choice.weights)!r}")
    if choice.class_names is not None:
        wrapped.append(f"class_names=Path({str(choice.class_names)!r}).read_text().split('\\n')[:-1]")
    if choice.slices is not None:
        rows, columns, overlap = choice.slices.split(",")
        wrapped.append(f"slices=({rows}, {columns}, {overlap})")
    wrapped += [f"{name}={getattr(choice, name)!r}" for name in ("layout", "input_size") if getattr(choice, name)]
    given = "".join(f", {name}={tuple(v) if isinstance(v, list) else v!r}" for name, v in settings.items())
    return "\n".join(
        [
            *(["from pathlib import Path", ""] if choice.class_names is not None else []),
            "import detxai",
            "",
            f"detector = detxai.wrap({', '.join(wrapped)})",
            f"detections = detector.detect({image!r}, score_threshold={score_threshold:g})",
            f"box = detections[{place}]",
            f"(explanation,) = detxai.explain(detector, {image!r}, {method!r}, box{given})",
            'explanation.save("explained.png")',
            'explanation.save_map("explained.npz")',
        ]
    )


def model_words(choice: ModelChoice) -> list[str]:
    """The options of a command that name a detector."""

    class Given:
        model, weights, class_names = choice.model, choice.weights, choice.class_names
        layout, input_size, device = choice.layout, choice.input_size, choice.device
        slices = None

    words = [word for option in model_arguments(Given()).items() for word in option]  # type: ignore[arg-type]
    return words + ([] if choice.slices is None else ["--slices", choice.slices])


def place_of(detections: Detections, place: int, score_threshold: float) -> int:
    """Where a detection stands among those that reach a threshold.

    >>> found = Detections([[0, 0, 8, 8]] * 3, [0.9, 0.2, 0.5], [0, 0, 0])
    >>> place_of(found, 2, 0.25)
    1
    """
    return sum(score >= score_threshold for score in detections.scores[:place].tolist())
