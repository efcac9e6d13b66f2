"""``detxai explain``: an overlay, the raw map and a record for each box."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detxai.adapters.detector import Detector
from detxai.commands.explain.image_folders import folder_names, removed_if_empty, whole_folder
from detxai.commands.model_options import model_arguments
from detxai.commands.options import (
    FAILED,
    REFUSED,
    one_line,
    shows_progress,
)
from detxai.commands.requested_detector import requested_detector
from detxai.commands.requested_method import requested_settings
from detxai.data.given_paths import expect_file
from detxai.detections import Detections
from detxai.explain import Method, explain, make_method, setting_names
from detxai.explanation import Explanation, plain
from detxai.images import load_image
from detxai.pages.colours import Mode
from detxai.runs.failures import AllFailedError, FailureGuard, expect_item_failure, reason, release_tensors
from detxai.runs.files import WriteError, write_json
from detxai.runs.interrupting import raise_if_interrupted
from detxai.runs.names import safe_name

LONG = 60  # seconds an image, from which a warning says so beforehand


def run(given: argparse.Namespace) -> int:
    """Explain every image; the exit code."""
    for path in given.images:
        expect_file(path, "IMAGE")
    if given.out.exists() and not given.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {given.out}")
    settings = requested_settings(given)
    given.settings = list(settings.items())
    if "keep_partial" in setting_names(given.method):
        settings.setdefault("keep_partial", True)  # what Ctrl-C leaves is written, marked as partial
    method = make_method(given.method, **settings)
    detector = requested_detector(given)
    job = _Run(detector, method, given.score_threshold, _request(given), given.mode, given.boxes)

    done: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    stopped = None
    try:
        _explain_all(given, job, done, failures)
    except (WriteError, AllFailedError) as error:  # the images that are done are reported all the same
        if given.debug:
            raise
        stopped = error
    for failure in failures:
        print(f"detxai: error: {failure['image']}: {failure['error']}", file=sys.stderr)
    if stopped is not None:
        print(f"detxai: error: stopped: {one_line(stopped)}", file=sys.stderr)
    if given.json:
        print(json.dumps({"out": str(given.out), "images": done, "failures": failures}, indent=2))
    return REFUSED if not done else FAILED if failures or stopped else 0


def _explain_all(
    given: argparse.Namespace, job: _Run, done: list[dict[str, Any]], failures: list[dict[str, str]]
) -> None:
    """Every image, one after the other: its summary goes to ``done``, or what it failed of to ``failures``.

    Raises:
        WriteError: a file cannot be written; nor could those of the other images.
        AllFailedError: the first images all failed.
    """
    jobs = list(zip(given.images, folder_names(given.images)))
    guard = FailureGuard()
    with removed_if_empty(given.out), tqdm(jobs, unit="image", disable=not shows_progress(given)) as bar:
        for path, folder in bar:
            try:
                summary = job.image(path, given.out / folder)
            except Exception as error:
                expect_item_failure(error)
                if given.debug:
                    raise
                said = isinstance(error, ValueError) and str(error)  # our own refusals name what is wrong
                failures.append({"image": str(path), "error": one_line(error) if said else reason(error)})
                release_tensors(error)
                guard.failed(f"{path}: {failures[-1]['error']}")
                continue
            guard.succeeded()
            done.append(summary)
            if not given.json:
                bar.write(_table(summary), file=sys.stdout)
            if summary["partial"]:  # the method caught the Ctrl-C and returned what it had: stop here too
                raise KeyboardInterrupt
            raise_if_interrupted()


def _warn_of_long(method: Any, n_boxes: int, seconds_a_pass: float, path: Path, *, network: bool) -> None:
    """Say how long an image will take, and what is quicker, where that is long."""
    seconds = seconds_a_pass * method.most_passes(n_boxes) if n_boxes and hasattr(method, "most_passes") else 0
    if seconds > LONG:
        minutes = f"{n_boxes} boxes, about {seconds / 60:.1f} minutes with {method.name}"
        quicker = "--score-threshold 0.5, --set max_passes=150 or n_masks=300"
        quicker += ", --method layer_cam (one pass)" if network else ""  # a black box has no layers
        print(f"detxai: {path}: {minutes}; quicker: {quicker}; Ctrl-C keeps what there is", file=sys.stderr)


@dataclass(frozen=True)
class _Run:
    """What is the same for every image of a command."""

    detector: Detector
    method: Method
    score_threshold: float
    request: Mapping[str, Any]
    mode: Mode | None
    places: Sequence[int] | None

    def image(self, path: Path, folder: Path) -> dict[str, Any]:
        """Explain one image into ``folder``, whole or not at all; its summary."""
        array = load_image(path)
        asks = self.method.asks_about_boxes
        with self.detector.borrowed():
            start = time.perf_counter()
            shown = self.detector.shared_pass(array)  # the boxes and their maps come of one pass through the backbone
            detections = self._chosen(self.detector.detections(shown, self.score_threshold))
            seconds, has_network = time.perf_counter() - start, self.detector.network is not None
            _warn_of_long(self.method, len(detections), seconds, path, network=has_network)
            found = explain(self.detector, shown, self.method, detections) if len(detections) or not asks else []
        request = {**self.request, "image": str(path), "redo": self._redo(path)}
        record: dict[str, Any] = {
            "image": str(path), "height": array.shape[0], "width": array.shape[1], "folder": str(folder),
            "method": self.method.name, "score_threshold": self.score_threshold, "request": request,
            "model": plain(self.detector.describe()),
            "seconds": round(found[0].cost.seconds, 4) if found else 0.0,
            "partial": any(explanation.partial for explanation in found),
            "detections": _boxes(detections),
        }  # fmt: skip
        names = [_file_name(place, explanation) for place, explanation in enumerate(found)]
        if asks:
            for entry, name in zip(record["detections"], names, strict=True):
                entry["overlay"] = f"{name}.png"
        record["files"] = [f"{name}{ending}" for name in names for ending in (".png", ".npz", ".json")]
        with whole_folder(folder) as partial:
            for explanation, name in zip(found, names, strict=True):
                explanation.save(partial / f"{name}.png", boxes=None if asks else detections, mode=self.mode)
                explanation.save_map(partial / f"{name}.npz", request=request)
            write_json(partial / "detections.json", record)
        return record

    def _chosen(self, detections: Detections) -> Detections:
        if self.places is None:
            return detections
        absent = [place for place in self.places if place >= len(detections)]
        if absent:
            raise ValueError(f"--boxes: there are {len(detections)} detections, numbered from 0, got {absent[0]}")
        return detections[list(self.places)]

    def _redo(self, path: Path) -> str:
        return shlex.join([*self.request["command"][:2], str(path), *self.request["command"][2:]])


def _request(given: argparse.Namespace) -> dict[str, Any]:
    """The request, so that it can be repeated: as values, and as the command without the images."""
    model = model_arguments(given)
    command = ["detxai", "explain", "--method", given.method, "--out", str(given.out)]
    command += ["--score-threshold", str(given.score_threshold)]
    command += [] if given.mode is None else ["--mode", given.mode]
    command += [] if given.boxes is None else ["--boxes", ",".join(map(str, given.boxes))]
    command += [part for option in model.items() for part in option]
    for name, value in given.settings:
        command += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    weights = given.weights or (Path(given.model) if given.model.endswith(".pt") else None)
    return {
        "model": given.model,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
        "settings": dict(given.settings),
        "score_threshold": given.score_threshold,
        "boxes": given.boxes,
        "slices": model.get("--slices"),
        "layout": given.layout,
        "input_size": given.input_size,
        "device": given.device,
        "command": command,
    }


def _boxes(detections: Detections) -> list[dict[str, Any]]:
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    return [
        {"box": box, "score": score, "label": label, "name": detections.name(place)}
        for place, (box, score, label) in enumerate(rows)
    ]


def _table(record: Mapping[str, Any]) -> str:
    found = record["detections"]
    head = f"{record['image']}  {record['width']} x {record['height']}  {len(found)} detections  {record['folder']}"
    if not found:
        head += f"  (nothing scores above {record['score_threshold']})"
    width = max((len(entry["name"]) for entry in found), default=0)
    rows = [
        f"  {place:02d}  {entry['name']:<{width}}  {entry['score']:.2f}  "
        f"{' '.join(f'{side:7.1f}' for side in entry['box'])}  {entry.get('overlay', '')}".rstrip()
        for place, entry in enumerate(found)
    ]
    maps = [] if not record["files"] or (found and "overlay" in found[0]) else [f"  map  {record['files'][0]}"]
    return "\n".join([head, *rows, *maps])


def _file_name(place: int, explanation: Explanation) -> str:
    of = "image" if explanation.detection is None else explanation.detection.name(0)
    return f"{place:02d}_{safe_name(of)}"
