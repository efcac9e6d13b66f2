"""``detxai families``: which detectors are recognised, and what each supports."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from detxai.adapters.attention import has_attention
from detxai.adapters.families import ENTRY_POINTS, FAMILIES, registered_families
from detxai.adapters.network import NetworkDetector


def run(given: argparse.Namespace) -> int:
    """Print the families; the exit code."""
    rows = [
        {
            "family": family.name,
            "takes": family.takes,
            "features": issubclass(family.adapter, NetworkDetector),
            "gradients": issubclass(family.adapter, NetworkDetector),
            "attention": has_attention(family.adapter),
            "exact_ablation": family.ablation,
            "extra": family.extra,
            "builders": list(family.builders),
        }
        for family in FAMILIES
    ]
    registered = sorted(entry.name for entry in registered_families())
    if given.json:
        print(json.dumps({"families": rows, "registered": registered}, indent=2))
        return 0
    for row in rows:
        print(_described(row))
    print(f"registered by other packages ({ENTRY_POINTS}): {', '.join(registered) or 'none'}")
    return 0


def _described(row: dict[str, Any]) -> str:
    ablation = row["exact_ablation"]
    facts = {
        "features, gradients": "yes" if row["features"] else "no: only its detections are known",
        "attention of queries": "yes" if row["attention"] else "no",
        "exact Ablation-CAM": "no" if ablation is None else f"yes; recomputes {ablation}",
        "needs": "nothing more" if row["extra"] is None else f'pip install "detxai[{row["extra"]}]"',
    }
    if row["builders"]:
        facts["--model"] = ", ".join(f"{builder}_..." for builder in row["builders"])
    lines = [f"{row['family']}: {row['takes']}", *(f"{fact + ':':<22}{value}" for fact, value in facts.items())]
    wrapped = [textwrap.fill(line, 110, initial_indent="  ", subsequent_indent=" " * 24) for line in lines[1:]]
    return "\n".join([lines[0], *wrapped, ""])
