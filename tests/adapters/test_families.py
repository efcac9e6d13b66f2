"""One table of families: other packages' first, the same for models and for names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from faster_rcnns import small_faster_rcnn
from torchvision.models.detection import FasterRCNN

import detxai
from detxai.adapters import families
from detxai.adapters.detector import NETWORK_MEMBERS
from detxai.adapters.loading import load_detector
from detxai.adapters.network import NetworkDetector
from detxai.adapters.torchvision.two_stage import FasterRCNNAdapter


class Special(FasterRCNN):
    """A subclass that its owner's package wraps in a way of its own."""


class SpecialAdapter(FasterRCNNAdapter):
    family = "special"


class Entry:
    """An entry point of another package."""

    name = "special"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def load(self) -> Any:
        return self.answer


def special_model() -> Special:
    model = small_faster_rcnn()
    model.__class__ = Special
    return model


def special(model: Any, **options: Any) -> Any:
    return SpecialAdapter(model, **options) if isinstance(model, Special) else None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def register(answer: Any) -> None:
        monkeypatch.setattr(families, "entry_points", lambda group: [Entry(answer)])
        families.registered_families.cache_clear()

    yield register
    families.registered_families.cache_clear()


def test_a_subclass_is_its_owners(registered: Any) -> None:
    assert detxai.wrap(special_model()).family == "faster_rcnn"
    registered(special)
    assert detxai.wrap(special_model(), class_names={1: "a", 2: "b"}).family == "special"
    assert detxai.wrap(small_faster_rcnn()).family == "faster_rcnn"


def test_also_by_name(registered: Any, tmp_path: Any) -> None:
    registered(special)
    (tmp_path / "owner.py").write_text("from test_families import special_model as build\n")
    assert load_detector(f"{tmp_path / 'owner.py'}:build").family == "special"


def test_an_entry_point_that_returns_no_detector_is_named(registered: Any) -> None:
    registered(lambda model, **options: 3)
    with pytest.raises(TypeError, match="entry point 'special' must return a detxai Detector or None, got int"):
        detxai.wrap(small_faster_rcnn())


def test_weights_are_for_builders_names() -> None:
    with pytest.raises(ValueError, match="weights are for names of torchvision builders only"):
        detxai.wrap(lambda images: [], weights="some.pth")


def test_what_a_black_box_lacks_is_what_a_network_has() -> None:
    black_box: Any = detxai.wrap(lambda images: [])
    network = detxai.wrap(small_faster_rcnn())
    for name in NETWORK_MEMBERS:
        assert hasattr(network, name)
        assert not hasattr(black_box, name)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_thing'"):
        _ = black_box.no_such_thing
    assert isinstance(network, NetworkDetector)
    assert black_box.network is None
