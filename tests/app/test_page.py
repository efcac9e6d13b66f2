"""The pages call the library, and show what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")

from app_pages import FEW, NAMES, SMALL, Page, small_detector, write_names, write_photo

import detxai
import detxai.coco
from detxai.adapters.network import require_network
from detxai.app import warm_up
from detxai.app.jobs import Job, MethodResult
from detxai.app.options import AppOptions, ModelChoice, set_options
from detxai.app.sentences import escaped
from detxai.app.session import Session
from detxai.app.views.evaluation import mean_curves
from detxai.cli import main
from detxai.methods import METHODS, methods_without_file


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page whose address asks for a box and two methods."""
    address = {"box": "1", "methods": ["pixel_evidence", "layer_cam"], "set": FEW, "threshold": "0.3"}
    page = Page(tmp_path_factory.mktemp("explained"), address)
    page.finish()
    return page


def test_the_address_brings_the_view_back(explained: Page) -> None:
    at = explained.at
    assert at.selectbox(key="box").value == 1
    assert at.multiselect(key="methods").value == ["pixel_evidence", "layer_cam"]
    assert at.slider(key="threshold").value == 0.3
    assert at.query_params["set"] == FEW
    assert explained.explanation("pixel_evidence").settings["max_passes"] == 150


def test_the_page_shows_what_the_library_says(explained: Page) -> None:
    detector = small_detector()
    found = detector.detect(explained.images / "photo-0.png", 0.3)
    assert len(explained.at.selectbox(key="box").options) == len(found)
    assert explained.at.selectbox(key="box").options[1] == f"1: {found.name(1)} {float(found.scores[1]):.2f}"
    shown = explained.explanation("pixel_evidence")
    assert f"{shown.cost.forward_passes} passes" in explained.text()
    for one in explained.session.results.values():
        insertion, deletion = (float(area[0]) for area in one.curves.areas)  # type: ignore[union-attr]
        assert f"insertion {insertion:.3f}, deletion {deletion:.3f}" in explained.text()


def test_the_python_and_the_command_line_do_the_same(
    explained: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, command = (one.value for one in explained.at.code)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "shown on the page", "exec"), {})
    words = shlex.split(command)
    assert words[0] == "detxai"
    assert main(words[1:]) == 0
    (npz,) = (tmp_path / "explained").rglob("*.npz")
    shown = explained.explanation("pixel_evidence").values
    for file in (tmp_path / "explained.npz", npz):
        np.testing.assert_allclose(np.load(file)["values"], shown, atol=np.abs(shown).max() * 1e-4)


def test_another_method_is_explained_without_doing_the_first_again(explained: Page) -> None:
    before = explained.explanation("pixel_evidence")
    explained.at.multiselect(key="methods").set_value(["pixel_evidence", "eigen_cam"]).run()
    explained.finish()
    assert explained.explanation("pixel_evidence") is before
    assert explained.explanation("eigen_cam") is not None
    assert dict(explained.at.query_params)["methods"] == ["pixel_evidence", "eigen_cam"]


def test_what_if_says_what_the_detector_and_the_map_say(explained: Page) -> None:
    from detxai.targets import ClassScoreTarget, target

    at = explained.at
    at.multiselect(key="methods").set_value(["pixel_evidence"]).run()
    explained.finish()
    at.segmented_control(key="page").set_value("What if").run()
    (cover,) = [one for one in at.segmented_control if one.label.startswith("Or cover")]
    cover.set_value("the box").run()
    shown = explained.explanation("pixel_evidence")
    x1, y1, x2, y2 = (round(side) for side in shown.detection.boxes[0].tolist())
    edited, mask = shown.image.copy(), np.zeros(shown.image.shape[:2], dtype=bool)
    mask[max(0, y1) : y2, max(0, x1) : x2] = True
    edited[mask] = 0
    detector = small_detector()
    with torch.no_grad():
        before, after = (
            float(target.score_targets(ClassScoreTarget.of(shown.detection), detector.candidates(one))[0, 0])
            for one in (shown.image, edited)
        )
    predicted = min(max(before - float(shown.values[mask].sum()), 0), 1)
    assert [one.value for one in at.metric] == [f"{value:.3f}" for value in (before, after, predicted)]
    at.segmented_control(key="page").set_value("Explain").run()
    assert at.selectbox(key="box").value == 1, "the box is kept from page to page"


