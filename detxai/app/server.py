"""The page's server: Streamlit, with the settings that keep it on this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from detxai.app.folders import temporary_root
from detxai.app.gate import Gate
from detxai.app.options import LOOPBACK, MEGABYTE, AppOptions, set_options
from detxai.app.warm_up import warm_up_in_background

log = logging.getLogger("detxai")

SCRIPT = Path(__file__).with_name("main.py")
# Okabe & Ito's blue, and on dark ground a lighter one on which white can still be read
BLUE, LIGHTER_BLUE = "#0072B2", "#2188C9"


def serve(options: AppOptions) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ImportError: streamlit is not installed.
        ValueError: other machines can reach ``host``, and there is no token.
    """
    streamlit = streamlit_module()
    if not options.is_local and not options.token:
        raise ValueError(f"token must be given where others can reach the page: host is {options.host}")
    from starlette.middleware import Middleware

    set_options(options)
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # ultralytics answers a missing package by installing it
    hosts = LOOPBACK if options.is_local else None
    gate = Middleware(Gate, token=options.token, hosts=hosts)
    with temporary_root():
        warm_up_in_background()
        app = streamlit.App(SCRIPT, middleware=[gate], on_script_error=_log_error)
        app.run(config=settings(options))


def settings(options: AppOptions) -> dict[str, Any]:
    """What Streamlit is told, whatever a ``.streamlit/config.toml`` says.

    No telemetry, nothing but this machine's address, errors as a sentence, and no watching of files.
    """
    return {
        "server.address": options.host,
        "server.port": options.port,
        "server.headless": True,
        "server.maxUploadSize": max(1, options.max_upload // MEGABYTE),
        "server.enableXsrfProtection": True,
        "server.enableCORS": True,
        "server.enableStaticServing": False,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "theme.light.primaryColor": BLUE,
        "theme.dark.primaryColor": LIGHTER_BLUE,
        "logger.level": "warning",
    }


def streamlit_module() -> Any:
    """Streamlit.

    Raises:
        ImportError: it is not installed, or too old; the message says how to get it.
    """
    try:
        import streamlit
    except ModuleNotFoundError as error:
        raise ImportError('the web page needs streamlit: pip install "detxai[app]" (Python 3.11 or newer)') from error
    if not hasattr(streamlit, "App"):
        raise ImportError(
            f'the web page needs a newer streamlit than {streamlit.__version__}: pip install "detxai[app]"'
        )
    return streamlit


def _log_error(error: Exception) -> bool:
    """What the page itself did not expect: its traceback goes to the terminal, a sentence to the page."""
    import streamlit as st

    log.error("the page failed", exc_info=error)
    st.error("Something went wrong that this page did not expect; the terminal that started it says what.", icon="⚠️")
    return True
