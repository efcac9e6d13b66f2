"""The bench compares like with like, and says where a peer fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.bench.ablation import bench_ablation
from detxai.bench.d_rise import bench_d_rise, published
from detxai.bench.rows import as_records, as_table
from detxai.cli import main


def test_every_way_gives_the_same_scores_and_the_peers_failure_is_told() -> None:
    detector = detxai.wrap(small_faster_rcnn(width=8))
    image = photo(0)
    rows = bench_ablation(
        detector,
        image,
        detector.detect(image, 0)[:3],
        per_level=2,
        settings=[{"ratio_channels_to_ablate": 0.5, "margin": 0.2}],
    )
    assert "KeyError" in rows[0].note  # three levels of other names: grad-cam knows five of 256 channels
    compared = [row for row in rows if row.error is not None]
    assert [row.name for row in compared][:2] == [
        "full pass with the layer's output replaced",
        "the whole tail, resumed",
    ]
    assert len(compared) == 7
    assert all(row.error < 5e-5 for row in compared if row.error is not None)
    assert all(row.seconds > 0 for row in rows[1:])
    assert rows[-1].name == "AblationCAM(ratio=0.5, margin=0.2)"
    assert rows[-1].rank_correlation is not None
    json.dumps(as_records(rows))
    assert len(as_table(rows).splitlines()) == len(rows) + 1


def test_nothing_to_explain_is_an_error() -> None:
    detector = detxai.wrap(small_faster_rcnn(width=8))
    with pytest.raises(ValueError, match="detections must not be empty"):
        bench_ablation(detector, photo(0), detxai.Detections([], [], []))


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "a.png"
    PIL.Image.fromarray((photo(0).permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(image)
    model = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"
    command = ["bench", "ablation", "--model", model, "--image", str(image), "--score-threshold", "0.05"]
    assert main([*command, "--max-boxes", "2"]) == 0
    assert "every shortcut" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 14


def _command(what: str, tmp_path: Path) -> list[str]:
    image = tmp_path / "a.png"
    PIL.Image.fromarray((photo(0).permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(image)
    model = f"{Path(__file__).with_name('faster_rcnns.py')}:small_faster_rcnn"
    return ["bench", what, "--model", model, "--image", str(image), "--score-threshold", "0.05"]


@pytest.mark.slow
def test_d_rise_is_timed_beside_bare_passes_and_the_published_algorithm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([*_command("d_rise", tmp_path), "--max-boxes", "2", "--n-masks", "16", "--batch-size", "4", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [
        "bare passes, 4 at once",
        "our loop, 2 boxes",
        "our loop, 1 box",
        "one mask a pass (Microsoft's)",
    ]
    assert rows[0]["share_of_bare"] == 1
    assert all(row["seconds"] > 0 for row in rows)
    assert "flat" in rows[-1]["note"] or "rank correlation" in rows[-1]["note"]
    with pytest.raises(ValueError, match="detections must not be empty"):
        bench_d_rise(detxai.wrap(small_faster_rcnn(width=8)), photo(0), detxai.Detections([], [], []))


def test_the_seed_decides_the_masks_of_both_maps() -> None:
    def brightness(images: list[np.ndarray]) -> list[detxai.Detections]:
        return [detxai.Detections([[0, 0, 20, 20]], [image[:9, :9].mean() / 255], [0]) for image in images]

    detector, noise = detxai.wrap(brightness, class_names=["a"]), np.random.default_rng(0).integers(0, 255, (24, 32, 3))
    image = noise.astype(np.uint8)
    detections = detector.detect(image)

    def note(seed: int) -> str:
        rates = bench_d_rise(detector, image, detections, n_masks=8, agreement_masks=24, batch_size=8, seed=seed)
        return rates[-1].note

    assert note(0) == note(0) != note(1)


def test_the_published_algorithm_finds_a_patch() -> None:
    """On a detector that sees one corner: the peer's map and ours both peak in that corner."""

    def corner(images: list[np.ndarray]) -> list[detxai.Detections]:
        return [detxai.Detections([[0, 0, 20, 20]], [image[:16, :16].mean() / 255], [0]) for image in images]

    detector, white = detxai.wrap(corner, class_names=["a", "b"]), np.full((48, 64, 3), 255, dtype=np.uint8)
    detections = detector.detect(white)
    (theirs,) = published(detector, white, detections, 300)
    (ours,) = detxai.DRISE(n_masks=300, grid=4)(detector, white, detections)
    for values in (theirs, ours.values):
        row, column = np.unravel_index(np.argmax(values), values.shape)
        assert row < 16
        assert column < 16
    assert np.corrcoef(theirs.ravel(), ours.values.ravel())[0, 1] > 0.8


def test_eigen_cam_is_timed_beside_grad_cams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_command("eigen_cam", tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 3
    assert all(row["correlation"] > 0.99 for row in rows)
    assert main(_command("eigen_cam", tmp_path)) == 0
    assert "grad-cam ms" in capsys.readouterr().out
    assert main([*_command("eigen_cam", tmp_path), "--n-masks", "9"]) == 2
    assert torch.is_grad_enabled()
