"""Strips, GIFs and CSV files: what is written is what was seen, also after a resume."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detxai import Detections, Explanation
from detxai.callbacks.mistakes import match, worst_images
from detxai.callbacks.output.epoch_csv import EpochCsv
from detxai.callbacks.output.epoch_report import EpochReport
from detxai.callbacks.output.filmstrip import (
    COLUMNS,
    HEIGHT,
    MAX_FRAMES,
    frame,
    frame_path,
    frames_of,
    strip_is_due,
    write_picture,
    write_strip,
)
from detxai.callbacks.output.training_folder import TrainingFolder, class_rows
from detxai.callbacks.shortcut_alarm.alarm import Alarm
from detxai.callbacks.snapshot import MEASURES, BoxSnapshot, change, measures_of, small
from detxai.explanation import Cost
from detxai.pages.pictures import LINE
from detxai.runs.numbered import claim_folder, numbered_folders, read_about


def explained(values: object, label: int = 3, box: tuple[float, ...] = (2, 1, 6, 4)) -> tuple[Explanation, Detections]:
    array = np.asarray(values, dtype=np.float32)
    photo = np.full((*array.shape, 3), 90, dtype=np.uint8)
    detection = Detections([box], [0.8], [label], {3: "cat", 4: "a <b>/c"})
    return Explanation(array, photo, "made_up", {}, Cost(0.0, 1), detection), detection


def in_box(total_in: float, total_out: float) -> np.ndarray:
    """A (6, 8) map with these sums in and out of the box (2, 1, 6, 4), of 12 pixels."""
    values = np.full((6, 8), total_out / 36)
    values[1:4, 2:6] = total_in / 12
    return values


def snapshot(
    image: str = "00_a", label: int = 3, inside: float = 3.0, kind: str = "panel", place: int = 0
) -> BoxSnapshot:
    explanation, detection = explained(in_box(inside, 1.0), label)
    return BoxSnapshot(image, place, detection, explanation, measures_of(explanation, detection, None, None), kind)


def test_numbers_of_a_map_worked_out_by_hand() -> None:
    explanation, detection = explained(in_box(3.0, 1.0))
    evidence = torch.zeros(6, 8, dtype=torch.bool)
    evidence[1, 2:4] = True  # two of the twelve pixels
    numbers = measures_of(explanation, detection, evidence, None)
    assert set(numbers) == set(MEASURES)
    assert numbers["score"] == pytest.approx(0.8)
    assert numbers["energy_box"] == pytest.approx(0.75)
    assert numbers["context_reliance"] == pytest.approx(0.25)
    assert numbers["energy_box_chance"] == pytest.approx(12 / 48)
    assert numbers["evidence_mass"] == pytest.approx(0.5 / 4)
    assert numbers["evidence_mass_chance"] == pytest.approx(2 / 48)
    assert math.isnan(numbers["change"])


def test_nothing_positive_leans_on_nothing() -> None:
    explanation, detection = explained(-in_box(1.0, 1.0))
    numbers = measures_of(explanation, detection, None, None)
    assert numbers["energy_box"] == 0
    assert math.isnan(numbers["context_reliance"])


def test_change_is_one_minus_pearson() -> None:
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 9, 7)))
    expected = 1 - np.corrcoef(maps[0].flatten(), maps[1].flatten())[0, 1]
    assert change(maps[0], maps[1]) == pytest.approx(expected)
    assert change(torch.ones(3, 3), torch.full((3, 3), 5.0)) == 0  # two flat maps


@pytest.mark.parametrize(
    ("box", "label", "known"),
    [((2, 1, 6, 4), 3, True), ((2, 1, 6, 3.5), 3, True), ((5, 4, 8, 6), 3, False), ((2, 1, 6, 4), 4, False)],
    ids=["same", "moved a little", "elsewhere", "another class"],
)
def test_only_the_same_box_has_a_change(box: tuple[float, ...], label: int, known: bool) -> None:
    before, old = explained(in_box(1, 1))
    now, detection = explained(in_box(2, 1), label, box)
    numbers = measures_of(now, detection, None, (old, small(before.values)))
    assert math.isnan(numbers["change"]) != known


def test_a_frame_shows_photo_map_box_and_words() -> None:
    explanation, detection = explained(in_box(1.0, 0.0))
    picture = np.asarray(frame(explanation, detection, ["epoch 3", "cat 0.80"]))
    assert picture.shape[0] == HEIGHT + 2 * LINE + 4
    photo = picture[2 * LINE : 2 * LINE + HEIGHT]
    np.testing.assert_array_equal(photo[:30, :40], 90)  # no evidence: the photo itself
    assert (photo[60:140, 100:220] != 90).any(-1).all()  # the box is full of evidence
    assert (picture[: 2 * LINE] < 128).any()  # words
    assert (photo == 255).all(-1).any()  # the outline


def test_a_strip_lays_frames_out_in_rows_and_a_gif_in_time(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    for epoch in range(COLUMNS + 2):
        write_picture(PIL.Image.new("RGB", (30, 20), (epoch * 10, 0, 0)), frame_path(folder, epoch))
    written = write_strip(folder)
    assert written == (tmp_path / "cat.png", tmp_path / "cat.gif")
    strip = np.asarray(PIL.Image.open(tmp_path / "cat.png"))
    assert strip.shape == (LINE + 40, 30 * COLUMNS, 3)
    assert (strip[:LINE] < 128).any()  # a title
    strip = strip[LINE:]
    for epoch in range(COLUMNS + 2):
        row, column = divmod(epoch, COLUMNS)
        assert (strip[20 * row + 10, 30 * column + 15] == (epoch * 10, 0, 0)).all()
    assert (strip[30, 30 * 2 + 15] == 255).all()  # an empty place is white
    gif = PIL.Image.open(tmp_path / "cat.gif")
    assert gif.n_frames == COLUMNS + 2


def test_long_runs_are_thinned_but_keep_both_ends(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    for epoch in range(MAX_FRAMES * 2 + 5):
        write_picture(PIL.Image.new("RGB", (4, 4), (epoch, 0, 0)), frame_path(folder, epoch))
    write_strip(folder)
    strip = np.asarray(PIL.Image.open(tmp_path / "cat.png"))[LINE::4, ::4, 0].flatten()
    assert len(strip) == MAX_FRAMES
    assert (strip[0], strip[-1]) == (0, MAX_FRAMES * 2 + 4)
    assert (np.diff(strip.astype(int)) > 0).all()


def test_no_frames_no_strip(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert write_strip(tmp_path / "cat") is None


def test_only_our_own_frames_are_found(tmp_path: Path) -> None:
    for epoch in (12345, 0, 1):
        write_picture(PIL.Image.new("RGB", (2, 2)), frame_path(tmp_path, epoch))
    (tmp_path / "mine.png").write_bytes(b"x")
    (tmp_path / "epoch_9.png.bak").write_bytes(b"x")
    assert list(frames_of(tmp_path)) == [0, 1, 12345]


def test_strips_are_redone_ever_more_rarely() -> None:
    due = [0]
    for n in range(1, 1001):
        due += [n] if strip_is_due(n, due[-1]) else []
    assert due[1:7] == [1, 2, 3, 4, 6, 9]
    assert sum(due) < 4 * 1000  # frames drawn in all: linear in the epochs


def test_curves_go_on_where_a_resume_begins_and_a_copy_keeps_what_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    first = EpochCsv(path, ("epoch", "name", "value"))
    for epoch in range(4):
        first.add(epoch, [{"name": 'a "b", c', "value": epoch / 3}, {"name": "d", "value": math.nan}])
    before = path.read_bytes()
    resumed = EpochCsv(path, ("epoch", "name", "value"))
    resumed.keep_until(2, tmp_path / "aside")
    assert (tmp_path / "aside" / "a.csv").read_bytes() == before
    resumed.add(2, [{"name": "new", "value": None}])
    resumed.add(3, [])
    rows = resumed.read()
    assert [(row["epoch"], row["name"]) for row in rows] == [
        ("0", 'a "b", c'),
        ("0", "d"),
        ("1", 'a "b", c'),
        ("1", "d"),
        ("2", "new"),
    ]
    assert rows[2]["value"] == "0.333333"
    assert rows[1]["value"] == rows[4]["value"] == ""
    EpochCsv(path, ("epoch", "name", "value")).keep_until(4, tmp_path / "nothing")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "aside"]


def test_more_rows_of_an_epoch_take_the_place_of_those_just_added(tmp_path: Path) -> None:
    curves = EpochCsv(tmp_path / "a.csv", ("epoch", "n"))
    for epoch, numbers in ((0, [1]), (1, [2]), (1, [2, 3])):
        curves.add(epoch, [{"n": number} for number in numbers])
    assert [(row["epoch"], row["n"]) for row in curves.read()] == [("0", "1"), ("1", "2"), ("1", "3")]


def test_curves_cut_at_any_byte_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    whole = EpochCsv(path, ("epoch", "name", "value"))
    for epoch in range(3):
        whole.add(epoch, [{"name": "é", "value": 0.125}])
    content = path.read_bytes()
    for n_bytes in range(len(content)):
        path.write_bytes(content[:n_bytes])
        again = EpochCsv(path, ("epoch", "name", "value"))
        again.keep_until(9, tmp_path / "aside")
        again.add(9, [{"name": "new", "value": 1.0}])
        *kept, last = again.read()
        assert last == {"epoch": "9", "name": "new", "value": "1"}
        assert kept == [{"epoch": str(e), "name": "é", "value": "0.125"} for e in range(len(kept))]
        assert len(kept) >= content[:n_bytes].count(b"\n") - 1


def test_a_run_on_disk_and_its_resume(tmp_path: Path) -> None:
    alarm = Alarm(3, "cat", (0.0, 0.5, 0.5, 1.0), 1.0, 0.9, 7)
    record = TrainingFolder(tmp_path / "run")
    strip, other = (tmp_path / "run" / "panel" / f"00_a-{place}" for place in range(2))
    for epoch in range(3):
        record.begin(epoch)
        report = EpochReport(epoch, (snapshot(), snapshot(label=4, place=1)), (alarm,), (snapshot(kind="miss"),))
        for one in (*report.snapshots, *report.mistakes):
            record.draw(one, epoch)
        record.write(report)
    assert record.stale_strips() == {strip: 3, other: 3}
    record.write_strip(strip)
    assert record.stale_strips() == {other: 3}
    record.write_strip(other)

    again = TrainingFolder(tmp_path / "run", resume=True)
    again.begin(3)
    assert again.stale_strips() == {}  # nothing is new, and nothing was given up
    assert not (tmp_path / "run" / "superseded").exists()
    before = contents(tmp_path / "run", "*.csv", "epoch_*.png", "miss*.png")
    again = TrainingFolder(tmp_path / "run", resume=True)
    again.begin(1)
    assert again.stale_strips() == {strip: 1, other: 1}
    again.draw(snapshot(), 1)
    again.write(EpochReport(1, (snapshot(),)))
    assert again.stale_strips(due=True) == {strip: 2, other: 1}
    assert [row["epoch"] for row in again.objects.read()] == ["0", "0", "1"]
    assert [row["alarm"] for row in again.classes.read()] == ["1", "0", "0"]
    assert [row["epoch"] for row in again.alarms.read()] == ["0"]
    assert list(frames_of(tmp_path / "run" / "panel" / "00_a-0")) == [0, 1]
    assert (tmp_path / "run" / "mistakes" / "epoch_0000" / "miss_0_00_a.png").is_file()
    after = contents(tmp_path / "run", "*.csv", "epoch_*.png", "miss*.png")
    assert before <= after  # nothing is lost: it lies in superseded
    again.begin(1)
    assert (tmp_path / "run" / "superseded2" / "panel" / "00_a-0" / "epoch_0001.png").is_file()


def contents(folder: Path, *patterns: str) -> set[bytes]:
    return {file.read_bytes() for pattern in patterns for file in folder.rglob(pattern)}


def test_a_new_run_gets_a_new_number_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()  # empty: free
    for expected in ("w", "w2", "w3"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        record = TrainingFolder(tmp_path / "w")
        record.begin(0)
        record.draw(snapshot(), 0)
        record.write(EpochReport(0, (snapshot(),)))
        assert record.folder == tmp_path / expected
        assert all(path.read_bytes() == content for path, content in before.items())
    assert numbered_folders(tmp_path / "w") == [tmp_path / "w3", tmp_path / "w2", tmp_path / "w"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert claim_folder(tmp_path / "mine", {}) == tmp_path / "mine2"


def test_of_many_that_ask_at_once_each_gets_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda n: claim_folder(tmp_path / "w", {"n": n}), range(64)))
    assert len(set(folders)) == 64
    assert [read_about(folder)["n"] for folder in folders] == list(range(64))


def test_class_rows_are_means_and_alarms_have_theirs() -> None:
    alarm = Alarm(9, "dog", (0.0, 0.5, 0.5, 1.0), 1.0, 0.9, 7)
    rows = class_rows([snapshot(inside=3.0), snapshot(inside=1.0)], {9: alarm})
    assert [(row["name"], row["n_objects"], row["alarm"]) for row in rows] == [("cat", 2, 0), ("dog", 0, 1)]
    assert rows[0]["energy_box"] == pytest.approx((0.75 + 0.5) / 2)
    assert math.isnan(rows[1]["energy_box"])


def test_out_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ValueError, match="out must be a folder"):
        TrainingFolder(tmp_path / "out")


def test_matching_agrees_with_trying_every_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        corners = torch.rand(9, 2, generator=generator) * 6
        boxes = torch.cat([corners, corners + 4], 1)
        labels = torch.randint(0, 2, (9,), generator=generator)
        scores = torch.rand(5, generator=generator)
        found = Detections(boxes[:5], scores, labels[:5])
        right, seen = match(found, Detections(boxes[5:], torch.ones(4), labels[5:]))
        taken: set[int] = set()
        for place in sorted(range(5), key=lambda i: -float(scores[i])):
            best = max(
                (g for g in range(4) if g not in taken and labels[5 + g] == labels[place]),
                key=lambda g: iou_by_hand(boxes[place].tolist(), boxes[5 + g].tolist()),
                default=None,
            )
            hit = best is not None and iou_by_hand(boxes[place].tolist(), boxes[5 + best].tolist()) >= 0.5
            assert bool(right[place]) == hit
            if hit and best is not None:
                taken.add(best)
        assert set(seen.nonzero().flatten().tolist()) == taken


def iou_by_hand(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / (32 - width * height)  # two boxes of 4 x 4


def test_the_worst_images_by_hand() -> None:
    right = [torch.tensor([True, False]), torch.tensor([]).bool(), torch.tensor([False, False]), torch.tensor([True])]
    scores = [torch.tensor([0.9, 0.4]), torch.tensor([]), torch.tensor([0.1, 0.7]), torch.tensor([0.2])]
    false, missed = worst_images(right, scores, [1, 3, 0, 1], most=5, score_threshold=0.25)
    assert false == [2, 0]  # 0.7, then 0.4; the 0.1 is no detection
    assert missed == [1, 3]  # three, then the one that was seen below the threshold only
    assert worst_images([], [], [], most=2, score_threshold=0.25) == ([], [])
