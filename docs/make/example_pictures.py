"""Draw the pictures of the front page and about methods: python docs/make/example_pictures.py [PICTURE ...]

Scenes and bundled detectors alone, so that anybody gets the same pictures, in docs/pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image

import detxai
from detxai.explanation import Explanation
from detxai.methods import METHODS, methods_without_file
from detxai.pages.overlays import save_sheet
from detxai.pages.pictures import grid
from detxai.scenes import Kind, generate

PICTURES = Path(__file__).parents[1] / "pictures"


def explained(model: str, seed: int, kind: Kind, methods: Sequence[str]) -> list[Explanation]:
    """The first box on a scene, by each method; one that refuses this detector is left out."""
    detector, image = detxai.wrap(model), generate(seed, kind).image
    box = detector.detect(image)[:1]
    found = []
    for method in methods:
        try:
            found += detxai.explain(detector, image, method, box if METHODS[method].asks_about_boxes else None)
        except (TypeError, ValueError) as error:
            print(f"{method}: {error}")
    return found


def why_this_class(path: Path) -> None:
    """The same shape, once under a sun and once under a moon: only that decides between its two classes."""
    side_by_side([explained("scenes-frcnn", seed, "context", ["pixel_evidence"])[0] for seed in (500, 502)], path)


def where_a_query_looks(path: Path) -> None:
    """Attention is not cause."""
    methods = ["pixel_evidence", "attention", "layer_cam", "eigen_cam"]
    side_by_side(explained("scenes-rtdetr", 502, "context", methods), path)


def methods_on_a_scene(path: Path) -> None:
    """Every method on one box, with its own settings."""
    shown = explained("scenes-yolo", 501, "local", list(methods_without_file()))
    save_sheet(shown, path, columns=6, captions=[one.method for one in shown])


def side_by_side(explanations: Sequence[Explanation], path: Path) -> None:
    panels = [PIL.Image.open(one.save(path.with_name(f"{i}.png"))) for i, one in enumerate(explanations)]
    grid(panels, len(panels)).save(path)


DRAWN: dict[str, Callable[[Path], None]] = {
    draw.__name__: draw for draw in (why_this_class, where_a_query_looks, methods_on_a_scene)
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help=f"only these of {', '.join(DRAWN)}; default: all"
    )
    for name in parser.parse_args(arguments).pictures or DRAWN:
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "drawn.png"
            DRAWN[name](drawn)
            PIL.Image.open(drawn).convert("RGB").save(PICTURES / f"{name}.webp", quality=85, method=6)
        print(PICTURES / f"{name}.webp")


if __name__ == "__main__":
    main()
