"""``--help`` is quick, says what is so, and its examples can be typed."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from typing import Any, get_args

import pytest

import detxai
from detxai.adapters.exported import SUFFIXES
from detxai.adapters.exported.layouts import LAYOUTS
from detxai.adapters.loading import BUNDLED
from detxai.cli import main, make_parser
from detxai.coco.options import EngineName
from detxai.commands import choices
from detxai.concepts.learned.settings import OBJECTIVES
from detxai.data.error_kinds import ERRORS, FALSE_POSITIVES, KINDS
from detxai.data.readers import FORMATS
from detxai.engine.attacks.goals import GOALS
from detxai.engine.attacks.pgd import NORMS
from detxai.engine.masking.canvas import FILLINGS
from detxai.evaluate.contestants import BASELINES, PEERS
from detxai.evaluate.measuring import COSTLY
from detxai.explain import DEFAULT_METHOD
from detxai.methods import METHODS
from detxai.metrics import MEASURES
from detxai.metrics.inputs.case import REFERENCES
from detxai.metrics.inputs.scores import SCORE_FUNCTIONS
from detxai.metrics.insertion_deletion import UNITS
from detxai.pages.colours import Mode
from detxai.scenes.world import KINDS as SCENE_KINDS

HEAVY = {
    "torch", "torchvision", "numpy", "cv2", "matplotlib", "ultralytics", "PIL", "scipy", "pyarrow", "jinja2", "tqdm",
}  # fmt: skip


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def examples() -> list[str]:
    """Every line of every help that stands under ``examples:``."""
    found = []
    for command in commands().values():
        epilog = command.epilog or ""
        found += [line.strip() for line in epilog.partition("examples:\n")[2].partition("\n\n")[0].splitlines()]
    return found


def loaded_by(code: str) -> set[str]:
    """The modules that Python has loaded after ``code``."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_help_waits_for_torch() -> None:
    lines = [["--help"], *([name, "--help"] for name in commands())]
    code = f"""
import detxai.cli
for words in {lines!r}:
    try:
        detxai.cli.main(words)
    except SystemExit as stopped:
        assert stopped.code == 0, words
"""
    loaded = loaded_by(code)
    assert not HEAVY & loaded
    assert len(loaded - loaded_by("")) < 150  # some 110 today; torch alone brings 1,200


def test_importing_detxai_brings_little_and_using_it_hardly_more_than_torch() -> None:
    code = """
import sys
bare = len(sys.modules)
import detxai
assert len(sys.modules) - bare < 20, sorted(sys.modules)
assert {"explain", "coco", "wrap"} <= set(dir(detxai))
bare = len(sys.modules)
import torch, torchvision
with_torch = len(sys.modules) - bare
from detxai import explain, wrap
assert len(sys.modules) - bare < 1.5 * with_torch, (len(sys.modules) - bare, with_torch)

import detxai.explain  # a module of the same name: it does not take the place of the function
assert detxai.explain is explain and explain.__name__ == "explain"
from detxai import targets
assert detxai.coco.load and detxai.geometry.box_iou and targets.BoxScoreTarget
"""
    loaded_by(code)


@pytest.mark.parametrize("line", examples())
def test_examples_are_commands(line: str) -> None:
    program, *words = shlex.split(line.partition(" > ")[0])  # a shell writes the rest
    assert program == "detxai"
    make_parser().parse_args(words)


def test_every_command_has_a_summary_a_description_and_examples() -> None:
    (found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {action.dest: action.help for action in found._choices_actions}
    for name, command in commands().items():
        assert summaries[name], name
        assert command.description, name
        assert any(line.startswith(f"detxai {name}") for line in examples()), name
        undescribed = [action.dest for action in command._actions if not action.help]
        assert not undescribed, name


LISTED: dict[str, tuple[Any, Any]] = {
    "METHODS": (choices.METHODS, METHODS),
    "LEARN_OBJECTIVES": (choices.LEARN_OBJECTIVES, OBJECTIVES),
    "MODES": (choices.MODES, get_args(Mode)),
    "BUNDLED": (choices.BUNDLED, BUNDLED),
    "EXPORTED_SUFFIXES": (choices.EXPORTED_SUFFIXES, SUFFIXES),
    "LAYOUTS": (choices.LAYOUTS, LAYOUTS),
    "KINDS": (choices.KINDS, KINDS),
    "ANNOTATION_FORMATS": (choices.ANNOTATION_FORMATS, FORMATS),
    "FALSE_POSITIVES": (choices.FALSE_POSITIVES, FALSE_POSITIVES),
    "errors": (choices.KIND_GROUPS["errors"], ERRORS),
    "ENGINES": (choices.ENGINES, get_args(EngineName)),
    "PEERS": (choices.PEERS, PEERS),
    "BASELINES": (choices.BASELINES, BASELINES),
    "MEASURES": (choices.MEASURES, MEASURES),
    "COSTLY_MEASURES": (choices.COSTLY_MEASURES, COSTLY),
    "FILLINGS": (choices.FILLINGS, FILLINGS),
    "UNITS": (choices.UNITS, UNITS),
    "SCORE_FUNCTIONS": (choices.SCORE_FUNCTIONS, SCORE_FUNCTIONS),
    "REFERENCES": (choices.REFERENCES, REFERENCES),
    "ATTACK_GOALS": (choices.ATTACK_GOALS, GOALS),
    "ATTACK_NORMS": (choices.ATTACK_NORMS, NORMS),
    "SCENE_KINDS": (choices.SCENE_KINDS, SCENE_KINDS),
}


@pytest.mark.parametrize("name", LISTED)
def test_what_a_help_lists_is_what_there_is(name: str) -> None:
    listed, there_is = LISTED[name]
    assert tuple(listed) == tuple(there_is)


def test_the_default_method_that_a_help_names() -> None:
    assert choices.DEFAULT_METHOD == DEFAULT_METHOD


def test_what_detxai_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'detxai' has no attribute 'explian'"):
        detxai.explian  # noqa: B018


def test_the_names_and_where_they_are_imported_from_agree() -> None:
    public = {name for name in detxai.__all__ if name != "__version__"}
    packages = {name for name in public if name.islower() and name not in detxai._MODULES}
    assert public - packages == set(detxai._MODULES)
    assert all(detxai._module(name).__name__ == f"detxai.{name}" for name in packages)


@pytest.mark.parametrize(
    ("typed", "command", "hint"),
    [
        ("explian a.png", "detxai", "did you mean 'explain'?"),
        ("explain a.png --model m --out o --metod layer_cam", "detxai explain", "did you mean '--method'?"),
        ("explain a.png --model m --out o --mode=signd", "detxai explain", "did you mean 'signed'?"),
        ("coco status run --jsn", "detxai coco status", "did you mean '--json'?"),
    ],
)
def test_a_typo_names_the_nearest_word_and_the_help_to_read(
    typed: str, command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    help_to_read, error = shown.err.splitlines()
    assert error.startswith(f"{command}: error: ")
    assert hint in error
    assert f"'{command} --help'" in help_to_read


def test_what_resembles_nothing_gets_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "a.png", "--model", "m", "--out", "o", "--elephant"])
    assert "did you mean" not in capsys.readouterr().err
