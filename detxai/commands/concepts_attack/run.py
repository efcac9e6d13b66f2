"""``detxai concepts attack``: attacks on a box beside its explanation."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from detxai.adapters.network import NetworkDetector, require_network
from detxai.commands.explain.image_folders import folder_names
from detxai.commands.options import FAILED, REFUSED, one_line, shows_progress
from detxai.commands.requested_detector import requested_detector
from detxai.commands.requested_method import requested_settings
from detxai.concepts.attacks.comparison import AttackComparison, compare_attack, mean_numbers
from detxai.concepts.attacks.page import AttackSection, attack_page, attack_section
from detxai.data.given_paths import expect_file
from detxai.engine.attacks.goals import make_goal
from detxai.engine.attacks.pgd import PGD
from detxai.explain import Method, make_method
from detxai.images import load_image, to_uint8
from detxai.progress import progress_bar
from detxai.runs.failures import FailureGuard, expect_item_failure, reason, release_tensors
from detxai.runs.files import replacing, write_json, write_text
from detxai.runs.numbered import claim_folder

PAGE_BOXES = 50  # with pictures on the page; the numbers of all are in attacks.json


def run(given: argparse.Namespace) -> int:
    """Attack one box of each image; the exit code."""
    for path in given.images:
        expect_file(path, "IMAGE")
    if given.mask is not None:
        expect_file(given.mask, "--mask")
    if given.other is not None and given.goal != "class":
        raise ValueError(f"--other is for --goal class, got --goal {given.goal}")
    settings = PGD(given.norm, given.epsilon, given.steps, seed=given.seed or 0, progress=False)
    method = make_method(given.method, **requested_settings(given))
    detector = require_network(requested_detector(given))
    job = _Job(given, detector, method, settings, _label(detector, given.other))
    about = {
        "command": "concepts attack", "model": given.model, "method": given.method, "goal": given.goal,
        "norm": given.norm, "epsilon": given.epsilon or "default", "steps": given.steps, "seed": settings.seed,
        "other": given.other, "score_threshold": given.score_threshold,
    }  # fmt: skip
    out = claim_folder(given.out, about)
    sections, rows, failures = _attack_all(job, out)
    means = mean_numbers(rows)
    write_json(out / "attacks.json", {"about": about, "means": means, "boxes": rows, "failures": failures})
    write_text(out / "index.html", attack_page(sections, means, about, failures))
    for name, why in failures.items():
        print(f"detxai: error: {name}: {why}", file=sys.stderr)
    if given.json:
        print(json.dumps({"out": str(out), "means": means, "failures": failures}, indent=2))
    else:
        print("\n".join([*(_line(row) for row in rows), f"{out / 'index.html'}"]))
    return REFUSED if not rows else FAILED if failures else 0


@dataclass(frozen=True)
class _Job:
    """What is the same for every image."""

    given: argparse.Namespace
    detector: NetworkDetector
    method: Method
    settings: PGD
    other: int | None

    def comparison(self, path: Path) -> AttackComparison:
        image = to_uint8(load_image(path))
        detections = self.detector.detect(image, self.given.score_threshold).to("cpu")
        order = detections.scores.argsort(descending=True, stable=True).tolist()
        if self.given.box >= len(order):
            raise ValueError(f"--box: there are {len(order)} detections, numbered from 0, got {self.given.box}")
        detection = detections[order[self.given.box]]
        goal = make_goal(self.given.goal, self.detector, image, detection, other=self.other)
        return compare_attack(
            self.detector, image, detection, goal, self.method, self.settings,
            mask=None if self.given.mask is None else _mask(self.given.mask, image.shape),
            pixel_budget=self.given.pixel_budget, score_threshold=self.given.score_threshold,
        )  # fmt: skip


def _attack_all(job: _Job, out: Path) -> tuple[list[AttackSection], list[dict[str, Any]], dict[str, str]]:
    """Sections and rows of the images that were attacked, and why others were not; each is written when it is done."""
    sections: list[AttackSection] = []
    rows: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    guard = FailureGuard()
    images = list(zip(job.given.images, folder_names(job.given.images), strict=True))
    with progress_bar(shows_progress(job.given), len(images), "attacking", "image") as bar:
        for path, folder in images:
            try:
                comparison = job.comparison(path)
            except Exception as error:
                expect_item_failure(error)
                if job.given.debug:
                    raise
                failures[str(path)] = one_line(error) if isinstance(error, ValueError) else reason(error)
                release_tensors(error)
                guard.failed(f"{path}: {failures[str(path)]}")
            else:
                guard.succeeded()
                rows.append({"image": str(path), "folder": folder, **comparison.as_json()})
                _write(comparison, out / folder, rows[-1])
                if len(sections) < PAGE_BOXES:
                    sections.append(attack_section(path.name, comparison))
            bar.update()
    return sections, rows, failures


def _write(comparison: AttackComparison, folder: Path, row: dict[str, Any]) -> None:
    """The attacked images, one a region, the maps and the numbers of one box."""
    for each in comparison.regions:
        path = folder / f"{each.region.replace(' ', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            PIL.Image.fromarray(each.attack.attacked).save(temporary)
    with replacing(folder / "maps.npz") as temporary:
        np.savez_compressed(
            temporary,
            before=comparison.explanation.values,
            after=comparison.attacked_explanation.values,
            probe_energy=comparison.probe.energy,
        )
    write_json(folder / "attack.json", row)


def _label(detector: NetworkDetector, name: str | None) -> int | None:
    if name is None:
        return None
    labels = [label for label, known in detector.class_names.items() if known == name]
    if len(labels) != 1:
        known = ", ".join(sorted(set(detector.class_names.values())))
        raise ValueError(f"--other must be the name of one class, one of {known}; got {name!r}")
    return labels[0]


def _mask(path: Path, shape: tuple[int, ...]) -> Tensor:
    mask = to_uint8(load_image(path))
    if mask.shape[:2] != shape[:2]:
        raise ValueError(
            f"--mask must have the image's {shape[1]} x {shape[0]} pixels, got {mask.shape[1]} x {mask.shape[0]}"
        )
    return torch.from_numpy(mask.any(2))


def _line(row: dict[str, Any]) -> str:
    drops = ", ".join(f"{each['region']} {each['drop']:.0%}" for each in row["regions"])
    return (
        f"{row['image']}  {row['class']} {row['score']:.2f}  score lost by an attack: {drops}; "
        f"map and energy: rank correlation {row['correlation']:.2f}, {row['mass']:.0%} in the top tenth"
    )
