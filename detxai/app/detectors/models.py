"""Detectors that the page offers or is given: bundled, of the command line, by path, or uploaded within bounds."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from detxai.adapters.detector import Detector
from detxai.adapters.exported import SUFFIXES as EXPORTED
from detxai.adapters.families import torchvision_builders
from detxai.adapters.loading import BUNDLED
from detxai.adapters.pickled import load_pickled
from detxai.adapters.registry import wrap
from detxai.app.options import ModelChoice
from detxai.commands.model_options import slices
from detxai.commands.options import read_class_names
from detxai.commands.requested_detector import requested_detector
from detxai.runs.names import safe_name

UPLOADS = ("pt", "pth", "safetensors", "onnx", "json", "txt")  # endings; no .torchscript, whose code would run
MOST_IN_ARCHIVE = 4 * 2**30  # bytes that the parts of a checkpoint may have together
CONSENT = (
    "This file holds more than weights: it is a *pickle*, which can run any program on this machine while it is "
    "opened, with your rights: read or delete your files, or send them away. Open it only if you, or somebody you "
    "trust, made it. The safe way is to save its weights alone (`torch.save(model.state_dict(), ...)`, or safetensors) "
    "and to name the builder."
)


class NeedsPickleError(ValueError):
    """A file opens only by unpickling it, which runs whatever code it holds."""


def bundled_choices() -> list[ModelChoice]:
    """The detectors that come with detxai, the one that needs nothing more first."""
    return [ModelChoice(name) for name in BUNDLED]


def builders() -> list[str]:
    """torchvision's builders of detectors, by name."""
    return sorted(torchvision_builders())


def check_path(text: str) -> ModelChoice:
    """The detector at a path on this machine, or a builder's name.

    Raises:
        ValueError: it names a factory, whose code would run: that is for the command line alone.
        FileNotFoundError: there is nothing.
    """
    name = text.strip()
    if name in torchvision_builders() or name in BUNDLED:
        return ModelChoice(name)
    path = Path(name).expanduser()
    if path.exists():
        return ModelChoice(str(path))
    if ":" in name:
        raise ValueError("A factory (module:function) runs its module's code: start the page with --model for that")
    raise FileNotFoundError(f"There is no file or folder {name}, and no builder of that name")


def load_detector(choice: ModelChoice) -> Detector:
    """The detector of a choice, with ``weights_only=True`` unless the visitor trusts its file.

    Raises:
        NeedsPickleError: its file holds more than that opens.
        ValueError, TypeError, LookupError, ImportError, OSError: it cannot be loaded.
    """
    path = Path(choice.model)
    if path.is_file():
        check_archive(path)
    if choice.is_trusted:
        names = None if choice.class_names is None else read_class_names(choice.class_names)
        return wrap(load_pickled(path), class_names=names)
    given = argparse.Namespace(
        model=choice.model, weights=choice.weights, class_names=choice.class_names,
        slices=None if choice.slices is None else slices(choice.slices), layout=choice.layout,
        input_size=choice.input_size, device=choice.device,
    )  # fmt: skip
    try:
        return requested_detector(given)
    except ValueError as error:
        if path.suffix in (".pt", ".pth") and zipfile.is_zipfile(path):
            raise NeedsPickleError(str(error)) from error
        raise


def check_archive(path: Path) -> None:
    """Raise ``ValueError`` where a checkpoint is an archive that unpacks to far more than it is."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    unpacked = sum(part.file_size for part in parts)
    packed = max(1, path.stat().st_size)
    if unpacked > MOST_IN_ARCHIVE or unpacked > 20 * packed + 2**20:
        raise ValueError(f"{path.name} unpacks to {unpacked / 2**20:,.0f} MB, {unpacked // packed} times its size")


def store_model(
    files: Mapping[str, BinaryIO], folder: Path, builder: str | None = None, class_names: str = ""
) -> ModelChoice:
    """Keep an uploaded detector.

    Args:
        files: by their names: one ``.pt`` or ``.onnx``; the weights for a ``builder``; or the files of a folder that
            ``save_pretrained`` wrote (``config.json`` among them). A ``.txt`` or ``.json`` may hold class names.
        folder: which gets a folder for them.
        builder: a torchvision builder's name, where the file holds weights alone.
        class_names: a name a line; empty: the model's own.

    Raises:
        ValueError: these files make no detector.
    """
    contents = {_file_name(name): file.read() for name, file in files.items()}
    digest = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in contents.values())).hexdigest()
    place = folder / f"model-{digest[:16]}"
    place.mkdir(exist_ok=True)
    for name, content in contents.items():
        (place / name).write_bytes(content)
    names = None
    if class_names.strip():
        names = place / "class_names.txt"
        names.write_text(class_names.strip() + "\n", encoding="utf-8")
    elif found := [name for name in contents if name.endswith(".txt")]:
        names = place / found[0]
    if "config.json" in contents:
        return ModelChoice(str(place), class_names=names, label=f"uploaded folder {digest[:6]}")
    models = [name for name in contents if Path(name).suffix in (".pt", ".pth", ".safetensors", *EXPORTED)]
    if len(models) != 1:
        raise ValueError(f"Upload one detector, or the files of one folder with its config.json; got {len(models)}")
    label = f"{models[0]} ({digest[:6]})"
    if builder is not None:
        return ModelChoice(builder, weights=place / models[0], class_names=names, label=label)
    if models[0].endswith(".safetensors"):
        raise ValueError("A .safetensors file holds weights alone: choose the builder that they are for")
    return ModelChoice(str(place / models[0]), class_names=names, label=label)


def _file_name(name: str) -> str:
    """The last part of a name, made safe, with an ending that the page takes."""
    path = Path(name.replace("\\", "/"))
    if path.suffix.lower().lstrip(".") not in UPLOADS:
        raise ValueError(f"A detector is a file ending in {', '.join(UPLOADS)}; got {safe_name(path.name)}")
    return safe_name(path.stem, 60) + path.suffix.lower()


def file_digest(path: Path) -> str:
    """SHA-256 of a file: which file a visitor consented to."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
