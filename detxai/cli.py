"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from detxai.adapters.adapter import Adapter
from detxai.adapters.loading import BUNDLED, load_detector
from detxai.adapters.spread import spread_like_trained
from detxai.bench import as_records, as_table, bench_ablation
from detxai.demo import make_demo
from detxai.detections import Detections
from detxai.explain import Method, explain, make_method
from detxai.explanation import Explanation, plain, replacing
from detxai.images import load_image, to_tensor

FAILED, REFUSED, INTERRUPTED = 1, 2, 130  # exit codes: some images failed; nothing was done; Ctrl-C
USER_ERRORS = (ValueError, TypeError, LookupError, ImportError, OSError)
MODEL_HELP = (
    "a torchvision builder's name (fasterrcnn_resnet50_fpn), the path of a YOLO .pt, module:function for a factory "
    "of your own, or a bundled scenes-frcnn or scenes-yolo"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 some images failed, 2 refused, 130 interrupted."""
    logging.basicConfig(format="detxai: %(levelname)s: %(message)s")
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except USER_ERRORS as error:
        if given.debug:
            raise
        _complain(error)
        return REFUSED
    except KeyboardInterrupt:
        print("detxai: interrupted; images already finished are kept", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="detxai", description="Explain object detections.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_explain, _add_demo, _add_bench):
        command = add(commands)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_demo(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "demo", help="the bundled detectors explain the bundled scenes; offline; DIR/index.html"
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    command.set_defaults(run=_demo)
    return command


def _demo(given: argparse.Namespace) -> int:
    made = make_demo(given.out, progress=_shows_progress(given))
    print(made.table())
    for reason in made.missing:
        print(f"left out: {reason}", file=sys.stderr)
    print(f"open {made.path}")
    return 0


def _add_bench(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "bench", help="side by side in one process: grad-cam, brute force, and ours with each shortcut in turn"
    )
    command.add_argument("what", choices=["ablation"])
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument("--weights", type=Path, metavar="FILE", help="a torchvision builder's state_dict")
    command.add_argument("--image", required=True, type=Path)
    command.add_argument("--score-threshold", type=_fraction, default=0.25, metavar="S", help="default: 0.25")
    command.add_argument("--max-boxes", type=int, default=20, metavar="N", help="the N best boxes; default: 20")
    command.add_argument("--device", default=None, help="such as cpu or cuda:0; default: where the model is")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_bench)
    return command


def _bench(given: argparse.Namespace) -> int:
    array = load_image(given.image)
    detector = _on_device(load_detector(given.model, weights=given.weights), given.device)
    random = detector.family == "faster_rcnn" and given.weights is None and ":" not in given.model
    if random and given.model not in BUNDLED:
        spread_like_trained(detector.model, to_tensor(array).to(detector.device, detector.dtype))
    detections = detector.detect(array, given.score_threshold)[: given.max_boxes]

    def say(what: str) -> None:
        if sys.stderr.isatty():
            print(f"timing: {what}", file=sys.stderr)

    rows = bench_ablation(detector, array, detections, say=say)
    threads = torch.get_num_threads()
    if given.json:
        about = {"model": given.model, "n_boxes": len(detections), "threads": threads, "torch": torch.__version__}
        print(json.dumps({**about, "rows": as_records(rows)}, indent=2))
    else:
        print(
            f"{given.model}, {given.image.name}, {len(detections)} boxes, {threads} threads, torch {torch.__version__}"
        )
        print(as_table(rows))
    return 0


def _add_explain(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "explain", help="which pixels put each box there: an overlay, the raw map and a record for each"
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument("--weights", type=Path, metavar="FILE", help="a torchvision builder's state_dict")
    command.add_argument("--method", required=True, help="ablation_cam, eigen_cam, ...")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets a folder for each image")
    command.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", dest="settings",
        help="a setting of the method, such as layers=model.15 or ratio_channels_to_ablate=0.1; as often as needed",
    )  # fmt: skip
    command.add_argument("--score-threshold", type=_fraction, default=0.25, metavar="S", help="default: 0.25")
    command.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a name a line, label 0 first; or .json: list or {label: name}",
    )
    command.add_argument("--device", default=None, help="such as cpu or cuda:0; default: where the model is")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    command.set_defaults(run=_explain)
    return command


def _explain(given: argparse.Namespace) -> int:
    for path in given.images:
        _expect_file(path, "IMAGE")
    if given.weights is not None:
        _expect_file(given.weights, "--weights")
    class_names = None if given.class_names is None else _class_names(given.class_names)
    if given.out.exists() and not given.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {given.out}")
    method = make_method(given.method, **_no_repeats(given.settings))
    detector = _on_device(load_detector(given.model, weights=given.weights, class_names=class_names), given.device)
    run = _Run(detector, method, given.score_threshold, _request(given))

    done: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    jobs = list(zip(given.images, folder_names(given.images)))
    with _folder_if_used(given.out), tqdm(jobs, unit="image", disable=not _shows_progress(given)) as bar:
        for path, folder in bar:
            try:
                done.append(run.image(path, given.out / folder))
            except ValueError as error:  # this image's fault: the others go on
                if given.debug:
                    raise
                failures.append({"image": str(path), "error": _one_line(error)})
            else:
                if not given.json:
                    bar.write(_table(done[-1]), file=sys.stdout)
    for failure in failures:
        print(f"detxai: error: {failure['image']}: {failure['error']}", file=sys.stderr)
    if given.json:
        print(json.dumps({"out": str(given.out), "images": done, "failures": failures}, indent=2))
    return REFUSED if not done else FAILED if failures else 0


@dataclass(frozen=True)
class _Run:
    """What is the same for every image of a command."""

    detector: Adapter
    method: Method
    score_threshold: float
    request: Mapping[str, Any]

    def image(self, path: Path, folder: Path) -> dict[str, Any]:
        """Explain one image into ``folder``, whole or not at all; its summary."""
        array = load_image(path)
        detections = self.detector.detect(array, self.score_threshold)
        asks = self.method.asks_about_boxes
        found = explain(self.detector, array, self.method, detections) if len(detections) or not asks else []
        request = {**self.request, "image": str(path), "redo": self._redo(path)}
        record: dict[str, Any] = {
            "image": str(path), "height": array.shape[0], "width": array.shape[1], "folder": str(folder),
            "method": self.method.name, "score_threshold": self.score_threshold, "request": request,
            "model": plain(self.detector.describe()),
            "seconds": round(found[0].cost.seconds, 4) if found else 0.0,
            "detections": _boxes(detections),
        }  # fmt: skip
        names = [_file_name(place, explanation) for place, explanation in enumerate(found)]
        if asks:
            for entry, name in zip(record["detections"], names, strict=True):
                entry["overlay"] = f"{name}.png"
        record["files"] = [f"{name}{ending}" for name in names for ending in (".png", ".npz", ".json")]
        with _whole(folder) as partial:
            for explanation, name in zip(found, names, strict=True):
                explanation.save(partial / f"{name}.png", boxes=None if asks else detections)
                explanation.save_map(partial / f"{name}.npz", request=request)
            (partial / "detections.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return record

    def _redo(self, path: Path) -> str:
        return shlex.join([*self.request["command"][:2], str(path), *self.request["command"][2:]])


def _request(given: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, so that it can be asked for again: as values, and as the command (less the images)."""
    command = ["detxai", "explain", "--model", given.model, "--method", given.method, "--out", str(given.out)]
    command += ["--score-threshold", str(given.score_threshold)]
    for flag, value in (("--weights", given.weights), ("--class-names", given.class_names), ("--device", given.device)):
        command += [] if value is None else [flag, str(value)]
    for name, value in given.settings:
        command += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    weights = given.weights or (Path(given.model) if given.model.endswith(".pt") else None)
    return {
        "model": given.model,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
        "settings": dict(given.settings),
        "score_threshold": given.score_threshold,
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


def folder_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for each image, safe and all different, also where case does not count.

    >>> folder_names([Path("a/bus.jpg"), Path("b/Bus.png"), Path("a b.jpg")])
    ['bus', 'Bus-2', 'a_b']
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, n = safe_name(path.stem), 1
        name = stem
        while name.casefold() in taken:
            n += 1
            name = f"{stem}-{n}"
        taken.add(name.casefold())
        names.append(name)
    return names


def safe_name(text: str) -> str:
    """Text as part of a file name: letters, digits, ``-``, ``_`` and inner dots; short, never empty.

    >>> safe_name("../x"), safe_name("traffic light"), safe_name("..")
    ('x', 'traffic_light', 'unnamed')
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("._- ")[:40].rstrip("._-") or "unnamed"


def _file_name(place: int, explanation: Explanation) -> str:
    of = "image" if explanation.detection is None else explanation.detection.name(0)
    return f"{place:02d}_{safe_name(of)}"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A hidden folder whose files move into ``folder`` at the end; what an earlier run left there goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as name:
        partial = Path(name)
        yield partial
        old = set(_files_of_earlier_run(folder))
        folder.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.suffix == ".json"):
            old.discard(file.name)
            with replacing(folder / file.name) as temporary:
                file.replace(temporary)
        for stale in old:
            (folder / stale).unlink(missing_ok=True)


def _files_of_earlier_run(folder: Path) -> list[str]:
    try:
        files = json.loads((folder / "detections.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [file for file in files if isinstance(file, str) and re.fullmatch(r"\d+_[\w.-]+", file)]


@contextmanager
def _folder_if_used(folder: Path) -> Iterator[None]:
    """Folders on the way to ``folder`` that are new and empty at the end go again."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in new:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _expect_file(path: Path, name: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file: {path}")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {path}")


def _class_names(path: Path) -> dict[int, str] | list[str]:
    _expect_file(path, "--class-names")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.rstrip().splitlines()]
        names = json.loads(text)
        if isinstance(names, dict):
            return {int(label): str(name) for label, name in names.items()}
    except ValueError as error:
        raise ValueError(f"--class-names: {path} cannot be read: {error}") from error
    if not isinstance(names, list):
        raise ValueError(f"--class-names: {path} must hold a list or {{label: name}}, got {type(names).__name__}")
    return [str(name) for name in names]


def _on_device(detector: Adapter, device: str | None) -> Adapter:
    if device is not None:
        try:
            detector.model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:  # torch raises either, and no ValueError
            raise ValueError(f"--device: {device!r} cannot be used here: {_one_line(error)}") from error
    return detector


def _setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value read as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value, parse_constant=_not_json)
    except ValueError:
        return name, value


def _not_json(constant: str) -> None:
    raise ValueError(constant)


def _no_repeats(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(settings)
    if len(named) < len(settings):
        raise ValueError(f"--set: each name once, got {', '.join(name for name, _ in settings)}")
    return named


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {text!r}")
    return value


def _shows_progress(given: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not given.no_progress


def _complain(error: Exception) -> None:
    print(f"detxai: error: {_one_line(error)}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
