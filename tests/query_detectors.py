"""Small seeded query detectors of transformers, each with the image processor of its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from torch import nn

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

N_LABELS = 5
WIDTHS = [16, 24, 32]
DETR_SIZE = {"shortest_edge": 64, "longest_edge": 96}
SQUARE = {"height": 64, "width": 64}
WIDE = {"height": 64, "width": 96}


@dataclass(frozen=True)
class SeededDetector:
    """A model and the processor that its users would call."""

    model: Any
    processor: Any

    def own_answer(self, image: npt.NDArray[np.uint8], threshold: float = 0.0) -> Any:
        """What the vendor's processor, model and post-processing answer, called by hand."""
        # as a picture: of an array of three rows the processor would take these for colours
        inputs = self.processor(images=PIL.Image.fromarray(image), return_tensors="pt").to(self.model.dtype)
        with torch.no_grad():
            outputs = self.model(**inputs)
        (found,) = self.processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=[image.shape[:2]]
        )
        return found


def photo(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise with a bright and a dark rectangle."""
    pixels = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    pixels[height // 5 : height // 2, width // 5 : width // 2] = (240, 40, 30)
    pixels[height // 2 : -height // 8, width // 2 : -width // 8] = (10, 30, 90)
    return pixels


def detr(seed: int = 0, width: int = 32, size: dict[str, int] = DETR_SIZE, **settings: Any) -> SeededDetector:
    config = transformers.DetrConfig(**_detr_like(width), **settings)
    return _seeded("DetrForObjectDetection", config, transformers.DetrImageProcessor(size=size), seed)


def segmenting_detr(seed: int = 0) -> SeededDetector:
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = transformers.DetrConfig(**{**_detr_like(32), **heads, "backbone_config": _resnet(stages)})
    return _seeded("DetrForSegmentation", config, transformers.DetrImageProcessor(size=DETR_SIZE), seed)


def conditional_detr(seed: int = 0) -> SeededDetector:
    config = transformers.ConditionalDetrConfig(**_detr_like(32))
    processor = transformers.ConditionalDetrImageProcessor(size=DETR_SIZE)
    return _seeded("ConditionalDetrForObjectDetection", config, processor, seed)


def table_transformer(seed: int = 0) -> SeededDetector:
    config = transformers.TableTransformerConfig(**_detr_like(32))
    processor = transformers.DetrImageProcessor(size=DETR_SIZE)
    return _seeded("TableTransformerForObjectDetection", config, processor, seed)


def dab_detr(seed: int = 0) -> SeededDetector:
    settings = _detr_like(32)
    config = transformers.DabDetrConfig(hidden_size=settings.pop("d_model"), **settings)
    processor = transformers.ConditionalDetrImageProcessor(size=DETR_SIZE)
    return _seeded("DabDetrForObjectDetection", config, processor, seed)


def deformable_detr(seed: int = 0, n_levels: int = 4, two_stage: bool = False) -> SeededDetector:
    config = transformers.DeformableDetrConfig(
        **{**_detr_like(32), "backbone_config": _resnet(["stage2", "stage3", "stage4"])},
        num_feature_levels=n_levels,
        two_stage=two_stage,
        two_stage_num_proposals=12,
        with_box_refine=two_stage,
    )
    processor = transformers.DeformableDetrImageProcessor(size=DETR_SIZE)
    return _seeded("DeformableDetrForObjectDetection", config, processor, seed)


def rt_detr(seed: int = 0, width: int = 32, size: dict[str, int] = SQUARE, **settings: Any) -> SeededDetector:
    config = transformers.RTDetrConfig(**_rt_detr_like(width), **settings)
    return _seeded("RTDetrForObjectDetection", config, transformers.RTDetrImageProcessor(size=size), seed)


def rt_detr_v2(seed: int = 0) -> SeededDetector:
    config = transformers.RTDetrV2Config(**_rt_detr_like(32))
    return _seeded("RTDetrV2ForObjectDetection", config, transformers.RTDetrImageProcessor(size=SQUARE), seed)


def d_fine(seed: int = 0, width: int = 32, size: dict[str, int] = SQUARE) -> SeededDetector:
    config = transformers.DFineConfig(**_rt_detr_like(width), lqe_hidden_dim=8, max_num_bins=8)
    return _seeded("DFineForObjectDetection", config, transformers.RTDetrImageProcessor(size=size), seed)


def deim_v2(seed: int = 0) -> SeededDetector:
    _skip_without("Deimv2Config")
    config = transformers.Deimv2Config(**_rt_detr_like(32), lqe_hidden_dim=8, max_num_bins=8)
    return _seeded("Deimv2ForObjectDetection", config, transformers.RTDetrImageProcessor(size=SQUARE), seed)


def lw_detr(seed: int = 0) -> SeededDetector:
    _skip_without("LwDetrConfig")
    backbone = transformers.LwDetrViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        num_windows=4,
        window_block_indices=[0],
        out_indices=[2, 3],
    )
    config = transformers.LwDetrConfig(
        backbone_config=backbone, projector_scale_factors=[1.0], c2f_num_blocks=1, **_group_detr_like()
    )
    processor = transformers.DeformableDetrImageProcessor(size=SQUARE, do_pad=False)
    return _seeded("LwDetrForObjectDetection", config, processor, seed)


def rf_detr(seed: int = 0) -> SeededDetector:
    _skip_without("RfDetrConfig")
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        num_windows=2,
        out_indices=[2, 3],
    )
    config = transformers.RfDetrConfig(backbone_config=backbone, c2f_num_blocks=1, **_group_detr_like())
    processor = transformers.RfDetrImageProcessor(size=SQUARE, do_pad=False)
    return _seeded("RfDetrForObjectDetection", config, processor, seed)


def yolos(seed: int = 0, n_layers: int = 3, size: dict[str, int] = DETR_SIZE) -> SeededDetector:
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=10,
        num_labels=N_LABELS,
    )
    return _seeded("YolosForObjectDetection", config, transformers.YolosImageProcessor(size=size), seed)


FAMILIES: dict[str, Callable[[], SeededDetector]] = {
    "detr": detr,
    "detr wide": lambda: detr(1, 48, {"shortest_edge": 48, "longest_edge": 120}),
    "conditional detr": conditional_detr,
    "dab detr": dab_detr,
    "table transformer": table_transformer,
    "deformable detr": deformable_detr,
    "deformable detr, two stages": lambda: deformable_detr(1, 3, two_stage=True),
    "rt-detr": rt_detr,
    "rt-detr wide": lambda: rt_detr(1, 48, WIDE),
    "rt-detr v2": rt_detr_v2,
    "d-fine": d_fine,
    "d-fine wide": lambda: d_fine(1, 48, WIDE),
    "deim v2": deim_v2,
    "lw-detr": lw_detr,
    "rf-detr": rf_detr,
    "yolos": yolos,
    "yolos deep": lambda: yolos(1, 4, {"shortest_edge": 48, "longest_edge": 120}),
}


def _skip_without(name: str) -> None:
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")


def _detr_like(width: int) -> dict[str, Any]:
    return {
        "backbone_config": _resnet(["stage4"]),
        "backbone": None,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "d_model": width,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_queries": 12,
        "num_labels": N_LABELS,
    }


def _rt_detr_like(width: int) -> dict[str, Any]:
    return {
        "backbone_config": transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, *WIDTHS],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        "d_model": width,
        "encoder_hidden_dim": width,
        "encoder_in_channels": WIDTHS,
        "decoder_in_channels": [width] * 3,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_queries": 16,
        "num_labels": N_LABELS,
        "num_denoising": 6,
    }


def _group_detr_like() -> dict[str, Any]:
    return {
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "num_queries": 12,
        "group_detr": 2,
        "num_labels": N_LABELS,
    }


def _resnet(stages: list[str]) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, *WIDTHS], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )


def _seeded(kind: str, config: Any, processor: Any, seed: int) -> SeededDetector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, kind)(config).eval()
        _spread(model)
    return SeededDetector(model, processor)


def _spread(model: nn.Module) -> None:
    """Scores and boxes that differ from query to query and place to place, as a trained model's do."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "backbone" not in name and "sampling_offsets" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.5 / parameter[0].numel() ** 0.5)
