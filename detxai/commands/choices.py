"""The names that help texts and completions list, as text: to ask the rooms themselves would import torch for a help.

``tests/commands/test_help.py`` holds each of them equal to what it repeats.
"""

from __future__ import annotations

DEFAULT_METHOD = "pixel_evidence"
METHODS = (
    "pixel_evidence", "region_shapley", "d_rise", "layer_cam", "odam", "ssgrad_cam_plusplus", "ablation_cam",
    "eigen_cam", "attention", "l2x", "concepts", "grad_cam", "grad_cam_plusplus", "hires_cam", "xgrad_cam",
    "grad_cam_elementwise",
    "eigen_grad_cam", "finer_cam", "shapley_cam", "score_cam", "kpca_cam", "fem", "saliency", "input_x_gradient",
    "integrated_gradients", "smooth_grad", "gradient_shap", "guided_backprop", "deconvolution", "deep_lift",
    "occlusion", "feature_ablation", "lime", "kernel_shap", "shapley_sampling",
)  # fmt: skip
LEARN_OBJECTIVES = ("evidence", "shapley", "choice")
MODES = ("evidence", "signed")
BUNDLED = ("scenes-frcnn", "scenes-yolo", "scenes-rtdetr")
EXPORTED_SUFFIXES = (".onnx", ".xml", ".torchscript")
LAYOUTS = ("yolo", "yolo_objectness", "yolox", "end_to_end", "torchvision", "detr", "detr_sigmoid")

ENGINES = ("local", "ray")
EXPORTS = ("fiftyone", "datasets", "label-studio", "supervision", "tensorboard", "wandb")
ANNOTATION_FORMATS = ("coco", "yolo", "voc", "huggingface", "images")
FALSE_POSITIVES = ("localisation", "classification", "both", "duplicate", "background")
KINDS = ("true_positive", *FALSE_POSITIVES, "missed", "ignored", "unannotated")
KIND_GROUPS = {
    "all": tuple(kind for kind in KINDS if kind not in ("ignored", "unannotated")),
    "errors": (*FALSE_POSITIVES, "missed"),
    "false_positives": FALSE_POSITIVES,
}

PEERS = (
    "grad_cam_eigen_cam", "ultralytics_layer_cam", "aise", "greedy_insertion", "greedy_deletion", "phase_win",
    "kernel_shap_paired", "d_rise_mixed",
)  # fmt: skip
BASELINES = ("random", "box", "box_centre", "planted", "planted_object")
MEASURES = (
    "insertion_deletion", "road", "average_drop", "infidelity", "pointing_game", "energy", "visual_accuracy", "leakage",
    "compactness", "sparseness", "stability", "randomisation", "attack_agreement", "evidence_mass", "evidence_auc",
    "causes_found",
)  # fmt: skip
COSTLY_MEASURES = ("stability", "randomisation", "attack_agreement", "road", "infidelity")
FILLINGS = ("black", "mean", "blur", "noise")
UNITS = ("pixel", "superpixel")
SCORE_FUNCTIONS = ("class_score", "similarity", "gated_score")
REFERENCES = ("detection", "object")
SCENE_KINDS = ("local", "spread", "context", "redundant", "joint", "shortcut")
ATTACK_GOALS = ("vanish", "class", "move")
ATTACK_NORMS = ("linf", "l2")
