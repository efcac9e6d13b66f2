"""The proof measures what it says, shown with detectors whose answers are known."""

from collections.abc import Sequence

import numpy as np
import pytest

from detxai.scenes import KIND_CLASSES, Kind, Scene, erase_elsewhere, generate
from detxai.scenes.detectors.detecting import Found, score_times_iou
from detxai.scenes.detectors.proof import average_precision, prove_kind
from detxai.scenes.scene import Image

NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def truth(scene: Scene, score: float = 0.9) -> Found:
    return Found(scene.boxes, np.full(len(scene), score, np.float32), scene.labels)


class Oracle:
    """Knows the scenes and their controls by heart, and answers ``otherwise`` to any other picture."""

    def __init__(self, kind: Kind, n_scenes: int, blind: bool) -> None:
        self.known: dict[bytes, Found] = {}
        self.blind = blind
        self.last = NOTHING
        for seed in range(n_scenes):
            scene = generate(seed, kind)
            self.known[scene.image.tobytes()] = truth(scene)
            for index in range(len(scene)):
                self.known[erase_elsewhere(scene, index)[0].tobytes()] = truth(scene)
        everything = list(self.known.values())
        self.all = Found(
            np.concatenate([found.boxes for found in everything]),
            np.concatenate([found.scores for found in everything]),
            np.concatenate([found.labels for found in everything]),
        )

    def __call__(self, images: Sequence[Image]) -> list[Found]:
        otherwise = self.all if self.blind else NOTHING
        return [self.known.get(image.tobytes(), otherwise) for image in images]


@pytest.mark.parametrize("kind", ["local", "context", "joint"])
def test_a_detector_that_uses_the_evidence_passes(kind: Kind) -> None:
    proof = prove_kind(Oracle(kind, 5, blind=False), kind, n_scenes=5)
    assert (proof.ap50, proof.erased, proof.elsewhere) == (1.0, 1.0, 0.0)
    assert proof.goal_met
    assert proof.n_tested == proof.n_objects > 0
    assert proof.single_marks == (1.0 if kind == "joint" else None)
    assert proof.n_pairs == (2 * proof.n_tested if kind == "joint" else 0)


def test_a_detector_that_ignores_the_evidence_fails() -> None:
    proof = prove_kind(Oracle("local", 5, blind=True), "local", n_scenes=5)
    assert proof.erased == 0.0
    assert not proof.goal_met


def test_a_detector_that_finds_nothing_fails() -> None:
    proof = prove_kind(lambda images: [NOTHING] * len(images), "spread", n_scenes=3)
    assert proof.ap50 == 0.0
    assert proof.n_tested == 0
    assert not proof.goal_met


def test_score_times_iou_by_hand() -> None:
    found = Found(
        np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5]], np.float32),
        np.array([0.5, 0.9, 1.0], np.float32),
        np.array([3, 3, 4]),
    )
    # the second box covers its target exactly, the first half of it; the third has another label
    assert score_times_iou(found, np.array([0, 0, 10, 5], np.float32), 3) == (pytest.approx(0.9), pytest.approx(1.0))
    assert score_times_iou(found, np.array([0, 0, 10, 5], np.float32), 7) == (0.0, 0.0)
    assert score_times_iou(NOTHING, np.array([0, 0, 10, 5], np.float32), 3) == (0.0, 0.0)


def test_average_precision_of_half_the_objects() -> None:
    scenes = [generate(seed, "context") for seed in range(6)]
    labels = KIND_CLASSES["context"]
    assert average_precision(scenes, [truth(scene) for scene in scenes], labels) == 1.0
    boxes_elsewhere = [Found(scene.boxes + 60, np.ones(len(scene), np.float32), scene.labels) for scene in scenes]
    assert average_precision(scenes, boxes_elsewhere, labels) == 0.0
    wrong = [Found(scene.boxes, np.ones(len(scene), np.float32), 9 - scene.labels) for scene in scenes]
    assert average_precision(scenes, wrong, labels) < 0.6
