"""Side by side in one process, on the same image and targets: what a method costs here and elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.layers import replaced
from detxai.adapters.network import NetworkDetector, require_network
from detxai.adapters.structure import TwoStage
from detxai.bench.grad_cam_peer import time_grad_cam
from detxai.bench.rows import Row
from detxai.detections import Candidates, Detections
from detxai.engine.ablation.full_tail import FullTail
from detxai.engine.ablation.tail import Tail
from detxai.engine.ablation.tails import tail_of
from detxai.engine.ablation.two_stage.tail import TwoStageTail
from detxai.engine.rank_correlation import rank_correlation
from detxai.explanation import Explanation
from detxai.images import Image
from detxai.methods.ablation_cam import AblationCAM
from detxai.targets import ClassScoreTarget, Target

BATCH = 8
SETTINGS: tuple[dict[str, float], ...] = (
    {"margin": 0.8},
    {"margin": 0.5},
    {"ratio_channels_to_ablate": 0.1},
    {"ratio_channels_to_ablate": 0.1, "margin": 0.5},
    {"ratio_channels_to_ablate": 0.02},
    {"ratio_channels_to_ablate": 0.02, "margin": 0.5},
)


def bench_ablation(
    detector: Detector,
    image: Image,
    detections: Detections,
    *,
    per_level: int = 2,
    peer_channels: int = 4,
    settings: Sequence[Mapping[str, float]] = SETTINGS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Ablation-CAM of grad-cam, brute force, and ours with each shortcut switched on in turn.

    Args:
        detector: any; grad-cam's own layer is tried on a torchvision Faster R-CNN.
        image: the image to explain.
        detections: the boxes in question, at least one.
        per_level: channels of each level that a slow way is timed on.
        peer_channels: channels that grad-cam is timed on.
        settings: of Ablation-CAM, to compare; those with a ``margin`` only where there is one, in two stages.
        say: called with the name of what runs next.
    """
    if len(detections) == 0:
        raise ValueError("detections must not be empty: there is nothing to explain")
    detector = require_network(detector)
    inputs = detector.prepare(image)
    features = detector.features(inputs)
    targets = ClassScoreTarget.of(detections)
    rows: list[Row] = []
    say("all channels, ours")
    start = time.perf_counter()
    whole = AblationCAM(progress=False)(detector, image, detections)
    total = time.perf_counter() - start
    peak = _peak_mb(detector.device)
    with detector.borrowed():
        two_stages = isinstance(detector.structure(features), TwoStage)
    chosen = [each for each in settings if two_stages or "margin" not in each]
    parts = [_time_part(detector, image, detections, each, whole, say) for each in chosen]
    with detector.borrowed(), torch.no_grad():
        reference = Reference.from_tail(FullTail(detector, features, targets), features)
        for name, make in _ways(detector, inputs, features, targets):
            say(name)
            rows.append(_time_tail(name, make, reference, features, per_level))
    exact = Row("AblationCAM(), all included", total, error=rows[-1].error, peak_mb=peak)
    rows.append(replace(exact, rank_correlation=1.0, mean_rank_correlation=1.0))
    rows += parts
    say("grad-cam")
    return [time_grad_cam(detector, inputs, detections, features, peer_channels), *rows]


def _time_part(
    detector: NetworkDetector,
    image: Image,
    detections: Detections,
    settings: Mapping[str, Any],
    whole: Sequence[Explanation],
    say: Callable[[str], None],
) -> Row:
    short = {"ratio_channels_to_ablate": "ratio"}
    name = f"AblationCAM({', '.join(f'{short.get(key, key)}={value}' for key, value in settings.items())})"
    say(name)
    method = replace(AblationCAM(progress=False), **settings)
    start = time.perf_counter()
    part = method(detector, image, detections)
    seconds = time.perf_counter() - start
    agreement = rank_correlation(_maps(whole), _maps(part))
    least, mean = float(agreement.min()), float(agreement.mean())
    return Row(name, seconds, rank_correlation=least, mean_rank_correlation=mean)


def _maps(explanations: Sequence[Explanation]) -> Tensor:
    return torch.stack([torch.from_numpy(explanation.values) for explanation in explanations])


