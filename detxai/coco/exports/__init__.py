"""A run of ``detxai coco`` in the tools where people keep their images: one file a tool, imported when it is used."""

from detxai.coco.exports.fiftyone import fiftyone_samples, to_fiftyone
from detxai.coco.exports.hub import to_datasets
from detxai.coco.exports.label_studio import label_studio_config, to_label_studio
from detxai.coco.exports.supervision import save_annotated, to_supervision
from detxai.coco.exports.tensorboard import to_tensorboard
from detxai.coco.exports.wandb import to_wandb

__all__ = [
    "fiftyone_samples",
    "label_studio_config",
    "save_annotated",
    "to_datasets",
    "to_fiftyone",
    "to_label_studio",
    "to_supervision",
    "to_tensorboard",
    "to_wandb",
]
