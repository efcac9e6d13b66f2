"""The tail of a dense head under ablation, against the whole tail: same scores, far fewer cells."""

from __future__ import annotations

import copy
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from ultralytics.utils import ASSETS
from yolo_seeded import bus, seeded

from detxai.adapters.detector import Features
from detxai.adapters.structure import Dense, NoShortcut
from detxai.adapters.ultralytics.checkpoint import load_checkpoint
from detxai.adapters.ultralytics.yolo import YOLOAdapter
from detxai.engine import batching
from detxai.engine.ablation.dense.ablation import DenseAblation
from detxai.engine.ablation.dense.branch import AblatedBranch
from detxai.engine.ablation.dense.tail import DenseTail
from detxai.engine.ablation.dense.windows import Window, bounding_window, highest_iou, merged
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.tails import tail_of
from detxai.geometry import box_iou
from detxai.targets import BoxScoreTarget, BoxSideTarget, ClassScoreTarget, ContrastTarget, SimilarityTarget, Target

EXACT = 1e-9
FAMILIES = ["v8", "v10", "v10 end2end", "11", "26 end2end", "segment v8"]


@cache
def detector(family: str, side: int = 256) -> YOLOAdapter:
    """A small model in double precision whose boxes are some cells wide, as those of trained ones are."""
    name, end2end, _ = family.partition(" end2end")
    seeded(name, end2end=bool(end2end)).predictor = None  # another test's, with a lock that cannot be copied
    yolo = copy.deepcopy(seeded(name, end2end=bool(end2end)))
    head = yolo.model.model[-1]
    with torch.no_grad():
        for branch in ("cv2", "one2one_cv2"):
            for place, layers in enumerate(getattr(head, branch, None) or []):
                if head.reg_max > 1:
                    near = -0.6 * (torch.arange(head.reg_max) - 2.0 - place).abs()
                    layers[-1].bias.copy_(near.repeat(4))
        for branch in ("cv3", "one2one_cv3"):
            for layers in getattr(head, branch, None) or []:
                layers[-1].weight.mul_(0.5)
    yolo.model.double()
    return YOLOAdapter(yolo, input_size=side)


def questions(adapter: YOLOAdapter, size: tuple[int, int], seed: int = 0) -> list[Target]:
    """Some about detections; one about a far corner, one about a tiny box, one about the whole image."""
    height, width = size
    image = bus(width, height)
    found = adapter.detect(image, 0.0)
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:3].tolist()
    boxes, labels = found.boxes.tolist(), found.labels.tolist()
    targets: list[Target] = [ClassScoreTarget(boxes[i], labels[i]) for i in chosen]
    first = chosen[0]
    targets += [
        BoxScoreTarget(boxes[first], labels[first]),
        BoxSideTarget(boxes[first], labels[first], side="bottom"),
        ClassScoreTarget([width - 9, height - 7, width, height], 3),
        ClassScoreTarget([width / 2, height / 2, width / 2 + 5, height / 2 + 4], 7),
        ClassScoreTarget([0, 0, width, height], 11),
    ]
    return targets


def both(adapter: YOLOAdapter, size: tuple[int, int], targets: list[Target]) -> tuple[Features, FullTail, DenseTail]:
    features = adapter.features(bus(size[1], size[0]))
    with adapter.borrowed(), torch.no_grad():
        fast = tail_of(adapter, features, targets)
        assert isinstance(fast, DenseTail)
        return features, FullTail(adapter, features, targets), fast


