"""``detxai concepts find``: planted clusters are found, the bound never falls, a killed run goes on, bad input."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import exit_code, forked, needs_fork

pytest.importorskip("sklearn", reason="the extra concepts")

from sklearn.metrics import adjusted_rand_score

import detxai
from detxai.cli import main
from detxai.concepts.clusters.mixture_fit import Fitting, fit_mixture
from detxai.concepts.clusters.summary import summarised
from detxai.scenes import generate


def planted(seed: int) -> tuple[Any, Any]:
    """Cells of four clusters in 8 channels, far apart, and which cluster each is of."""
    random = np.random.default_rng(seed)
    of = random.integers(0, 4, 600)
    return 10 * np.eye(4, 8)[of] + random.normal(size=(600, 8)), of


@pytest.mark.parametrize("class_weight", [0.0, 1.0])
def test_planted_clusters_are_found_by_themselves(class_weight: float) -> None:
    import torch

    cells, of = planted(0)
    fitting = Fitting(n_concepts=12, n_dimensions=8, class_weight=class_weight, n_seeds=1)
    mixture, record = fit_mixture(["a"], cells, of, fitting, seed=0)
    level = torch.from_numpy(cells.T[None, :, :, None]).float()
    assert adjusted_rand_score(of, mixture.memberships(level).argmax(0).flatten().numpy()) > 0.99
    heavy = mixture.weights > 0.02
    assert int(heavy.sum()) == 4  # of 12 that it might have used
    centres = np.array([cells[of == k].mean(0) for k in range(4)])
    places = mixture.places[heavy].numpy()
    assert np.linalg.norm(places[:, None] - centres[None], axis=2).min(1).max() < 0.5
    assert record.n_cells == 600


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_never_falls(seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = random.standard_t(3, size=(300, 6)) @ random.normal(size=(6, 6))  # of no mixture of Gaussians
    fitting = Fitting(n_concepts=8, n_dimensions=5, class_weight=0.5, n_seeds=2)
    _, record = fit_mixture(["a"], cells, random.integers(0, 3, 300), fitting, seed)
    bound = np.array(record.bound)
    assert len(bound) > 3
    assert (np.diff(bound) >= -1e-9 * np.abs(bound[:-1])).all()
    assert -1 <= record.stability[0] <= 1


def test_cells_that_cannot_be_clustered_are_refused() -> None:
    with pytest.raises(ValueError, match="concepts need at least 20 cells of a, got 3"):
        fit_mixture(["a"], np.ones((3, 4)), np.zeros(3, dtype=np.int64), Fitting(), 0)
    with pytest.raises(ValueError, match="features must vary"):
        fit_mixture(["a"], np.ones((30, 4)), np.zeros(30, dtype=np.int64), Fitting(), 0)


def record(label: int, image: str, effects: list[float], context: float = 0.0) -> dict[str, Any]:
    return {"label": label, "image": image, "effects": effects, "present": [1.0] * len(effects), "context": context}


def test_a_summary_of_known_effects() -> None:
    records = [
        record(1, "a", [0.8, 0.1]), record(1, "b", [0.6, 0.1]), record(2, "a", [0.0, 0.5], 0.25),
        record(2, "b", [0.2, 0.7], 0.75),
    ]  # fmt: skip
    found = summarised(records, {1: "one", 2: "two"}, seed=0)
    one, two = found["classes"]
    assert [entry["number"] for entry in one["concepts"]] == [0, 1]
    assert [entry["number"] for entry in two["concepts"]] == [1, 0]
    assert one["concepts"][0]["effect"]["mean"] == pytest.approx(0.7)
    assert two["context"]["mean"] == pytest.approx(0.5)
    np.testing.assert_allclose(found["removal"], [[0.7, 0.1], [0.1, 0.6]])


def arguments(out: Path) -> list[str]:
    given = ["concepts", "find", "--model", "scenes-yolo", "--scenes", "spread", "--n-scenes", "2", "--no-progress"]
    return [*given, "--layers", "model.16", "--max-concepts", "3", "--fits", "1", "--out", str(out)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(arguments(out)) == 0
    return out


def test_a_run_leaves_a_page_and_a_map_for_any_box(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    page = (whole / "index.html").read_text()
    assert all(f"<h2>{of_class['name']}</h2>" in page for of_class in summary["classes"])
    assert page.count("data:image/webp") >= 10
    for of_class in summary["classes"]:
        kept = of_class["kept_channels"]
        assert f"kept by {len(kept['channels'])} of {kept['n_channels']} channels" in page
        assert kept["score"] >= 0.4999 * kept["clean_score"]
        assert 0 < len(kept["channels"]) < kept["n_channels"] == 64  # of model.16
    detector, image = detxai.wrap("scenes-yolo"), generate(502, "spread").image
    explained = detxai.explain(detector, image, "concepts", concepts=whole)
    assert explained
    assert all(np.isfinite(explanation.values).all() for explanation in explained)
    parts = {path: path.stat().st_mtime_ns for path in (whole / "parts").iterdir()}
    assert main([*arguments(whole), "--json"]) == 0  # nothing is computed again
    assert {path: path.stat().st_mtime_ns for path in (whole / "parts").iterdir()} == parts
    assert json.loads(capsys.readouterr().out)["n_boxes"] == summary["n_boxes"]


def test_another_request_and_bad_input_are_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(whole), "--seed", "1"]) == 2
    assert "was started with different settings (search" in capsys.readouterr().err
    assert main([*arguments(tmp_path / "new"), "--images", "."]) == 2
    assert "--scenes takes the place of --images" in capsys.readouterr().err
    words = [*arguments(tmp_path / "new"), "--layers", "model.99"]
    assert main(words) == 2
    assert "layer 'model.99' is not in" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@needs_fork
@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(whole: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    assert exit_code(forked(arguments(tmp_path / "timed"))) == 0
    seconds, random = time.monotonic() - start, np.random.default_rng(0)
    for attempt in range(4):
        out = tmp_path / str(attempt)
        child = forked(arguments(out))
        time.sleep(random.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        exit_code(child)
        assert main(arguments(out)) == 0
        assert (out / "summary.json").read_text() == (whole / "summary.json").read_text()


@pytest.mark.slow
def test_the_top_concept_of_a_class_lies_on_the_planted_mark(tmp_path: Path) -> None:
    """Of a flat map the evidence has ``evidence_chance``."""
    out = tmp_path / "out"
    words = ["--scenes", "--n-scenes", "8", "--layers", "model.4", "--fits", "1", "--no-progress", "--out", str(out)]
    assert main(["concepts", "find", "--model", "scenes-yolo", *words]) == 0
    classes = json.loads((out / "summary.json").read_text())["classes"]
    tops = [one["concepts"][0] for one in classes if "evidence_mass" in one["concepts"][0]]
    on_mark = [top["evidence_mass"] > 4 * top["evidence_chance"] for top in tops]
    assert sum(on_mark) >= 0.5 * len(on_mark)
