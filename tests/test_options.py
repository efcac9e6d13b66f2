"""Options and settings that cannot be read or make no sense are refused by name, before any work."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

import pytest

import detxai
from detxai.cli import main, make_parser
from detxai.coco.options import Options
from detxai.commands.options import amount, fraction, setting, whole
from detxai.evaluate import make_measures
from detxai.evaluate.contestants import contestants
from detxai.explain import make_method

OUTSIDE = ["nan", "inf", "-inf", "-1", "-0.5", "1e999", "99999999999999999999", "9" * 5000, "many", "", "1,5", "0x10"]


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def numeric_options() -> list[tuple[str, str]]:
    """(command, option), found by what the option does with a word."""
    found = []
    for name, command in commands().items():
        for action in command._actions:
            if not callable(action.type) or not action.option_strings or action.type is Path:
                continue
            try:
                action.type("3/4=x.y=5,many")
            except argparse.ArgumentTypeError as refused:
                if "number" in str(refused):
                    found.append((name, action.option_strings[0]))
            except ValueError:  # of int and float: argparse would tell, but they take NaN, infinity and any size
                found.append((name, action.option_strings[0]))
    return found


def test_the_numeric_options_are_found() -> None:
    found = numeric_options()
    assert {("coco", "--map-stride"), ("coco", "--min-score"), ("evaluate", "--seed"), ("bench", "--batch-size")} <= {
        *found
    }
    assert len(found) >= 25
    assert not [a for c in commands().values() for a in c._actions if a.type in (int, float)]


@pytest.mark.parametrize("command", ["explain", "coco", "evaluate", "bench"])
def test_each_command_that_explains_takes_seed_device_batch_size_and_input_size(command: str) -> None:
    options = {option for action in commands()[command]._actions for option in action.option_strings}
    assert {"--seed", "--device", "--batch-size", "--input-size"} <= options


@pytest.mark.parametrize(("command", "option"), numeric_options())
def test_what_is_no_number_or_makes_no_sense_is_refused_by_name(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = {"--image-ids": {"-1", "1,5"}, "--boxes": {"1,5"}}.get(option, set())
    for text in OUTSIDE:
        if text in taken:
            continue
        with pytest.raises(SystemExit) as refused:
            main([command, f"{option}={text}"])
        assert refused.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.search(rf"argument {option}(/--[a-z-]+)?: expected ", error), (
            error
        )  # with its other name, if it has one
        assert len(error) < 300
    assert not list(tmp_path.iterdir())


def test_numbers_within_are_taken() -> None:
    assert (whole(1)("7"), whole(0)(" 0 "), amount("1e3"), fraction("0.5"), fraction("1")) == (7, 0, 1000.0, 0.5, 1.0)


@pytest.mark.parametrize("text", ["a=" + "[" * 100_000, "a=" + "9" * 5000, "a=NaN", "a=Infinity", "a=-Infinity"])
def test_what_is_no_json_is_text(text: str) -> None:
    assert setting(text) == ("a", text[2:])


SETTINGS: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "a text for a number": (
        "ablation_cam",
        {"margin": "half"},
        TypeError,
        r"margin must be a number, or null, got",
    ),
    "null for a number": ("ablation_cam", {"ratio_channels_to_ablate": None}, TypeError, "ratio_.* must be a number"),
    "a list for a number": ("d_rise", {"p": [0.5]}, TypeError, r"p must be a number, got \[0.5\]"),
    "a number for a list": ("eigen_cam", {"layers": 3}, TypeError, "layers must be a list, each a text, or a text, or"),
    "true for a count": ("d_rise", {"n_masks": True}, TypeError, "n_masks must be a whole number, or one of 'auto'"),
    "a share for a count": ("d_rise", {"most_masks": 0.5}, TypeError, "most_masks must be a whole number, got 0.5"),
    "a word for a switch": ("d_rise", {"channels_last": "yes"}, TypeError, "channels_last must be true or false"),
    "three rows": (
        "d_rise",
        {"grid": [1, 2, 3]},
        TypeError,
        "grid must be a whole number, or a list of 2, each",
    ),
    "a word for a function": ("d_rise", {"target": "Similarity"}, TypeError, "target must be a function"),
    "an object": ("d_rise", {"seed": {"a": 1}}, TypeError, "seed must be a whole number"),
    "a negative count": ("ablation_cam", {"batch_size": -1}, ValueError, "batch_size must not be negative"),
    "too many masks": ("d_rise", {"n_masks": 10**20}, ValueError, "n_masks must not exceed 10000000"),
    "a large seed": ("d_rise", {"seed": 10**20}, ValueError, "seed must not exceed 9223372036854775807"),
    "infinity": ("ablation_cam", {"fill": math.inf}, ValueError, "fill must be finite, got inf"),
    "NaN in a list": ("d_rise", {"fill": [0.1, math.nan, 0.2]}, ValueError, "fill must be finite, got nan"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_of_a_method_is_refused_by_name(case: str) -> None:
    method, settings, error, message = SETTINGS[case]
    with pytest.raises(error, match=f"^{message}"):
        make_method(method, **settings)
    with pytest.raises(error, match=f"^{message}"):
        contestants([method], {method: settings})


def test_settings_of_measures_and_baselines_too() -> None:
    with pytest.raises(TypeError, match=r"^steps must be a whole number, got 'many'"):
        make_measures(["insertion_deletion"], {"insertion_deletion": {"steps": "many"}})
    with pytest.raises(ValueError, match=r"^steps must not exceed"):
        make_measures(["insertion_deletion"], steps=10**12)
    with pytest.raises(TypeError, match=r"^cells must be a whole number, or null, got \[\]"):
        contestants(["random"], {"random": {"cells": []}})


def test_settings_that_fit_are_taken() -> None:
    made = make_method("d_rise", n_masks="auto", grid=[3, 4], fill=[0, 0.5, 1], p=1 / 3, batch_size=None, seed=2**60)
    assert isinstance(made, detxai.DRISE)
    assert make_method("ablation_cam", fill=-1, layers=["a"], target=detxai.targets.BoxScoreTarget, margin=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("iou", 0),
        ("iou", math.nan),
        ("iou", "half"),
        ("operating_point", math.inf),
        ("operating_point", None),
        ("map_stride", 10**20),
        ("map_stride", "fine"),
        ("rows_per_part", 0),
        ("rows_per_part", 1.5),
        ("workers", 10**6),
        ("workers", True),
        ("score_threshold", math.nan),
    ],
)
def test_options_of_a_coco_run_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{option} must "):
        Options(**{option: value})
