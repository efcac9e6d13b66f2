"""Maps kept at a layer's resolution come back where they were, through resize and letterbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import detected_dataset
from faster_rcnns import small_faster_rcnn

import detxai
import detxai.coco
import detxai.data.coco_files
from detxai.coco.parts.stored_maps import LayerCells, load_map, store_map
from detxai.geometry import Geometry

pytest.importorskip("pyarrow")

GEOMETRIES = [
    Geometry((64, 96), (64, 96), (64, 96)),  # the image as it is
    Geometry((50, 70), (96, 128), (91, 128), (2, 0)),  # enlarged, padded above and below
    Geometry((333, 500), (224, 320), (213, 320), (5, 0)),  # shrunk
    Geometry((120, 80), (128, 128), (128, 85), (0, 21), cell_centre=0.0),  # cells' edges, wide padding
]

SETTINGS: dict[str, dict[str, Any]] = {
    "ablation_cam": {"ratio_channels_to_ablate": 0.2}, "eigen_cam": {}, "d_rise": {"n_masks": 16}
}  # fmt: skip


def peak_at(geometry: Geometry, shape: tuple[int, int], place: tuple[int, int]) -> torch.Tensor:
    cells = torch.zeros(shape)
    cells[place] = 1.0
    return geometry.map_to_image(cells)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_map_of_the_cells_comes_back(geometry: Geometry) -> None:
    shape = (geometry.input_size[0] // 8, geometry.input_size[1] // 8)
    noise = torch.randn(2, *shape, generator=torch.manual_seed(0))
    values = geometry.map_to_image(noise)
    back = geometry.map_to_image(geometry.map_to_cells(values, shape))
    assert (back - values).abs().max() < 0.02  # of a map in which neighbours differ by 1.4 on average
    smooth = geometry.map_to_image(torch.linspace(0, 1, shape[1]).expand(shape))
    assert (geometry.map_to_image(geometry.map_to_cells(smooth, shape)) - smooth).abs().max() < 1e-3


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_single_cell_comes_back_at_its_place(geometry: Geometry) -> None:
    shape = (geometry.input_size[0] // 8, geometry.input_size[1] // 8)
    middle = (shape[0] // 2, shape[1] // 2)
    values = peak_at(geometry, shape, middle).numpy()
    cells = LayerCells(geometry, shape)
    stored = cells.store(values)
    back = LayerCells.read(cells.record()).load(stored)
    assert np.abs(back - values).max() < stored.scale * 0.51 + 1e-3
    assert np.unravel_index(back.argmax(), back.shape) == np.unravel_index(values.argmax(), values.shape)


def test_cells_say_what_is_wrong_with_their_picture() -> None:
    cells = LayerCells(GEOMETRIES[0], (8, 12))
    with pytest.raises(ValueError, match=r"map_png must be 8-bit grey of shape \(8, 12\)"):
        cells.load(store_map(np.zeros((8, 11), dtype=np.float32)))


@pytest.mark.parametrize("method", SETTINGS)
def test_a_run_keeps_maps_at_the_finest_layer(tmp_path: Path, method: str) -> None:
    data, model = detected_dataset(tmp_path, n_images=2), small_faster_rcnn()
    annotations = detxai.data.coco_files.read_annotations(data["annotations"])
    whole, layers = (
        detxai.coco.explain_errors(
            annotations, None, model, images=data["images"], out=tmp_path / name,
            method=method, settings=SETTINGS[method],
            selection=detxai.coco.Selection(worst=3), map_stride=stride, report=stride == "layer",
        )
        for name, stride in (("image", 1), ("layer", "layer"))
    )  # fmt: skip
    pairs = [detxai.coco.load(done.folder) for done in (whole, layers)]
    assert len(pairs[0]) == len(pairs[1]) == 3
    finest = next(iter(detxai.wrap(model).features(data["images"] / "00.png").levels.values())).shape[-2:]
    for full, coarse in zip(*(loaded.rows() for loaded in pairs), strict=True):
        assert coarse["map_stride"] is None
        assert json.loads(coarse["map_cells"])["cells"] == list(finest)
        same = [name for name in full if not name.startswith("map_") and name != "seconds"]
        assert [full[name] for name in same] == [coarse[name] for name in same]
    for ours, theirs in zip(pairs[1], pairs[0], strict=True):
        # several levels lose little; the masks of so small an image have cells of half a layer's
        lost = np.abs(ours.values - theirs.values).mean() / float(np.ptp(theirs.values))
        assert lost < (0.05 if method == "d_rise" else 0.02)
    assert (layers.folder / "report.html").is_file()


def test_a_whole_stride_still_takes_means() -> None:
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    assert load_map(store_map(values, 4), 8, 8, 4).shape == (8, 8)


def test_layer_or_a_whole_number(capsys: pytest.CaptureFixture[str]) -> None:
    from detxai.cli import main

    with pytest.raises(SystemExit):
        main(["coco", "--model", "m", "--images", "i", "--annotations", "a", "--method", "eigen_cam", "--out", "o",
              "--map-stride", "finest"])  # fmt: skip
    assert "expected 'layer' or a whole number from 1 to 65536, got 'finest'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="map_stride must be"):
        detxai.coco.Options(map_stride="finest")  # type: ignore[arg-type]
