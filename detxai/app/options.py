"""What the command that starts the page decides for all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEGABYTE = 2**20


@dataclass(frozen=True)
class ModelChoice:
    """A detector as the options of the commands name it.

    Attributes:
        model: what ``--model`` takes.
        weights, class_names: files.
        slices: as ``--slices`` writes them: ``2,3,0.2``.
        layout, input_size, device: as the options of these names.
        is_trusted: whether its file may be unpickled, which runs code from it.
        label: what the page calls it; empty: ``model``.
    """

    model: str
    weights: Path | None = None
    class_names: Path | None = None
    slices: str | None = None
    layout: str | None = None
    input_size: int | None = None
    device: str | None = None
    is_trusted: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.model


@dataclass(frozen=True)
class AppOptions:
    """How the page is served, and what it starts with.

    Attributes:
        model: the detector chosen on the command line; None: the first bundled one.
        images: a folder of pictures to choose from.
        runs: the one folder that runs started on the page are written below.
        host, port: where it listens.
        token: what a visitor must know; None: nothing, on loopback alone.
        max_upload: bytes of one file.
        max_pixels: of one picture, checked before it is decoded.
        max_images: uploaded pictures of one visitor; the oldest make room.
    """

    model: ModelChoice | None = None
    images: Path | None = None
    runs: Path = field(default_factory=lambda: Path("detxai-runs"))
    host: str = "127.0.0.1"
    port: int = 8501
    token: str | None = None
    max_upload: int = 500 * MEGABYTE
    max_pixels: int = 25_000_000
    max_images: int = 50

    @property
    def is_local(self) -> bool:
        """Whether nobody on another machine can reach the page."""
        return self.host in LOOPBACK


class _Current:
    options = AppOptions()


def set_options(options: AppOptions) -> None:
    """What ``current_options`` gives from now on: there is one page in a process."""
    _Current.options = options


def current_options() -> AppOptions:
    """The options that the page was started with."""
    return _Current.options
