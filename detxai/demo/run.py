"""``detxai demo``: the bundled detectors explain scenes whose evidence is known. Offline, on a CPU, in some minutes."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from tqdm import tqdm

from detxai.adapters.attention import has_attention
from detxai.adapters.detector import Detector
from detxai.adapters.loading import load_detector
from detxai.demo.page import Panel, Section, Story, Total, page
from detxai.detections import Detections
from detxai.explain import explain
from detxai.explanation import Explanation
from detxai.methods import METHODS
from detxai.pages.pictures import data_uri, outline, under_map
from detxai.progress import hides_bar
from detxai.runs.files import write_bytes
from detxai.scenes.scene import Scene, erase, generate
from detxai.scenes.world import CLASS_NAMES, KIND_DESCRIPTIONS, Kind

log = logging.getLogger("detxai")

SCENES: Final[tuple[tuple[Kind, int], ...]] = (
    ("local", 11),
    ("spread", 20),
    ("context", 30),
    ("redundant", 42),
    ("joint", 50),
    ("shortcut", 60),
)
"""Kind and seed of each scene shown; no detector was trained on these seeds.

Chosen by size alone, before any map was made: from 10, 20, ... the first seed whose object is 44 pixels high and wide.
"""

SHOWN: Final[dict[str, dict[str, Any]]] = {
    "pixel_evidence": {"max_passes": 200},
    "d_rise": {"n_masks": 200, "variance_reduction": "regression"},
    "layer_cam": {},
    "ablation_cam": {},
    "eigen_cam": {},
}
"""The methods shown. Fewer views than an analysis would take, for a page that is soon ready."""

OPTIONAL: Final = ("scenes-yolo", "scenes-rtdetr")
"""Detectors that need a library that detxai does without."""

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {"scenes-rtdetr": ("d_rise", "ablation_cam")}
"""Methods that a detector is not shown with, for the sake of time."""

ENLARGED: Final = 2
"""Display pixels for each pixel of a scene."""

NEAR: Final = 6
"""Pixels around the evidence that still count as on it: half a cell of the features the maps are made of."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DemoRow:
    """One explanation, measured against the known evidence.

    Attributes:
        kind, detector, detection, method: what was explained, by what.
        score: of the detection; ``score_erased``: best score of that class at that place once the evidence is erased.
        peak_on_evidence: the map is highest on the evidence, or within six pixels of it.
        heat_on_evidence: share of the map's positive sum there; ``area``: share of the picture there, which is what a
            map that knows nothing would score.
        seconds: wall time of the method for this scene.
    """

    kind: Kind
    detector: str
    detection: str
    score: float
    score_erased: float
    method: str
    peak_on_evidence: bool
    heat_on_evidence: float
    area: float
    seconds: float


@dataclass(frozen=True)
class Demo:
    """What a demo made: the page, a row for each explanation, and why a detector is missing, if one is."""

    path: Path
    rows: tuple[DemoRow, ...]
    missing: tuple[str, ...] = field(default=())

    def table(self) -> str:
        """The rows as aligned text for a terminal; heat and chance are shares of the map and of the picture."""
        head = ("kind", "detector", "object", "score", "erased", "method", "peak on it", "heat on it", "chance", "s")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in text)


def demo(out: str | Path, *, progress: bool | None = None) -> Path:
    """The page of ``make_demo``: its path."""
    return make_demo(out, progress=progress).path


