"""A trained explainer on disk: the network's weights in safetensors, and a card that says for which detector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detxai.adapters.detector import Detector, Features, Inputs
from detxai.detections import Detections
from detxai.engine.learned.inputs import explainer_inputs
from detxai.engine.learned.network import ExplainerNetwork
from detxai.engine.learned.windows import Windows
from detxai.images import Image
from detxai.runs.files import write_bytes

CARD = "detxai_explainer"  # the entry of the file's metadata that holds the card
VERSION = 1  # of the file's format


@dataclass(frozen=True, eq=False)
class LearnedExplainer:
    """A network that explains the boxes of one detector, and its card.

    Attributes:
        network: in eval mode.
        card: as JSON can hold it: ``version``; ``detector``, ``class_names`` and ``fingerprint`` of the detector;
            ``layers`` of it that are read; ``objective``; and how it was trained and how well it did.
    """

    network: ExplainerNetwork
    card: Mapping[str, Any]

    @property
    def layers(self) -> Sequence[str]:
        """The detector's layers that are read; empty where only pixels are."""
        return list(self.card["layers"])

    def amounts(
        self, detector: Detector, image: Image | Inputs | Features, detections: Detections
    ) -> tuple[Tensor, Windows, Inputs]:
        """What each cell of the windows of T boxes adds, as a share of the box's score: (T, 2, GRID, GRID).

        Beside it the windows, and the image as the detector reads it. An explainer that learnt evidence, or to choose
        regions, gives the chances of the cells: positive, with a sum of 1 over both windows.

        Raises:
            ValueError: the explainer is for another detector.
        """
        self.expect_detector(detector)
        inputs, windows, clean = explainer_inputs(detector, image, detections, self.layers)
        network = self.network.to(clean.tensor.device)
        with torch.no_grad():
            if self.card["objective"] == "shapley":
                return network(inputs), windows, clean
            return network.chances(inputs), windows, clean

    def expect_detector(self, detector: Detector, name: str = "explainer") -> None:
        """Raise ``ValueError`` where it was trained for another detector than this one."""
        here = described(detector)
        for what in ("detector", "class_names", "fingerprint"):
            if self.card[what] != here[what]:
                raise ValueError(
                    f"{name} was trained for {_named(self.card)}, got {_named(here)}; "
                    f"they differ in {what.replace('_', ' ')}. Train one for this detector: detxai concepts learn"
                )

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        write_bytes(path, save(state, {CARD: json.dumps(dict(self.card))}))

    @classmethod
    def read(cls, path: Path) -> LearnedExplainer:
        """The explainer in a file; the same file is read once.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no explainer's.
        """
        if not path.is_file():
            raise FileNotFoundError(f"explainer: no such file: {path}")
        status = path.stat()
        return _read(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _modified: int, _n_bytes: int) -> LearnedExplainer:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(f"explainer: {path} is no safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"explainer: {path} holds no explainer; 'detxai concepts learn' makes one")
    card = json.loads(text)
    if card.get("version") != VERSION:
        raise ValueError(f"explainer: {path} has format {card.get('version')!r}, this detxai reads {VERSION}")
    network = ExplainerNetwork(**card["network"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"explainer: {path} is damaged: {error}") from error
    return LearnedExplainer(network.eval(), card)


def described(detector: Detector) -> dict[str, Any]:
    """What tells a detector from others: a description, its classes and the SHA-256 of its weights, if it has any."""
    about = {name: value for name, value in detector.describe().items() if name in ("family", "model", "n_classes")}
    names = {str(label): name for label, name in detector.class_names.items()}
    return {"detector": about, "class_names": names, "fingerprint": detector.fingerprint()}


def _named(about: Mapping[str, Any]) -> str:
    weights = "" if about["fingerprint"] is None else f", weights {about['fingerprint'][:12]}"
    return f"{about['detector']['model']} with {about['detector'].get('n_classes')} classes{weights}"
