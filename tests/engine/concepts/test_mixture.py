"""Mixtures of features: memberships are the posterior of the mixture, and removal does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import detxai
from detxai.engine.concepts.concept_file import Concepts
from detxai.engine.concepts.effects import concept_effects, memberships_of
from detxai.engine.concepts.mixture import Mixture
from detxai.methods.learned.concept_map import ConceptMap
from detxai.scenes import generate
from detxai.targets import ClassScoreTarget, score_targets

LEVEL = "model.4"


def mixture(n_channels: int, n: int = 3, d: int = 2, levels: tuple[str, ...] = ("a",)) -> Mixture:
    """A mixture drawn at random."""
    generator = torch.Generator().manual_seed(n_channels)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = drawn(n, d, d)
    return Mixture(
        levels,
        mean=drawn(n_channels),
        basis=drawn(n_channels, d),
        weights=drawn(n).softmax(0),
        centres=drawn(n, d),
        covariances=factors @ factors.transpose(1, 2) + 0.3 * torch.eye(d, dtype=torch.float64),
        places=drawn(n, n_channels),
    )


def test_memberships_are_the_posterior() -> None:
    found, level = mixture(5), torch.randn(1, 5, 3, 4)
    memberships = found.memberships(level).flatten(1).numpy()
    for cell in range(12):
        u = (level[0].flatten(1)[:, cell].double() - found.mean) @ found.basis
        joint = [
            float(weight) * multivariate_normal(centre.numpy(), covariance.numpy()).pdf(u.numpy())
            for weight, centre, covariance in zip(found.weights, found.centres, found.covariances)
        ]
        np.testing.assert_allclose(memberships[:, cell], np.array(joint) / sum(joint), rtol=1e-6)


def test_a_cell_that_belongs_to_a_concept_alone_becomes_the_mean_of_the_others() -> None:
    found, level = mixture(5), torch.randn(1, 5, 2, 2)
    memberships = torch.zeros(3, 2, 2, dtype=torch.float64)
    memberships[1, 0, 0] = memberships[0, 0, 1] = memberships[0, 1, 0] = memberships[0, 1, 1] = 1
    (changed,) = found.without(level, memberships, [1], "mean")
    w = found.weights
    others = (w[0] * found.places[0] + w[2] * found.places[2]) / (w[0] + w[2])
    torch.testing.assert_close(changed[:, 0, 0].double(), others, rtol=1e-5, atol=1e-6)
    assert torch.equal(changed[:, 1], level[0, :, 1])


def test_what_is_projected_out_is_gone_and_nothing_else() -> None:
    found, level = mixture(5), torch.randn(1, 5, 3, 3)
    (changed,) = found.without(level, found.memberships(level), [2], "project")
    w = found.weights
    others = (w[0] * found.places[0] + w[1] * found.places[1]) / (w[0] + w[1])
    direction = ((found.places[2] - others) / (found.places[2] - others).norm()).float()
    along = torch.einsum("chw,c->hw", changed - others.float()[:, None, None], direction)
    assert along.max() <= 1e-5
    moved = changed - level[0]
    torch.testing.assert_close(moved, torch.einsum("chw,c->hw", moved, direction) * direction[:, None, None])


@pytest.fixture(scope="module")
def asked() -> Any:
    detector: Any = detxai.wrap("scenes-yolo")
    image = generate(500, "local").image
    features = detector.features(image, [LEVEL])
    n_channels = features.levels[LEVEL].shape[1]
    concepts = Concepts(
        (mixture(n_channels, levels=(LEVEL,)),), (LEVEL,), detector.fingerprint(), "mean", {"model": "m"}
    )
    return detector, image, features, concepts


@pytest.mark.parametrize("removal", ["mean", "project"])
def test_effects_are_those_of_a_hook_on_the_model(asked: Any, removal: Any) -> None:
    detector, image, features, given = asked
    concepts = Concepts(given.mixtures, given.layers, given.fingerprint, removal, given.card)
    targets = ClassScoreTarget.of(detector.detect(image, 0.25))
    with detector.borrowed(), torch.no_grad():
        memberships = memberships_of(concepts, features)
        found = concept_effects(detector, features, targets, concepts, memberships)
    layer, (one,) = dict(detector.model.named_modules())[LEVEL], concepts.mixtures
    for number in range(len(one)):
        hook = layer.register_forward_hook(
            lambda module, args, output, number=number: one.without(output, one.memberships(output), [number], removal)
        )
        with torch.no_grad():
            without = score_targets(targets, detector.candidates(image))[:, 0]
        hook.remove()
        torch.testing.assert_close(found.drops[:, number], found.clean - without, rtol=1e-3, atol=1e-5)


def test_a_file_comes_back_as_it_was_and_belongs_to_one_detector(asked: Any, tmp_path: Path) -> None:
    detector, image, _, concepts = asked
    concepts.save(tmp_path / "concepts.safetensors")
    again = Concepts.load(tmp_path)
    assert again.layers == concepts.layers
    assert torch.equal(again.mixtures[0].covariances, concepts.mixtures[0].covariances)
    found = detector.detect(image, 0.25)[:1]
    (explanation,) = detxai.explain(detector, image, "concepts", found, concepts=tmp_path)
    assert explanation.values.shape == image.shape[:2]
    assert len(explanation.details["effects"]) == 3
    with pytest.raises(ValueError, match="concepts are of another detector"):
        detxai.explain(detxai.wrap("scenes-frcnn"), image, "concepts", found, concepts=tmp_path)
    with pytest.raises(ValueError, match="concept must be a number from 0 to 2, got 3"):
        detxai.explain(detector, image, "concepts", found, concepts=tmp_path, concept=3)


def test_what_is_no_file_of_concepts_is_refused(asked: Any, tmp_path: Path) -> None:
    detector, image, _, _ = asked
    found = detector.detect(image, 0.25)[:1]
    with pytest.raises(ValueError, match="concepts must be the folder that detxai concepts find wrote"):
        detxai.explain(detector, image, "concepts", found)
    with pytest.raises(FileNotFoundError, match="concepts: no such file"):
        detxai.explain(detector, image, "concepts", found, concepts=tmp_path / "nowhere")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="is not a file that detxai concepts find wrote"):
        detxai.explain(detector, image, "concepts", found, concepts=tmp_path / "text")
    with pytest.raises(TypeError, match="concept must be the number of a concept"):
        ConceptMap(concept=True)
