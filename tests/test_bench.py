"""The bench compares like with like, and says where a peer fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from faster_rcnns import photo, small_faster_rcnn

import detxai
from detxai.bench import as_records, as_table, bench_ablation
from detxai.cli import main


def test_every_way_gives_the_same_scores_and_the_peers_failure_is_told() -> None:
    detector = detxai.wrap(small_faster_rcnn(width=8))
    image = photo(0)
    rows = bench_ablation(detector, image, detector.detect(image, 0)[:3], per_level=2, ratio=0.5)
    assert "KeyError" in rows[0].note  # three levels of other names: grad-cam knows five of 256 channels
    compared = [row for row in rows if row.error is not None]
    assert [row.name for row in compared][:2] == [
        "full pass with the layer's output replaced",
        "the whole tail, resumed",
    ]
    assert len(compared) == 7
    assert all(row.error < 5e-5 for row in compared if row.error is not None)
    assert all(row.seconds > 0 for row in rows[1:])
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
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 9