def test_the_detector_page_says_what_the_adapter_understood(explained: Page) -> None:
    at = explained.at
    at.segmented_control(key="page").set_value("Detector").run()
    tables = [one.value for one in [*at.dataframe, *at.table]]
    text = "\n".join(table.to_string() for table in tables)
    detector = require_network(small_detector())
    for said in (detector.describe()["family"], str(detector.describe()["n_parameters"]), *detector.default_layers):
        assert escaped(said) in text
    methods = next(table for table in tables if "method" in table)
    assert "attention" not in set(methods["method"])
    at.multiselect(key="which").set_value(["layer_cam", "eigen_cam"]).run()
    next(one for one in at.button if one.label == "Measure").click().run()
    explained.finish()
    methods = next(one.value for one in at.dataframe if "method" in one.value).set_index("method")
    assert methods.loc["eigen_cam", "passes"] == 1
    assert methods.loc["layer_cam", "measured"] == "done"
    assert methods.loc["layer_cam", "seconds"] > 0
    at.segmented_control(key="page").set_value("Explain").run()


def test_the_strongest_box_is_a_button_away_and_its_map_comes_in_the_message_itself(tmp_path: Path) -> None:
    page = Page(tmp_path, {"methods": "eigen_cam"})
    next(one for one in page.at.button if one.label == "Explain the strongest box").click().run()
    found = small_detector().detect(page.images / "photo-0.png", 0.25)
    assert page.at.selectbox(key="box").value == int(found.scores.argmax())
    assert not any(one.label == "Explain the strongest box" for one in page.at.button)
    page.finish()
    shown = {one.proto.imgs[0].alt: one.proto.imgs[0].url for one in page.at.get("image")}
    (url,) = (url for alt, url in shown.items() if alt.startswith("evidence for"))
    assert url.startswith("data:image/jpeg;base64,")


def test_collections_leave_out_what_the_library_brought() -> None:
    try:
        warm_up._freeze()
        assert len(gc.get_objects()) < 10_000  # of some hundred thousand
        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()


def test_stop_keeps_the_map_so_far_and_says_so(tmp_path: Path) -> None:
    page = Page(tmp_path, {"box": "0", "set": "pixel_evidence.max_passes=20000"})
    result = next(iter(page.session.results.values()))
    while result.n_rounds < 1:
        page.session.job.wait(0.05)  # type: ignore[union-attr]
        assert page.session.is_working
    page.run()
    page.at.button(key="stop").click().run()
    page.session.job.wait(30)  # type: ignore[union-attr]
    page.finish()
    assert result.status == "stopped"
    assert result.explanation is not None
    assert result.explanation.partial
    assert "stopped: the map so far" in page.text()


def test_the_first_map_is_on_the_page_with_the_click_and_told_to_be_a_start(tmp_path: Path) -> None:
    page = Page(tmp_path, {"set": "pixel_evidence.max_passes=20000"})
    first: list[MethodResult] = []
    take = Job._take

    def take_the_first_alone(job: Job, result: MethodResult, explanation: detxai.Explanation) -> None:
        take(job, result, explanation)
        first.append(result)
        while not job._stop.wait(0.05):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "_take", take_the_first_alone)
        page.at.selectbox(key="box").set_value(0).run()
        assert "the start: a first guess" in page.text()
        assert "1 pass" in page.text()
        page.at.button(key="stop").click().run()
        page.finish()
    (result,) = first
    assert result.is_start
    detection = result.explanation.detection  # type: ignore[union-attr]
    total = result.explanation.values.sum()  # type: ignore[union-attr]
    assert total == pytest.approx(float(detection.scores[0]), rel=1e-3)  # type: ignore[union-attr]


def test_a_new_method_appears_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine:
        """Every pixel alike.

        Args:
            shade: how dark, in
                words and numbers.
            kind, n: further settings.
        """

        name: ClassVar[str] = "mine"
        asks_about_boxes: ClassVar[bool] = True
        needs: ClassVar[str] = "answers"
        passes: ClassVar[str] = "none"
        shade: float = 0.5
        kind: Literal["plain", "fancy"] = "plain"
        n: int = 3
        layers: str | None = None

        def __call__(self, detector: Any, image: Any, detections: Any) -> list[detxai.Explanation]:
            from detxai.explanation import Cost, settings_of

            values = np.full(image.shape[:2], self.shade, dtype=np.float32)
            return [detxai.Explanation(values, image, "mine", settings_of(self), Cost(0, 0), one) for one in detections]

    monkeypatch.setitem(METHODS, "mine", Mine)
    page = Page(tmp_path, {"box": "0", "methods": "mine"})
    shade = page.at.number_input(key="setting-mine-shade")
    assert (shade.value, shade.help) == (0.5, "how dark, in words and numbers.")
    kind = page.at.selectbox(key="setting-mine-kind")
    assert (kind.options, kind.help) == (["plain", "fancy"], "further settings.")
    assert page.at.text_input(key="setting-mine-layers").value == "null"
    shade.set_value(0.25)
    next(one for one in page.at.button if one.label == "Use these settings").click().run()
    page.finish()
    assert page.explanation("mine").settings["shade"] == 0.25
    assert page.at.query_params["set"] == "mine.shade=0.25"


