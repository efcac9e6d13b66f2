"""``propagate=``: whether a change of one layer runs on through another that reads it, by a plain hook on the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from plain_hooks import OneStage, beside, dropped, layer_cam

from detxai import AblationCAM, LayerCAM


@pytest.fixture(scope="module")
def case() -> OneStage:
    return OneStage()


@pytest.mark.parametrize("propagate", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_the_drops_are_those_of_a_plain_hook(case: OneStage, propagate: bool, ratio: float) -> None:
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:3]
    with torch.no_grad():
        expected = dropped(case, case.answer({}), found, hold=not propagate)
    method = AblationCAM(propagate=propagate, ratio_channels_to_ablate=ratio, progress=False)
    for explanation, drops in zip(method(detector, case.image, found), expected, strict=True):
        assert explanation.channel_effects is not None
        done = ~explanation.channel_effects.isnan()
        torch.testing.assert_close(explanation.channel_effects[done], drops[done], atol=1e-9, rtol=0)
        assert explanation.settings["propagate"] is propagate


def test_held_drops_leave_out_what_runs_through_the_other_layer(case: OneStage) -> None:
    """A box that the second level answers: of the first level's channels nothing goes the direct way."""
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)
    with torch.no_grad():
        held, through = (dropped(case, case.answer({}), found, hold=hold)[:, :8] for hold in (True, False))
    assert bool(((held.abs().amax(1) < 1e-9) & (through.abs().amax(1) > 0.005)).any())


@pytest.mark.parametrize("propagate", [False, True])
def test_layer_cam_is_the_gradient_of_a_plain_hook(case: OneStage, propagate: bool) -> None:
    detector = case.wrap(case.model)
    found = beside(detector.detect(case.image, 0.02)[:3])
    for i, explanation in enumerate(LayerCAM(propagate=propagate)(detector, case.image, found)):
        expected = layer_cam(case, found.boxes[i].double(), int(found.labels[i]), detector, hold=not propagate)
        np.testing.assert_allclose(explanation.values, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("way", [{"ranking": "first_order", "unablated_weights": "first_order"}, {"ranking": "energy"}])
def test_every_way_to_rank_works_with_layers_by_themselves(case: OneStage, way: dict[str, Any]) -> None:
    detector = case.wrap(case.model)
    found = detector.detect(case.image, 0.02)[:2]
    settings: dict[str, Any] = {"ratio_channels_to_ablate": 0.4, "propagate": True, "progress": False, **way}
    for explanation in AblationCAM(**settings)(detector, case.image, found):
        assert explanation.channel_effects is not None
        assert int((~explanation.channel_effects.isnan()).sum()) == 7
        assert explanation.details["tail"]["kind"] == "full"


@pytest.mark.parametrize("method", [AblationCAM, LayerCAM])
def test_propagate_is_yes_or_no(method: Any) -> None:
    with pytest.raises(TypeError, match="propagate must be True or False, got 'yes'"):
        method(propagate="yes")