def ablations(level: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random channels, each with its zero, its mean or a number."""
    random = torch.Generator().manual_seed(seed)
    channels = torch.randperm(level.shape[1], generator=random)[:n]
    mean = level[0, channels].mean((1, 2))
    number = 4 * torch.randn(n, generator=random, dtype=level.dtype)
    kind = torch.arange(n) % 3
    return channels, torch.where(kind == 0, 0, torch.where(kind == 1, mean, number))


@torch.no_grad()
def worst(adapter: YOLOAdapter, features: Features, full: Tail, fast: Tail, n: int = 6, seed: int = 0) -> float:
    """The largest difference between the tails, over the clean scores and some ablations of every level."""
    differences = [(full.clean - fast.clean).abs().max()]
    with adapter.borrowed():
        for name, level in features.levels.items():
            channels, fill = ablations(level, n, seed)
            apart = full.scores(name, channels, fill) - fast.scores(name, channels, fill)
            differences.append(apart.abs().max())
    return float(torch.stack(differences).max())


class Each(Tail):
    """Tails of several groups of targets as one: few targets have small windows, many together large ones."""

    cpu_batch = 8

    def __init__(
        self, adapter: YOLOAdapter, features: Features, targets: list[Target], groups: list[list[int]]
    ) -> None:
        self.details, self.groups = {}, groups
        self.tails = [tail_of(adapter, features, [targets[i] for i in group]) for group in groups]
        self.clean = torch.cat([tail.clean for tail in self.tails])

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        return torch.cat([tail.scores(level, channels, fill) for tail in self.tails])

    def bytes_per_item(self, level: str) -> int:
        return 0


class Picked(Each):
    """The same rows, from the whole tail asked about all targets at once."""

    def __init__(self, tail: Tail, groups: list[list[int]]) -> None:
        self.tail, self.rows = tail, [i for group in groups for i in group]
        self.clean = tail.clean[self.rows]

    def scores(self, level: str, channels: Tensor, fill: Tensor) -> Tensor:
        return self.tail.scores(level, channels, fill)[self.rows]


def worst_of_groups(adapter: YOLOAdapter, size: tuple[int, int], targets: list[Target], n: int, seed: int = 0) -> float:
    """As ``worst``, for all targets together, for each alone, and for the first ones."""
    groups = [list(range(len(targets))), [0, 3, 4], [0, 1, 2], *([i] for i in range(len(targets)))]
    features = adapter.features(bus(size[1], size[0]))
    with adapter.borrowed(), torch.no_grad():
        full, fast = FullTail(adapter, features, targets), Each(adapter, features, targets, groups)
    assert all(isinstance(tail, DenseTail) for tail in fast.tails)
    return worst(adapter, features, Picked(full, groups), fast, n, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_of_every_family_are_those_of_the_whole_tail(family: str) -> None:
    adapter = detector(family)
    assert worst_of_groups(adapter, (250, 190), questions(adapter, (250, 190)), n=4) < EXACT


@pytest.mark.parametrize("family", ["v8", "26 end2end"])
@pytest.mark.parametrize("kind", ["similarity", "of one's own"])
def test_targets_that_read_every_class_or_every_candidate(family: str, kind: str) -> None:
    adapter = detector(family)
    targets = questions(adapter, (120, 160))
    box = targets[0].box  # type: ignore[attr-defined]
    mix = torch.rand(80, generator=torch.Generator().manual_seed(0))
    if kind == "similarity":
        targets += [SimilarityTarget(box, 5), SimilarityTarget(box, 5, class_scores=mix)]
        targets += [ContrastTarget(box, 5), ContrastTarget(box, 5, other=7)]
    else:
        targets.append(lambda candidates: candidates.boxes.mean() * candidates.objectness.std())
        targets.append(lambda candidates: candidates.boxes[0, 700, 0, 2] + candidates.class_scores[0, 40, 9])
    features, full, fast = both(adapter, (120, 160), targets)
    assert worst(adapter, features, full, fast, n=4) < EXACT


class _Halved(ClassScoreTarget):
    @classmethod
    def score(cls, targets: Any, match: Any, candidates: Any) -> Tensor:
        return (match.iou * match.score).sum(-1)


def test_a_target_that_changes_the_question_of_its_parent_sees_every_candidate() -> None:
    adapter = detector("v8")
    features, full, fast = both(adapter, (120, 160), [_Halved([10, 10, 60, 60], 3)])
    assert worst(adapter, features, full, fast, n=4) < EXACT


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(["v8", "11"]),
    size=st.tuples(st.integers(40, 260), st.integers(40, 260)),
    seed=st.integers(0, 1000),
    x=st.floats(-20, 200),
    y=st.floats(-20, 200),
    width=st.floats(0, 120),
    height=st.floats(0, 120),
    label=st.integers(0, 79),
)
def test_any_image_any_box(
    family: str, size: tuple[int, int], seed: int, x: float, y: float, width: float, height: float, label: int
) -> None:
    adapter = detector(family)
    targets = [*questions(adapter, size, seed), ClassScoreTarget([x, y, x + width, y + height], label)]
    assert worst_of_groups(adapter, size, targets, n=3, seed=seed) < EXACT


def _near_detection(adapter: YOLOAdapter, size: tuple[int, int]) -> list[Target]:
    """The detection whose plans save most: it has near rivals, and few cells can give it."""
    found = adapter.detect(bus(size[1], size[0]), 0.25)
    area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    best = int((found.scores / area.sqrt()).argmax())
    return ClassScoreTarget.of(found[best])


def test_only_the_planned_cells_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = detector("v8")
    targets = _near_detection(adapter, (250, 190))
    features, full, fast = both(adapter, (250, 190), targets)
    computed: list[int] = []
    own = AblatedBranch.output_in_window

    def counted(self: AblatedBranch, channels: Tensor, change: Tensor, window: Window) -> Tensor:
        output = own(self, channels, change, window)
        computed.append(output.shape[0] * output.shape[2])
        return output

    monkeypatch.setattr(AblatedBranch, "output_in_window", counted)
    total = 0
    with torch.no_grad():
        for name, level in features.levels.items():
            computed.clear()
            channels = torch.arange(4)
            fast.scores(name, channels, level[0, channels].mean((1, 2)))
            plan = fast.plans(name)[0]
            branches = 2 if plan.first is None else 1  # of the other, single cells only
            assert sum(computed) == branches * 4 * plan.n_cells
            total += plan.n_cells
    assert total < 0.5 * sum(level[0, 0].numel() for level in features.levels.values())
    assert worst(adapter, features, full, fast) < EXACT


def test_an_ablation_that_takes_everything_away_is_looked_at_further_afield(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = detector("v8")
    features, full, fast = both(adapter, (250, 190), _near_detection(adapter, (250, 190)))
    looked: dict[str, list[bool]] = {}
    own = DenseAblation.candidates

    def noted(self: DenseAblation, level: str, plan: Any, *rest: Any) -> Any:
        looked.setdefault(level, []).append(plan.is_exhaustive)
        return own(self, level, plan, *rest)

    monkeypatch.setattr(DenseAblation, "candidates", noted)
    assert fast.ablation.qualities is not None
    best = int(fast.ablation.qualities[0].argmax())
    (name,) = [level for level, (start, end) in fast.ablation.span.items() if start <= best < end]
    assert not fast.plans(name)[0].is_exhaustive
    channels = torch.arange(20)
    fill = torch.full((len(channels),), 60.0, dtype=torch.float64)
    with adapter.borrowed(), torch.no_grad():
        expected, found = full.scores(name, channels, fill), fast.scores(name, channels, fill)
        assert (expected - found).abs().max() < EXACT
        assert looked[name][-1]
        assert len(looked[name]) > 1
        looked.clear()
        clean = features.levels[name][0, channels].mean((1, 2))
        fast.scores(name, channels[:1], clean[:1])
    assert looked[name] == [False], "an ordinary ablation needs the first plan only"


# 11 and 26 convolve the class branch's channels one by one in between: of it, all cells or none
@pytest.mark.parametrize(
    ("family", "first"),
    [("v8", None), ("v8", 0), ("v8", 1), ("11", None), ("11", 1), ("26 end2end", None), ("26 end2end", 1)],
)
def test_which_branch_is_first_does_not_matter(family: str, first: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseTail, "_cheapest_first", lambda *_: first)
    adapter = detector(family)
    assert worst_of_groups(adapter, (200, 130), questions(adapter, (200, 130), seed=1), n=3) < EXACT


def test_how_many_ablations_share_a_batch_does_not_matter() -> None:
    adapter = detector("11")
    features, _, fast = both(adapter, (250, 190), questions(adapter, (250, 190)))
    with torch.no_grad():
        for name, level in features.levels.items():
            channels, fill = ablations(level, 7, seed=3)
            together = fast.scores(name, channels, fill)
            apart = [fast.scores(name, channels[i : i + 2], fill[i : i + 2]) for i in range(0, 7, 2)]
            assert (together - torch.cat(apart, 1)).abs().max() < EXACT


def test_without_the_bound_every_cell_is_computed_and_the_scores_are_the_same() -> None:
    adapter = detector("v8")
    targets = questions(adapter, (250, 190))
    features, full, _ = both(adapter, (250, 190), targets)
    with adapter.borrowed(), torch.no_grad():
        structure = adapter.structure(features)
        assert isinstance(structure, Dense)
        whole = DenseTail(structure, targets, every_cell=True)
    assert [plan.n_cells for plan in whole.plans("model.15")] == [features.levels["model.15"][0, 0].numel()]
    assert worst(adapter, features, full, whole, n=3) < EXACT


def test_the_clean_levels_are_not_touched() -> None:
    adapter = detector("v8")
    features, _, fast = both(adapter, (120, 160), questions(adapter, (120, 160)))
    before = {name: level.clone() for name, level in features.levels.items()}
    weights = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    with torch.no_grad():
        first = fast.scores("model.18", torch.arange(5), torch.zeros(5).double())
        again = fast.scores("model.18", torch.arange(5), torch.zeros(5).double())
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], level) for name, level in features.levels.items())
    assert all(torch.equal(weights[name], value) for name, value in adapter.model.state_dict().items())


@pytest.mark.parametrize("family", ["v8", "11", "26 end2end"])
def test_equals_brute_force_the_way_a_gpu_takes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes as one batch and a CPU in turn, on a CPU."""
    monkeypatch.setattr(batching, "LOOP_DEVICES", set())
    adapter = detector(family)
    assert worst_of_groups(adapter, (100, 120), questions(adapter, (100, 120)), n=3) < 1e-9


@pytest.mark.parametrize("family", ["v8", "11"])
def test_autocast_gives_nearly_the_same(family: str) -> None:
    adapter = YOLOAdapter(copy.deepcopy(detector(family).model).float(), input_size=128)
    targets = questions(adapter, (100, 120))[:2]
    features, _, fast = both(adapter, (100, 120), targets)
    with adapter.borrowed(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = tail_of(adapter, features, targets)
        for name in features.levels:
            found = rough.scores(name, torch.arange(5), torch.zeros(5))
            assert (found - fast.scores(name, torch.arange(5), torch.zeros(5))).abs().max() < 0.1


# -- where the shortcuts do not apply --------------------------------------------------------------------------------


def _structure(adapter: YOLOAdapter, layers: Any = None) -> object:
    features = adapter.features(bus(120, 160), layers)
    with adapter.borrowed():
        return adapter.structure(features)


def test_heads_and_layers_without_the_structure_keep_the_whole_tail() -> None:
    assert _structure(detector("obb 11")) is None  # rotated boxes
    assert _structure(detector("v8"), ["model.9"]) is None  # the neck lies behind it
    assert _structure(detector("v8"), ["model.15"]) is None  # layers 18 and 21 read it
    assert _structure(detector("v8"), ["model.15", "model.18", "model.21", "model.4"]) is None
    adapter = detector("v8")
    features = adapter.features([bus(120, 160), bus(120, 160)])
    with adapter.borrowed():
        assert adapter.structure(features) is None  # two images


def test_the_last_level_alone_is_enough() -> None:
    adapter = detector("v8")
    targets = questions(adapter, (120, 160))
    features = adapter.features(bus(160, 120), "model.21")
    with adapter.borrowed(), torch.no_grad():
        full, fast = FullTail(adapter, features, targets), tail_of(adapter, features, targets)
    assert isinstance(fast, DenseTail)
    assert worst(adapter, features, full, fast) < EXACT


class _Doubling(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return 2 * maps


def test_a_head_with_parts_of_somebody_elses_keeps_the_whole_tail() -> None:
    adapter = YOLOAdapter(copy.deepcopy(seeded("v8").model))
    assert isinstance(_structure(adapter), Dense)
    hook = adapter.head.cv3[1][0].conv.register_forward_hook(lambda *_: None)
    assert isinstance(_structure(adapter), NoShortcut)
    hook.remove()
    assert isinstance(_structure(adapter), Dense)
    first: Any = adapter.head.cv2[0][0]
    first.act = _Doubling()
    assert isinstance(_structure(adapter), NoShortcut)
    first.act = nn.ReLU()
    assert isinstance(_structure(adapter), Dense)
    first.conv.forward = lambda maps: maps
    assert isinstance(_structure(adapter), NoShortcut)
    del first.conv.forward
    first.conv.padding_mode = "reflect"
    assert isinstance(_structure(adapter), NoShortcut)


def test_a_head_fused_by_ultralytics_is_the_same() -> None:
    yolo: Any = copy.deepcopy(detector("v8")).model
    del yolo.is_fused
    yolo.fuse(verbose=False)
    adapter = YOLOAdapter(yolo, input_size=256)
    assert not hasattr(adapter.head.cv2[0][0], "bn")
    features, full, fast = both(adapter, (120, 160), questions(adapter, (120, 160)))
    assert worst(adapter, features, full, fast, n=3) < EXACT


# -- the bound and the windows ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_no_box_around_its_point_overlaps_more_than_the_bound(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    corner = 100 * uniform(2)
    box = torch.cat([corner, corner + 60 * uniform(2)])
    point = 160 * uniform(2)
    widest = torch.cat([point - 50 * uniform(2), point + 50 * uniform(2)])
    inner = torch.cat(
        [point - uniform(500, 2) * (point - widest[:2]), point + uniform(500, 2) * (widest[2:] - point)], 1
    )
    bound = highest_iou(box, point.repeat(2), widest)
    assert float(box_iou(box, inner).max()) <= float(bound) + 1e-12
    best = torch.cat([
        torch.minimum(point, torch.maximum(box[:2], widest[:2])),
        torch.maximum(point, torch.minimum(box[2:], widest[2:])),
    ])  # fmt: skip
    assert float(bound) == pytest.approx(float(box_iou(box, best)), abs=1e-12)


def test_windows_are_merged_where_that_is_cheaper() -> None:
    near, overlapping, far = Window(0, 10, 0, 10), Window(2, 12, 1, 11), Window(60, 70, 60, 70)
    assert merged([near, far, overlapping]) == (far, Window(0, 12, 0, 11))
    assert merged([]) == ()
    assert bounding_window(torch.zeros(4, 5, dtype=torch.bool)) == []
    wanted = torch.zeros(4, 5, dtype=torch.bool)
    wanted[1, 3] = wanted[2, 0] = True
    assert bounding_window(wanted) == [Window(1, 3, 0, 4)]


@pytest.mark.parametrize("family", ["v8", "11"])
def test_a_window_is_cut_from_the_whole(family: str) -> None:
    adapter = detector(family)
    _, _, fast = both(adapter, (250, 190), questions(adapter, (250, 190)))
    branch = fast.ablation.branches["model.18" if family == "v8" else "model.19"][1]
    height, width = branch.size
    channels, fill = torch.tensor([3, 20]), torch.tensor([0.0, 1.0]).double()
    with torch.no_grad():
        change = branch.channel_change(channels, fill)
        whole = branch.output_in_window(channels, change, Window(0, height, 0, width)).unflatten(2, branch.size)
        for window in (Window(0, 3, 2, 9), Window(4, 5, 0, width), Window(1, height, 1, 2), Window(5, 9, 4, 8)):
            part = branch.output_in_window(channels, change, window)
            assert (part - window.crop(whole).flatten(2)).abs().max() < EXACT


# -- trained weights -------------------------------------------------------------------------------------------------


def test_trained_weights_in_single_precision(shared_data: Path) -> None:
    adapter = YOLOAdapter(load_checkpoint(shared_data / "yolov8n_coco.pt"))
    features = adapter.features(ASSETS / "bus.jpg")
    targets = ClassScoreTarget.of(adapter.detect(ASSETS / "bus.jpg", 0.25))
    assert len(targets) == 5
    with adapter.borrowed(), torch.no_grad():
        full, fast = FullTail(adapter, features, targets), tail_of(adapter, features, targets)
    assert isinstance(fast, DenseTail)
    cells = {name: fast.plans(name)[0].n_cells for name in features.levels}
    assert cells["model.15"] < 0.2 * features.levels["model.15"][0, 0].numel()
    assert worst(adapter, features, full, fast, n=13) < 5e-5
