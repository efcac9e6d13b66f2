"""Whatever stops a run, the same command goes on: nothing lost, nothing doubled, the dataset equal row for row."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn
from forking import exit_code, forked, needs_fork
from small_disks import remount

import detxai
import detxai.coco
import detxai.coco.parts.image_explainer
from detxai.cli import main
from detxai.coco.schema import TIMED
from detxai.data.coco_files import read_annotations
from detxai.explanation import Cost, Explanation
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"))


def arguments(data: dict[str, Path], out: Path, *more: object) -> list[str]:
    given = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"], "--out", out]
    given += ["--method", "eigen_cam", "--rows-per-part", 4, "--map-stride", 4, "--max-images", 5, "--no-report"]
    return [*map(str, given), *map(str, more)]


def run(data: dict[str, Path], out: Path, *more: object, code: int = 0) -> None:
    assert main(arguments(data, out, *more)) == code


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


def failures(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = import_pyarrow().parquet.read_table(out / "failures.parquet").to_pylist()
    return content


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(data, out)
    return out


# --- signals -----------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_stopped_at_random_moments_it_ends_the_same(
    number: signal.Signals, whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    chance = random.Random(number)
    start = time.monotonic()
    assert exit_code(forked(arguments(data, tmp_path / "timed"))) == 0
    seconds = time.monotonic() - start
    for attempt in range(3):
        out = tmp_path / str(attempt)
        child = forked(arguments(data, out))
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, number)
        assert exit_code(child) in (0, 130 if number == signal.SIGINT else -number)
        run(data, out)
        assert rows(out) == rows(whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_twenty_random_moments_of_a_command_in_a_process_of_its_own(
    number: signal.Signals, data: dict[str, Path], tmp_path: Path
) -> None:
    """From its first import to its last overlay and the report."""
    threads = str(torch.get_num_threads())  # with another number than here, the last digits differ
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}

    def command(out: Path) -> list[str]:
        return [arg for arg in arguments(data, out, "--overlays", "--worst", 9) if arg != "--no-report"]

    def begun(out: Path) -> subprocess.Popen[bytes]:
        quiet, alone = subprocess.DEVNULL, [sys.executable, "-m", "detxai", *command(out)]
        return subprocess.Popen(alone, env=environment, stdout=quiet, stderr=quiet)

    start = time.monotonic()
    assert begun(tmp_path / "timed").wait() == 0
    seconds = time.monotonic() - start
    expected = rows(tmp_path / "timed")
    names = {path.name for path in (tmp_path / "timed" / "overlays").iterdir()}
    chance, stopped, parts = random.Random(number), 0, set()
    for attempt in range(20):
        out = tmp_path / str(attempt)
        process = begun(out)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(number)
        stopped += process.wait(timeout=60) != 0
        parts.add(len(list(out.glob("explanations/part-*"))))
        assert main(command(out)) == 0
        assert rows(out) == expected
        assert {path.name for path in (out / "overlays").iterdir() if not path.name.startswith(".")} == names
        assert (out / "report.html").is_file()
    assert stopped > 10
    assert len(parts) > 1  # not all at the same place


@dataclass(frozen=True)
class Interruptible:
    """A method that gives what it had when Ctrl-C came, at its third image, while it is interrupted."""

    name: ClassVar[str] = "interruptible"
    asks_about_boxes: ClassVar[bool] = True
    interrupted: ClassVar[bool] = False
    calls: ClassVar[list[int]] = []

    def __call__(self, detector: Any, image: Any, detections: Any) -> list[Explanation]:
        self.calls.append(1)
        partial = self.interrupted and len(self.calls) == 3
        values = np.full(image.shape[:2], 0.1 if partial else 0.7, np.float32)
        return [Explanation(values, image, self.name, {}, Cost(0, 0), d, partial=partial) for d in detections]


def test_a_map_that_was_interrupted_is_never_stored(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explained(out: Path) -> Any:
        return detxai.coco.explain_errors(
            read_annotations(data["annotations"]), None, small_faster_rcnn(), images=data["images"], out=out,
            method=Interruptible(), rows_per_part=1, report=False,
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(Interruptible, "interrupted", True)
        with pytest.raises(KeyboardInterrupt):
            explained(tmp_path / "out")
    assert rows(tmp_path / "out")
    assert explained(tmp_path / "out").complete
    assert explained(tmp_path / "whole").complete
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_d_rise_that_keeps_what_it_had_stops_the_run_and_is_done_again(data: dict[str, Path], tmp_path: Path) -> None:
    factory = tmp_path / "tired.py"
    factory.write_text(
        "from pathlib import Path\n"
        "def build():\n"
        "    calls = []\n"
        "    def detect(images):\n"
        "        calls.append(1)\n"
        f"        if Path({str(tmp_path / 'tired')!r}).exists() and len(calls) == 60:\n"
        "            raise KeyboardInterrupt\n"
        "        return [{'boxes': [[5, 5, 40, 30]], 'scores': [i.mean() / 255], 'labels': [2]} for i in images]\n"
        "    return detect\n"
    )
    given = ["--model", f"{factory}:build", "--method", "d_rise", "--set", "n_masks=64", "--set", "keep_partial=true"]
    (tmp_path / "labels.json").write_text('{"2": 2}')
    given += (
        "--labels",
        str(tmp_path / "labels.json"),
        "--kinds",
        "false_positives",
        "--set",
        "batch_size=4",
        "--rows-per-part",
        "1",
    )
    run(data, tmp_path / "whole", *given)
    (tmp_path / "tired").touch()
    run(data, tmp_path / "out", *given, code=130)
    (tmp_path / "tired").unlink()
    assert 0 < len(rows(tmp_path / "out")) < len(rows(tmp_path / "whole"))
    run(data, tmp_path / "out", *given)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_a_retry_that_is_killed_while_it_writes_forgets_no_failure(
    whole: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detxai.coco.folder import CocoFolder

    out, explain, write = tmp_path / "out", detxai.coco.parts.image_explainer.explain, CocoFolder.write_table
    pictures = [detxai.coco.load(whole)[0].image, detxai.coco.load(whole)[-1].image]

    def failing(detector: Any, image: Any, *given: Any) -> Any:
        if any(np.array_equal(image, bad) for bad in pictures):
            raise RuntimeError("no luck")
        return explain(detector, image, *given)

    def killed(folder: CocoFolder, path: Path, *given: Any) -> None:
        if path == folder.part(0):
            raise KeyboardInterrupt
        write(folder, path, *given)

    given = ("--rows-per-part", 200)
    monkeypatch.setattr(detxai.coco.parts.image_explainer, "explain", failing)
    run(data, out, *given, code=1)
    pictures.pop()
    with monkeypatch.context() as patch:
        patch.setattr(CocoFolder, "write_table", killed)
        run(data, out, *given, "--retry-failed", code=130)
    run(data, out, *given, code=1)
    assert sum(row["n_boxes"] for row in failures(out)) == len(rows(whole)) - len(rows(out)) > 0
    run(data, out, *given, "--retry-failed", code=1)
    assert sum(row["n_boxes"] for row in failures(out)) == len(rows(whole)) - len(rows(out)) > 0
    pictures.pop()
    run(data, out, *given, "--retry-failed")
    assert rows(out) == rows(whole)


# --- disks -------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_it_and_with_room_it_goes_on(
    small_disk: Path, whole: Path, data: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "out"
    full = 0
    for size in range(32, 2048, 64):  # wherever it is that the disk is full
        remount(small_disk, f"size={size}k")
        code = main(arguments(data, out))
        error = capsys.readouterr().err
        assert not list(out.glob("**/.*.partial*"))
        if code == 0:
            break
        full += 1
        assert code in ((1,) if (out / "manifest.json").is_file() else (2,))
        assert "cannot be written: No space left on device" in error
        assert "Traceback" not in error
    assert full > 2
    assert rows(out) == rows(whole)
    assert not failures(out)


def test_a_disk_that_is_read_only(
    small_disk: Path, whole: Path, data: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    remount(small_disk, "size=4m,ro")
    run(data, small_disk / "out", code=2)
    assert f"{small_disk / 'out' / '.parts'} cannot be written: Read-only file system" in capsys.readouterr().err
    remount(small_disk, "rw")
    run(data, small_disk / "out")
    remount(small_disk, "ro")
    before = rows(small_disk / "out")
    run(data, small_disk / "out", code=1)
    assert "cannot be written: Read-only file system" in capsys.readouterr().err
    assert rows(small_disk / "out") == before == rows(whole)


# --- at the same instant -----------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("attempt", range(2))
def test_shards_started_at_the_same_instant(attempt: int, whole: Path, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    children = [forked(arguments(data, out, "--shard", f"{place}/3")) for place in (1, 2, 3)]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    assert rows(out) == rows(whole)
    assert not failures(out)
    assert not list(out.glob("**/.*.partial*"))


@needs_fork
def test_of_two_different_runs_at_the_same_instant_one_is_refused(data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    children = [forked(arguments(data, out, "--worst", n)) for n in (5, 6)]
    assert sorted(exit_code(child) for child in children) == [0, 2]
    wanted = json.loads((out / "manifest.json").read_text())["question"]["selection"]["worst"]
    assert len(rows(out)) == wanted


def test_the_manifest_of_one_of_many_shards_is_everyones(tmp_path: Path) -> None:
    from detxai.coco.folder import CocoFolder
    from detxai.coco.manifest import begin

    folder, start, errors = CocoFolder(tmp_path / "out"), threading.Barrier(6), []

    def begun() -> None:
        start.wait()
        try:
            begin(folder, {"seed": 0}, {"images": "/images"})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=begun) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


# --- before anything is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--iou", "0"), "iou must"),
        (("--iou", "0.52"), "iou must be one of the evaluation's"),
        (("--classes", "cow"), "classes must be some of ape, bee, cat, dog; got cow"),
        (("--image-ids", "1,99"), "image_ids must be ids of the 6 annotated images, got 99"),
        (("--set", "layers=no.such"), "layer 'no.such' is not in FasterRCNN"),
    ],
)
def test_what_is_refused_leaves_no_folder(
    more: tuple[str, ...], message: str, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path / "out", *more, code=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_kill_at_the_very_start_leaves_is_no_other_run(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".parts").mkdir(parents=True)
    (out / ".parts" / ".manifest.other-host-17-0123abcd.partial.json").write_text("{")
    run(data, out)
    assert rows(out) == rows(whole)
    assert list((out / ".parts").glob(".manifest.other*"))  # it may be another shard's
    os.utime(out / ".parts" / ".manifest.other-host-17-0123abcd.partial.json", (0, 0))
    run(data, out)
    assert not list((out / ".parts").glob(".manifest.other*"))


# --- what a finished run is asked for ----------------------------------------------------------------------------


def test_overlays_of_a_finished_run(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(data, out, "--worst", 3)
    monkeypatch.delattr(detxai.coco.parts.image_explainer, "explain")  # nothing is explained again
    run(data, out, "--worst", 3, "--overlays")
    assert sorted(path.name[:6] for path in (out / "overlays").iterdir()) == ["000000", "000001", "000002"]
    (out / "overlays").joinpath(next((out / "overlays").iterdir()).name).unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "overlays").iterdir()}
    run(data, out, "--worst", 3, "--overlays")
    now = {path: path.stat().st_mtime_ns for path in (out / "overlays").iterdir()}
    assert len(now) == 3
    assert {path: now[path] for path in before} == before


def test_a_retry_with_overlays_explains_only_what_failed(
    whole: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, explain = tmp_path / "out", detxai.coco.parts.image_explainer.explain
    bad = rows(whole)[0]["image_id"]
    first = detxai.coco.load(whole)[0].image
    asked: list[int] = []

    def failing(detector: Any, image: Any, *given: Any) -> Any:
        if np.array_equal(image, first):
            raise RuntimeError("no luck")
        return explain(detector, image, *given)

    def counting(detector: Any, image: Any, method: Any, detections: Any) -> Any:
        asked.append(len(detections))
        return explain(detector, image, method, detections)

    with monkeypatch.context() as patch:
        patch.setattr(detxai.coco.parts.image_explainer, "explain", failing)
        run(data, out, "--rows-per-part", 200, code=1)
    n_failed = sum(row["image_id"] == bad for row in rows(whole))
    assert len(rows(out)) == len(rows(whole)) - n_failed
    monkeypatch.setattr(detxai.coco.parts.image_explainer, "explain", counting)
    monkeypatch.setattr(detxai.coco.run, "save_overlays", lambda *given: None)
    run(data, out, "--rows-per-part", 200, "--retry-failed", "--overlays")
    assert sum(asked) == n_failed
    assert rows(out) == rows(whole)
    assert not failures(out)


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_folder_whose_files_were_cut_is_mended_or_refused_by_name(
    seed: int, whole: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    chance = random.Random(seed)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size)
    for path in chance.sample(files, 6):
        path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
        code = main(arguments(data, out))
        error = capsys.readouterr().err
        assert "Traceback" not in error
        if code:
            assert code == 2
            assert f"out: {path} is damaged" in error
            path.write_bytes((whole / path.relative_to(out)).read_bytes())
        else:
            assert rows(out) == rows(whole)
            assert (out / "predictions.json").read_bytes() == (whole / "predictions.json").read_bytes()
