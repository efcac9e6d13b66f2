"""Whatever is uploaded ends in a picture, a detector or a sentence; nothing of it runs, and nothing is left."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from app_pages import SMALL
from faster_rcnns import small_faster_rcnn
from safetensors.torch import save_file

import detxai
from detxai.app.detectors.models import CONSENT, NeedsPickleError, check_path, load_detector, store_model
from detxai.app.folders import temporary_root
from detxai.app.options import ModelChoice
from detxai.app.pictures import bundled_pictures, store_upload
from detxai.app.session import Session

MOST = 25_000_000


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A grey PNG whose header tells its size, and whose pixels are ``content``, compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def photo_bytes(seed: int = 0) -> bytes:
    written = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def test_a_picture_comes_back_under_a_safe_name(tmp_path: Path) -> None:
    picture = store_upload(io.BytesIO(photo_bytes()), "../../etc/<b>pass wd.PNG", tmp_path, MOST)
    assert picture.name == "b_pass_wd.png"
    assert picture.path is not None
    assert picture.path.parent == tmp_path
    np.testing.assert_array_equal(picture.load(), np.asarray(PIL.Image.open(io.BytesIO(photo_bytes()))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(30_000, 30_000, b"\0" * 9000), "larger than Pillow's limit"),
        (png(6000, 6000, b"\0" * 9000), "6000 x 6000 pixels; this page takes 25 million"),
        (png(200, 200), "damaged"),
        (b"this is text", "not an image"),
        (b"", "not an image"),
        (b"GIF89a" + b"\xff" * 40, "image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
    ],
    ids=["30,000 squared", "6,000 squared", "no pixels", "text", "empty", "half a gif", "svg"],
)
def test_what_is_no_picture_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, content: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own; SAHI and ultralytics remove it
    with pytest.raises(ValueError, match=said) as refused:
        store_upload(io.BytesIO(content), "photo.png", tmp_path, MOST)
    assert str(tmp_path) not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_without_pillows_limit_the_pages_own_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="30000 x 30000 pixels; this page takes 25 million"):
        store_upload(io.BytesIO(png(30_000, 30_000, b"\0" * 9000)), "photo.png", tmp_path, MOST)
    assert not list(tmp_path.iterdir())


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_only_after_consent(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"model": Runs(ran)}, tmp_path / "evil.pt")
    with (tmp_path / "evil.pt").open("rb") as file:
        choice = store_model({"evil.pt": file}, tmp_path)
    with pytest.raises(NeedsPickleError):
        load_detector(choice)
    assert not ran.exists()
    with pytest.raises(ValueError, match="holds no model"):
        load_detector(ModelChoice(choice.model, is_trusted=True))
    assert ran.exists(), "with consent the file is opened: that is what the page warns of"
    assert "any program" in CONSENT


def test_a_whole_model_opens_after_consent_and_answers_as_it_did(tmp_path: Path) -> None:
    model = small_faster_rcnn()
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(NeedsPickleError):
        load_detector(ModelChoice(str(tmp_path / "whole.pt")))
    opened = load_detector(ModelChoice(str(tmp_path / "whole.pt"), is_trusted=True))
    image = np.asarray(PIL.Image.open(io.BytesIO(photo_bytes())))
    torch.testing.assert_close(opened.detect(image, 0.2).boxes, detxai.wrap(model).detect(image, 0.2).boxes)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", b"\0" * 60 * 2**20)


def test_models_that_are_none_are_a_sentence(tmp_path: Path) -> None:
    zip_bomb(tmp_path / "bomb.pt")
    (tmp_path / "text.pt").write_text("I am text")
    (tmp_path / "text.onnx").write_text("I am text")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    for name, said in (
        ("bomb.pt", "unpacks to"),
        ("text.pt", "checkpoint"),
        ("bare.pt", "checkpoint"),
        ("text.onnx", ""),
    ):
        with pytest.raises((ValueError, ImportError), match=said):
            load_detector(ModelChoice(str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("names", "builder", "said"),
    [
        (["a.exe"], None, "ending in"), (["a.torchscript"], None, "ending in"), (["a.pt", "b.pt"], None, "got 2"),
        (["names.txt"], None, "got 0"), (["a.safetensors"], None, "choose the builder"),
    ],
)  # fmt: skip
def test_uploads_that_make_no_detector(tmp_path: Path, names: list[str], builder: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        store_model({name: io.BytesIO(b"x") for name in names}, tmp_path, builder)


def test_weights_and_their_builder(tmp_path: Path) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    with (tmp_path / "w.safetensors").open("rb") as file:
        choice = store_model({"../w.safetensors": file}, tmp_path, "ssdlite320_mobilenet_v3_large", "bg\ncat\ndog\nowl")
    assert choice.weights is not None
    assert choice.weights.is_relative_to(tmp_path)
    detector = load_detector(choice)
    assert detector.class_names[2] == "dog"
    assert detector.fingerprint() == detxai.wrap(model).fingerprint()


def test_weights_of_other_classes_are_a_sentence(tmp_path: Path) -> None:
    save_file({"backbone.x": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"does not fit|not a state_dict"):
        load_detector(ModelChoice("fasterrcnn_mobilenet_v3_large_320_fpn", weights=tmp_path / "w.safetensors"))


def test_two_hundred_uploads_leave_fifty(tmp_path: Path) -> None:
    pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")
    from detxai.app.views.sidebar import _drop_oldest

    with temporary_root() as root:
        session = Session.open()
        for number in range(200):
            picture = store_upload(io.BytesIO(photo_bytes(number)), f"{number}.png", session.folder, MOST)
            session.uploads[picture.name] = picture
            _drop_oldest(session, 50)
        assert list(session.uploads) == [f"{number}.png" for number in range(150, 200)]
        assert len(list(session.folder.iterdir())) == 50
        session.close()
        assert not session.folder.exists()
    assert not root.exists()


def test_factories_are_for_the_command_line() -> None:
    for text in (SMALL, "os:system"):
        with pytest.raises(ValueError, match="--model"):
            check_path(text)
    assert check_path("scenes-frcnn") == ModelChoice("scenes-frcnn")


def test_bundled_pictures_are_the_demos_scenes() -> None:
    from detxai.scenes import generate

    picture = bundled_pictures()["scene-local-11"]
    np.testing.assert_array_equal(picture.load(), generate(seed=11, kind="local").image)
