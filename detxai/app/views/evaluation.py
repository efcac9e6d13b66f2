"""A finished ``detxai evaluate``: who is best at what, and the mean curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from detxai.app.coco_runs import is_evaluation
from detxai.app.sentences import escaped
from detxai.evaluate.folder import EvaluationFolder
from detxai.pages.plots import colour


def evaluation_folders(below: Path) -> dict[str, Path]:
    """The finished evaluations directly below a folder, by name."""
    return {path.name: path for path in sorted(below.iterdir()) if is_evaluation(path)} if below.is_dir() else {}


def show_evaluation(folder: Path) -> None:
    """Rank table and curves.

    Raises:
        ValueError, LookupError, OSError: the folder's files are damaged.
    """
    summary: Mapping[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    st.markdown(
        f"**{summary['detections']} detections in {summary['images']} pictures**, each explained by every method"
    )
    st.dataframe(rank_rows(summary), hide_index=True)
    quantities = {one["quantity"]: one for one in summary["quantities"] if one["better"] is not None}
    name = st.selectbox("Quantity", list(quantities), key="quantity")
    if name is not None:
        st.caption(f"{quantities[name]['better']} is better; ranges are 95 % intervals over pictures")
        st.dataframe(standing_rows(quantities[name]), hide_index=True)
    _curves(folder, [one["method"] for one in summary["methods"]])


def rank_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each method: its mean rank over the measures, by group too, and its seconds."""
    return [
        {"method": one["method"], "mean rank": one["mean_rank"], **one["ranks"], "seconds": one["seconds"]["mean"]}
        for one in summary["methods"]
    ]


def standing_rows(quantity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each method at one quantity, the best first."""
    return [
        {
            "rank": one["rank"], "method": one["method"], "mean": one["mean"], "from": one["low"], "to": one["high"],
            "detections": one["detections"],
        }
        for one in quantity["standings"]
    ]  # fmt: skip


def _curves(folder: Path, methods: list[str]) -> None:
    found = mean_curves(folder)
    methods = [method for method in methods if method in found]
    if not methods:
        return
    shares = np.linspace(0, 1, 25)
    for name, across in (("insertion", "share of the pixels shown"), ("deletion", "share of the pixels hidden")):
        table: dict[str, Any] = {across: shares}
        for method in methods:
            table[method] = np.mean([np.interp(shares, one["fractions"], one[name]) for one in found[method]], axis=0)
        st.markdown(f"**{escaped(name.capitalize())}: mean score**")
        colours = [colour(place) for place in range(len(methods))]
        st.line_chart(table, x=across, y=methods, color=colours, height=260, x_label=across, y_label="mean score")


def mean_curves(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Method -> the curves of every detection that has any, as the parts of the folder keep them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(EvaluationFolder(folder).parts.glob("*.json")):
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        method = path.name.split(".")[1]
        detections = part.get("detections") if isinstance(part, dict) else None
        for detection in detections.values() if isinstance(detections, dict) else []:
            if isinstance(detection, dict) and detection.get("curves"):
                found.setdefault(method, []).append(detection["curves"])
    return found
