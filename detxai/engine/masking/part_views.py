"""Views of an image for a detector that takes it part by part: only the parts that decide a score are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.adapters.detector import Detector, Inputs
from detxai.adapters.sliced.parts import ImageParts, overlaps
from detxai.adapters.sliced.rows import side_by_side, stacked
from detxai.detections import Candidates
from detxai.engine.batching import images_at_once, in_batches
from detxai.targets import BoxTarget, Target

NOT_READ, CHANGED = -2, -1  # else: the number of the known image that the part is the same in
Numbers = npt.NDArray[np.int64]


@dataclass(eq=False)
class PartViews:
    """What a sliced detector answers for views of one image.

    Two things are left out, and no score changes by either:

    - a part whose pixels in a view are those of the image itself, or of its filling, has the candidates that it has
      there, and these are computed once, when a view first needs them;
    - a part beyond whose reach a box lies holds no candidate that overlaps it. Targets of which ``answered_by`` says
      so (all of detxai's own) score such candidates 0, so for them the part is not computed.

    The detector must not change meanwhile.

    Attributes:
        detector: whose parts these are.
        parts: of the image.
        known: (1 + F, 3, H, W) the pixels of the image and of its F fillings.
        n_passes: how many parts the detector inside has computed so far.
    """

    detector: Detector
    parts: ImageParts
    known: Tensor
    n_passes: int = 0
    _answers: dict[tuple[Any, int, int], Candidates] = field(default_factory=dict)
    _examples: dict[int, Tensor] = field(default_factory=dict)

    def candidates(
        self,
        views: Inputs,
        targets: Sequence[Target] | None = None,
        asked: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Candidates:
        """The candidates of B views, of which some that no target reads may be missing.

        Args:
            views: versions of the image.
            targets: T questions; None: any, so that none may be missing.
            asked: (B,) int64, the one target that each view is asked about; None: all of them.
            batch_size: parts at once; None: what fits the device. Running out of memory halves it.
        """
        pixels = self.parts.pixels(views.tensor)
        source = self._sources(pixels, self._read(targets, asked, len(views)))
        images, parts = np.nonzero(source >= 0)
        self._learn(set(zip(source[images, parts].tolist(), parts.tolist(), strict=True)), batch_size)
        return self._together(pixels, source, batch_size)

    def of_image(self, parts: Sequence[int]) -> Candidates:
        """(P, N, ...): the candidates of some parts of the image itself, a row for each."""
        self._learn({(0, part) for part in parts}, None)
        return stacked([self._answers[self._key(0, part)] for part in parts])

    def details(self) -> dict[str, Any]:
        """How many parts there are and how many passes through the detector inside they took, for the record."""
        return {"n_slices": len(self.parts), "slice_passes": self.n_passes}

    def _read(self, targets: Sequence[Target] | None, asked: Tensor | None, n_views: int) -> npt.NDArray[np.bool_]:
        """(B, S): which parts can hold a candidate that a target of the view reads."""
        if targets is None:
            return np.ones((n_views, len(self.parts)), dtype=np.bool_)
        read = parts_read(targets, self.parts)
        return read[asked.cpu().numpy()] if asked is not None else read.any(0, keepdims=True).repeat(n_views, 0)

    def _sources(self, pixels: Tensor, read: npt.NDArray[np.bool_]) -> Numbers:
        """(B, S): where each part of each view comes from, ``NOT_READ``, ``CHANGED`` or the number of a known image."""
        same = torch.full(read.shape, CHANGED, device=pixels.device)
        for part in np.flatnonzero(read.any(0)).tolist():
            shown = self.parts.crop(pixels, part)
            for number in reversed(range(len(self.known))):
                is_same = (shown == self.parts.crop(self.known[number], part)).flatten(1).all(1)
                same[:, part] = torch.where(is_same, number, same[:, part])
        return np.where(read, same.cpu().numpy(), NOT_READ)

    def _learn(self, wanted: set[tuple[int, int]], batch_size: int | None) -> None:
        """Have the candidates of these parts of known images, computing those that are not there yet."""
        missing = sorted(pair for pair in wanted if self._key(*pair) not in self._answers)
        if not missing:
            return
        images, parts = np.array(missing).T
        found, order = self._looked_at(self.known, images, parts, batch_size)
        rows = stacked(found)
        for row, place in enumerate(order.tolist()):
            self._answers[self._key(*missing[place])] = rows[row]

    def _key(self, image: int, part: int) -> tuple[Any, int, int]:
        """In another precision the answers are others."""
        kind = self.known.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return precision, image, part

    def _looked_at(
        self, pixels: Tensor, images: Numbers, parts: Numbers, batch_size: int | None
    ) -> tuple[list[Candidates], Numbers]:
        """The candidates of P parts of images, in batches, and which of the P the rows of these stand for."""
        found: list[Candidates] = []
        order: list[Numbers] = []
        for group in self.parts.of_one_size():
            mine = [np.flatnonzero(parts == part) for part in group]
            crops = [self.parts.crop(pixels, part)[images[some]] for some, part in zip(mine, group, strict=True)]
            rows = np.concatenate(mine)
            if not len(rows):
                continue
            of_group, which = torch.cat(crops), torch.from_numpy(parts[rows])

            def run(places: Tensor, of_group: Tensor = of_group, which: Tensor = which) -> Candidates:
                return self.parts.candidates(of_group[places.to(of_group.device)], which[places])

            size = batch_size or images_at_once(self._example(group[0]))
            found += [some for _, some in in_batches(torch.arange(len(rows), device="cpu"), size, run)]
            order.append(rows)
            self.n_passes += len(rows)
        return found, np.concatenate(order) if order else np.empty(0, dtype=np.int64)

    def _example(self, part: int) -> Tensor:
        if part not in self._examples:
            self._examples[part] = self.parts.example(part)
        return self._examples[part]

    def _together(self, pixels: Tensor, source: Numbers, batch_size: int | None) -> Candidates:
        """The candidates of the views, of all their parts that are read."""
        known = sorted({(int(source[at]), int(at[1])) for at in zip(*np.nonzero(source >= 0), strict=True)})
        images, parts = np.nonzero(source == CHANGED)
        found, order = self._looked_at(pixels, images, parts, batch_size)
        row = np.full(source.shape, -1)
        for place, (number, part) in enumerate(known):
            row[source[:, part] == number, part] = place
        row[images[order], parts[order]] = len(known) + np.arange(len(order))
        width = max(1, int((row >= 0).sum(1).max()))
        filled_first = np.argsort(row < 0, axis=1, kind="stable")[:, :width]
        table = np.take_along_axis(row, filled_first, axis=1)
        rows = stacked([*(self._answers[self._key(*pair)] for pair in known), *found])
        return side_by_side(rows, torch.from_numpy(table))


def parts_read(targets: Sequence[Target], parts: ImageParts) -> npt.NDArray[np.bool_]:
    """(T, S): which parts can hold a candidate that decides each target's score; at least one for each target."""
    corners = [target.box if isinstance(target, BoxTarget) else (0.0,) * 4 for target in targets]
    overlap = overlaps(torch.tensor(corners, dtype=torch.float32, device="cpu").view(-1, 4), parts.reach).numpy()
    reads_all = [not isinstance(t, BoxTarget) or type(t).answered_by == "any candidates" for t in targets]
    read: npt.NDArray[np.bool_] = overlap | np.array(reads_all, dtype=np.bool_)[:, None]
    read[:, -1] |= ~read.any(1)  # a box without area is looked for somewhere, so that there are classes to ask about
    return read
