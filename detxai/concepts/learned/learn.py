"""Train an explainer for a detector: ask it about many boxes, then train the network; a killed run goes on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from detxai.adapters.detector import Detector
from detxai.adapters.network import NetworkDetector
from detxai.adapters.registry import wrap
from detxai.concepts.learned.answers import ImageAnswers, ask_detector
from detxai.concepts.learned.folder import LearnFolder
from detxai.concepts.learned.images import TrainingImage
from detxai.concepts.learned.settings import LearnSettings
from detxai.concepts.learned.training import BoxInputs, held_out_figures, train
from detxai.engine.learned.network import ExplainerNetwork
from detxai.engine.learned.saved import VERSION, LearnedExplainer, described
from detxai.progress import progress_bar
from detxai.runs.failures import FailureGuard, expect_item_failure, reason
from detxai.runs.interrupting import raise_if_interrupted, stops_on_ctrl_c
from detxai.runs.names import record_of_names
from detxai.runs.versions import installed_versions

log = logging.getLogger(__name__)

SEEDS_APART = 20_000  # images of one seed, before they would share their subsets with those of the next
LEAST_BOXES = 8  # fewer cannot be told from noise


@dataclass(frozen=True)
class Learnt:
    """A trained explainer.

    Attributes:
        path: its file, for ``method="l2x"``, ``explainer=path``.
        card: what the file says of itself.
        failures: images that could not be used: ``image`` and ``error``.
    """

    path: Path
    card: Mapping[str, Any]
    failures: Sequence[Mapping[str, str]]


def learn_explainer(
    detector: Detector | Any,
    images: Sequence[TrainingImage],
    out: str | PathLike[str],
    settings: LearnSettings | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Learnt:
    """Train an explainer for a detector's own boxes of some images.

    What is finished is kept in ``out``: the same call goes on from there, whenever it was stopped, and comes to the
    same weights on the same machine.

    Args:
        detector: from ``detxai.wrap``, or anything ``wrap`` takes.
        images: of ``folder_images`` or ``scene_images``.
        out: the folder.
        settings: of the training.
        source: where the images come from, for the record.
        progress: bars; None: where standard error is a terminal.

    Raises:
        ValueError: a setting does not suit the detector, ``out`` holds another training, or the detector finds fewer
            than eight boxes.
        WriteError: ``out`` cannot be written to; what is finished is kept.
    """
    adapter = wrap(detector)
    if not images:
        raise ValueError("images must not be empty")
    given = _for_detector(settings or LearnSettings(), adapter)
    folder = LearnFolder(Path(out))
    request = {
        "detector": described(adapter),
        "images": record_of_names([image.name for image in images]),
        "settings": dataclasses.asdict(given),
        "source": dict(source or {}),
    }
    folder.expect_same(folder.open({"request": request})["request"], request)
    with stops_on_ctrl_c():
        answers, failures = _answers(adapter, images, given, folder, progress)
        if not folder.explainer.is_file():
            _train(adapter, images, answers, given, folder, dict(source or {}), progress)
    card = LearnedExplainer.read(folder.explainer).card
    return Learnt(folder.explainer, card, failures)


def _for_detector(settings: LearnSettings, detector: Detector) -> LearnSettings:
    """The settings with what the detector decides where they do not: layers, and how gradients are had."""
    is_network = isinstance(detector, NetworkDetector)
    if settings.layers and not is_network:
        raise ValueError(f"layers must be empty: {detector.model_name} has none, got {list(settings.layers)}")
    if settings.gradient == "through" and not is_network:
        raise ValueError(f"gradient must be 'scores': {detector.model_name} has no gradients, got 'through'")
    if isinstance(detector, NetworkDetector):
        layers = [] if settings.layers == [] else list(detector.layer_names(settings.layers))
    else:
        layers = []
    gradient = settings.gradient or ("through" if is_network else "scores")
    return replace(settings, layers=layers, gradient=gradient)


def _answers(
    detector: Detector,
    images: Sequence[TrainingImage],
    settings: LearnSettings,
    folder: LearnFolder,
    progress: bool | None,
) -> tuple[dict[int, ImageAnswers], list[dict[str, str]]]:
    """Number of an image -> the answers about its boxes, for all that have boxes; and what failed."""
    guard, failures, found = FailureGuard(), [], {}
    with progress_bar(progress, len(images), "asking the detector", "image") as bar:
        for number, image in enumerate(images):
            raise_if_interrupted()
            path = folder.answers(number)
            try:
                answers = ImageAnswers.read(path) if path.is_file() else _ask(detector, image, settings, number)
            except Exception as error:
                expect_item_failure(error)
                failures.append({"image": image.name, "error": reason(error)})
                guard.failed(reason(error))
            else:
                guard.succeeded()
                if not path.is_file():
                    answers.save(path)
                if len(answers):
                    found[number] = answers
            bar.update(1)
    if failures or folder.failures.is_file():
        folder.write_json(folder.failures, failures)
    return found, failures


def _ask(detector: Detector, image: TrainingImage, settings: LearnSettings, number: int) -> ImageAnswers:
    pixels = image.load()
    boxes = detector.detect(pixels, settings.score_threshold)
    boxes = boxes[boxes.scores.argsort(descending=True, stable=True)[: settings.max_boxes]]
    n_subsets = settings.n_subsets if settings.objective == "shapley" else 0
    label_passes = settings.label_passes if settings.objective == "evidence" else 0
    return ask_detector(detector, pixels, boxes, n_subsets, (settings.seed + 1) * SEEDS_APART + number, label_passes)


def _train(
    detector: Detector,
    images: Sequence[TrainingImage],
    answers: dict[int, ImageAnswers],
    settings: LearnSettings,
    folder: LearnFolder,
    source: Mapping[str, Any],
    progress: bool | None,
) -> None:
    """Train the network and write the explainer with its card."""
    n_boxes = sum(len(of_image) for of_image in answers.values())
    if n_boxes < LEAST_BOXES:
        raise ValueError(
            f"images must have at least {LEAST_BOXES} boxes scored above {settings.score_threshold}, got {n_boxes}"
        )
    inputs = BoxInputs(detector, images, answers, settings.layers or [])
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    numbers = [list(answers)[place] for place in order]
    n_held_out = min(int(settings.held_out * len(numbers)), len(numbers) - 1)
    held_out, trained_on = numbers[:n_held_out], numbers[n_held_out:]
    size = {"n_features": inputs.of_image(numbers[0]).features.shape[2], "width": settings.width}
    size["n_labels"] = 1 + max([*detector.class_names, *(int(a.labels.max()) for a in answers.values())])
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = ExplainerNetwork(**size).to(detector.device)
    prior = held_out_figures(network, inputs, held_out, settings.objective)  # before it is trained
    seconds = train(network, inputs, trained_on, settings, folder.checkpoint, progress)
    card = {
        "version": VERSION,
        "network": size,
        **described(detector),
        "layers": list(settings.layers or []),
        "objective": settings.objective,
        "settings": dataclasses.asdict(settings),
        "source": dict(source),
        "n_images": len(answers),
        "n_boxes": n_boxes,
        "n_held_out_images": n_held_out,
        "training_cpu_seconds": round(seconds, 1),
        "versions": installed_versions(("detxai", "torch")),
    }
    learnt = held_out_figures(network, inputs, held_out, settings.objective)
    figures = learnt | {f"{name}_of_prior": figure for name, figure in prior.items()}
    card |= {name: round(figure, 4) for name, figure in figures.items()}
    LearnedExplainer(network, card).save(folder.explainer)
    folder.write_json(folder.card, card)
