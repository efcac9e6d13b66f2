"""2,000 damaged inputs: no traceback, no partial file, and no refusal that does not name the argument.

What an input is made of stands in ``fuzzing.py``; its number makes it again. Every time, all go through what reads them
and a part through the commands; ``-m slow`` takes all through the commands.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from faster_rcnns import small_faster_rcnn
from fuzzing import N_INPUTS, cut_a_file, image_bytes, json_bytes, option

import detxai.coco
from detxai.callbacks.loop import ExplanationMonitor
from detxai.cli import main, make_parser
from detxai.data.coco_files import read_annotations, read_predictions
from detxai.evaluate import coco_photos
from detxai.images import load_image
from detxai.methods import METHODS, methods_without_file

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"
NAMES = dict(enumerate(("__background__", "ape", "bee", "cat", "dog")))
REFUSED = ("shapley_cam", "attention")  # by two-stage detectors
EVALUATED = {name: METHODS[name] for name in methods_without_file() if name not in REFUSED}
Command = Callable[..., "tuple[int, str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two images, their annotations, predictions near those, class names."""
    folder = tmp_path_factory.mktemp("fuzz")
    generator = np.random.default_rng(0)
    images: list[Any] = []
    annotations: list[Any] = []
    predictions: list[Any] = []
    (folder / "images").mkdir()
    for number in (1, 2):
        coarse = PIL.Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 60)).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        for category in (1, 3):
            x, y, width, height = (int(side) for side in generator.integers((0, 0, 9, 9), (40, 30, 40, 30)))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            known = {"image_id": number, "category_id": category, "bbox": [x, y, width, height]}
            annotations.append({**known, "id": len(annotations) + 1, "segmentation": [corners], "iscrowd": 0})
            predictions.append({**known, "score": 0.5})
    categories = [{"id": number, "name": name} for number, name in NAMES.items() if number]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for name, what in (("annotations", content), ("predictions", predictions), ("names", list(NAMES.values()))):
        (folder / f"{name}.json").write_text(json.dumps(what))
    return {"images": folder / "images", **{n: folder / f"{n}.json" for n in ("annotations", "predictions", "names")}}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder; its exit code and what it said, with no traceback and no partial file."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, names: Sequence[str], longest: int = 2100) -> tuple[int, str]:
        before = set(tmp_path.rglob("*"))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        said = capsys.readouterr().err
        assert "Traceback" not in said, arguments
        assert code in (0, 1, 2), arguments
        if code == 2:
            refusal = said.strip().splitlines()[-1]
            assert any(re.search(name, refusal) for name in names), (arguments[-2:], refusal)
            assert len(refusal) < longest, arguments
            assert set(tmp_path.rglob("*")) == before, arguments
        assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name or ".tmp" in path.name], arguments
        return code, said

    return run