@pytest.mark.slow
def test_every_methods_settings_have_widgets_and_help(tmp_path: Path) -> None:
    from detxai.app.views.settings_form import NOT_ASKED, field_help

    names = [name for name in methods_without_file() if name not in ("attention",)]
    for four in (names[i : i + 4] for i in range(0, len(names), 4)):
        page = Page(tmp_path, {"methods": four})
        keys = {
            one.key
            for kind in ("text_input", "number_input", "checkbox", "selectbox")
            for one in getattr(page.at, kind)
        }
        for name in four:
            fields = {field.name for field in dataclasses.fields(METHODS[name])} - set(NOT_ASKED)
            assert {f"setting-{name}-{field}" for field in fields} <= keys
            assert fields <= field_help(METHODS[name]).keys(), name


@pytest.mark.parametrize(
    "address",
    [
        {"box": "999", "model": "../../etc", "image": "../x.png", "page": "No", "threshold": "nan", "classes": "*"},
        {"box": "x" * 999, "methods": ["nope"], "run": "../..", "threshold": "9",
         "set": ["pixel_evidence.max_passes=-3", "x", "=", "a.b=c"]},
    ],
    ids=["of no such thing", "of another kind"],
)  # fmt: skip
def test_a_wrong_address_is_as_none(tmp_path: Path, address: dict[str, Any]) -> None:
    page = Page(tmp_path, address)
    assert page.at.selectbox(key="box").value is None
    assert not page.at.error
    assert not page.session.is_working


def test_two_visitors_have_detectors_of_their_own() -> None:
    first, second = Session.open(), Session.open()
    choice = ModelChoice(SMALL)
    assert first.use(choice) is first.use(choice)
    assert first.use(choice) is not second.use(choice)
    assert first.use(choice).network is not second.use(choice).network
    assert first.folder != second.folder
    first.close()
    assert not first.folder.exists()
    assert second.folder.is_dir()
    second.close()


def test_a_detector_that_fails_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "def make():\n    def detect(images):\n        raise RuntimeError('no GPU')\n    return detect\n"
    )
    page = Page(tmp_path, model=ModelChoice(f"{tmp_path / 'broken.py'}:make"))
    assert "no GPU" in page.text()
    assert page.at.selectbox(key="model").value.endswith("broken.py:make")


def test_names_are_no_markup(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["background", *["**bold** <script>alert(1)</script>"] * 4]))
    page = Page(tmp_path, {"box": "0", "methods": "layer_cam"}, model=ModelChoice(SMALL, class_names=names))
    page.finish()
    assert not any("**bold**" in one.value or "<script" in one.value for one in page.at.markdown)


