"""``detxai concepts channels`` and ``detxai concepts attack``: their files, their pages, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from detxai.cli import main
from detxai.concepts.attacks.comparison import mean_numbers
from detxai.scenes import generate

pytest.importorskip("ultralytics", reason="the extra yolo")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number, kind in enumerate(("local", "shortcut")):
        PIL.Image.fromarray(generate(60, kind).image).save(folder / f"{number}.png")  # type: ignore[arg-type]
    return folder


@pytest.mark.slow
def test_an_attack_writes_images_in_the_ball_numbers_and_a_page(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["concepts", "attack", str(scenes / "1.png"), str(tmp_path / "broken.png"), "--model", "scenes-yolo"]
    out = tmp_path / "out"
    assert main([*words, "--steps", "2", "--epsilon", "0.02", "--out", str(out)]) == 1
    record = json.loads((out / "attacks.json").read_text(encoding="utf-8"))
    assert list(record["failures"]) == [str(tmp_path / "broken.png")]
    (row,) = record["boxes"]
    regions = {each["region"]: each for each in row["regions"]}
    assert set(regions) == {"anywhere", "explained", "elsewhere", "box centre", "random"}
    assert regions["explained"]["share"] == pytest.approx(0.1, abs=1e-3)
    image = np.asarray(PIL.Image.open(scenes / "1.png")).astype(int)
    changed = {}
    for name in regions:
        attacked = np.asarray(PIL.Image.open(out / "1" / f"{name.replace(' ', '_')}.png")).astype(int)
        assert np.abs(attacked - image).max() <= 0.02 * 255
        changed[name] = (attacked != image).any(2)
    assert not (changed["explained"] & changed["elsewhere"]).any()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "gem-upright" in page
    assert page.count("<img") == 6
    assert main([*words[:3], *words[4:], "--steps", "1", "--out", str(out), "--box", "9"]) == 2  # of no such box
    assert (tmp_path / "out2" / "attacks.json").exists()
    assert json.loads((out / "attacks.json").read_text(encoding="utf-8")) == record


@pytest.mark.slow
def test_channels_writes_pictures_numbers_and_a_page(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--images", str(scenes), "--class", "gem-upright", "--top", "2", "--steps", "2", "--examples", "2"]
    assert main(["concepts", "channels", "--model", "scenes-yolo", *words, "--out", str(out)]) == 0
    record = json.loads((out / "channels.json").read_text(encoding="utf-8"))
    effects = [each["effect"] for each in record["channels"]]
    assert effects == sorted(effects, reverse=True)
    kept = record["sufficient"]
    assert 0 < len(kept["channels"]) < kept["n_channels"] == 448
    assert kept["score"] >= 0.5 * kept["clean_score"]
    assert len(list((out / "pictures").glob("*.png"))) == 3
    assert (out / "index.html").read_text(encoding="utf-8").count("<img") == 2 + 2 * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack", "no.png"], "IMAGE: no such file"),
        (["attack", "0.png", "--other", "dog"], "--other is for --goal class"),
        (["attack", "0.png", "--goal", "class", "--other", "dog"], "--other must be the name of one class"),
        (["attack", "0.png", "--epsilon", "0"], "epsilon must be"),
        (["channels", "--images", "0.png"], "--images must be a folder"),
        (["channels", "--images", ".", "--class", "dog"], "--class must be the name of one class"),
        (["channels", "--images", ".", "--channels", "model.15"], "LEVEL:NUMBER"),
        (["channels", "--images", ".", "--layer", "model.99"], "layer 'model.99'"),
    ],
)
def test_bad_arguments_are_refused(
    words: list[str],
    message: str,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(scenes)
    assert main(["concepts", *words, "--model", "scenes-yolo", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_means_are_over_all_boxes() -> None:
    def row(drop: float, correlation: float, reached: bool) -> dict[str, Any]:
        region = {"region": "anywhere", "share": 1.0, "drop": drop, "score_after": 1 - drop, "is_reached": reached}
        return {"image": "x", "correlation": correlation, "regions": [region]}

    means = mean_numbers([row(0.2, 0.5, False), row(0.6, -0.1, True)])
    assert means["correlation"] == pytest.approx(0.2)
    assert means["regions"][0]["drop"] == pytest.approx(0.4)
    assert means["regions"][0]["n_reached"] == 1
    assert mean_numbers([]) == {}