def coco(data: dict[str, Path], **changed: object) -> list[object]:
    given = {
        "images": data["images"],
        "annotations": data["annotations"],
        "predictions": data["predictions"],
        **changed,
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    return ["coco", "--model", MODEL, "--class-names", data["names"], "--method", "eigen_cam", "--no-report", *options]


def evaluation(data: dict[str, Path], **changed: object) -> list[object]:
    given = {"images": data["images"], "annotations": data["annotations"], **changed}
    options = [f"--{name}={value}" for name, value in given.items()]
    chosen = ["--methods", "random", "--measures", "sparseness", "--unmatched", "--max-detections", "2"]
    return ["evaluate", "--model", MODEL, "--class-names", data["names"], *chosen, *options]


def refusal(read: Callable[[], object]) -> str | None:
    """What a reader says against its file; None where it takes it."""
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


# --- images ------------------------------------------------------------------------------------------------------


def test_every_damaged_image_is_read_or_refused(tmp_path: Path) -> None:
    refused = 0
    for number in range(N_INPUTS["images"]):
        name, content = image_bytes(number)
        (tmp_path / name).write_bytes(content)
        said = refusal(partial(load_image, tmp_path / name))
        assert said is None or re.fullmatch("image.{,500}", said), number
        refused += said is not None
    assert N_INPUTS["images"] / 4 < refused < N_INPUTS["images"]


def explain_images(numbers: range, folder: Path, command: Command) -> None:
    """Many in one command: each is explained, or named."""
    (folder / "in").mkdir()
    for number in numbers:
        name, content = image_bytes(number)
        (folder / "in" / name).write_bytes(content)
    files = sorted((folder / "in").iterdir())
    code, said = command(
        "explain", *files, "--model", MODEL, "--method", "eigen_cam", "--out", folder / "out", "--score-threshold", 0.9,
        names=["image"],
    )  # fmt: skip
    done = {folder.name for folder in (folder / "out").iterdir()}
    assert code == (0 if len(done) == len(files) else 1)
    for file in files:
        assert (file.stem in done) != (f"{file.name}: " in said), file


def test_damaged_images_are_named_and_the_others_explained(tmp_path: Path, command: Command) -> None:
    explain_images(range(40), tmp_path, command)


@pytest.mark.slow
def test_all_damaged_images_are_named_and_the_others_explained(tmp_path: Path, command: Command) -> None:
    explain_images(range(N_INPUTS["images"]), tmp_path, command)


# --- annotations and predictions -----------------------------------------------------------------------------------


def test_every_damaged_annotation_file_is_read_or_refused(data: dict[str, Path], tmp_path: Path) -> None:
    content, path, refused = json.loads(data["annotations"].read_bytes()), tmp_path / "a.json", 0
    for number in range(N_INPUTS["annotations"]):
        path.write_bytes(json_bytes("annotations", number, content))
        for read in (partial(read_annotations, path), partial(load_photos, data["images"], path)):
            said = refusal(read)
            assert said is None or re.fullmatch("(annotations?:? |image).{,1500}", said), (number, said)
            refused += said is not None
    assert N_INPUTS["annotations"] < refused < 2 * N_INPUTS["annotations"]


def load_photos(images: Path, annotations: Path) -> None:
    for photo in coco_photos(images, annotations, NAMES):
        photo.load()


def test_every_damaged_predictions_file_is_read_or_refused(data: dict[str, Path], tmp_path: Path) -> None:
    content, path, refused = json.loads(data["predictions"].read_bytes()), tmp_path / "p.json", 0
    annotations = read_annotations(data["annotations"])
    for number in range(N_INPUTS["predictions"]):
        path.write_bytes(json_bytes("predictions", number, content))
        said = refusal(partial(read_predictions, path, annotations))
        assert said is None or re.fullmatch("predictions: .{,1500}", said), (number, said)
        refused += said is not None
    assert N_INPUTS["predictions"] / 2 < refused < N_INPUTS["predictions"]


def use_annotations(number: int, data: dict[str, Path], folder: Path, command: Command) -> None:
    path = folder / f"{number}.json"
    path.write_bytes(json_bytes("annotations", number, json.loads(data["annotations"].read_bytes())))
    make, out = (coco, evaluation)[number % 2], folder / f"out{number}"
    # what was predicted may be of images or categories that are no longer there
    command(*make(data, annotations=path, out=out), names=["annotations?:", "predictions:", "labels:", "images?:"])


def use_predictions(number: int, data: dict[str, Path], folder: Path, command: Command) -> None:
    path = folder / f"{number}.json"
    path.write_bytes(json_bytes("predictions", number, json.loads(data["predictions"].read_bytes())))
    command(*coco(data, predictions=path, out=folder / f"out{number}"), names=["predictions:"])


@pytest.mark.parametrize("use", [use_annotations, use_predictions])
def test_damaged_files_end_in_one_line(use: Any, data: dict[str, Path], tmp_path: Path, command: Command) -> None:
    for number in range(12):
        use(number, data, tmp_path, command)


@pytest.mark.slow
@pytest.mark.parametrize("use", [use_annotations, use_predictions])
def test_all_damaged_files_end_in_one_line(use: Any, data: dict[str, Path], tmp_path: Path, command: Command) -> None:
    for number in range(N_INPUTS[use.__name__.removeprefix("use_")]):
        use(number, data, tmp_path, command)
        shutil.rmtree(tmp_path / f"out{number}", ignore_errors=True)


# --- options -------------------------------------------------------------------------------------------------------


def options_of(command: str) -> list[str]:
    commands: Any = next(action for action in make_parser()._actions if action.choices)
    given = [action.option_strings[0] for action in commands.choices[command]._actions if action.option_strings]
    return [name for name in given if name not in ("-h", "--out", "--set")]


def settings_of(command: str) -> list[str]:
    methods = EVALUATED if command == "evaluate" else {"d_rise": METHODS["d_rise"]}
    owner = "{}." if command == "evaluate" else ""
    return [owner.format(name) + setting for name, kind in methods.items() for setting in kind.__dataclass_fields__]


QUICK = [  # for the methods that would take longest on a photo
    "--set=lime.n_samples=80",
    "--set=kernel_shap.n_samples=80",
    "--set=shapley_sampling.n_orders=1",
    "--set=integrated_gradients.steps=2",
    "--set=smooth_grad.n_samples=2",
    "--set=gradient_shap.n_samples=2",
]


def use_option(number: int, data: dict[str, Path], folder: Path, command: Command, *, works: bool) -> None:
    """One odd option; where it is taken after all, the command ``works``, or stops at a model that is not there."""
    name = ("coco", "evaluate", "explain", "bench")[number % 4]
    odd = option(number, options_of(name), settings_of(name) if name != "bench" else [])
    out = folder / f"out{number}"
    photo = data["images"] / "1.png"
    arguments = {
        "coco": [*coco(data, out=out), "--method=d_rise", "--set=n_masks=16"],
        "evaluate": [
            *evaluation(data, out=out),
            "--methods",
            ",".join([*EVALUATED, "random"]),
            *(QUICK if works else []),
        ],
        "explain": ["explain", photo, "--model", MODEL, "--method", "d_rise", "--out", out, "--score-threshold", "0.9"],
        "bench": ["bench", "eigen_cam", "--model", MODEL, "--image", photo],
    }[name]
    if not works:
        arguments += ["--model", "no_such_module:build"]
    word = odd[-1].partition("=")[0].lstrip("-").rpartition(".")[2]
    names = [re.escape(word), word.replace("-", "_"), "model"]
    command(*arguments, *odd, names=names, longest=11_000)  # argparse shows a whole word, however long


def test_every_odd_option_is_taken_or_refused_by_name(data: dict[str, Path], tmp_path: Path, command: Command) -> None:
    for number in range(N_INPUTS["options"]):
        use_option(number, data, tmp_path, command, works=False)


@pytest.mark.slow
def test_odd_options_of_commands_that_work(data: dict[str, Path], tmp_path: Path, command: Command) -> None:
    for number in range(N_INPUTS["options"]):
        use_option(number, data, tmp_path, command, works=True)
        shutil.rmtree(tmp_path / f"out{number}", ignore_errors=True)


# --- folders of runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished run of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*map(str, coco(data, out=folder / "coco"))]) == 0
    assert main([*map(str, evaluation(data, out=folder / "evaluation"))]) == 0
    assert main([*map(str, explain_both(data, folder / "explain"))]) == 0
    watch(data, folder / "watched", 2)
    return {name: folder / name for name in ("coco", "evaluation", "explain", "watched")}


def explain_both(data: dict[str, Path], out: Path) -> list[object]:
    files = sorted(data["images"].iterdir())
    return ["explain", *files, "--model", MODEL, "--method", "eigen_cam", "--out", out, "--score-threshold", "0.1"]


def watch(data: dict[str, Path], out: Path, epoch: int, *, resume: bool = False) -> Any:
    images = sorted(data["images"].iterdir())
    settings: dict[str, Any] = {"method": "eigen_cam", "loggers": [], "alarm": None, "score_threshold": 0.1}
    monitor = ExplanationMonitor(images, out=out, budget=None, resume=resume, **settings)
    report = monitor.step(small_faster_rcnn(), epoch)
    monitor.finish()
    return report


def go_on(
    number: int, data: dict[str, Path], whole: dict[str, Path], folder: Path, command: Command, caplog: Any
) -> None:
    kind = ("coco", "evaluation", "explain", "watched")[number % 4]
    out = shutil.copytree(whole[kind], folder / f"out{number}")
    cut = cut_a_file(number, out)
    names = [re.escape(cut.name), "out"]
    if kind == "coco":
        code, _ = command(*coco(data, out=out), names=names)
        if code == 0:
            assert len(detxai.coco.load(out)) == len(detxai.coco.load(whole["coco"])), (number, cut)
    elif kind == "evaluation":
        code, _ = command(*evaluation(data, out=out), names=names)
        if code == 0:
            assert len(json.loads((out / "summary.json").read_text())) > 0, (number, cut)
    elif kind == "explain":
        code, _ = command(*explain_both(data, out), names=names)
        assert code == 0, (number, cut)
        for image in ("1", "2"):
            assert json.loads((out / image / "detections.json").read_text())["files"], (number, cut)
    else:
        assert watch(data, out, 3, resume=True) is not None, (number, cut)
        assert not [record for record in caplog.records if record.exc_info], (number, cut)
    shutil.rmtree(out)


def test_runs_with_a_file_cut_off_go_on_or_are_refused(
    data: dict[str, Path], whole_runs: dict[str, Path], tmp_path: Path, command: Command, caplog: Any
) -> None:
    for number in range(20):
        go_on(number, data, whole_runs, tmp_path, command, caplog)


@pytest.mark.slow
def test_all_runs_with_a_file_cut_off_go_on_or_are_refused(
    data: dict[str, Path], whole_runs: dict[str, Path], tmp_path: Path, command: Command, caplog: Any
) -> None:
    for number in range(N_INPUTS["folders"]):
        go_on(number, data, whole_runs, tmp_path, command, caplog)
