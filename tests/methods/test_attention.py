"""Attention is what the layers of a query detector read by: as they say, as the papers say, and at its place."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from faster_rcnns import small_faster_rcnn
from model_snapshots import StopError, assert_same, raising, snapshot
from torch import Tensor

import detxai
from detxai.adapters.attention import Attention, attention_of
from detxai.adapters.transformers.attention import attending_layers
from detxai.cli import main
from detxai.pages.overlays import overlay
from detxai.scenes import CLASS_NAMES, erase, generate

pytest.importorskip("transformers")
import query_detectors
from query_detectors import FAMILIES, SeededDetector, photo

DENSE = ("detr", "conditional detr", "dab detr", "table transformer", "yolos")
SAMPLING = (
    "deformable detr", "deformable detr, two stages", "rt-detr wide", "rt-detr v2", "d-fine", "deim v2", "lw-detr",
    "rf-detr",
)  # fmt: skip
IMAGE = photo(70, 110)


@cache
def detector_of(name: str) -> SeededDetector:
    return FAMILIES[name]()


def wrapped(one: SeededDetector) -> Any:
    return detxai.wrap(one.model, processor=one.processor)


def attention(one: SeededDetector) -> Attention:
    adapter = wrapped(one)
    with adapter.borrowed():
        return attention_of(adapter, IMAGE)


def weights(seen: Attention, n_queries: int) -> Tensor:
    """(layers, queries, places)."""
    return torch.stack([torch.stack([layer.weights(q) for q in range(n_queries)]) for layer in seen.layers])


@pytest.mark.parametrize("name", DENSE)
def test_dense_attention_is_what_the_model_puts_out_and_sums_to_one(name: str) -> None:
    one = FAMILIES[name]()  # its own: this changes how it computes attention
    seen = attention(one)
    one.model.set_attn_implementation("eager")  # the one that gives its weights
    with torch.no_grad():
        outputs = one.model(**one.processor(images=IMAGE, return_tensors="pt"), output_attentions=True)
    n_queries = outputs.logits.shape[1]
    own = torch.stack(outputs.attentions if name == "yolos" else outputs.cross_attentions)[:, 0].mean(1)
    mine = weights(seen, n_queries)
    torch.testing.assert_close(mine, own[:, -n_queries:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine.sum(-1), torch.ones(mine.shape[:2]), atol=1e-5, rtol=0)
    assert seen.candidates.boxes.shape[:2] == (1, n_queries)


def splatted(points: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
    """(h * w,) one by one: each point's share to the four cells around it, what lies outside is lost."""
    cells = torch.zeros(height, width, dtype=torch.float64)
    for (x, y), share in zip((points.double() * torch.tensor([width, height]) - 0.5).tolist(), shares.tolist()):
        left, top = math.floor(x), math.floor(y)
        for row, tall in ((top, top + 1 - y), (top + 1, y - top)):
            for column, wide in ((left, left + 1 - x), (left + 1, x - left)):
                if 0 <= row < height and 0 <= column < width:
                    cells[row, column] += share * tall * wide
    return cells.flatten()


def sampled_by_hand(module: Any, given: dict[str, Any], put_out: dict[str, Tensor], query: int) -> Tensor:
    """(heads, places) by the papers: where each head looks from a query's reference, and how much."""
    grids = [(int(height), int(width)) for height, width in given["spatial_shapes_list"]]
    n_heads, n_levels = module.n_heads, len(grids)
    shares = put_out["attention_weights"][0, query].view(n_heads, -1).softmax(-1).view(n_heads, n_levels, -1)
    offsets = put_out["sampling_offsets"][0, query].view(n_heads, n_levels, -1, 2)
    reference = given["reference_points"][0, query]  # (levels or 1, 2 or 4)
    heads = []
    for head in range(n_heads):
        levels = []
        for level, (height, width) in enumerate(grids):
            middle = reference[min(level, len(reference) - 1)]
            offset = offsets[head, level]
            # Deformable DETR, section 4: in cells; with boxes: half a box for as many steps as there are points
            step = middle[2:] * 0.5 / offset.shape[0] if len(middle) == 4 else 1 / torch.tensor([width, height])
            levels.append(splatted(middle[:2] + offset * step, shares[head, level], height, width))
        heads.append(torch.cat(levels))
    return torch.stack(heads)