def test_only_the_command_line_names_a_factory(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    page = Page(tmp_path)
    field = next(one for one in page.at.text_input if one.label.startswith("Path on this machine"))
    field.set_value(f"{tmp_path / 'evil.py'}:make").run()
    next(one for one in page.at.button if one.label == "Use this path").click().run()
    assert "start the page with --model" in page.text()
    page.run()
    assert "start the page with --model" in page.text(), "it stays when the script runs again, as it may at any moment"
    assert not (tmp_path / "ran").exists()


def test_what_an_upload_was_refused_for_stays_until_the_next(tmp_path: Path) -> None:
    page = Page(tmp_path)
    uploader = next(one for one in page.at.file_uploader if one.label == "Drop pictures here")
    uploader.set_value([("text.png", b"I am text", "image/png")]).run()
    page.run()
    assert "text.png is not an image" in page.text()
    uploader = next(one for one in page.at.file_uploader if one.label == "Drop pictures here")
    uploader.set_value([("photo.png", (page.images / "photo-1.png").read_bytes(), "image/png")]).run()
    page.run()
    assert "text.png" not in page.text()


def test_a_page_for_others_takes_no_paths(tmp_path: Path) -> None:
    page = Page(tmp_path, {"page": "Data set"}, host="0.0.0.0", token="secret")
    for field in page.at.text_input:
        if "on this machine" in field.label:
            assert field.disabled, field.label


def test_a_run_is_read_filtered_and_sent_to_explain(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = Page(tmp_path, {"page": "Data set"})
    boxes = detxai.coco.load(tmp_path / "runs" / "a-run")
    table = page.at.dataframe[0].value
    assert len(table) == len(boxes)
    rows = list(boxes.rows())
    np.testing.assert_allclose(
        table.set_index("row")["outside_box"].sort_index(), [1 - row["energy_box"] for row in rows], atol=1e-9
    )
    kind = rows[0]["kind"]
    page.at.multiselect(key="cases-kind").set_value([kind]).run()
    assert len(page.at.dataframe[0].value) == sum(row["kind"] == kind for row in rows)
    page.at.multiselect(key="cases-kind").set_value([]).run()
    found = next(row for row in rows if row["kind"] != "missed")
    page.at.selectbox(key="case").set_value(found["row"]).run()
    next(one for one in page.at.button if one.label == "Explain this case").click().run()
    assert page.at.segmented_control(key="page").value == "Explain"
    box = page.at.selectbox(key="box").value
    detections = page.session.detect(page.session.uploads[found["file_name"]])
    np.testing.assert_allclose(detections.boxes[box].tolist(), found["box"], atol=0.5)
    page.session.stop()


@pytest.mark.slow
def test_an_evaluation_shows_its_ranks_and_curves(tmp_path: Path) -> None:
    annotations, out = write_annotations(tmp_path), tmp_path / "runs" / "an-evaluation"
    words = [
        "evaluate",
        "--model",
        SMALL,
        "--class-names",
        str(write_names(tmp_path)),
        "--annotations",
        str(annotations),
    ]
    words += ["--images", str(tmp_path / "images"), "--methods", "layer_cam,eigen_cam", "--steps", "4", "--no-progress"]
    words += ["--measures", "insertion_deletion,energy", "--max-detections", "3", "--out", str(out)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    page = Page(tmp_path, {"page": "Data set", "run": "an-evaluation"})
    summary = json.loads((out / "summary.json").read_text())
    ranks, standings = (page.at.dataframe[i].value for i in (0, 1))
    assert ranks["method"].tolist() == [one["method"] for one in summary["methods"]]
    assert ranks["mean rank"].tolist() == [one["mean_rank"] for one in summary["methods"]]
    quantity = next(one for one in summary["quantities"] if one["quantity"] == page.at.selectbox(key="quantity").value)
    assert standings["mean"].tolist() == [one["mean"] for one in quantity["standings"]]
    for method, curves in mean_curves(out).items():
        found = next(one for one in summary["quantities"] if one["quantity"] == "insertion")["standings"]
        mean = next(one["mean"] for one in found if one["method"] == method)
        areas = [float(torch.trapezoid(*map(torch.tensor, (one["insertion"], one["fractions"])))) for one in curves]
        assert np.mean(areas) == pytest.approx(mean, abs=1e-6)


def write_annotations(folder: Path) -> Path:
    """COCO annotations of two photos: some of what the detector finds there."""
    detector = small_detector()
    (folder / "images").mkdir(exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for seed in (0, 1):
        path = write_photo(folder / "images" / f"photo-{seed}.png", seed)
        records.append({"id": seed, "file_name": path.name, "height": 60, "width": 80})
        found = detector.detect(path, 0.3)
        for place in range(0, min(6, len(found)), 2):
            x1, y1, x2, y2 = found.boxes[place].tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": seed, "category_id": int(found.labels[place]), "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            })  # fmt: skip
    categories = [{"id": label, "name": name} for label, name in enumerate(NAMES) if label]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def write_run(folder: Path) -> None:
    """A run of ``detxai coco`` over these photos."""
    annotations = write_annotations(folder)
    names = ["--class-names", str(write_names(folder))]
    words = ["coco", "--model", SMALL, *names, "--images", str(folder / "images"), "--annotations", str(annotations)]
    words += ["--method", "layer_cam", "--out", str(folder / "runs" / "a-run"), "--no-report", "--json"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*words, "--kinds", "true_positive,background,missed"]) == 0


@pytest.fixture(autouse=True, scope="module")
def options_as_before() -> Any:
    yield
    set_options(AppOptions())
