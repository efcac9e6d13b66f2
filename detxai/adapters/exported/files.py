"""Files of exported networks, each opened by its own runtime: arrays in, arrays out."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
UNNAMED = "output{}"  # what TorchScript's outputs are called


@dataclass(frozen=True, eq=False)
class ExportedFile:
    """An exported network, ready to run.

    Attributes:
        path: of the file.
        run: from the one input, float32, to the outputs by name.
        input_shape: (B, 3, h, w), or (3, h, w) without a batch axis; None where a size is free.
        metadata: what the exporter noted.
    """

    path: Path
    run: Callable[[Array], Mapping[str, Array]]
    input_shape: tuple[int | None, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.input_shape
        if len(shape) not in (3, 4) or shape[-3] not in (3, None):
            raise ValueError(
                f"model: {self.path} must take images (B, 3, h, w) or (3, h, w), got an input of shape {list(shape)}"
            )

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) that the network takes; None where it takes any."""
        height, width = self.input_shape[-2:]
        return None if height is None or width is None else (height, width)

    @property
    def batch(self) -> int | None:
        """How many images it takes at once; None: any number."""
        return 1 if len(self.input_shape) == 3 else self.input_shape[0]

    def __call__(self, images: Array) -> list[Mapping[str, Array]]:
        """The outputs for images (B, 3, h, w) of one size, in pieces of what the file takes at once."""
        try:
            return self._in_pieces(images)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:  # each runtime has errors of its own
            free = "" if self.input_size else "; input_size= brings images to a size it takes"
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"model: {self.path.name} fails on images {list(images.shape)}: {reason}{free}") from error

    def _in_pieces(self, images: Array) -> list[Mapping[str, Array]]:
        if self.batch is None:
            return [self.run(images)]
        pieces = []
        for first in range(0, len(images), self.batch):
            piece = images[first : first + self.batch]
            if len(self.input_shape) == 3:
                pieces.append(self.run(piece[0]))
                continue
            missing = self.batch - len(piece)
            found = self.run(np.concatenate([piece, piece[:1].repeat(missing, 0)]) if missing else piece)
            pieces.append({k: v[: len(piece)] if missing and len(v) == self.batch else v for k, v in found.items()})
        return pieces

    def fingerprint(self) -> str:
        """SHA-256 of the file, and of the weights beside it where there are any."""
        digest = hashlib.sha256()
        for file in (self.path, self.path.with_suffix(".bin"), self.path.with_name(self.path.name + ".data")):
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()


def open_file(path: Path) -> ExportedFile:
    """The network in a ``.onnx``, an OpenVINO ``.xml`` or a ``.torchscript`` file, on as many threads as torch has.

    Raises:
        FileNotFoundError: no such file.
        ImportError: its runtime is not installed.
        ValueError: the file cannot be read, or takes no images.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model: no such file: {path}")
    try:
        return OPENERS[path.suffix](path)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # each runtime has errors of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # OpenVINO first names lines of its own source
        reason = next((line for line in lines if not line.startswith("Exception from")), lines[0])
        raise ValueError(f"model: {path} cannot be opened: {reason}") from error


def _open_onnx(path: Path) -> ExportedFile:
    runtime = _runtime("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: a warning about an unused node is nothing to a user
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    session = runtime.InferenceSession(str(path), options, providers=runtime.get_available_providers())
    (image,) = _one_input(path, session.get_inputs())
    names = [output.name for output in session.get_outputs()]

    def run(images: Array) -> Mapping[str, Array]:
        return dict(zip(names, session.run(names, {image.name: images}), strict=True))

    shape = tuple(size if isinstance(size, int) else None for size in image.shape)
    return ExportedFile(path, run, shape, session.get_modelmeta().custom_metadata_map)


def _open_openvino(path: Path) -> ExportedFile:
    core = _runtime("openvino", "openvino").Core()
    network = core.read_model(str(path))
    (image,) = _one_input(path, network.inputs)
    # by itself it computes in bfloat16 where the processor can: other scores and boxes, by machine
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(network, "CPU", settings)
    names = [next(iter(sorted(out.names)), UNNAMED.format(i)) for i, out in enumerate(compiled.outputs)]

    def run(images: Array) -> Mapping[str, Array]:
        found = compiled(images)
        return {name: np.array(found[output]) for name, output in zip(names, compiled.outputs, strict=True)}

    shape = tuple(None if size.is_dynamic else size.get_length() for size in image.get_partial_shape())
    return ExportedFile(path, run, shape)


def _open_torchscript(path: Path) -> ExportedFile:
    extra = {"config.txt": ""}  # where ultralytics notes names and size
    network = torch.jit.load(str(path), map_location="cpu", _extra_files=extra).eval()

    def run(images: Array) -> Mapping[str, Array]:
        with torch.no_grad():
            found = network(torch.from_numpy(np.ascontiguousarray(images)))
        several = found if isinstance(found, (list, tuple)) else [found]
        named = found if isinstance(found, dict) else {UNNAMED.format(i): one for i, one in enumerate(several)}
        return {name: one.numpy() for name, one in named.items()}

    noted = _ultralytics_note(extra["config.txt"])
    size = noted.get("imgsz") or (None, None)
    batch = int(noted.get("batch", 1)) if noted else None  # a trace holds for the batch it was made with
    return ExportedFile(path, run, (batch, 3, *size), {name: str(value) for name, value in noted.items()})


def _ultralytics_note(text: str | bytes) -> dict[str, Any]:
    import json

    try:
        noted = json.loads(text)
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _runtime(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this file needs {module}: pip install "detxai[{extra}]"') from error


def _one_input(path: Path, inputs: Sequence[Any]) -> Sequence[Any]:
    if len(inputs) != 1:
        raise ValueError(f"model: {path} must take one input, the image, got {len(inputs)}")
    return inputs


OPENERS: dict[str, Callable[[Path], ExportedFile]] = {
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
    ".torchscript": _open_torchscript,
}
