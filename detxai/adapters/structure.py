"""What an adapter can say of its network, as data, so that an ablation recomputes only what it can change.

The engine reads these and knows no detector; an adapter fills them and knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class NoShortcut:
    """Nothing is said of the network: it is not the one that the shortcuts were proved for.

    Attributes:
        reason: which part, and how it differs.
    """

    reason: str


@dataclass(frozen=True)
class ProposalStage:
    """Proposals from every level by itself: a convolution, two 1x1 predictions, the best of each level.

    Attributes:
        convolution: linear, reads a level; the same for all levels.
        after: from its output (B, O, h, w) to the hidden features (B, O', h, w).
        pointwise: whether ``after`` acts on each number by itself, so that places can be taken in any portion; it may
            overwrite what it is given.
        objectness: 1x1, hidden -> A logits a place.
        deltas: 1x1, hidden -> 4 A numbers a place.
        anchors: level -> (h * w * A, 4) xyxy, input pixels; places row by row, the A of a place together.
        decode: (n, 4) deltas and (n, 4) anchors -> (n, 4) xyxy, input pixels.
        n_before_nms: the best so many of each level are kept before non-maximum suppression.
        n_after_nms: the best so many of all levels after it.
        nms_threshold: IoU.
        score_threshold: proposals whose probability is lower are dropped.
        min_size: proposals with a side shorter than this, input pixels, are dropped.
    """

    convolution: nn.Conv2d
    after: Callable[[Tensor], Tensor]
    pointwise: bool
    objectness: nn.Conv2d
    deltas: nn.Conv2d
    anchors: Mapping[str, Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]
    n_before_nms: int
    n_after_nms: int
    nms_threshold: float
    score_threshold: float
    min_size: float


@dataclass(frozen=True)
class BoxStage:
    """Classes and boxes from each proposal, pooled from the one level that its size assigns it to.

    Attributes:
        levels: level -> feature cells per input pixel; the levels pooled from, in the order of ``level_of``.
        level_of: (n, 4) proposals -> (n,) place in ``levels``.
        output_size: bins (height, width).
        sampling_ratio: samples a bin along each axis.
        head: (n, C, *output_size) -> (n, D).
        predict: (n, D) -> class logits (n, K) and deltas (n, 4 K); class 0 is the background.
        decode: (n, 4 K) deltas and (n, 4) proposals -> (n, K, 4) xyxy, input pixels.
        n_classes: K - 1: labels are 1 to ``n_classes``.
        first_linear: where ``head`` begins by flattening into a linear layer, that layer.
        after_linear: from that layer's output to the head's; given with ``first_linear``.
    """

    levels: Mapping[str, float]
    level_of: Callable[[Tensor], Tensor]
    output_size: tuple[int, int]
    sampling_ratio: int
    head: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor], tuple[Tensor, Tensor]]
    decode: Callable[[Tensor, Tensor], Tensor]
    n_classes: int
    first_linear: nn.Linear | None = None
    after_linear: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class TwoStage:
    """A detector that proposes from every level and then looks at each proposal.

    Attributes:
        proposals, boxes: its two stages.
        to_image: (4,) original pixels per input pixel for x1, y1, x2, y2.
        resized_size: (height, width) of the image inside the model input: proposals and boxes are clipped to it.
    """

    proposals: ProposalStage
    boxes: BoxStage
    to_image: Tensor
    resized_size: tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """One convolution of stride 1 over a level, with what follows it at each place.

    Attributes:
        weight: (O, C / groups, k, k), k odd, batch normalisation included; zeros lie beyond the edge of the level.
        bias: (O,), likewise.
        groups: 1, or C = O where each channel is convolved by itself.
        activation: may overwrite what it is given; None where nothing follows.
        place_by_place: whether ``activation`` is of each number by itself; otherwise, as with group normalisation, of
            all the places of a level together.
    """

    weight: Tensor
    bias: Tensor
    groups: int = 1
    activation: Callable[[Tensor], Tensor] | None = None
    place_by_place: bool = True


@dataclass(frozen=True)
class Dense:
    """A detector whose head makes candidates of every cell of every level, from that level alone.

    Each branch of the head is a chain of convolutions. It starts with one that mixes channels (``groups`` 1), or with
    one that does not and then one that does; its last one is without activation. A cell makes A candidates, the same
    number everywhere on a level, in the order of the branches' outputs: (A, D) numbers and (A, K) logits.

    Attributes:
        levels: level -> (1, C, h, w), what the head reads, in the order of the candidates.
        boxes: level -> the branch that gives the A D numbers that a cell's boxes are decoded from.
        classes: level -> the branch that gives the A K logits of a cell.
        decode: level, numbers (B, A D, n) and cells (n,), counted row by row -> (B, n A, 4) xyxy, original pixels.
        points: level -> (h * w, 4) for each cell, a point (twice: x, y, x, y; original pixels) that its boxes always
            hold; None where a box may lie anywhere.
        widest: level -> (h * w, 4) xyxy, original pixels: for each cell, what its boxes never exceed; given with
            ``points``.
        n_logits: K; None: as many as ``classes`` gives, with A = 1.
        scores: logits (B, m, K) and numbers (B, m, D) of candidates -> class scores (B, m, C); numbers None: the
            highest that any could make of these logits. None: the sigmoid of each logit.
        own_logits: whether a class score comes of its own logit and the numbers alone, so that K may be any selection,
            and objectness is the highest of them. Otherwise they are the shares of one distribution without its
            background's, and objectness is their sum.
        first_label: the label of the first class score; the others follow.
    """

    levels: Mapping[str, Tensor]
    boxes: Mapping[str, tuple[Convolution, ...]]
    classes: Mapping[str, tuple[Convolution, ...]]
    decode: Callable[[str, Tensor, Tensor], Tensor]
    points: Mapping[str, Tensor] | None = None
    widest: Mapping[str, Tensor] | None = None
    n_logits: int | None = None
    scores: Callable[[Tensor, Tensor | None], Tensor] | None = None
    own_logits: bool = True
    first_label: int = 0

    def per_cell(self, level: str) -> int:
        """A: how many candidates a cell of ``level`` makes."""
        return 1 if self.n_logits is None else len(self.classes[level][-1].weight) // self.n_logits


def renamed(structure: TwoStage | NoShortcut, names: Mapping[str, str]) -> TwoStage | NoShortcut:
    """The same structure, its levels called by other names."""
    if isinstance(structure, NoShortcut):
        return structure
    proposals, boxes = structure.proposals, structure.boxes
    return replace(
        structure,
        proposals=replace(proposals, anchors={names[k]: v for k, v in proposals.anchors.items()}),
        boxes=replace(boxes, levels={names[k]: v for k, v in boxes.levels.items()}),
    )
