"""The demo page is complete in one file, and its figures are of the maps it shows."""

import re
from pathlib import Path

import numpy as np
import pytest

import detxai
from detxai.demo import run as demo_module
from detxai.demo.run import SCENES, SHOWN, Demo, demo, make_demo, methods_of
from detxai.demo.stories import grown, main_object, tell_story
from detxai.explain import DEFAULT_METHOD
from detxai.scenes import KINDS, generate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Two scenes by the bundled Faster R-CNN alone, with few masks."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "SCENES", SCENES[:2])
        patch.setattr(demo_module, "OPTIONAL", ("scenes-yolo",))
        patch.setattr(demo_module, "SHOWN", SHOWN | {"d_rise": {"n_masks": 20}, "pixel_evidence": {"max_passes": 1}})
        patch.setenv("DETXAI_SCENES_YOLO", str(folder / "none.safetensors"))
        return make_demo(folder / "new", progress=False)


def test_the_page_needs_nothing_beside_it(made: Demo) -> None:
    page = made.path.read_text()
    assert [path.name for path in made.path.parent.iterdir()] == ["index.html"]
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) >= 2 * (3 + len(SHOWN))
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_method_is_shown_and_measured(made: Demo) -> None:
    assert {row.method for row in made.rows} == set(SHOWN) >= {DEFAULT_METHOD, "ablation_cam"}
    assert len(made.rows) == 2 * len(SHOWN)
    page = made.path.read_text()
    for row in made.rows:
        assert row.method in page
        assert row.detector == "scenes-frcnn"
        assert 0 <= row.heat_on_evidence <= 1
        assert 0 < row.area < 1
        assert row.score_erased <= row.score / 2


def test_the_table_has_a_line_for_every_row(made: Demo) -> None:
    head, *lines = made.table().splitlines()
    assert head.startswith("kind ")
    assert [line.split()[0] for line in lines] == [row.kind for row in made.rows]


def test_an_absent_detector_is_explained_on_the_page(made: Demo) -> None:
    (reason,) = made.missing
    assert reason.startswith("scenes-yolo: ")
    assert "Not shown: scenes-yolo" in made.path.read_text()


def test_the_rtdetr_is_shown_with_its_attention_and_without_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(demo_module, "SHOWN", {"ablation_cam": {}, "layer_cam": {}})
    kind, seed = SCENES[2]
    name = "scenes-rtdetr"
    story, rows = tell_story(generate(seed, kind), name, detxai.wrap(name), methods_of(name))
    assert [row.method for row in rows] == [panel.title for panel in story.panels] == ["layer_cam", "attention"]
    assert rows[0].score > 0.9
    assert rows[0].score_erased < 0.1


def test_every_kind_has_a_scene_with_evidence() -> None:
    assert [kind for kind, _ in SCENES] == list(KINDS)
    for kind, seed in SCENES:
        scene = generate(seed, kind)
        assert scene.evidence[main_object(scene)].any()


def test_grown_reaches_six_pixels() -> None:
    mask = np.zeros((40, 40), bool)
    mask[20, 20] = True
    near = grown(mask)
    assert near[20, 26]
    assert near[24, 24]
    assert not near[20, 27]
    assert not near[25, 25]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="out must be a folder"):
        demo(tmp_path / "file")