def make_demo(out: str | Path, *, progress: bool | None = None) -> Demo:
    """Write ``index.html``, complete in one file, into the folder ``out``.

    Args:
        out: the folder; it is made if need be.
        progress: a bar; None: where standard error is a terminal.

    Raises:
        FileExistsError: ``out`` is a file.
        FileNotFoundError: the package lacks the weights of its Faster R-CNN.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out must be a folder, {folder} is a file")
    start = time.perf_counter()
    detectors, missing = _detectors()
    rows: list[DemoRow] = []
    sections = []
    with tqdm(total=len(SCENES) * len(detectors), desc="explaining", unit="scene", disable=hides_bar(progress)) as bar:
        for kind, seed in SCENES:
            scene = generate(seed, kind)
            stories = []
            for name, detector in detectors.items():
                story, measured = _story(scene, name, detector)
                stories.append(story)
                rows.extend(measured)
                bar.update()
            sections.append(_section(scene, stories))
    methods = list(dict.fromkeys([*SHOWN, *(row.method for row in rows)]))
    html = page(sections, methods, _totals(rows), missing, time.perf_counter() - start)
    write_bytes(folder / "index.html", html.encode())
    return Demo(folder / "index.html", tuple(rows), tuple(missing))


def _totals(rows: list[DemoRow]) -> list[Total]:
    """For each method and detector, how its maps did over all scenes."""
    totals = []
    for method, detector in dict.fromkeys((row.method, row.detector) for row in rows):
        mine = [row for row in rows if (row.method, row.detector) == (method, detector)]
        hits = sum(row.peak_on_evidence for row in mine)
        heat, chance = (float(np.mean([getattr(row, name) for row in mine])) for name in ("heat_on_evidence", "area"))
        totals.append(Total(method, detector, len(mine), hits, heat, chance))
    return sorted(totals, key=lambda total: total.method)


def _cells(row: DemoRow) -> tuple[str, ...]:
    peak = "yes" if row.peak_on_evidence else "no"
    shares = (f"{row.heat_on_evidence:.2f}", f"{row.area:.2f}", f"{row.seconds:.1f}")
    scores = (f"{row.score:.2f}", f"{row.score_erased:.2f}")
    return (row.kind, row.detector, row.detection, *scores, row.method, peak, *shares)


def _detectors() -> tuple[dict[str, Detector], list[str]]:
    """Every bundled detector; those of other libraries only where these and the weights are."""
    found = {"scenes-frcnn": load_detector("scenes-frcnn")}
    missing = []
    for name in OPTIONAL:
        try:
            found[name] = load_detector(name)
        except (ImportError, FileNotFoundError) as error:
            log.info("the demo goes without %s: %s", name, error)
            missing.append(f"{name}: {error}")
    return found, missing


def _section(scene: Scene, stories: list[Story]) -> Section:
    index = _chosen(scene)
    photo = Panel(
        f"the picture: {CLASS_NAMES[scene.labels[index]]}", _data_uri(_boxed(scene.image, scene.boxes[index]))
    )
    evidence = Panel("the known evidence", _data_uri(_boxed(_highlighted(scene, index), scene.boxes[index])))
    erased = Panel("painted again without it", _data_uri(_enlarged(erase(scene, index))))
    return Section(scene.kind, KIND_DESCRIPTIONS[scene.kind], (photo, evidence, erased), tuple(stories))


def _story(scene: Scene, name: str, detector: Detector) -> tuple[Story, list[DemoRow]]:
    """What one detector says of one scene, and every method's map of it."""
    index = _chosen(scene)
    detection = _matching(detector.detect(scene.image, 0.05), scene, index)
    label = CLASS_NAMES[scene.labels[index]]
    if detection is None:
        return Story(name, f"did not find the {label}", ()), []
    after = _matching(detector.detect(erase(scene, index), 0.01), scene, index)
    score, score_erased = float(detection.scores[0]), float(after.scores[0]) if after is not None else 0.0
    panels, rows = [], []
    near = _grown(scene.evidence[index])
    for method, explanation in _explanations(name, detector, scene.image, detection):
        heat, peak = _on_evidence(explanation, near)
        row = DemoRow(
            kind=scene.kind,
            detector=name,
            detection=label,
            score=score,
            score_erased=score_erased,
            method=method,
            peak_on_evidence=peak,
            heat_on_evidence=heat,
            area=float(near.mean()),
            seconds=explanation.cost.seconds,
        )
        rows.append(row)
        note = f"{heat:.0%} of its heat on the evidence, {row.area:.0%} by chance; {row.seconds:.1f} s"
        panels.append(Panel(method, _data_uri(_overlay(explanation, detection)), note, peak))
    said = f"finds {label} with score {score:.2f}; without the evidence {score_erased:.2f}"
    return Story(name, said, tuple(panels)), rows


