"""``detxai app``: the web page, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import secrets
import socket

from detxai.app.options import LOOPBACK, MEGABYTE, AppOptions, ModelChoice
from detxai.app.server import serve, streamlit_module
from detxai.commands.model_options import model_arguments

TOKEN_BYTES = 24
PORTS_TRIED = 20


def run(given: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; the exit code."""
    streamlit_module()
    if given.images is not None and not given.images.is_dir():
        raise FileNotFoundError(f"--images: no such folder: {given.images}")
    if given.runs.exists() and not given.runs.is_dir():
        raise ValueError(f"--runs must be a folder, got the file {given.runs}")
    options = AppOptions(
        model=_choice(given), images=given.images, runs=given.runs, host=given.host,
        port=_free_port(given.host, given.port), token=None if given.host in LOOPBACK else _new_token(),
        max_upload=given.max_upload * MEGABYTE,
    )  # fmt: skip
    name = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{name}:{options.port}/"
    print(f"open {address if options.token is None else f'{address}?token={options.token}'}", flush=True)
    if options.token is not None:
        print("whoever knows the token can use this machine's detectors and read its run folders", flush=True)
    serve(options)
    return 0


def _new_token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


def _choice(given: argparse.Namespace) -> ModelChoice | None:
    if given.model is None:
        if len(model_arguments(argparse.Namespace(**{**vars(given), "model": None}))):
            raise ValueError("--weights, --class-names, --slices, --layout, --input-size and --device need --model")
        return None
    return ModelChoice(
        given.model, given.weights, given.class_names, model_arguments(given).get("--slices"), given.layout,
        given.input_size, given.device,
    )  # fmt: skip


def _free_port(host: str, wanted: int | None) -> int:
    """The port that was asked for, or the first free one from 8501 on.

    Raises:
        ValueError: it is taken, or ``host`` is no address of this machine.
    """
    first = AppOptions.port
    for port in [wanted] if wanted is not None else range(first, first + PORTS_TRIED):
        try:
            with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                return port
        except OSError as error:
            refused = error
    what = f"--port {wanted}" if wanted is not None else f"--host {host}"
    raise ValueError(f"{what} cannot be listened on: {refused.strerror or refused}") from refused
