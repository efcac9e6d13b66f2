"""The example that sets the price of insertion and deletion beside that of the bare passes."""

from __future__ import annotations

import re

import pytest
from example_scripts import run_example


def told(*arguments: str) -> str:
    return run_example("insertion_deletion_cost.py", "--model", "scenes-frcnn", *arguments)


@pytest.mark.slow
def test_both_are_timed_on_the_same_images() -> None:
    text = told("--steps", "4", "--rounds", "1", "--n-boxes", "1")
    assert text.startswith(
        "1 boxes, 4 steps, 8 images\n"
    )  # two curves of three points between their ends, and the ends
    assert float(re.findall(r"median ratio: ([\d.]+) of processor", text)[0]) > 0


@pytest.mark.slow
def test_all_boxes_cost_at_most_a_fifth_more_than_their_passes() -> None:
    text = told("--n-boxes", "4", "--score-threshold", "0.02", "--rounds", "3")
    assert float(re.findall(r"median ratio: ([\d.]+) of processor", text)[0]) <= 1.2
    more = float(re.findall(r"(-?\d+) MB more after the measure", text)[0])
    assert more < 100
