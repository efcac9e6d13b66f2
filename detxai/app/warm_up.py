"""What the page needs is imported and loaded while somebody opens its address."""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from contextlib import suppress

log = logging.getLogger("detxai")

_has_imported = threading.Event()
_has_imported.set()
_is_visited = threading.Event()


def warm_up_in_background() -> None:
    """Import the library and load the first detector in a thread, and let it explain a box if nobody came by then.

    The first pass of a network, and the first gradient, take longer than later ones.
    """
    _has_imported.clear()
    threading.Thread(target=_warm_up, name="detxai-warm-up", daemon=True).start()


def has_imported() -> bool:
    """Whether a visitor's script can import the library without waiting."""
    return _has_imported.is_set()


def wait_until_imported() -> None:
    """Until the library is there: two threads that import it at once could each see the other's half."""
    _is_visited.set()
    _has_imported.wait()


def _warm_up() -> None:
    try:
        import detxai.app.session  # noqa: F401  (and with it nearly everything else)
    except Exception as error:  # whoever opens the page gets it again, as a sentence
        log.info("the warm-up failed", exc_info=error)
        return
    finally:
        _freeze()
        _has_imported.set()
    try:
        _explain_a_box()
    except Exception as error:  # such as a --model that cannot be loaded
        log.info("the warm-up failed", exc_info=error)
    with suppress(ImportError):
        importlib.import_module("altair")  # Streamlit imports it with its first chart
    if not _is_visited.is_set():  # what a visitor has must stay collectable
        _freeze()


def _freeze() -> None:
    """Leave what lives now out of all later garbage collections.

    Streamlit collects after every run of the script, also after the small ones that look at the work: .3 s each with
    PyTorch imported, and until it has ended nothing is sent to the browser.
    """
    gc.collect()
    gc.freeze()


def _explain_a_box() -> None:
    from detxai.app.detectors.models import bundled_choices
    from detxai.app.options import current_options
    from detxai.app.pictures import bundled_pictures, pictures_in
    from detxai.app.session import LOWEST_SCORE, WEIGHTS
    from detxai.methods import LayerCAM

    options = current_options()
    detector = WEIGHTS.detector(options.model or bundled_choices()[0])
    if _is_visited.is_set() or detector.network is None:
        return
    offered = {} if options.images is None else pictures_in(options.images)
    image = next(iter((offered or bundled_pictures()).values())).load()
    LayerCAM()(detector, image, detector.detect(image, LOWEST_SCORE)[:1])
