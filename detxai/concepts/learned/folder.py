"""The folder of a training: the answers, where it stopped, what failed, and the explainer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from detxai.runs.folder import RunFolder


class LearnFolder(RunFolder):
    """Where an explainer is trained."""

    what: ClassVar[str] = "training of an explainer"

    @property
    def explainer(self) -> Path:
        """What comes out, for ``method="l2x"``."""
        return self.root / "explainer.safetensors"

    @property
    def card(self) -> Path:
        """What the explainer's card says, for people."""
        return self.root / "explainer.json"

    @property
    def failures(self) -> Path:
        """Images that could not be used, and why."""
        return self.root / "failures.json"

    @property
    def checkpoint(self) -> Path:
        """Where the network's training stopped."""
        return self.parts / "checkpoint.pt"

    def answers(self, number: int) -> Path:
        """What the detector answered about one image."""
        return self.parts / f"answers-{number:06d}.npz"