def _explanations(
    name: str, detector: Detector, image: Pixels, detection: Detections
) -> Iterator[tuple[str, Explanation]]:
    of_queries: dict[str, dict[str, Any]] = {"attention": {}} if has_attention(detector) else {}
    for method, settings in (SHOWN | of_queries).items():
        if method in LEFT_OUT.get(name, ()):
            continue
        if "progress" in getattr(METHODS[method], "__dataclass_fields__", {}):
            settings = {**settings, "progress": False}
        yield method, explain(detector, image, method, detection, **settings)[0]


def _chosen(scene: Scene) -> int:
    """The largest object that has evidence."""
    sizes = [
        int(mask.sum()) if rule != "none" else 0 for mask, rule in zip(scene.silhouettes, scene.rules, strict=True)
    ]
    return int(np.argmax(sizes))


def _matching(found: Detections, scene: Scene, index: int) -> Detections | None:
    """The detection of this object: its class name and an IoU of at least one half; None when there is none."""
    box = scene.boxes[index]
    best, best_score = None, 0.0
    for number, candidate in enumerate(found.boxes.cpu().numpy()):
        sides = np.clip(np.minimum(candidate[2:], box[2:]) - np.maximum(candidate[:2], box[:2]), 0, None)
        union = (candidate[2:] - candidate[:2]).prod() + (box[2:] - box[:2]).prod() - sides.prod()
        same = found.name(number) == CLASS_NAMES[scene.labels[index]]
        if same and sides.prod() >= 0.5 * union and float(found.scores[number]) > best_score:
            best, best_score = number, float(found.scores[number])
    return None if best is None else found[best]


def _on_evidence(explanation: Explanation, near: npt.NDArray[np.bool_]) -> tuple[float, bool]:
    """The share of a map's heat on the evidence, and whether its peak lies there; 0 and False for a flat map."""
    heat = explanation.heatmap
    if heat.max() <= 0:
        return 0.0, False
    return float(heat[near].sum() / heat.sum()), bool(near[np.unravel_index(heat.argmax(), heat.shape)])


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    rows, columns = np.nonzero(mask)
    grown = np.zeros_like(mask)
    for dy in range(-NEAR, NEAR + 1):
        for dx in range(-NEAR, NEAR + 1):
            if dy * dy + dx * dx <= NEAR * NEAR:
                y, x = np.clip(rows + dy, 0, mask.shape[0] - 1), np.clip(columns + dx, 0, mask.shape[1] - 1)
                grown[y, x] = True
    return grown


def _overlay(explanation: Explanation, detection: Detections) -> PillowImage.Image:
    picture = under_map(explanation.image, explanation.heatmap, _display(explanation.image), opacity=0.9)
    return outline(picture, detection.boxes[0].tolist(), scale=ENLARGED)


def _highlighted(scene: Scene, index: int) -> Pixels:
    """A grey, dim picture with the evidence painted a green that no scene has."""
    picture = np.repeat(scene.image.mean(axis=2, keepdims=True) * 0.55, 3, axis=2)
    picture[scene.evidence[index]] = (60, 255, 150)
    return picture.astype(np.uint8)


def _boxed(image: Pixels, box: npt.NDArray[np.float32]) -> PillowImage.Image:
    return outline(_enlarged(image), box.tolist(), scale=ENLARGED)


def _display(image: Pixels) -> tuple[int, int]:
    return image.shape[1] * ENLARGED, image.shape[0] * ENLARGED


def _enlarged(image: Pixels) -> PillowImage.Image:
    return PillowImage.fromarray(image).resize(_display(image), PillowImage.BICUBIC)


def _data_uri(picture: PillowImage.Image) -> str:
    return data_uri(picture, "WEBP", quality=88)
