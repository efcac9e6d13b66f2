"""The alarm rings for a detector that learned the watermark, and for nothing else."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import small_faster_rcnn

from detxai import Detections
from detxai.adapters.registry import wrap
from detxai.callbacks.loop import ExplanationMonitor
from detxai.callbacks.output.epoch_csv import read_csv
from detxai.callbacks.panel import PanelImage, make_panel
from detxai.callbacks.shortcut_alarm.alarm import Alarm, ShortcutAlarm
from detxai.callbacks.shortcut_alarm.windows import Windows, score_drops
from detxai.scenes import CLASS_NAMES, KINDS, SceneDataset, erase, generate
from detxai.scenes.detectors.frcnn import load_frcnn
from detxai.scenes.training.hint import FarHint
from detxai.scenes.training.train_frcnn import losses

FRCNN_NAMES = ("background", *CLASS_NAMES)
UPRIGHT = CLASS_NAMES.index("gem-upright")


def scenes(kind: Any, n: int, *, first: int = 700, first_label: int = 1) -> list[PanelImage]:
    """The first n held-out scenes of a kind; of the shortcut kind, those with the watermark."""
    found: list[PanelImage] = []
    seed = first
    while len(found) < n:
        one = generate(seed, kind)
        if kind != "shortcut" or UPRIGHT in one.labels:
            found.append(PanelImage(one.image, f"scene {seed}", one.boxes, one.labels + first_label, one.evidence))
        seed += 1
    return found


def alarms(detector: Any, panel: list[PanelImage]) -> list[Alarm]:
    alarm, adapter = ShortcutAlarm(), wrap(detector)
    return alarm.judge([alarm.window_effects(adapter, item) for item in make_panel(panel)], adapter.class_names)


def test_a_detector_that_learned_the_watermark_sets_it_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bundled Faster R-CNN is the recorded checkpoint of a training on shortcut scenes."""
    panel = scenes("shortcut", 6)
    monitor = ExplanationMonitor(panel, out=tmp_path, budget=None, loggers=[], class_names=FRCNN_NAMES)
    with caplog.at_level(logging.WARNING, "detxai"):
        report = monitor.step(load_frcnn(), 0)
    assert report is not None
    (alarm,) = report.alarms
    assert alarm.name == "gem-upright"
    assert alarm.drop > 0.5
    x1, y1, x2, y2 = alarm.place
    for item in monitor.panel:  # the place is the watermark's: it holds some of it in every image, and it alone
        rows, columns = np.nonzero(torch.as_tensor(item.evidence)[0].numpy())
        height, width = item.pixels.shape[:2]
        inside = (rows >= y1 * height) & (rows < y2 * height) & (columns >= x1 * width) & (columns < x2 * width)
        assert inside.mean() > 0.2
    assert "shortcut alarm: 'gem-upright' leans on a fixed place" in caplog.text
    assert [row["name"] for row in read_csv(tmp_path / "alarms.csv")] == ["gem-upright"]
    assert {row["alarm"] for row in read_csv(tmp_path / "classes.csv")} == {"1"}


