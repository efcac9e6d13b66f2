"""Stages stand alone: labels are made once, a wider selection explains what is new, a report needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset

import detxai.coco
import detxai.coco.label
import detxai.coco.parts.image_explainer
from detxai.cli import main
from detxai.coco.schema import TIMED

pytest.importorskip("pyarrow")

MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"))


def run(data: dict[str, Path], out: Path, *more: object, code: int = 0) -> None:
    given = ["coco", "--model", MODEL, "--images", data["images"], "--annotations", data["annotations"], "--out", out]
    given += ["--method", "eigen_cam", "--map-stride", 8, "--rows-per-part", 4, "--no-report"]
    assert main([*map(str, given), *map(str, more)]) == code


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(data, out)
    return out


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many boxes each call of the method is about."""
    calls: list[int] = []
    explain = detxai.coco.parts.image_explainer.explain

    def counting(detector: Any, image: Any, method: Any, detections: Any) -> Any:
        calls.append(len(detections))
        return explain(detector, image, method, detections)

    monkeypatch.setattr(detxai.coco.parts.image_explainer, "explain", counting)
    return calls


def test_a_wider_selection_explains_only_what_is_new(
    whole: Path, data: dict[str, Path], tmp_path: Path, explained: list[int]
) -> None:
    out = tmp_path / "out"
    run(data, out, "--kinds", "background,localisation", "--worst", 7)
    assert sum(explained) == 7
    explained.clear()
    run(data, out, code=2)  # another selection, not asked to widen
    run(data, out, "--widen")
    assert sum(explained) == len(rows(whole)) - 7
    assert rows(out) == rows(whole)
    explained.clear()
    run(data, out)  # now it is the run of the wide selection
    assert not explained
    assert not (out / ".parts" / "earlier").exists()


def test_a_selection_that_leaves_explained_boxes_out_does_not_widen(
    whole: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(data, out, "--worst", 5)
    before = rows(out)
    run(data, out, "--kinds", "true_positive", "--widen", code=2)
    assert "widen needs a selection that holds all boxes explained so far; 5 of those" in capsys.readouterr().err
    run(data, out, "--worst", 5)
    assert rows(out) == before


def test_a_run_that_was_killed_while_it_widened_goes_on(
    whole: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detxai.coco.folder import CocoFolder

    out, write = tmp_path / "out", CocoFolder.write_part
    run(data, out, "--worst", 7)

    def killed(folder: CocoFolder, number: int, *given: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(folder, number, *given)

    with monkeypatch.context() as patch:
        patch.setattr(CocoFolder, "write_part", killed)
        run(data, out, "--widen", code=130)
    run(data, out, "--widen")
    assert rows(out) == rows(whole)


def test_labels_are_made_once(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    evaluate = detxai.coco.label.evaluate

    def counting(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return evaluate(*given, **more)

    monkeypatch.setattr(detxai.coco.label, "evaluate", counting)
    out = tmp_path / "out"
    for shard in ("1/2", "2/2", "1/2"):
        run(data, out, "--shard", shard)
    assert len(calls) == 1


def test_the_report_needs_no_model(data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out, "--worst", 3)
    assert not (out / "report.html").exists()
    assert detxai.coco.make_report(out) == out / "report.html"
    assert (out / "report.html").read_text(encoding="utf-8").count("<figure data-kind=") == 3


def test_a_folder_whose_plan_the_version_before_wrote_is_taken_over(
    whole: Path, data: dict[str, Path], tmp_path: Path, explained: list[int]
) -> None:
    out = tmp_path / "out"
    run(data, out)
    (out / ".parts" / "plan.sha256").unlink()
    (out / ".parts" / "labelled.sha256").unlink()
    (out / ".parts" / "plan.txt").write_text("0" * 64)
    (out / "explanations" / "part-000001.parquet").unlink()
    n_left = len(rows(out))
    explained.clear()
    run(data, out)
    assert sum(explained) == len(rows(whole)) - n_left > 0
    assert rows(out) == rows(whole)
    assert not (out / ".parts" / "plan.txt").exists()


def test_labels_of_another_operating_point_are_not_taken(data: dict[str, Path], tmp_path: Path) -> None:
    """A folder whose every image failed may be taken by another request: its labels may not."""
    import json

    out, other = tmp_path / "out", tmp_path / "other"
    run(data, out, "--kinds", "missed")
    (out / ".parts" / "refused.txt").write_text("every image failed\n")
    for part in (out / "explanations").iterdir():
        part.unlink()
    run(data, out, "--kinds", "missed", "--operating-point", 0.5)
    run(data, other, "--kinds", "missed", "--operating-point", 0.5)
    assert json.loads((out / "evaluation.json").read_text()) == json.loads((other / "evaluation.json").read_text())
    assert rows(out) == rows(other)
