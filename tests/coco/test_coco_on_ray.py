"""Engine ray writes what engine local writes; here something else stands for Ray: the slow tests run it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn

import detxai
import detxai.coco
import detxai.coco.run
from detxai.coco.on_ray.attempts import MAX_DEATHS, attempt_log
from detxai.coco.on_ray.cluster import connected
from detxai.coco.on_ray.detector_source import DetectorFiles, PickledDetector
from detxai.coco.on_ray.engine import RayEngine
from detxai.coco.on_ray.pipeline import as_rows, unpacked
from detxai.coco.on_ray.reading import read_images
from detxai.coco.on_ray.worker import ExplainWork, Worker, WorkerSpec
from detxai.coco.options import RayOptions
from detxai.coco.schema import TIMED
from detxai.data.coco_files import read_annotations
from detxai.data.image_files import ImageFile
from detxai.runs.tables import import_pyarrow

pytest.importorskip("pyarrow")


FIRST_IMAGES = detxai.coco.Selection(max_images=5)


class InThisProcess:
    """In place of ``Pipeline``: batches of any size, done in any order, by workers that die at some images.

    Args:
        seed: of the order.
        deadly: ids of the images at which every worker dies.
    """

    gpus = 0.0

    def __init__(self, seed: int = 0, deadly: Sequence[int] = ()) -> None:
        self.seed, self.deadly = seed, set(deadly)
        self.n_answers = 0

    def answers(self, spec: WorkerSpec, tasks: Sequence[tuple[ImageFile, Any]]) -> Iterator[tuple[int, Any]]:
        rng, rows, attempts = np.random.default_rng(self.seed), as_rows(tasks), attempt_log()
        for place, (file, _) in enumerate(tasks):
            for _ in range(MAX_DEATHS if file.image_id in self.deadly else 0):
                attempts.begin(f"explaining {file.image_id}")  # and the worker is gone
            assert rows[place]["place"] == place
        worker = Worker(lambda: spec, attempts)
        order = rng.permutation(len(rows))
        for some in np.array_split(order, max(1, len(rows) // 3)):
            columns = {
                name: np.array([rows[place][name] for place in some], dtype=object) for name in ("place", "task")
            }
            for answer in unpacked(worker(read_images(columns, attempts))):
                self.n_answers += 1
                yield answer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"), n_images=18)


@pytest.fixture(scope="module")
def local(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explained(data, tmp_path_factory.mktemp("runs") / "local").folder


def explained(data: dict[str, Path], out: Path, **options: Any) -> detxai.coco.Finished:
    return detxai.coco.explain_errors(
        read_annotations(data["annotations"]), None, small_faster_rcnn(), images=data["images"], out=out,
        method="eigen_cam", rows_per_part=16, map_stride=4, report=False, selection=FIRST_IMAGES, **options,
    )  # fmt: skip


def on_ray(
    data: dict[str, Path], out: Path, pipeline: InThisProcess, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> detxai.coco.Finished:
    monkeypatch.setattr(RayEngine, "_connected", lambda engine: pipeline)
    return explained(data, out, engine="ray", **options)


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


def failures(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = import_pyarrow().parquet.read_table(out / "failures.parquet").to_pylist()
    return content


@pytest.mark.parametrize("seed", range(2))
def test_done_in_any_order_the_files_are_those_of_the_local_engine(
    seed: int, local: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_ray(data, tmp_path / "out", InThisProcess(seed), monkeypatch).complete
    assert rows(tmp_path / "out") == rows(local)
    assert (tmp_path / "out" / "predictions.json").read_bytes() == (local / "predictions.json").read_bytes()
    assert {path.name for path in (tmp_path / "out" / "explanations").iterdir()} == {
        path.name for path in (local / "explanations").iterdir()
    }


def test_it_goes_on_with_what_the_local_engine_began_and_makes_only_what_is_missing(
    local: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(local, tmp_path / "out")
    gone = sorted((out / "explanations").iterdir())[1]
    n_images = len(set(import_pyarrow().parquet.read_table(gone, columns=["image_id"])["image_id"].to_pylist()))
    gone.unlink()
    pipeline = InThisProcess()
    assert on_ray(data, out, pipeline, monkeypatch).complete
    assert pipeline.n_answers == n_images
    assert rows(out) == rows(local)
    assert on_ray(data, out, pipeline, monkeypatch).complete
    assert pipeline.n_answers == n_images  # a finished run asks nothing


def test_an_image_that_kills_every_worker_is_a_failure_and_the_others_are_explained(
    local: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detxai.coco.on_ray.worker import DetectWork

    deadly = rows(local)[0]["image_id"]

    class DeadlyOnceDetected(InThisProcess):
        def answers(self, spec: WorkerSpec, tasks: Sequence[tuple[ImageFile, Any]]) -> Iterator[tuple[int, Any]]:
            self.deadly = set() if isinstance(spec.work, DetectWork) else {deadly}
            return super().answers(spec, tasks)

    finished = on_ray(data, tmp_path / "out", DeadlyOnceDetected(), monkeypatch)
    assert rows(tmp_path / "out") == [row for row in rows(local) if row["image_id"] != deadly]
    (failure,) = failures(tmp_path / "out")
    assert (failure["image_id"], failure["step"]) == (deadly, "explaining")
    assert f"{MAX_DEATHS} worker processes died while they had this image" in failure["reason"]
    assert failure["n_boxes"] == len(rows(local)) - len(rows(tmp_path / "out"))
    assert finished.complete
    on_ray(data, tmp_path / "out", InThisProcess(), monkeypatch, retry_failed=True)  # with more memory, say
    assert rows(tmp_path / "out") == rows(local)
    assert not failures(tmp_path / "out")


def test_an_image_that_kills_every_worker_while_predictions_are_made_is_left_out(
    local: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = rows(local)[0]["image_id"]
    on_ray(data, tmp_path / "out", InThisProcess(deadly=[deadly]), monkeypatch)
    (failure,) = failures(tmp_path / "out")
    assert (failure["image_id"], failure["step"]) == (deadly, "detecting")
    assert deadly not in {row["image_id"] for row in rows(tmp_path / "out")}


def test_unreadable_images_fail_alike(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = shutil.copytree(data["images"], tmp_path / "images")
    for place, path in enumerate(sorted(images.iterdir())[1:4]):
        path.write_bytes(path.read_bytes()[: 40 * place])
    broken = {**data, "images": images}
    explained(broken, tmp_path / "local")
    on_ray(broken, tmp_path / "out", InThisProcess(), monkeypatch)
    assert failures(tmp_path / "out") == failures(tmp_path / "local")
    assert sum(failure["step"] == "reading" for failure in failures(tmp_path / "out")) == 3
    assert rows(tmp_path / "out") == rows(tmp_path / "local")


def test_what_no_image_is_to_blame_for_ends_the_run(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = shutil.copytree(data["images"], tmp_path / "images")
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="all 18 images failed"):
        on_ray({**data, "images": images}, tmp_path / "out", InThisProcess(), monkeypatch)
    with pytest.raises(ValueError, match=r"image: .* is not an image"):
        on_ray({**data, "images": images}, tmp_path / "fast", InThisProcess(), monkeypatch, fail_fast=True)


def test_a_worker_with_other_weights_is_refused(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> detxai.coco.run.Engine:
        engine = RayEngine(RayOptions(), 1, PickledDetector(detxai.wrap(small_faster_rcnn())), "another fingerprint")
        return engine

    monkeypatch.setattr(detxai.coco.run, "engine_of", lambda request: other())
    with pytest.raises(ValueError, match="a worker built a detector with other weights"):
        on_ray(data, tmp_path / "out", InThisProcess(), monkeypatch)


def test_the_files_of_a_detector_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detxai.adapters.loading.load_detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    weights = tmp_path / "here" / "weights.pth"
    weights.parent.mkdir()
    torch.save(model.model.state_dict(), weights)
    source = DetectorFiles.read("fasterrcnn_mobilenet_v3_large_320_fpn", str(weights), {})
    shutil.rmtree(weights.parent)  # as on another machine
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there"))
    assert source.build().fingerprint() == model.fingerprint()
    (written,) = (tmp_path / "there").rglob("weights.pth")
    before = written.stat().st_mtime_ns
    assert source.build().fingerprint() == model.fingerprint()
    assert written.stat().st_mtime_ns == before  # once on a machine


def test_rows_name_the_weights_where_the_run_was_started(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"weights")
    source = DetectorFiles.read(str(tmp_path / "best.pt"), None, {})
    ((here, there),) = source.moved_paths().items()
    assert there == str(tmp_path / "best.pt") != here
    assert Path(here).read_bytes() == b"weights"
    explainer: Any = None
    work = ExplainWork(explainer, 1, source.moved_paths())
    assert work._as_started(f'{{"weights": "{here}"}}') == f'{{"weights": "{there}"}}'


def test_a_folder_and_what_stands_beside_a_file_travel_with_it(tmp_path: Path) -> None:
    for name in ("net.xml", "net.bin", "other.bin", "saved/config.json", "saved/part/weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    exported = DetectorFiles.read(str(tmp_path / "net.xml"), None, {})
    assert set(exported.files[str(tmp_path / "net.xml")]) == {"net.xml", "net.bin"}
    saved = DetectorFiles.read(str(tmp_path / "saved"), None, {})
    assert set(saved.files[str(tmp_path / "saved")]) == {"saved/config.json", "saved/part/weights.safetensors"}
    assert not DetectorFiles.read("scenes-yolo", None, {}).files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine must be one of local, ray, got 'spark'"),
        ({"engine": "ray", "workers": 0}, "workers must be a whole number from 1"),
        ({"ray": RayOptions(address="auto")}, "is for engine ray, got engine local"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detxai.coco.Options(**options)


@pytest.mark.parametrize("gpus", [-1, 1.5, True, "1", float("nan")])
def test_gpus_per_worker(gpus: Any) -> None:
    with pytest.raises(ValueError, match="gpus_per_worker must be"):
        RayOptions(gpus_per_worker=gpus)


def test_without_ray_the_extra_is_named_before_anything_is_written(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detxai.coco.on_ray.cluster.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install \"detxai\[ray\]\""):
        explained(data, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_ray_that_does_not_come_up_is_started_again_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    tries = []

    def late(**settings: Any) -> None:
        tries.append(settings["address"])
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", late)
    with (
        pytest.raises(ConnectionError, match=r"did not come up on this machine in 3 tries .*timed out.*--engine local"),
        connected(RayOptions(), 1),
    ):
        pass
    assert tries == ["local"] * 3
