"""Images and a run folder at an address: fsspec's memory, and the disk through fsspec, stand for object storage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn

import detxai.coco
from detxai.cli import main
from detxai.coco.exports import to_label_studio
from detxai.coco.folder import CocoFolder
from detxai.coco.options import RayOptions
from detxai.coco.schema import TIMED
from detxai.data.coco_files import read_annotations
from detxai.data.readers import read_annotated_images
from detxai.runs.remote.address import Address
from detxai.runs.shards import Shard

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")

Place = Callable[[str], str]  # a name -> an address of that name, which is empty at first
MODEL = f"{Path(__file__).parents[1] / 'faster_rcnns.py'}:small_faster_rcnn"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return detected_dataset(tmp_path_factory.mktemp("coco"), n_images=4)


@pytest.fixture(scope="module")
def local(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "local"
    explained(data, data["images"], out)
    return out


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    root = f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path.as_posix()}"
    yield lambda name: f"{root}/{name}"
    if request.param == "memory":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def explained(data: dict[str, Path], images: Any, out: Any, **options: Any) -> detxai.coco.Finished:
    return detxai.coco.explain_errors(
        read_annotations(data["annotations"]), None, small_faster_rcnn(), images=images, out=out, method="eigen_cam",
        **{"rows_per_part": 16, "map_stride": 4, "report": False, **options},
    )  # fmt: skip


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in detxai.coco.load(out).rows()]


def copied(folder: Path, address: str) -> str:
    """What is in a folder, at the address."""
    system, path = Address(address).file_system()
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe_file(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return address


def fetched(address: str, folder: Path) -> Path:
    for name in Address(address).files_below():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((Address(address) / name).read_bytes())
    return folder


def test_images_and_output_at_an_address_give_the_rows_of_a_run_on_disk(
    local: Path, data: dict[str, Path], place: Place, tmp_path: Path
) -> None:
    images = copied(data["images"], place("images"))
    finished = explained(data, images, place("why"))
    assert finished.complete
    assert finished.address == Address(place("why"))
    out = fetched(place("why"), tmp_path / "fetched")
    assert rows(out) == rows(local)
    assert (out / "predictions.json").read_bytes() == (local / "predictions.json").read_bytes()
    explanation = detxai.coco.load(out)[0]  # its photo is read from the address
    assert explanation.image.shape == (60, 80, 3)


def test_a_run_goes_on_with_what_lies_at_the_address(
    local: Path, data: dict[str, Path], place: Place, tmp_path: Path
) -> None:
    begun = shutil.copytree(local, tmp_path / "begun")
    first, second, *_ = sorted((begun / "explanations").iterdir())
    second.unlink()
    address = copied(begun, place("why"))
    system, path = Address(address).file_system()
    before = system.modified(f"{path}/explanations/{first.name}")
    assert explained(data, data["images"], address).complete
    assert rows(fetched(address, tmp_path / "fetched")) == rows(local)
    assert system.modified(f"{path}/explanations/{first.name}") == before  # only what was missing is written


def test_what_is_gone_from_the_folder_goes_from_the_address_and_failures_stay_until_their_part_is_whole(
    tmp_path: Path,
) -> None:
    from detxai.runs.remote.copied_folder import CopiedFolder

    folder, address = tmp_path / "here", Address(f"file://{(tmp_path / 'there').as_posix()}")
    for name in ("stale.json", ".parts/failures-1.parquet", ".parts/.half.host-1-0123abcd.partial"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    copy = CopiedFolder(folder, address, "manifest.json")
    copy.claim()
    copy.send()
    assert address.files_below() == [".parts/failures-1.parquet", ".parts/writer.json", "stale.json"]
    order = []
    copy._put = lambda name, content: order.append(("put", name))  # type: ignore[method-assign]
    removed = copy._remove
    copy._remove = lambda names: order.extend(("remove", n) for n in names) or removed(names)  # type: ignore
    (folder / "stale.json").unlink()
    (folder / ".parts/failures-1.parquet").unlink()
    (folder / "part-1.parquet").write_text("rows")
    copy.send()
    assert order == [("remove", "stale.json"), ("put", "part-1.parquet"), ("remove", ".parts/failures-1.parquet")]


def test_an_address_that_holds_something_else_is_refused_and_left_alone(place: Place, data: dict[str, Path]) -> None:
    images = copied(data["images"], place("images"))
    with pytest.raises(ValueError, match="holds files, but no run; give a new or an empty folder"):
        explained(data, images, images)
    assert Address(images).files_below() == [f"{n:02d}.png" for n in range(4)]


def test_of_two_that_write_to_one_address_the_first_stops(tmp_path: Path) -> None:
    from detxai.runs.files import WriteError
    from detxai.runs.remote.copied_folder import working_folder

    address = Address(f"file://{(tmp_path / 'there').as_posix()}")
    first = working_folder(address)
    here = first.__enter__()
    (here / "of_the_first").write_text("1")
    with working_folder(address) as other:
        (other / "of_the_second").write_text("2")
    with pytest.raises(WriteError, match="another process has begun to write there") as raised:
        first.__exit__(None, None, None)
    assert address.files_below() == [".parts/writer.json", "of_the_second"]
    assert str(here) in str(raised.value)  # where its work still is
    assert (here / "of_the_first").read_text() == "1"
    shutil.rmtree(here)


def test_files_are_copied_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from detxai.runs.remote import copied_folder

    monkeypatch.setattr(copied_folder, "SECONDS_BETWEEN_COPIES", 0.02)
    address = Address(f"file://{(tmp_path / 'there').as_posix()}")
    with copied_folder.working_folder(address) as here:
        (here / "part").write_text("rows")
        deadline = time.monotonic() + 30
        while not (address / "part").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (address / "part").read_bytes() == b"rows"


def test_an_exception_leaves_what_is_finished_at_the_address(tmp_path: Path) -> None:
    from detxai.runs.remote.copied_folder import working_folder

    address = Address(f"file://{(tmp_path / 'there').as_posix()}")
    working = working_folder(address)
    here = working.__enter__()
    (here / "part").write_text("rows")
    assert not working.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # it goes on its way
    assert (address / "part").exists()
    assert not here.exists()


def test_the_command_takes_addresses_and_a_damaged_image_is_a_failure(
    data: dict[str, Path], place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = copied(data["images"], place("images"))
    system, path = Address(images).file_system()
    system.pipe_file(f"{path}/00.png", b"no image")
    given = ["--model", MODEL, "--annotations", str(data["annotations"]), "--method", "eigen_cam", "--no-report"]
    given += ["--images", images, "--out", place("why"), "--max-images", "1", "--json"]
    assert main(["coco", *given]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["out"] == place("why")
    assert printed["complete"]
    out = fetched(place("why"), tmp_path / "fetched")
    assert [row["file_name"] for row in CocoFolder(out).failures()] == ["00.png"]
    assert f"images: {images}" in (out / "run.yaml").read_text()
    assert f"out: {place('why')}" in (out / "run.yaml").read_text()


def test_a_folder_of_images_at_an_address(data: dict[str, Path], place: Place) -> None:
    source = read_annotated_images(None, copied(data["images"], place("images")))
    assert [image["file_name"] for image in source.content["images"]] == [f"{n:02d}.png" for n in range(4)]
    assert not source.annotated
    with pytest.raises(ValueError, match="must hold images"):
        read_annotated_images(None, place("nothing"))


@pytest.mark.parametrize(
    ("images", "out", "options", "message"),
    [
        (None, "memory://why", {"shard": Shard(0, 2)}, "out: shards share a folder on a disk, got the address memory"),
        ("memory://photos", None, {"engine": "ray", "ray": RayOptions()}, "in the memory of this process"),
        ("memory://photos", None, {}, "images: none of the 4 images that are annotated is in memory://photos"),
        ("zip::file://photos.zip", None, {}, "images: no such folder"),
        ("zip://::s3://photos.zip", None, {}, "an address must be PROTOCOL://PATH"),
        (None, "nope://why", {}, "Protocol not known: nope"),
        (None, "data://why", {}, "data://why: fsspec cannot list what is in a folder of data://"),
    ],
)
def test_what_does_not_work_is_refused_by_name(
    images: str | None, out: str | None, options: dict[str, Any], message: str, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        explained(data, images or data["images"], out or tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_reads_a_run_wants_it_on_a_disk(local: Path, data: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"folder must be on a disk of this machine, got the address s3://b/why; copy"):
        detxai.coco.load("s3://b/why")
    with pytest.raises(ValueError, match="annotations must be on a disk of this machine"):
        read_annotated_images("s3://b/val.json", data["images"])
    with pytest.raises(ValueError, match="is for COCO annotations"):
        read_annotated_images(data["images"], "s3://b/val")
    run = detxai.coco.load(local, "memory://photos")
    with pytest.raises(ValueError, match="images must be on a disk of this machine, got the address memory://photos"):
        list(to_label_studio(run))


@pytest.mark.parametrize("option", ["--annotations", "--predictions", "--weights"])
def test_other_options_take_no_address(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["coco", "--model", "x.pt", "--images", "a", "--annotations", "b", "--method", "eigen_cam", "--out", "c"]
    with pytest.raises(SystemExit):
        main([*given, option, "s3://bucket/file"])
    assert "only --images and --out of detxai coco take an address" in capsys.readouterr().err
