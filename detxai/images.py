"""Reading images: a path, PIL image, array or tensor becomes one RGB array, or a clear error."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from io import BytesIO
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

Image: TypeAlias = "PIL.Image.Image | str | PathLike[str] | npt.NDArray[np.uint8] | Tensor"
Array: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.float32]"

EXPECTED = "a PIL.Image, a path, a uint8 (H, W, 3) RGB array or a float (3, H, W) tensor in [0, 1]"


def _pillows_own_open() -> Callable[..., PIL.Image.Image]:
    """``PIL.Image.open``, also after an import of ultralytics.

    ultralytics puts a function of its own in its place, which answers a file that is no image by installing a package.
    """
    in_place = PIL.Image.open
    return getattr(sys.modules[in_place.__module__], "_image_open", in_place)


open_image = _pillows_own_open()


def load_image(image: Image) -> Array:
    """The image as an (H, W, 3) RGB array.

    Files and PIL images are turned upright by their EXIF tag; grey, palette, CMYK and transparent ones become RGB
    (transparency is dropped, as every detector's own loader does); 16-bit ones keep their high byte.

    Args:
        image: a ``PIL.Image``, a path, a uint8 (H, W, 3) RGB array or a float (3, H, W) tensor in [0, 1].

    Returns:
        (H, W, 3): uint8 in [0, 255], or float32 in [0, 1] where a tensor came.

    Raises:
        TypeError: ``image`` is none of these.
        ValueError: its shape, dtype or values are wrong, or its file cannot be read as an image.
        FileNotFoundError: no such file.
    """
    if isinstance(image, (str, PathLike)):
        return _from_file(Path(fspath(image)))
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise TypeError(f"image must be {EXPECTED}, got {type(image).__name__}")


def load_image_bytes(content: bytes, name: str) -> Array:
    """The image that the bytes of an encoded file hold, as ``load_image`` would give it.

    Args:
        content: of a JPEG, a PNG, ...
        name: of the file, for messages.

    Raises:
        ValueError: it cannot be read as an image.
    """
    with _decoder(BytesIO(content), name) as opened:
        return _from_pil(opened, name)


def file_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image file by its header, before anything of it is decoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no image, or larger than Pillow's limit.
    """
    with _opened(Path(fspath(path))) as opened:
        return opened.height, opened.width


def _from_file(path: Path) -> Array:
    with _opened(path) as opened:
        return _from_pil(opened, path)


def _opened(path: Path) -> PIL.Image.Image:
    """The image of a file, not decoded yet."""
    if not exists(path):  # Path.exists raises where a name is too long
        raise FileNotFoundError(f"image: no such file: {path}")
    if path.is_dir():
        raise ValueError(f"image must be a file, got the folder {path}")
    return _decoder(path, path)


def _decoder(source: Path | BytesIO, path: Path | str) -> PIL.Image.Image:
    """The image of a file, not decoded yet; ``path`` is for messages."""
    try:
        opened = open_image(source)
    except PIL.UnidentifiedImageError:
        raise ValueError(f"image: {path} is not an image that Pillow can read") from None
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
        raise _too_large(path) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if PIL.Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > PIL.Image.MAX_IMAGE_PIXELS:
        opened.close()
        raise _too_large(path)
    return opened


def _from_pil(image: PIL.Image.Image, path: Path | str | None = None) -> Array:
    if 0 in image.size:
        raise ValueError(f"image must not be empty, got {image.width} x {image.height} pixels")
    if image.mode == "F":
        raise ValueError("image must have integer pixels, got PIL mode F; pass a float (3, H, W) tensor in [0, 1]")
    try:
        image.load()
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip at 255 instead of scaling
            high_byte = np.asarray(upright).astype(np.int64).clip(0, 65535) >> 8
            upright = PIL.Image.fromarray(high_byte.astype(np.uint8))
        return np.array(upright.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # each of Pillow's decoders raises what it likes: OSError, ValueError, struct.error, ...
        raise _damaged(path, error) from error


def _too_large(path: Path | str) -> ValueError:
    return ValueError(
        f"image: {path} is larger than Pillow's limit of {PIL.Image.MAX_IMAGE_PIXELS} pixels; "
        "resize it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _damaged(path: Path | str | None, error: Exception) -> ValueError:
    which = "the image" if path is None else path
    return ValueError(f"image: {which} is damaged or truncated ({' '.join(str(error).split())})")


def _from_array(array: npt.NDArray[np.generic]) -> Array:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"image must be {EXPECTED}, got an array of shape {array.shape} and dtype {array.dtype}")
    if 0 in array.shape:
        raise ValueError(f"image must not be empty, got an array of shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.uint8)


def _from_tensor(tensor: Tensor) -> Array:
    if not tensor.is_floating_point() or tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"image must be {EXPECTED}, got a tensor of shape {tuple(tensor.shape)}, {tensor.dtype}")
    if 0 in tensor.shape:
        raise ValueError(f"image must not be empty, got a tensor of shape {tuple(tensor.shape)}")
    tensor = tensor.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("image must be finite, got NaN or infinity")
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 1:
        raise ValueError(f"image must lie in [0, 1], got values from {low:.4g} to {high:.4g}")
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())


def upright_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(height, width) of an image file as ``load_image`` would give it; only its header is read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as an image.
    """
    path = Path(fspath(path))
    if not exists(path):
        raise FileNotFoundError(f"image: no such file: {path}")
    try:
        with open_image(path) as opened:
            turned = opened.getexif().get(PIL.ExifTags.Base.Orientation, 1) in range(5, 9)
            return (opened.width, opened.height) if turned else (opened.height, opened.width)
    except Exception as error:  # each of Pillow's decoders raises what it likes
        raise _damaged(path, error) from error


def to_tensor(array: Array) -> Tensor:
    """An array from ``load_image`` as a float32 (3, H, W) tensor in [0, 1]."""
    tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
    return tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor


def to_uint8(array: Array) -> npt.NDArray[np.uint8]:
    """An array from ``load_image`` as uint8 (H, W, 3)."""
    if array.dtype == np.uint8:
        return array  # type: ignore[return-value]
    return np.clip(array * 255 + 0.5, 0, 255).astype(np.uint8)


def pixels_sha256(image: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the pixels (H, W, 3) of an image: which picture it is, whatever its file is called."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