@pytest.mark.parametrize("name", SAMPLING)
def test_sampled_points_reproduce_what_the_layer_reads_and_are_the_weights(name: str) -> None:
    one = detector_of(name)
    adapter = wrapped(one)
    last = [n for n, _ in one.model.named_modules() if n.endswith((".encoder_attn", ".cross_attn"))][-1]
    module = one.model.get_submodule(last)
    given: dict[str, Any] = {}
    put_out: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(lambda _, args, named: given.update(named), with_kwargs=True)]
    for part in ("attention_weights", "sampling_offsets"):
        hooks.append(
            getattr(module, part).register_forward_hook(lambda _, a, out, part=part: put_out.update({part: out}))
        )
    seen = attention_of(adapter, IMAGE)
    for hook in hooks:
        hook.remove()
    layer = seen.layers[-1]
    assert layer.name == last
    for query in (0, 5):
        heads = sampled_by_hand(module, given, {k: v.detach() for k, v in put_out.items()}, query)
        values = layer.values[0].detach().double().view(heads.shape[1], len(heads), -1)  # places, heads, channels
        read = torch.einsum("hs,shc->hc", heads, values).flatten()
        torch.testing.assert_close(layer.reads[0, query].detach().double(), read, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.weights(query).double(), heads.mean(0), atol=1e-6, rtol=1e-4)
        assert sum(float(level.sum()) for level in seen.maps(query)) <= 1 + 1e-5


def test_a_detector_that_looks_at_the_middle_of_its_box_has_its_map_there() -> None:
    """Offsets of zero, boxes that no layer refines: every point lies at the centre of the box."""
    one = query_detectors.rt_detr(3, 48, query_detectors.WIDE)
    with torch.no_grad():
        for name, parameter in one.model.named_parameters():
            if "sampling_offsets" in name or "decoder.bbox_embed" in name:
                parameter.zero_()
    adapter = wrapped(one)
    found = adapter.detect(IMAGE, 0.0)
    middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    inside = ((middle > 30) & (middle < torch.tensor([80, 40]))).all(1)  # bilinear: a margin of two coarse cells
    chosen = found[inside][:3] if bool(inside.any()) else found[:0]
    assert len(chosen)
    for detection, explanation in zip(chosen, detxai.explain(adapter, IMAGE, "attention", chosen), strict=True):
        share = explanation.values / explanation.values.sum()
        rows, columns = np.indices(share.shape) + 0.5
        x, y = float((share * columns).sum()), float((share * rows).sum())
        left, top, right, bottom = detection.boxes[0].tolist()
        assert abs(x - (left + right) / 2) < 1.5
        assert abs(y - (top + bottom) / 2) < 1.5


def test_the_map_is_of_the_boxs_own_query_and_says_so() -> None:
    adapter = wrapped(detector_of("rt-detr wide"))
    found = adapter.detect(IMAGE, 0.0)[:4]
    candidates = adapter.candidates(IMAGE)
    for detection, explanation in zip(found, detxai.explain(adapter, IMAGE, "attention", found), strict=True):
        query = explanation.details["query"]
        assert explanation.details["iou"] == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(candidates.boxes[0, query, 0], detection.boxes[0], atol=1e-3, rtol=1e-4)
        assert explanation.values.min() >= 0
        assert explanation.values.sum() <= 1.01
        assert explanation.values.shape == IMAGE.shape[:2]


def test_a_box_that_no_query_overlaps_has_a_flat_map() -> None:
    adapter = wrapped(detector_of("rt-detr wide"))
    corner = 0.5 * adapter.candidates(IMAGE).boxes[..., :2].min().item()
    assert corner > 0, "every query leaves the corner free"
    nowhere = detxai.Detections([[0, 0, corner, corner]], [0.5], [1], adapter.class_names)
    (explanation,) = detxai.explain(adapter, IMAGE, "attention", nowhere)
    assert explanation.details["query"] is None
    assert not explanation.values.any()


