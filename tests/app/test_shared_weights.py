"""Visitors have networks of their own that share their weights, and there are only so many."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_pages import SMALL, write_names, write_photo

import detxai
from detxai.adapters.network import NetworkDetector, require_network
from detxai.app import session as sessions
from detxai.app.detectors.shared_weights import SharedWeights
from detxai.app.jobs import MethodResult
from detxai.app.options import ModelChoice
from detxai.app.session import MOST_DETECTORS, MOST_RESULTS, Session
from detxai.explanation import Cost, Explanation

IMAGE = np.random.default_rng(3).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def memory_of(detectors: list[NetworkDetector]) -> int:
    """Bytes of the tensors of these networks, those that are shared counted once."""
    tensors = {
        one.data_ptr(): one.nbytes
        for detector in detectors
        for one in [*detector.model.parameters(), *detector.model.buffers()]
    }
    return sum(tensors.values())


@pytest.mark.parametrize("name", ["scenes-frcnn", "scenes-yolo", SMALL])
def test_copies_share_parameters_and_answer_alike_side_by_side(name: str) -> None:
    if name == "scenes-yolo":
        pytest.importorskip("ultralytics")
    weights = SharedWeights()
    copies = [require_network(weights.detector(ModelChoice(name))) for _ in range(3)]
    assert len({id(module) for one in copies for module in one.model.modules()}) == 3 * len(
        list(copies[0].model.modules())
    )
    assert memory_of(copies) < 1.2 * memory_of(copies[:1])
    expected = detxai.wrap(name).detect(IMAGE, 0.0)
    found: list[Any] = [None] * 3

    def ask(place: int) -> None:
        detections = copies[place].detect(IMAGE, 0.0)
        found[place] = detections, detxai.LayerCAM()(copies[place], IMAGE, detections[:1])[0].values

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for detections, values in found:
        torch.testing.assert_close(detections.boxes, expected.boxes)
        torch.testing.assert_close(detections.scores, expected.scores)
        np.testing.assert_allclose(values, found[0][1], rtol=1e-4, atol=1e-9)


def test_a_visitor_who_works_does_not_keep_another_waiting() -> None:
    weights = SharedWeights()
    mine, yours = (weights.detector(ModelChoice(SMALL)) for _ in range(2))
    with mine.borrowed():
        thread = threading.Thread(target=lambda: yours.detect(IMAGE, 0.2))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()


def test_weights_are_shared_by_content_and_let_go(tmp_path: Path) -> None:
    names = write_names(tmp_path)
    others = shutil.copy(names, tmp_path / "same.txt")
    (tmp_path / "other.txt").write_text("x\na\nb\nc\nd\n")
    weights = SharedWeights()

    def load(file: Path) -> NetworkDetector:
        return require_network(weights.detector(ModelChoice(SMALL, class_names=file)))

    first, second, other = load(names), load(Path(others)), load(tmp_path / "other.txt")
    assert memory_of([first, second]) < 1.2 * memory_of([first])
    assert memory_of([first, other]) > 1.8 * memory_of([first])
    assert other.class_names[1] == "a"
    assert len(weights._loaded) == 2
    del first, second
    gc.collect()
    load(tmp_path / "other.txt")
    assert len(weights._loaded) == 1


def test_detectors_unused_for_longest_are_let_go_and_come_back(tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    visitors = [Session.open() for _ in range(MOST_DETECTORS + 3)]
    try:
        for one in visitors:
            one.use(ModelChoice(SMALL))
        assert [one.detector is None for one in visitors] == [True] * 3 + [False] * MOST_DETECTORS
        assert visitors[0].use(ModelChoice(SMALL)) is visitors[0].detector
        assert visitors[3].detector is None, "the next one that was unused for longest"
        assert len([one for one in sessions._OPEN if one.detector is not None]) == MOST_DETECTORS
    finally:
        for one in visitors:
            one.close()
            one.detector = None


def test_results_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.open()
    explanation = Explanation(np.zeros((100, 100), np.float32), np.zeros((100, 100, 3), np.uint8), "x", {}, Cost(0, 0))
    for number in range(MOST_RESULTS + 5):
        session.keep((number,), MethodResult(detxai.LayerCAM(), explanation=explanation))
    assert len(session.results) == MOST_RESULTS
    monkeypatch.setattr(sessions, "MOST_RESULT_BYTES", 10 * 70_000)
    session.keep(("last",), MethodResult(detxai.LayerCAM(), explanation=explanation))
    assert len(session.results) == 10
    monkeypatch.setattr(sessions, "MOST_RESULT_BYTES", 1)
    session.keep(("one more",), MethodResult(detxai.LayerCAM(), explanation=explanation))
    assert [key[0] for key in session.results] == [MOST_RESULTS + 3, MOST_RESULTS + 4, "last", "one more"]
    session.close()