def _ways(
    detector: NetworkDetector, inputs: Inputs, features: Features, targets: Sequence[Target]
) -> list[tuple[str, Callable[[], Tail]]]:
    ways: list[tuple[str, Callable[[], Tail]]] = [
        ("full pass with the layer's output replaced", lambda: FullPassTail(detector, inputs, features, targets)),
        ("the whole tail, resumed", lambda: FullTail(detector, features, targets)),
    ]
    structure = detector.structure(features)
    if isinstance(structure, TwoStage):
        ways += _two_stage_ways(structure, features, targets)
    return [*ways, ("every shortcut", lambda: tail_of(detector, features, targets))]


def _two_stage_ways(
    structure: TwoStage, features: Features, targets: Sequence[Any]
) -> list[tuple[str, Callable[[], Tail]]]:
    """The shortcuts switched on one after the other, by telling the engine less of the network."""
    blind = replace(
        structure,
        proposals=replace(structure.proposals, pointwise=False),
        boxes=replace(structure.boxes, first_linear=None, after_linear=None),
    )
    pointwise = replace(blind, proposals=structure.proposals)
    everywhere = [replace(target, reach=0.0) for target in targets]
    levels = features.levels
    return [
        ("+ one level, one channel of the first convolution", lambda: TwoStageTail(blind, levels, everywhere)),
        ("+ box deltas only where the best anchors are", lambda: TwoStageTail(pointwise, levels, everywhere)),
        ("+ columns of the first linear layer", lambda: TwoStageTail(structure, levels, everywhere)),
    ]


class FullPassTail(FullTail):
    """The naive loop: the whole detector, with the ablated layer's output replaced by a hook."""

    def __init__(
        self, detector: NetworkDetector, inputs: Inputs, features: Features, targets: Sequence[Target]
    ) -> None:
        # the base class's way, which every family inherits and ours override with something quicker
        super().__init__(detector, NetworkDetector._features(detector, inputs, features.layers), targets)

    def resumed(self, features: Features) -> Candidates:
        inputs = features.inputs.repeated(features.batch_size)
        with replaced(self.detector.model, features.cache, features.levels):
            return self.detector._forward(inputs)


@dataclass(frozen=True)
class Reference:
    """The exact scores of a batch of channels of each level, and what the whole tail took for them.

    Attributes:
        channels: level -> (n,).
        scores: level -> (T, n).
        slow: True where one pass of the whole tail takes over half a second, so that fewer channels are timed.
    """

    channels: dict[str, Tensor]
    scores: dict[str, Tensor]
    slow: bool

    @classmethod
    def from_tail(cls, tail: Tail, features: Features) -> Reference:
        channels = {
            name: torch.linspace(0, level.shape[1] - 1, BATCH, device=level.device).long()
            for name, level in features.levels.items()
        }
        start = time.perf_counter()
        scores = {
            name: tail.scores(name, channels[name], level.new_zeros(BATCH)) for name, level in features.levels.items()
        }
        _wait(next(iter(channels.values())).device)
        return cls(channels, scores, (time.perf_counter() - start) / (BATCH * len(channels)) > 0.5)


def _time_tail(name: str, make: Callable[[], Tail], reference: Reference, features: Features, per_level: int) -> Row:
    """Seconds for all channels, setting up included, extrapolated from some of each level; the largest error on those.

    Quick ways are timed on a whole batch of each level, slow ones on ``per_level`` channels.
    """
    device = next(iter(features.levels.values())).device
    _wait(device)
    start = time.perf_counter()
    tail = make()
    n = per_level if reference.slow and isinstance(tail, FullTail) else BATCH
    _wait(device)
    seconds, error = time.perf_counter() - start, 0.0
    for level, feature in features.levels.items():
        start = time.perf_counter()
        answer = tail.scores(level, reference.channels[level][:n], feature.new_zeros(n))
        _wait(device)
        seconds += (time.perf_counter() - start) / n * feature.shape[1]
        error = max(error, float((answer - reference.scores[level][:, :n]).abs().max()))
    return Row(name, seconds, sampled=n * len(features.levels), error=error)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mb(device: torch.device) -> float | None:
    """Peak memory so far; None where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
