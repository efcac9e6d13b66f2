"""The arguments of ``detxai app``."""

from __future__ import annotations

from typing import Any

from detxai.commands.model_options import add_model_options
from detxai.commands.options import a_path, new_command, whole

EXAMPLES = """
detxai app
detxai app --model best.pt --images photos
detxai app --model scenes-frcnn --runs runs --port 8600
"""


def add_app(commands: Any) -> None:
    command = new_command(
        commands,
        "app",
        summary="open the web page on this machine: choose a detector, drop a picture, click a box, see why",
        description="Serve a web page that explains detections without any code, on this machine alone: no request "
        "leaves it. Open the printed address in a browser; Ctrl-C ends it.",
        examples=EXAMPLES,
    )
    add_model_options(command, required=False)
    group = command.add_argument_group("what the page offers")
    group.add_argument(
        "--images", type=a_path, metavar="DIR", help="a folder of pictures to choose from; default: bundled scenes"
    )
    group.add_argument(
        "--runs", type=a_path, default=a_path("detxai-runs"), metavar="DIR",
        help="the folder of runs of detxai coco and evaluate: those in it are listed, and runs started on the page are "
        "written to it; default: detxai-runs",
    )  # fmt: skip
    group.add_argument(
        "--max-upload", type=whole(1, 100_000), default=500, metavar="MB",
        help="the largest file that can be uploaded, in megabytes; default: 500",
    )  # fmt: skip
    group = command.add_argument_group("where it listens")
    group.add_argument(
        "--port", type=whole(1, 65_535), metavar="N", help="the port; default: 8501, or the next one that is free"
    )
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="the address to listen on; with any other than this machine's own, the page asks every visitor for a "
        "token, which the command prints; default: 127.0.0.1",
    )  # fmt: skip
