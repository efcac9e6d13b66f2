"""Side by side in one process, on the same image and targets: what a method costs here and elsewhere."""

from __future__ import annotations

import contextlib
import copy
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.adapters.layers import replaced
from detxai.adapters.network import NetworkDetector, require_network
from detxai.adapters.structure import TwoStage
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


@dataclass(frozen=True)
class Row:
    """One way to ablate every channel.

    Attributes:
        name: what was run.
        seconds: for all channels; measured where ``sampled`` is 0, else extrapolated from that many channels.
        sampled: channels timed, 0 for all.
        error: largest difference of a target's score from the full tail's; None where the question is another one.
        rank_correlation: of the maps with the exact ones of all channels, the least over detections; None where not
            compared.
        mean_rank_correlation: the same, the mean.
        peak_mb: peak memory so far: of the device on CUDA, else of the whole process.
        note: what to know when reading the row.
    """

    name: str
    seconds: float
    sampled: int = 0
    error: float | None = None
    rank_correlation: float | None = None
    mean_rank_correlation: float | None = None
    peak_mb: float | None = None
    note: str = ""


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
    return [_grad_cam(detector, inputs, detections, features, peer_channels), *rows]


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


def _grad_cam(detector: NetworkDetector, inputs: Inputs, detections: Detections, features: Features, n: int) -> Row:
    """grad-cam's own AblationCAM, on a copy of the model: it can leave one broken."""
    name = "grad-cam's AblationCAM"
    if detector.family != "faster_rcnn":
        return Row(name, float("nan"), note="fails on this model; patched to run, it costs the full pass below")
    from pytorch_grad_cam import AblationCAM as PeerAblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
    from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

    class Sampled(AblationLayerFasterRCNN):
        """Some channels of all, spread over the levels."""

        def __init__(self, n_sampled: int) -> None:
            super().__init__()
            self.n_sampled = n_sampled

        def activations_to_be_ablated(self, activations: Any, ratio_channels_to_ablate: float = 1.0) -> Any:
            step = max(1, len(activations) // self.n_sampled)
            self.indices = np.arange(0, len(activations), step)[: self.n_sampled]
            return self.indices

    target = FasterRCNNBoxScoreTarget(detections.labels.tolist(), list(detections.boxes))
    pixels = torch.from_numpy(inputs.images[0]).permute(2, 0, 1)[None].to(detector.device, detector.dtype) / 255

    def seconds(n_sampled: int) -> float:
        model: nn.Module = copy.deepcopy(detector.model).eval()
        layer = Sampled(n_sampled)
        cam = PeerAblationCAM(model, [model.backbone], fasterrcnn_reshape_transform, ablation_layer=layer, batch_size=1)
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # it draws a bar whether or not anybody looks
            cam(pixels, targets=[target])
        return time.perf_counter() - start

    try:
        rounds = [(seconds(1), seconds(1 + n)) for _ in range(3)]  # the first one warms up
    except (KeyError, IndexError) as error:
        failure = f"{type(error).__name__} {error}"
        return Row(name, float("nan"), note=f"fails: {failure} (it knows five levels of 256 channels only)")
    n_channels = sum(level.shape[1] for level in features.levels.values())
    one, more = (min(times) for times in zip(*rounds))
    each = (more - one) / n
    return Row(name, one + each * (n_channels - 1), sampled=n, note="for the sum of all boxes, fill -1000")


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


def as_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, each with its ratio to the first one timed: grad-cam, or else the full pass."""
    timed = [row for row in rows if row.seconds == row.seconds]
    base = timed[0]
    lines = [f"{'':<52} {'seconds':>9} {'x ' + base.name[:22]:>25} {'error':>9} {'rank, mean (least)':>18}"]
    for row in rows:
        seconds = f"{row.seconds:9.2f}" if row.seconds == row.seconds else "        -"
        ratio = f"{base.seconds / row.seconds:24.1f}x" if row.seconds == row.seconds else " " * 25
        error = "        -" if row.error is None else f"{row.error:9.1e}"
        rank = "-"
        if row.rank_correlation is not None and row.mean_rank_correlation is not None:
            rank = f"{row.mean_rank_correlation:.3f} ({row.rank_correlation:.3f})"
        lines.append(f"{row.name:<52} {seconds} {ratio} {error} {rank:>18}  {_remark(row)}".rstrip())
    return "\n".join(lines)


def _remark(row: Row) -> str:
    parts = [f"{row.sampled} channels timed" if row.sampled else "", row.note]
    parts += [f"peak {row.peak_mb:.0f} MB"] if row.peak_mb else []
    return "; ".join(part for part in parts if part)


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON can hold them."""
    return [{k: (None if v != v else v) for k, v in asdict(row).items()} for row in rows]
