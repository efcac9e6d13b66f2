"""A dataset read back: filtered, as a frame, with maps read when they are used; and its small files put together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn

import detxai.coco
from detxai.coco.folder import CocoFolder
from detxai.coco.stored.compaction import compact
from detxai.data.coco_files import read_annotations
from detxai.data.error_kinds import KINDS

pytest.importorskip("pyarrow")


def run(data: dict[str, Path], out: Path, **more: Any) -> detxai.coco.Finished:
    return detxai.coco.explain_errors(
        read_annotations(data["annotations"]), None, small_faster_rcnn(), images=data["images"], out=out,
        method="eigen_cam", labels="by-id", operating_point=0.2, rows_per_part=1, report=False,
        selection=detxai.coco.Selection(kinds=KINDS[:-1]), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("data"), n_images=5)


@pytest.fixture(scope="module")
def out(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five parts: one an image."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    assert run(data, folder).complete
    assert len(list((folder / "explanations").iterdir())) == 5
    return folder


def test_a_filter_keeps_the_rows_that_fit(out: Path) -> None:
    every = detxai.coco.load(out)
    rows = list(every.rows())
    assert len({row["kind"] for row in rows}) >= 3
    kinds = ["missed", "background"]
    category = rows[0]["category"]
    for given, fits in (
        ({"kind": "missed"}, lambda row: row["kind"] == "missed"),
        ({"kind": kinds}, lambda row: row["kind"] in kinds),
        ({"category": category}, lambda row: row["category"] == category),
        ({"score": 0.3}, lambda row: row["score"] is not None and row["score"] >= 0.3),
        ({"score": (0.2, 0.3)}, lambda row: row["score"] is not None and 0.2 <= row["score"] <= 0.3),
        ({"kind": "background", "score": 0.25}, lambda row: row["kind"] == "background" and row["score"] >= 0.25),
        ({}, lambda row: True),
    ):
        chosen = every.filter(**given)
        expected = [row for row in rows if fits(row)]
        assert list(chosen.rows()) == expected
        assert chosen.table(["row"])["row"].to_pylist() == [row["row"] for row in expected]
    again = every.filter(kind=kinds).filter(category=category)
    assert list(again.rows()) == [row for row in rows if row["kind"] in kinds and row["category"] == category]
    assert np.array_equal(again[0].values, again.values(0))
    assert len(every) == len(rows)  # it is not changed


def test_a_filter_refuses_what_is_not_there(out: Path) -> None:
    every = detxai.coco.load(out)
    for given, message in (
        ({"kind": "lost"}, "kind must be some of true_positive, .*, got lost"),
        ({"category": "unicorn"}, "category must be some of .*, got unicorn"),
        ({"score": (0.5, 0.1)}, "score must be a lowest score"),
    ):
        with pytest.raises(ValueError, match=message):
            every.filter(**given)
    with pytest.raises(TypeError, match="kind must be a name or a list of names"):
        every.filter(kind=[3])  # type: ignore[list-item]


def test_a_frame_with_maps_that_are_read_when_used(out: Path) -> None:
    pytest.importorskip("pandas")
    some = detxai.coco.load(out).filter(kind=["missed", "true_positive"])
    frame = some.to_pandas(maps=True)
    assert "map_png" not in frame
    assert list(frame["row"]) == [row["row"] for row in some.rows()]
    for place, (lazy, kind) in enumerate(zip(frame["map"], frame["kind"], strict=True)):
        assert np.array_equal(np.asarray(lazy), some.values(place))
        assert kind == some.row(place)["kind"]
    assert list(some.to_pandas(["kind", "score"])) == ["kind", "score"]


def test_the_dataset_is_pyarrows(out: Path) -> None:
    import pyarrow.dataset

    dataset = detxai.coco.load(out).dataset()
    assert isinstance(dataset, pyarrow.dataset.Dataset)
    missed = dataset.to_table(filter=pyarrow.dataset.field("kind") == "missed", columns=["row"])
    assert len(missed) == len(detxai.coco.load(out).filter(kind="missed"))


class Killed(BaseException):
    """As far as files go, the process ends here."""


class KilledAt:
    """Lets so many changes of files happen, and ends the process before the next."""

    def __init__(self, n: int, patch: pytest.MonkeyPatch) -> None:
        self.n, self.changes = n, 0
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, self.counted(getattr(Path, name)))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*given: Any, **more: Any) -> Any:
            if self.changes == self.n:
                raise Killed
            self.changes += 1
            return real(*given, **more)

        return change


def test_small_files_are_put_together_and_a_kill_loses_nothing(
    data: dict[str, Path], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each change of a file that it makes: every row is there once, and the next call ends it."""
    monkeypatch.setattr(CocoFolder, "parts_together", 2)
    expected = list(detxai.coco.load(out).rows())
    for killed_at in range(100):
        folder = tmp_path / str(killed_at)
        shutil.copytree(out, folder)
        with monkeypatch.context() as patch:
            killer = KilledAt(killed_at, patch)
            try:
                compact(CocoFolder(folder), 5)
            except Killed:
                pass
            else:
                break
        assert list(detxai.coco.load(folder).rows()) == expected
        assert run(data, folder).complete  # the same command goes on
        names = sorted(path.name for path in (folder / "explanations").iterdir())
        assert names == [f"part-{first:06d}-{first + 1:06d}.parquet" for first in (0, 2, 4)]
        assert list(detxai.coco.load(folder).rows()) == expected
    assert killer.changes >= 3 + 5  # three files written, five removed


def test_a_reader_that_was_there_first_goes_on(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CocoFolder, "parts_together", 2)
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    early = detxai.coco.load(folder)
    expected = list(detxai.coco.load(out).rows())
    assert early.row(0) == expected[0]
    compact(CocoFolder(folder), 5)
    assert list(early.rows()) == expected
    assert len(early.table(["row"])) == len(expected)


def test_a_damaged_file_of_many_parts_is_made_again(
    data: dict[str, Path], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CocoFolder, "parts_together", 2)
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    compact(CocoFolder(folder), 5)
    together = folder / "explanations/part-000002-000003.parquet"
    together.write_bytes(together.read_bytes()[:-10])
    before = list(detxai.coco.load(out).rows())
    assert run(data, folder).complete
    timed = [{key: value for key, value in row.items() if key != "seconds"} for row in before]
    after = [{k: v for k, v in row.items() if k != "seconds"} for row in detxai.coco.load(folder).rows()]
    assert after == timed


def test_few_files_stay_as_they_are(out: Path) -> None:
    before = sorted((out / "explanations").iterdir())
    compact(CocoFolder(out), 5)
    assert sorted((out / "explanations").iterdir()) == before
