"""``detxai app``: what it refuses, and what it tells Streamlit."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detxai.app import server
from detxai.app.options import AppOptions, ModelChoice
from detxai.cli import main
from detxai.commands.app import run as app
from detxai.commands.app.arguments import add_app


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[AppOptions]:
    """What would be served."""
    found: list[AppOptions] = []
    monkeypatch.setattr(app, "serve", found.append)
    monkeypatch.setattr(app, "streamlit_module", lambda: None)
    return found


def test_by_default_it_listens_on_this_machine_alone(
    served: list[AppOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app"]) == 0
    (options,) = served
    assert options.host == "127.0.0.1"
    assert options.token is None
    assert capsys.readouterr().out == f"open http://127.0.0.1:{options.port}/\n"


def test_another_host_asks_for_a_token_that_is_new_each_time(
    served: list[AppOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["app", "--host", "0.0.0.0"]) == 0
    tokens = {options.token for options in served}
    assert len(tokens) == 2
    assert all(token is not None and len(token) >= 32 for token in tokens)
    said = capsys.readouterr().out
    assert all(f"?token={token}" in said for token in tokens)


def test_serving_others_without_a_token_is_refused() -> None:
    pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")
    with pytest.raises(ValueError, match="token"):
        server.serve(AppOptions(host="0.0.0.0"))


def test_a_taken_port_is_a_sentence_and_without_one_the_next_is_free(
    served: list[AppOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 2
    assert f"--port {port} cannot be listened on" in capsys.readouterr().err
    assert not served


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "nowhere"], "no such folder"), (["--runs", __file__], "must be a folder"),
        (["--weights", "w.pt"], "need --model"), (["--host", "192.0.2.1"], "cannot be listened on"),
    ],
)  # fmt: skip
def test_wrong_options_are_a_sentence(
    served: list[AppOptions], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["app", *words]) == 2
    assert said in capsys.readouterr().err
    assert not served


def test_the_detector_is_named_as_in_the_other_commands(served: list[AppOptions], tmp_path: Path) -> None:
    words = ["--model", "m.onnx", "--input-size", "320", "--slices", "2,3,0.2", "--layout", "yolo"]
    assert main(["app", *words, "--runs", str(tmp_path)]) == 0
    assert served[0].model == ModelChoice("m.onnx", slices="2,3,0.2", layout="yolo", input_size=320)


def test_streamlit_is_told_to_keep_to_itself() -> None:
    config: dict[str, Any] = server.settings(AppOptions(port=8599))
    assert config["browser.gatherUsageStats"] is False
    assert config["server.address"] == "127.0.0.1"
    assert config["server.headless"] is True
    assert config["server.enableXsrfProtection"] is True
    assert config["client.showErrorDetails"] == "none"
    assert config["client.toolbarMode"] == "minimal"
    assert config["server.maxUploadSize"] == 500
    streamlit = pytest.importorskip("streamlit", reason="the extra app, from Python 3.11 on")
    assert set(config) <= set(streamlit.config._config_options_template)


def test_without_streamlit_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "streamlit", None)
    assert main(["app"]) == 2
    assert 'pip install "detxai[app]"' in capsys.readouterr().err


def test_the_server_listens_before_anything_heavy_is_imported() -> None:
    code = "import sys, detxai.commands.app.run; print(sorted({'torch', 'numpy', 'matplotlib'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_names_every_option() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_app(commands)
    assert all(
        option in commands.choices["app"].format_help()
        for option in ("--model", "--images", "--runs", "--port", "--host")
    )
