"""A query detector from the folder that ``save_pretrained`` wrote. Nothing is fetched, and no code in it is run."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from detxai.adapters.transformers.recognising import check_query_detector, load_transformers

LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_folder(folder: str | PathLike[str]) -> Any:
    """The model in a folder, in eval mode.

    Args:
        folder: with ``config.json`` and the weights (safetensors, or a ``.bin`` that loads with ``weights_only=True``).

    Raises:
        FileNotFoundError: the folder holds no ``config.json``.
        TypeError: it holds a model of another kind.
        ValueError: it cannot be loaded, or leaves weights of the model open.
        ImportError: transformers is not installed.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise FileNotFoundError(f"model: the folder {place} holds no config.json, as save_pretrained writes it")
    transformers = load_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(place, **LOCAL)
    except Exception as error:  # whatever a damaged or foreign config.json makes transformers raise
        raise ValueError(
            f"model: {place}/config.json describes a model that transformers does not know: {error}"
        ) from error
    kinds = load_transformers("models.auto.modeling_auto").MODEL_FOR_OBJECT_DETECTION_MAPPING
    if type(config) in kinds:
        kind = kinds[type(config)]
        saved = [name for name in config.architectures or () if hasattr(transformers, name)]
        kind = getattr(transformers, saved[0]) if saved else kind
    else:
        kind = getattr(transformers, (config.architectures or ["PreTrainedModel"])[0], transformers.PreTrainedModel)
    check_query_detector(kind, config)
    return _model(kind, place, config)


def _model(kind: Any, place: Path, config: Any) -> Any:
    try:
        model, loaded = kind.from_pretrained(place, config=config, output_loading_info=True, weights_only=True, **LOCAL)
    # transformers has no one error for weights that are missing, damaged or of another model
    except Exception as error:
        raise ValueError(f"model: the weights in {place} do not load: {error}") from error
    left_open = sorted({*loaded["missing_keys"], *(str(key) for key in loaded["mismatched_keys"])})
    if left_open:
        raise ValueError(
            f"model: {place} holds no weights for {len(left_open)} of the parameters of {kind.__name__}, "
            f"such as {left_open[0]}"
        )
    return model.eval()
