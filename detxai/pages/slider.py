"""A slider over explanations in a notebook: the same box by one method after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detxai.explanation import Explanation
from detxai.pages.showing import overlay_png

WIDTH = 480  # of the photo, in pixels


def slider(explanations: Sequence[Explanation], **style: Any) -> Any:
    """A slider that shows one of several explanations, such as the maps of one box by every method.

    Each is drawn when it is first shown. Where they are of several boxes, a list above the slider chooses the box.

    Args:
        explanations: of any images and methods. Those of one box are the stops of the slider, in their order.
        style: settings of ``detxai.pages.overlays.overlay``, such as ``opacity``.

    Returns:
        An ``ipywidgets.VBox``, which a notebook shows where it is the last line of a cell.

    Raises:
        TypeError: ``explanations`` are no explanations.
        ValueError: there are none.
        ImportError: ipywidgets is not installed.

    Example:
        maps = [one for name in ("layer_cam", "d_rise") for one in detxai.explain(detector, image, name, detections)]
        detxai.slider(maps)
    """
    explanations = list(explanations)
    if not explanations:
        raise ValueError("explanations must not be empty")
    for one in explanations:
        if not isinstance(one, Explanation):
            raise TypeError(f"explanations must be Explanation objects, got {type(one).__name__}")
    widgets = _import_ipywidgets()
    by_box = _by_box(explanations)
    drawn: dict[int, bytes] = {}
    settings = {"width": WIDTH, **style}
    box = widgets.Dropdown(options=list(by_box), description="box")
    stop = widgets.SelectionSlider(options=_stops(by_box[box.value]), description="method", continuous_update=False)
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))

    def show(_: Any = None) -> None:
        chosen = by_box[box.value][stop.value]
        if id(chosen) not in drawn:
            drawn[id(chosen)] = overlay_png(chosen, **settings)
        picture.value = drawn[id(chosen)]

    def choose_box(_: Any) -> None:
        place = min(stop.value, len(by_box[box.value]) - 1)  # the same method, where this box has it
        stop.options = _stops(by_box[box.value])
        stop.value = place
        show()

    stop.observe(show, names="value")
    box.observe(choose_box, names="value")
    show()
    return widgets.VBox([*([box] if len(by_box) > 1 else []), stop, picture])


def _by_box(explanations: Sequence[Explanation]) -> dict[str, list[Explanation]]:
    """What to call each box, and its explanations; those of an image, and of no box, stand beside all of its boxes."""
    boxes = dict.fromkeys(_box(one) for one in explanations if one.detection is not None)
    if not boxes:
        return {"the image": list(explanations)}
    stops = [
        [one for one in explanations if _box(one) == box or (one.detection is None and _image(one) == box[0])]
        for box in boxes
    ]
    return {f"{number}: {_name(of_box)}": of_box for number, of_box in enumerate(stops)}


def _box(one: Explanation) -> tuple[Any, ...]:
    """What tells one box from another; of the image alone where the method asks about no box."""
    if one.detection is None:
        return (_image(one),)
    return (_image(one), *one.detection.boxes[0].tolist(), int(one.detection.labels[0]))


def _image(one: Explanation) -> bytes:
    return one.image.tobytes()


def _name(stops: Sequence[Explanation]) -> str:
    detection = next(one.detection for one in stops if one.detection is not None)
    return f"{detection.name(0)} {float(detection.scores[0]):.2f}"


def _stops(explanations: Sequence[Explanation]) -> list[tuple[str, int]]:
    """What each stop of the slider is called, and which explanation it shows; a method that comes twice is numbered."""
    names = [one.method for one in explanations]
    return [
        (name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})", place)
        for place, name in enumerate(names)
    ]


def _import_ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError('the slider needs ipywidgets: python -m pip install "detxai[notebook]"') from error
    return ipywidgets