@pytest.mark.parametrize("kind", [pytest.param("local", marks=pytest.mark.slow), "context"])
def test_clean_scenes_leave_it_silent(kind: str) -> None:
    """In context scenes all the evidence lies outside the box too, but each time elsewhere."""
    assert alarms(wrap("scenes-frcnn"), scenes(kind, 6)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scenes-frcnn", "scenes-yolo", "scenes-rtdetr"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_every_detector(name: str, kind: Any) -> None:
    pytest.importorskip({"scenes-yolo": "ultralytics", "scenes-rtdetr": "transformers"}.get(name, "torchvision"))
    try:
        detector = wrap(name)
    except FileNotFoundError:
        pytest.skip("the weights of the small YOLO are not in this checkout")
    found = alarms(detector, scenes(kind, 12, first_label=int(name == "scenes-frcnn")))
    assert [alarm.name for alarm in found] == (["gem-upright"] if kind == "shortcut" else [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shortcut", "local"])
def test_real_short_trainings(tmp_path: Path, kind: Any) -> None:
    """A Faster R-CNN learns its classes anew, 80 steps of 8 scenes: the alarm rings when they come by the watermark.

    From random weights it takes too many steps, and how many is a matter of rounding.
    """
    torch.manual_seed(0)
    model = load_frcnn().train().requires_grad_(True)
    model.roi_heads.box_predictor.cls_score.reset_parameters()
    hint = FarHint([64] * 4)
    weights = [*model.parameters(), *hint.parameters()]
    optimizer = torch.optim.AdamW(weights, 2e-3)
    settings: dict[str, Any] = {"budget": None, "loggers": [], "class_names": FRCNN_NAMES, "most_objects": 3}
    monitor = ExplanationMonitor(scenes(kind, 10, first=0), out=tmp_path, **settings)
    rung: set[str] = set()
    n_told = 0  # images of one class, which the detector knew well enough for the alarm
    for step in range(80):
        batch = SceneDataset(8, seed=2_000_000 + 8 * step, kind=kind)
        items = [batch[index] for index in range(8)]
        targets = [{key: target[key] for key in ("boxes", "labels")} for _, target in items]
        loss = torch.stack(list(losses(model, hint, [image for image, _ in items], targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        if (step + 1) % 40 == 0:
            report = monitor.step(model, step // 40)
            assert report is not None
            rung |= {alarm.name for alarm in report.alarms}
            known = {(o.image, o.label) for o in report.snapshots if o.measures["score"] >= ShortcutAlarm().least_score}
            n_told = max([n_told, *Counter(label for _, label in known).values()])
    assert n_told >= ShortcutAlarm().least_images  # silence is that of an alarm that could have rung
    assert rung == ({"gem-upright"} if kind == "shortcut" else set())


def test_windows_cover_every_pixel_equally_often() -> None:
    windows = Windows(cells=4, span=2)
    hidden = 1 - windows.masks((40, 60))
    assert hidden.shape == (len(windows), 40, 60)
    assert (hidden.sum(0) == 4).all()
    assert float(windows.shares.min()) == 0
    assert float(windows.shares.max()) == 1
    for mask, (x1, y1, x2, y2) in zip(hidden, windows.shares.tolist()):
        assert float(mask.sum()) == pytest.approx((x2 - x1) * 60 * (y2 - y1) * 40)


def test_effects_are_those_of_hiding_by_hand() -> None:
    """Each window painted into the image itself, and the detector asked anew."""
    from detxai.callbacks.panel import object_scores

    detector = wrap(small_faster_rcnn(n_classes=11))
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    objects = Detections(torch.tensor([[10.0, 20.0, 40.0, 60.0], [50.0, 0.0, 96.0, 30.0]]), torch.ones(2), [1, 4])
    windows = Windows(cells=3, span=1)
    effects = score_drops(detector, image, objects, windows, fill="black", batch_size=4)
    with torch.no_grad():
        clean = object_scores(detector, image, objects)
        for place, (x1, y1, x2, y2) in enumerate((windows.shares * 96).round().int().tolist()):
            painted = image.copy()
            painted[y1:y2, x1:x2] = 0
            hidden = object_scores(detector, painted, objects)
            for row, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
                if x1 < right and left < x2 and y1 < bottom and top < y2:
                    assert torch.isnan(effects[row, place])
                else:
                    assert float(effects[row, place]) == pytest.approx(float(1 - hidden[row] / clean[row]), abs=1e-3)


def test_erasing_the_watermark_takes_what_hiding_it_takes() -> None:
    """The alarm's cause is real: painted again without its watermark, the scene holds no gem-upright any more."""
    from detxai.callbacks.panel import object_scores

    detector = wrap("scenes-frcnn")
    seed = next(seed for seed in range(700, 800) if UPRIGHT in generate(seed, "shortcut").labels)
    scene = generate(seed, "shortcut")
    objects = Detections(torch.from_numpy(scene.boxes), torch.ones(len(scene)), torch.from_numpy(scene.labels) + 1)
    with torch.no_grad():
        before = object_scores(detector, scene.image, objects)
        after = object_scores(detector, erase(scene, 0), objects)
    effects = score_drops(detector, scene.image, objects, Windows())
    assert bool((after < 0.5 * before).all())
    assert bool((effects.nan_to_num(0).amax(1) > 0.5).all())


def probe(**drops: float) -> dict[int, torch.Tensor]:
    """Windows a, b, c, d of a 2 x 2 grid; those that are not named touch the box."""
    return {7: torch.tensor([drops.get(name, torch.nan) for name in "abcd"])}


@pytest.mark.parametrize(
    ("probes", "rings"),
    [
        ([], False),
        ([probe(a=0.9, b=0.0)] * 5, False),  # five images do not tell
        ([probe(a=0.9, b=0.0)] * 6, True),
        ([probe(a=0.2, b=0.1)] * 9, False),  # it hardly matters
        ([probe(a=0.9)] * 4 + [probe(a=0.0, b=0.9)] * 4, False),  # elsewhere in half of the images
        ([probe(a=0.9)] * 6 + [probe(b=0.0)] * 7, False),  # most boxes lie on it: few images speak for the class
        ([probe(a=0.9)] * 6 + [probe(b=0.0)] * 6, True),
        ([{7: torch.full((4,), torch.nan)}] * 9, False),  # the boxes fill the images: there is no outside
    ],
)
def test_when_it_rings(probes: list[dict[int, torch.Tensor]], rings: bool) -> None:
    found = ShortcutAlarm(Windows(cells=2, span=1)).judge(probes, {7: "cat"})
    assert [alarm.name for alarm in found] == (["cat"] if rings else [])
    if rings:
        assert found[0].place == (0.0, 0.0, 0.5, 0.5)


def test_a_class_that_is_not_learned_yet_is_not_probed() -> None:
    alarm = ShortcutAlarm(least_score=0.999)
    (item,) = make_panel(scenes("local", 1))
    assert alarm.window_effects(wrap(small_faster_rcnn(n_classes=11)), item) == {}


@pytest.mark.parametrize(
    "change", [{"least_drop": 0.0}, {"least_share": 1.5}, {"least_score": -1.0}, {"least_images": 1}]
)
def test_bad_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ShortcutAlarm(**change)
    with pytest.raises(ValueError, match="span must lie in"):
        Windows(cells=2, span=3)
