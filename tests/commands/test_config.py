"""``--config``: a file of options is the same as the options; what a run leaves repeats it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from detxai.cli import main, make_parser
from detxai.commands.config import LEFT_OUT, config_of, with_config
from detxai.commands.parser import commands_of
from detxai.scenes import export_coco

CONFIGURABLE = ("explain", "coco", "evaluate", "bench")


def examples() -> list[str]:
    commands = commands_of(make_parser())
    lines = [line for name in CONFIGURABLE for line in (commands[name].epilog or "").splitlines()]
    more = [
        "detxai evaluate --model scenes-frcnn --scenes --methods d_rise --set d_rise.n_masks=20 --out a",
        "detxai evaluate --model m.pt --images v --annotations a.json --methods d_rise --fill black,blur --out a",
        "detxai explain a.jpg b.jpg --model m.onnx --set layers=model.15 --seed 3 --set low_pass=auto --slices 2,3,0.2 "
        "--out a",
        "detxai coco --model m.pt --images v --annotations a.json --method d_rise --classes 'traffic light,dog' "
        "--kinds errors --image-ids 3,-4 --map-stride layer --no-report --workers 0 --shard 1/2 --retry-failed --out a",
    ]
    return [line.strip() for line in lines if line.strip().startswith("detxai ")] + more


def read(words: list[str]) -> argparse.Namespace:
    parser = make_parser()
    return parser.parse_args(with_config(words, commands_of(parser)))


def options(given: argparse.Namespace) -> dict[str, Any]:
    """As they are compared: paths in full; a slicing by its text."""
    return {name: _plain(value) for name, value in vars(given).items() if name not in LEFT_OUT and name != "parser"}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else str(value)


@pytest.mark.parametrize("line", examples())
def test_the_file_of_a_command_is_that_command(line: str, tmp_path: Path) -> None:
    given = read(shlex.split(line)[1:])
    (tmp_path / "run.yaml").write_text(config_of(given, given.parser))
    again = read([given.command, "--config", str(tmp_path / "run.yaml")])
    assert options(again) == options(given)
    assert (again.debug, again.json) == (False, False)


def write(tmp_path: Path, **content: Any) -> str:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "c.yaml")


def test_options_beside_the_file_win(tmp_path: Path) -> None:
    config = write(
        tmp_path, model="a.pt", images="v", annotations="a.json", method="d_rise", out="o", worst=9, iou=0.75,
        set={"n_masks": 30, "batch_size": 2}, no_report=True, kinds=["missed", "background"],
    )  # fmt: skip
    given = read(["coco", "--worst", "3", f"--config={config}", "--set", "n_masks=50"])
    assert (given.worst, given.iou, given.no_report, given.kinds) == (3, 0.75, True, ["missed", "background"])
    assert dict(given.settings) == {"n_masks": 50, "batch_size": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wurst: 3", "has 'wurst', which detxai coco does not take; did you mean 'worst'?"),
        ("no-report: 1", "no-report must be true or false, got 1"),
        ("worst: {a: 1}", "worst must be one value"),
        ("worst:", "worst must be text, a number or a list"),
        ("- worst", "must hold one 'option: value' a line"),
        ("worst: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(content)
    assert main(["coco", "--config", str(tmp_path / "c.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(tmp_path / "c.yaml") in error


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coco", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "--config: no such file" in capsys.readouterr().err


def test_a_run_folder_holds_the_file_that_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import detxai.coco

    export_coco(tmp_path / "val", 3, seed=3)
    monkeypatch.chdir(tmp_path)
    words = ["coco", "--model", "scenes-frcnn", "--images", "val", "--annotations", "val/annotations.json"]
    words += ["--method", "layer_cam", "--kinds", "true_positive", "--worst", "2", "--no-report", "--out", "first"]
    assert main([*words, "--shard", "1/1"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["coco", "--config", "../first/run.yaml", "--out", "second"]) == 0
    first, second = (list(detxai.coco.load(folder).rows()) for folder in ("../first", "second"))
    assert [row["map_png"] for row in first] == [row["map_png"] for row in second]
    assert len(first) == 2
    saved = yaml.safe_load((tmp_path / "first" / "run.yaml").read_text())
    assert saved["images"] == str(tmp_path / "val")
    assert not {"shard", "config"} & set(saved)


def test_seed_and_batch_size_are_the_methods_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_coco(tmp_path / "val", 1, seed=3)
    (photo,) = [path for path in (tmp_path / "val").rglob("*") if path.suffix in (".png", ".jpg")]
    words = ["explain", str(photo), "--model", "scenes-frcnn", "--out", str(tmp_path / "o"), "--score-threshold", "0.9"]
    words += ["--method", "d_rise", "--set", "n_masks=16", "--json"]
    assert main([*words, "--seed", "5", "--batch-size", "4"]) == 0
    record = json.loads(next((tmp_path / "o").rglob("detections.json")).read_text())
    assert (record["request"]["settings"]["seed"], record["request"]["settings"]["batch_size"]) == (5, 4)
    capsys.readouterr()
    assert main([*words, "--seed", "5", "--set", "seed=6"]) == 2
    assert "--seed and --set seed=... are the same setting" in capsys.readouterr().err
    assert main([*words[:-5], "--method", "layer_cam", "--seed", "5"]) == 0  # draws nothing: any seed is its seed