@pytest.mark.parametrize("name", ["detr", "d-fine", "yolos"])
def test_the_model_comes_back_as_it_was_also_from_an_exception(name: str) -> None:
    one = FAMILIES[name]()
    one.model.train()
    adapter = wrapped(one)
    last = attending_layers(one.model, queries_are_tokens=name == "yolos")[-1]
    found = adapter.detect(IMAGE, 0.0)[:1]
    before = snapshot(one.model)
    detxai.explain(adapter, IMAGE, "attention", found)
    assert_same(before, snapshot(one.model))
    for error in (StopError, KeyboardInterrupt):
        hook = one.model.get_submodule(last).register_forward_hook(raising(error))
        hooked = snapshot(one.model)
        with pytest.raises(error):
            detxai.explain(adapter, IMAGE, "attention", found)
        assert_same(hooked, snapshot(one.model))
        hook.remove()


def test_a_layer_that_is_no_sum_of_its_values_is_refused() -> None:
    one = query_detectors.detr(5)
    layer = one.model.model.decoder.layers[1].encoder_attn
    squared = layer.o_proj.register_forward_pre_hook(lambda module, args: (args[0] ** 2,))
    adapter = wrapped(one)
    with pytest.raises(ValueError, match=r"layers\.1\.encoder_attn' must read a weighted sum"):
        detxai.explain(adapter, IMAGE, "attention", adapter.detect(IMAGE, 0.0)[:1])
    squared.remove()


def test_detectors_without_attention_are_refused_in_a_sentence() -> None:
    adapter = detxai.wrap(small_faster_rcnn())
    box = detxai.Detections([[1, 1, 40, 40]], [0.9], [1])
    with pytest.raises(TypeError, match=r"must have queries that attend .* got a FasterRCNN \(family 'faster_rcnn'\)"):
        detxai.explain(adapter, IMAGE, "attention", box)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_looks_at_the_same_places(dtype: torch.dtype) -> None:
    one = FAMILIES["detr"]()
    adapter = wrapped(one)
    found = adapter.detect(IMAGE, 0.0)[:2]
    full = [each.values for each in detxai.explain(adapter, IMAGE, "attention", found)]
    one.model.to(dtype)
    for map_, half in zip(full, detxai.explain(wrapped(one), IMAGE, "attention", found), strict=True):
        np.testing.assert_allclose(half.values, map_, atol=0.02 * map_.max())


def test_attention_is_not_cause() -> None:
    """The trained RT-DETR looks at the house, and hardly at the sun or moon beside it, which decides its class."""
    adapter = detxai.wrap("scenes-rtdetr")
    shares, kept = [], []
    for seed in range(30, 36):
        scene = generate(seed, "context")
        found = adapter.detect(scene.image, 0.5)
        assert [found.name(i) for i in range(len(found))] == [CLASS_NAMES[scene.labels[0]]]
        (explanation,) = detxai.explain(adapter, scene.image, "attention", found)
        heat = explanation.values / explanation.values.sum()
        shares.append((heat[scene.evidence[0]].sum(), heat[scene.silhouettes[0]].sum()))
        after = adapter.detect(erase(scene, 0), 0.5)
        kept += [after.name(i) for i in range(len(after)) if after.name(i) == found.name(0)]
    on_cause, on_house = np.mean(shares, axis=0)
    assert on_house > 0.5
    assert on_cause < 0.05
    assert not kept


def test_the_overlay_calls_it_attention_and_not_evidence() -> None:
    adapter = wrapped(detector_of("rt-detr wide"))
    (explanation,) = detxai.explain(adapter, IMAGE, "attention", adapter.detect(IMAGE, 0.0)[:1])
    assert [axes.get_ylabel() or axes.get_xlabel() for axes in overlay(explanation).axes][-1] == (
        "attention, as a share of its peak"
    )


def test_families_and_methods_say_who_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["families"]
    assert {row["family"] for row in rows if row["attention"]} == {"transformers", "rfdetr"}
    assert main(["methods", "attention"]) == 0
    text = capsys.readouterr().out
    assert "not yet what made it find the box" in text
    assert "needs:    queries with attention" in text
