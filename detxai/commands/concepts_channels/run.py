"""``detxai concepts channels``: what channels want to see."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import PIL.Image

from detxai.adapters.network import NetworkDetector, require_network
from detxai.commands.options import FAILED, shows_progress
from detxai.commands.requested_detector import requested_detector
from detxai.concepts.channels.examples import images_in
from detxai.concepts.channels.layer_pass import Channel
from detxai.concepts.channels.page import channels_page
from detxai.concepts.channels.study import ChannelStudy, StudySettings, study_channels
from detxai.concepts.channels.visualise import FeatureVisualisation
from detxai.data.given_paths import expect_folder
from detxai.runs.files import make_folder, replacing, write_json, write_text
from detxai.runs.names import safe_name
from detxai.runs.numbered import claim_folder


def run(given: argparse.Namespace) -> int:
    """Study the channels of a class; the exit code."""
    expect_folder(given.images, "--images")
    channels = tuple(Channel.from_text(text) for text in given.channels or ())
    progress = shows_progress(given)
    visualise = FeatureVisualisation(size=given.size, steps=given.steps, seed=given.seed, progress=progress)
    detector = require_network(requested_detector(given))
    settings = StudySettings(
        detector.layer_names(given.layers), _label(detector, given.class_name), channels, given.top, given.max_boxes,
        given.keeps, given.examples, given.score_threshold,
    )  # fmt: skip
    files = images_in(given.images)[: given.max_images]
    about = {
        "command": "concepts channels", "model": given.model, "layers": ", ".join(settings.layers),
        "images": str(given.images), "size": given.size, "steps": given.steps, "seed": given.seed, "keeps": given.keeps,
    }  # fmt: skip
    study = study_channels(detector, files, settings, visualise, progress)
    out = claim_folder(given.out, about)
    class_name = detector.class_names.get(study.label, str(study.label))
    record = {"about": about, **study.as_json(class_name)}
    write_json(out / "channels.json", record)
    _write_pictures(study, out / "pictures")
    write_text(out / "index.html", channels_page(study, files, class_name, about))
    for name, why in study.failures.items():
        print(f"detxai: error: {name}: {why}", file=sys.stderr)
    print(json.dumps({"out": str(out), **record}, indent=2) if given.json else _described(study, class_name, out))
    return FAILED if study.failures else 0


def _label(detector: NetworkDetector, name: str | None) -> int | None:
    if name is None:
        return None
    labels = [label for label, known in detector.class_names.items() if known == name]
    if len(labels) != 1:
        known = ", ".join(sorted(set(detector.class_names.values())))
        raise ValueError(f"--class must be the name of one class, one of {known}; got {name!r}")
    return labels[0]


def _write_pictures(study: ChannelStudy, folder: Path) -> None:
    make_folder(folder)
    named = {str(shown.channel): shown.picture for shown in study.channels} | {"class": study.class_picture}
    for name, picture in named.items():
        with replacing(folder / f"{safe_name(name)}.png") as temporary:
            PIL.Image.fromarray(picture.image).save(temporary)


def _described(study: ChannelStudy, class_name: str, out: Path) -> str:
    """The study in lines."""
    lines = [f"{class_name}: {study.n_boxes} boxes ablated, {study.n_images} images looked at"]
    for shown in study.channels:
        effect = "" if shown.effect is None else f"{shown.effect:7.1%} of the score lost without it"
        best = f"{shown.examples[0].value:.3g} in {shown.examples[0].file_name}" if shown.examples else ""
        lines.append(f"  {shown.channel!s:<24} {effect}  best example {best}")
    if study.kept is not None:
        lines.append(str(study.kept))
    return "\n".join([*lines, str(out / "index.html")])
