"""Detectors that are uploaded on the page answer as the library says they do."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")

from app_pages import Page

import detxai
from detxai.app.session import LOWEST_SCORE
from detxai.scenes import generate

THRESHOLD = 0.05


def upload(page: Page, paths: list[Path]) -> None:
    """As a visitor does: choose the files under *Another detector*, and press the button."""
    files = [(path.name, path.read_bytes(), "application/octet-stream") for path in paths]
    page.at.file_uploader(key="model-files-0").set_value(files).run()
    next(one for one in page.at.button if one.label == "Use the upload").click().run()
    assert not page.at.exception, page.at.exception[0].message
    assert not page.at.error, page.at.error[0].value


def check_boxes(page: Page, detector: Any, image: Any) -> None:
    """The page offers the boxes that the library finds with the uploaded files, and explains one."""
    found = detector.detect(image, LOWEST_SCORE)
    kept = [i for i, score in enumerate(found.scores.tolist()) if score >= THRESHOLD]
    shown = page.at.selectbox(key="box").options
    assert shown == [f"{i}: {found.name(i)} {float(found.scores[i]):.2f}" for i in kept]
    assert shown


def test_the_files_of_a_saved_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from query_detectors import photo, rt_detr

    own, saved = rt_detr(), tmp_path / "saved"
    own.model.save_pretrained(saved)
    own.processor.save_pretrained(saved)
    page = Page(tmp_path, {"threshold": f"{THRESHOLD}", "methods": "layer_cam"})
    upload(page, sorted(saved.iterdir()))
    assert page.at.selectbox(key="model").value.startswith("uploaded folder")
    written = io.BytesIO()
    PIL.Image.fromarray(photo(60, 90)).save(written, "PNG")
    page.at.file_uploader(key="pictures-0").set_value([("rectangles.png", written.getvalue(), "image/png")]).run()
    assert page.at.selectbox(key="image").value == "rectangles.png"
    detector = detxai.wrap(saved)
    check_boxes(page, detector, photo(60, 90))
    page.at.selectbox(key="box").set_value(0).run()
    page.finish()
    (expected,) = detxai.LayerCAM()(detector, photo(60, 90), detector.detect(photo(60, 90), LOWEST_SCORE)[0])
    np.testing.assert_allclose(page.explanation("layer_cam").values, expected.values, rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    pytest.importorskip("onnxruntime")
    from detxai.scenes import load_yolo

    class AnswersAlone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = load_yolo().model.float().eval()

        def forward(self, images: torch.Tensor) -> Any:
            return self.network(images)[0]  # beside them what the loss would read

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            AnswersAlone(), (torch.rand(1, 3, 160, 160),), str(tmp_path / "exported.onnx"), dynamo=False,
            input_names=["images"], output_names=["output0"],
        )  # fmt: skip
    scene = generate(seed=11, kind="local").image
    page = Page(tmp_path, {"threshold": f"{THRESHOLD}"}, images=None)
    page.at.selectbox(key="image").set_value("scene-local-11").run()
    upload(page, [tmp_path / "exported.onnx"])
    assert page.at.selectbox(key="model").value.startswith("exported.onnx")
    check_boxes(page, detxai.wrap(tmp_path / "exported.onnx"), scene)
    assert "layer_cam" not in page.at.multiselect(key="methods").options, "no gradients in an exported network"


def test_a_folder_that_holds_no_model_is_a_sentence(tmp_path: Path) -> None:
    page = Page(tmp_path)
    files = [("config.json", b"{}", "application/json"), ("model.safetensors", b"none", "application/octet-stream")]
    page.at.file_uploader(key="model-files-0").set_value(files).run()
    next(one for one in page.at.button if one.label == "Use the upload").click().run()
    assert not page.at.exception
    assert page.at.error
    assert str(page.session.folder) not in page.at.error[0].value
