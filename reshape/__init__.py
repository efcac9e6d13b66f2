"""Reshape transforms: a layer's output as one (B, C, H, W) tensor, also for grad-cam's ``reshape_transform``."""

if __name__ != "detxai.reshape":
    raise ImportError("import detxai.reshape, not reshape; run pip install -e . first")

from detxai.reshape.pyramid import ReshapeTransform, fpn_reshape_transform, yolo_reshape_transform
from detxai.reshape.tokens import maps_to_tokens, tokens_reshape_transform, tokens_to_maps

__all__ = [
    "ReshapeTransform",
    "fpn_reshape_transform",
    "maps_to_tokens",
    "tokens_reshape_transform",
    "tokens_to_maps",
    "yolo_reshape_transform",
]
