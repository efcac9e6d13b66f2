"""One script for each extra: it proves that ``pip install "detxai[EXTRA]"`` is sufficient for what the extra is for.

    python .ci/extras.py EXTRA

``nox -s extras`` runs each in a clean environment of its own. A script imports what the extra brings, uses it through
detxai, and checks the answer. ``none`` is detxai without any extra.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # before ultralytics is imported: nothing is fetched
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

import detxai
from detxai.cli import main
from detxai.scenes import export_coco, generate

SCENE = generate(600, "local")


def check(explanations: list[Any]) -> None:
    """Maps of the image's size, finite, and not empty."""
    assert explanations
    for explanation in explanations:
        assert explanation.values.shape == SCENE.image.shape[:2]
        assert abs(explanation.values).max() > 0


def command(*words: object) -> str:
    """What ``detxai WORDS`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(word) for word in words]) == 0, words
    return printed.getvalue()


def none(folder: Path) -> None:
    detector = detxai.wrap("scenes-frcnn")
    check(detxai.explain(detector, SCENE.image, "layer_cam"))
    check(detxai.explain(detector, SCENE.image, "grad_cam"))
    assert "pixel_evidence" in command("methods")


def yolo(folder: Path) -> None:
    from ultralytics import YOLO

    check(detxai.explain(detxai.wrap(YOLO("yolov8n.yaml")), SCENE.image, "eigen_cam"))


def explained_data_set(folder: Path, *options: object) -> tuple[object, ...]:
    """A run of ``detxai coco`` in ``folder / "why"``; the options that name its data."""
    export_coco(folder / "val", 2, seed=3)
    data = ("--images", folder / "val", "--annotations", folder / "val/annotations.json")
    command("coco", "--model", "scenes-frcnn", *data, "--method", "layer_cam", *options, "--out", folder / "why")
    assert len(detxai.coco.load(folder / "why")) > 0
    return data


def exported(folder: Path, tool: str, into: str = "there") -> None:
    """A run that ``detxai coco export`` hands to a tool: into a folder, or what the tool calls ``into``."""
    explained_data_set(folder)
    command("coco", "export", folder / "why", "--to", tool, "--into", into)  # from inside ``folder``


def tables(folder: Path) -> None:
    data = explained_data_set(folder)
    few = ("--max-detections", 1, "--steps", 2)
    methods = ("--methods", "layer_cam,random")
    command("evaluate", "--model", "scenes-frcnn", *data, *methods, *few, "--out", folder / "ranking")
    assert (folder / "ranking/results.parquet").is_file()


def lightning(folder: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer

    from detxai.callbacks.lightning import ExplanationCallback
    from detxai.callbacks.panel import PanelImage
    from detxai.scenes.detectors.frcnn import build_frcnn

    class Learner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.detector = build_frcnn()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, targets = batch
            return torch.stack(list(self.detector(images, targets).values())).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-3)

    targets = [{"boxes": torch.from_numpy(SCENE.boxes), "labels": torch.from_numpy(SCENE.labels + 1)}]
    batch = ([torch.from_numpy(SCENE.image).permute(2, 0, 1) / 255], targets)
    panel = [PanelImage(SCENE.image, "scene", SCENE.boxes, SCENE.labels + 1)]
    watching = ExplanationCallback(panel, budget=None)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[watching], default_root_dir=folder, enable_progress_bar=False
    )
    trainer.fit(Learner(), torch.utils.data.DataLoader([batch], batch_size=None))
    assert sum(len(report.snapshots) for report in watching.reports) > 0


def superpixels(folder: Path) -> None:
    from detxai.engine.masking.regions import superpixels as made

    assert made(torch.from_numpy(SCENE.image).permute(2, 0, 1) / 255, n_regions=20)


def captum(folder: Path) -> None:
    check(detxai.explain(detxai.wrap("scenes-frcnn"), SCENE.image, "input_x_gradient"))


def onnx(folder: Path) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    # (1, 4 + 2 classes, 525 cells): a box in the middle, whose score is the mean of the image
    boxes = np.tile(np.float32([80, 80, 40, 40]).reshape(1, 4, 1), (1, 1, 525))
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["score"]),
        helper.make_node("Expand", ["score", "size"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output"], axis=1),
    ]
    constants = {"boxes": boxes, "shape": np.int64([1, 1, 1]), "size": np.int64([1, 2, 525])}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 160, 160])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 6, 525])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    detector = detxai.wrap(folder / "model.onnx", class_names=["a", "b"], layout="yolo")
    found = detector.detect(SCENE.image, 0.05)
    assert len(found) >= 1
    check(detxai.explain(detector, SCENE.image, "d_rise", found, n_masks=32))


def openvino(folder: Path) -> None:
    import openvino as ov

    class Middle(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores = images.mean((1, 2, 3), keepdim=True)[..., 0] * torch.ones(1, 2, 525)
            boxes = torch.tensor([80.0, 80.0, 40.0, 40.0]).view(1, 4, 1) * torch.ones_like(scores[:, :1])
            return torch.cat([boxes, scores], 1)

    ov.save_model(ov.convert_model(Middle(), example_input=torch.rand(1, 3, 160, 160)), folder / "model.xml")
    detector = detxai.wrap(folder / "model.xml", class_names=["a", "b"], layout="yolo", input_size=160)
    found = detector.detect(SCENE.image, 0.05)
    assert len(found) >= 1
    check(detxai.explain(detector, SCENE.image, "d_rise", found, n_masks=32))


def transformers(folder: Path) -> None:
    detector = detxai.wrap("scenes-rtdetr")
    found = detector.detect(SCENE.image)
    check(detxai.explain(detector, SCENE.image, "attention", found))


def rfdetr(folder: Path) -> None:
    from rfdetr import RFDETRNano

    detector = detxai.wrap(RFDETRNano(pretrain_weights=None, device="cpu", resolution=96))
    check(detxai.explain(detector, SCENE.image, "eigen_cam"))


def sahi(folder: Path) -> None:
    from sahi import AutoDetectionModel
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as build

    inner = build(weights=None, weights_backbone=None, num_classes=3).eval()
    names = {"0": "background", "1": "a", "2": "b"}
    model = AutoDetectionModel.from_pretrained("torchvision", model=inner, category_mapping=names, device="cpu")
    assert type(detxai.wrap(model).detect(SCENE.image, 0.05)).__name__ == "Detections"


def ray(folder: Path) -> None:
    explained_data_set(folder, "--engine", "ray", "--workers", 1)


def fiftyone(folder: Path) -> None:
    exported(folder, "fiftyone", "detxai-extras")


def datasets(folder: Path) -> None:
    from datasets import load_from_disk

    exported(folder, "datasets")
    assert len(load_from_disk(str(folder / "there"))) > 0


def supervision(folder: Path) -> None:
    exported(folder, "supervision")
    assert any((folder / "there").rglob("*.png")) or any((folder / "there").rglob("*.jpg"))


def tensorboard(folder: Path) -> None:
    exported(folder, "tensorboard")
    assert any((folder / "there").rglob("events.out.tfevents*"))


def wandb(folder: Path) -> None:
    os.environ["WANDB_MODE"] = "offline"
    exported(folder, "wandb", "detxai-extras")


def app(folder: Path) -> None:
    from streamlit.testing.v1 import AppTest

    import detxai.app.main

    page = AppTest.from_file(detxai.app.main.__file__, default_timeout=120).run()
    assert not page.exception, page.exception


def notebook(folder: Path) -> None:
    detector = detxai.wrap("scenes-frcnn")
    found = detxai.explain(detector, SCENE.image, "layer_cam")
    assert type(detxai.slider([*found, *detxai.explain(detector, SCENE.image, "eigen_cam")])).__name__ == "VBox"


def concepts(folder: Path) -> None:
    few = ("--n-scenes", 1, "--max-concepts", 4, "--fits", 1)
    command("concepts", "find", "--model", "scenes-frcnn", "--scenes", "local", *few, "--out", folder / "found")
    check(detxai.explain(detxai.wrap("scenes-frcnn"), SCENE.image, "concepts", concepts=folder / "found"))


def completion(folder: Path) -> None:
    for shell in ("bash", "zsh", "fish", "tcsh", "powershell"):
        assert "detxai" in command("completion", shell)


SCRIPTS: dict[str, Callable[[Path], None]] = {
    script.__name__: script
    for script in (
        none, yolo, tables, lightning, superpixels, captum, onnx, openvino, transformers, rfdetr, sahi, ray,
        app, notebook, concepts, completion, fiftyone, datasets, supervision, tensorboard, wandb
    )
}  # fmt: skip

if __name__ == "__main__":
    (extra,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)  # some libraries write beside where they run
        SCRIPTS[extra](Path(made))
    print(f"{extra}: sufficient")
