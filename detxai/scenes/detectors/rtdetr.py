"""A small RT-DETR of transformers' classes, and the loader of the weights that come with the package."""

from pathlib import Path
from typing import Any, Final

from torch import nn

from detxai.scenes.detectors.weights_file import load_trained
from detxai.scenes.world import CLASS_NAMES, DEFAULT_SIZE

RTDETR_WEIGHTS: Final = Path(__file__).parent / "weights" / "rtdetr" / "scenes_rtdetr.safetensors"

N_QUERIES: Final = 40
_CHANNELS: Final = 128
_BACKBONE: Final[dict[str, Any]] = {
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 160],
    "depths": [1, 2, 2, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}


def import_transformers() -> Any:
    """The module ``transformers``.

    Raises:
        ImportError: with the pip line.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError('scenes-rtdetr needs transformers: pip install "detxai[transformers]"') from error
    return transformers


def build_rtdetr() -> Any:
    """An untrained ``transformers.RTDetrForObjectDetection`` of 2.9 M parameters, in training mode.

    Three levels of strides 8, 16 and 32 with 128 channels, three decoder layers of deformable attention, 40 queries.
    Label 0 is the first class: there is no background; ``config.id2label`` names them. Images are RGB in [0, 1],
    without a mean or deviation taken off (what transformers' ``RTDetrImageProcessor`` does), of any size that is a
    multiple of 32.

    Raises:
        ImportError: transformers is not installed.
    """
    transformers = import_transformers()
    names = dict(enumerate(CLASS_NAMES))
    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(**_BACKBONE),
        freeze_backbone_batch_norms=False,  # trained from scratch: there are no statistics to keep
        encoder_in_channels=_BACKBONE["hidden_sizes"][1:],
        encoder_hidden_dim=_CHANNELS,
        encoder_ffn_dim=256,
        encoder_attention_heads=4,
        hidden_expansion=0.375,
        decoder_in_channels=[_CHANNELS] * 3,
        d_model=_CHANNELS,
        decoder_ffn_dim=256,
        decoder_layers=3,
        decoder_attention_heads=8,
        num_queries=N_QUERIES,
        num_denoising=30,
        initializer_bias_prior_prob=0.01,
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    model = transformers.RTDetrForObjectDetection(config)
    _initialise(model)
    return model.train()


def load_rtdetr(path: str | Path | None = None) -> Any:
    """The trained RT-DETR in eval mode, float32, on the CPU.

    Args:
        path: a ``.safetensors`` file of its weights; None takes the one in the package.

    Raises:
        ImportError: transformers is not installed; the message has the pip line.
        FileNotFoundError: there is no such file; the message says how to make one.
    """
    file = RTDETR_WEIGHTS if path is None else Path(path)
    return load_trained(build_rtdetr, file, "RT-DETR", "rtdetr")


def rtdetr_image_processor() -> Any:
    """What prepares photos for it: resized to 160 x 160 pixels, divided by 255.

    Raises:
        ImportError: transformers is not installed.
    """
    side = {"height": DEFAULT_SIZE, "width": DEFAULT_SIZE}
    return import_transformers().RTDetrImageProcessor(size=side, do_normalize=False)


def _initialise(model: Any) -> None:
    """Weights to train from; transformers' own, with batch norms of about 0, are for a start from a checkpoint.

    Layers that say where to sample and how sure to be at first keep the values that transformers gave them, and no
    layer refines a box yet.
    """
    kept = ("sampling_offsets", "attention_weights", "class_embed", "enc_score_head", "denoising_class_embed")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and not any(part in name for part in kept):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for head in (model.model.enc_bbox_head, *model.model.decoder.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
