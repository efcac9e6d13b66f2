"""Scenes whose evidence is known, and small detectors trained to use exactly that evidence.

>>> scene = generate(seed=3, kind="context")
>>> CLASS_NAMES[scene.labels[0]], bool(scene.evidence[0].any())
('house-sun', True)
"""

from detxai.scenes.detectors.frcnn import load_frcnn
from detxai.scenes.detectors.rtdetr import load_rtdetr
from detxai.scenes.detectors.yolo import load_yolo
from detxai.scenes.export import export_coco, export_ultralytics
from detxai.scenes.scene import Scene, erase, erase_elsewhere, generate
from detxai.scenes.training.dataset import SceneDataset
from detxai.scenes.world import CLASS_NAMES, KIND_CLASSES, KIND_DESCRIPTIONS, KINDS, Kind

__all__ = [
    "CLASS_NAMES",
    "KINDS",
    "KIND_CLASSES",
    "KIND_DESCRIPTIONS",
    "Kind",
    "Scene",
    "SceneDataset",
    "erase",
    "erase_elsewhere",
    "export_coco",
    "export_ultralytics",
    "generate",
    "load_frcnn",
    "load_rtdetr",
    "load_yolo",
]
