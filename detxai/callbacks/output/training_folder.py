"""The folder of one watched training: overlays, strips and tables of epochs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from detxai.callbacks.output.epoch_csv import EpochCsv
from detxai.callbacks.output.epoch_report import EpochReport
from detxai.callbacks.output.filmstrip import (
    as_array,
    frame,
    frame_path,
    frames_of,
    frames_on_strip,
    strip_is_due,
    write_picture,
    write_strip,
)
from detxai.callbacks.snapshot import MEASURES, BoxSnapshot
from detxai.runs.names import safe_name
from detxai.runs.numbered import claim_folder, first_unused

log = logging.getLogger(__name__)

OBJECT_COLUMNS = ("epoch", "image", "object", "label", "name", *MEASURES)
CLASS_COLUMNS = ("epoch", "label", "name", "n_objects", *MEASURES, "alarm")
ALARM_COLUMNS = ("epoch", "label", "name", "x1", "y1", "x2", "y2", "share", "drop", "n_images")


class TrainingFolder:
    """The folder of one run.

    ``curves.csv`` has a row for each box and epoch, ``classes.csv`` the means of each class, ``alarms.csv`` the
    alarms; ``panel/NAME-N/epoch_0000.png`` are overlays, ``panel/NAME-N.png`` and ``.gif`` the strips over epochs;
    ``mistakes/epoch_0000/`` holds what the validation got wrong.

    Nothing that exists is written over. A new run takes ``folder`` where that is absent or empty, else the first such
    of ``folder2``, ``folder3``, ...; a run that goes on, and one that turns back to an earlier epoch, first moves what
    it will do again to ``superseded`` in the folder.

    Args:
        folder: made with the first epoch.
        resume: go on in ``folder`` itself.
        about: what ``run.json`` of a new folder holds, beside the time.

    Attributes:
        folder: where this run is; with the first epoch it may get a number.
        epoch: the last one begun; None before the first.
    """

    def __init__(self, folder: Path, *, resume: bool = False, about: Mapping[str, Any] | None = None) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out must be a folder, got the file {folder}")
        self.folder = folder
        self._resume = resume
        self._about = about or {}
        self.epoch: int | None = None
        self._taken = False
        self._frames: dict[Path, int] = {}  # in each folder of frames, now
        self._on_strip: dict[Path, int] = {}  # and when its strip was written
        self._pictures: dict[str, npt.NDArray[np.uint8]] = {}
        self._open_curves()

    @property
    def starts_anew(self) -> bool:
        """Whether the next epoch is the first of a run that goes on from no other."""
        return self.epoch is None and not self._resume

    def take_folder(self) -> Path:
        """The folder of this run, made where it was not yet."""
        if self._taken:
            return self.folder
        if self._resume:
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            wanted, about = self.folder, {"started": time.strftime("%Y-%m-%dT%H:%M:%S"), **self._about}
            self.folder = claim_folder(wanted, about)
            if self.folder.name != wanted.absolute().name:
                log.info("%s holds another run; this one goes to %s", wanted, self.folder)
        self._taken = True
        self._open_curves()
        return self.folder

    def begin(self, epoch: int) -> None:
        """Before an epoch: a run that goes on, or turns back, sets aside what it will do again."""
        self._pictures = {}
        self.take_folder()
        if (self.epoch is None and self._resume) or (self.epoch is not None and epoch <= self.epoch):
            self._set_aside(epoch)
        (self.folder / "panel").mkdir(exist_ok=True)
        self.epoch = epoch

    def _open_curves(self) -> None:
        self.objects = EpochCsv(self.folder / "curves.csv", OBJECT_COLUMNS)
        self.classes = EpochCsv(self.folder / "classes.csv", CLASS_COLUMNS)
        self.alarms = EpochCsv(self.folder / "alarms.csv", ALARM_COLUMNS)

    def _set_aside(self, epoch: int) -> None:
        """Move the frames, mistakes and rows of this epoch and later ones away."""
        aside = first_unused(self.folder / "superseded")
        for folder in self._strips():
            frames = frames_of(folder)
            for file in (file for number, file in frames.items() if number >= epoch):
                _move(file, aside / file.relative_to(self.folder))
            self._frames[folder] = len(frames_of(folder))
            self._on_strip[folder] = len(frames) if len(frames) == self._frames[folder] else 0
        for folder in sorted((self.folder / "mistakes").glob("epoch_*")):
            number = folder.name.removeprefix("epoch_")
            if number.isdecimal() and int(number) >= epoch:
                _move(folder, aside / folder.relative_to(self.folder))
        for curves in (self.objects, self.classes, self.alarms):
            curves.keep_until(epoch, aside)

    def draw(self, one: BoxSnapshot, epoch: int) -> None:
        """The overlay of one box."""
        if one.explanation is None:
            raise ValueError(f"{one.image}: a snapshot without its map cannot be drawn")
        picture = frame(one.explanation, one.detection, _lines(one, epoch))
        if one.kind == "panel":
            name = f"panel/{one.image}-{one.place}"
            write_picture(picture, frame_path(self.folder / name, epoch))
            self._frames[self.folder / name] = self._frames.get(self.folder / name, 0) + 1
        else:
            name = f"mistakes/{one.kind}_{one.place}"
            folder = self.folder / "mistakes" / f"epoch_{epoch:04d}"
            write_picture(picture, folder / f"{one.kind}_{one.place}_{safe_name(one.image, 60)}.png")
        self._pictures[name] = as_array(picture)

    def write(self, report: EpochReport) -> None:
        """The rows of one epoch."""
        alarmed = {alarm.label: alarm for alarm in report.alarms}
        self.objects.add(report.epoch, [_object_row(one) for one in report.snapshots])
        self.classes.add(report.epoch, class_rows(report.snapshots, alarmed))
        self.alarms.add(report.epoch, [_alarm_row(alarm) for alarm in report.alarms])

    def stale_strips(self, *, due: bool = False) -> dict[Path, int]:
        """The strips that lack frames, by their folders of frames, and how many frames each will show.

        Args:
            due: only those that lack so many that they are worth their writing while training goes on.
        """
        grown = {folder: n for folder, n in self._frames.items() if n > self._on_strip.get(folder, 0)}
        kept = {folder: n for folder, n in grown.items() if not due or strip_is_due(n, self._on_strip.get(folder, 0))}
        return {folder: frames_on_strip(n) for folder, n in kept.items()}

    def write_strip(self, folder: Path) -> None:
        """A strip and a GIF anew, from a folder of frames."""
        write_strip(folder)
        self._on_strip[folder] = self._frames[folder]

    def for_loggers(self, report: EpochReport) -> tuple[dict[str, float], dict[str, npt.NDArray[np.uint8]]]:
        """What loggers get of an epoch: numbers by name, and pictures uint8 (H, W, 3) by name."""
        numbers: dict[str, float] = {}
        for row in class_rows(report.snapshots, {alarm.label: alarm for alarm in report.alarms}):
            for measure in (*MEASURES, "alarm"):
                if not math.isnan(row[measure]):
                    numbers[f"{measure}/{row['name']}"] = float(row[measure])
        return numbers, dict(self._pictures)

    def _strips(self) -> list[Path]:
        panel = self.folder / "panel"
        return sorted(entry for entry in panel.iterdir() if entry.is_dir()) if panel.is_dir() else []


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)


def class_rows(snapshots: Sequence[BoxSnapshot], alarmed: dict[int, Any]) -> list[dict[str, Any]]:
    """The mean of every measure over the boxes of a class, NaN left out, and 1 where the alarm is on.

    A class with an alarm has a row also where none of its boxes was seen this time.
    """
    rows = []
    names = {label: alarm.name for label, alarm in alarmed.items()}
    names |= {one.label: one.detection.name(0) for one in snapshots}
    for label, name in sorted(names.items()):
        mine = [one.measures for one in snapshots if one.label == label]
        known = {key: [numbers[key] for numbers in mine if not math.isnan(numbers[key])] for key in MEASURES}
        means = {key: fmean(values) if values else math.nan for key, values in known.items()}
        rows.append({"label": label, "name": name, "n_objects": len(mine), **means, "alarm": int(label in alarmed)})
    return rows


def _object_row(one: BoxSnapshot) -> dict[str, Any]:
    name = one.detection.name(0)
    return {"image": one.image, "object": one.place, "label": one.label, "name": name, **one.measures}


def _alarm_row(alarm: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = alarm.place
    place = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    found = {"share": alarm.share, "drop": alarm.drop, "n_images": alarm.n_images}
    return {"label": alarm.label, "name": alarm.name, **place, **found}


def _lines(one: BoxSnapshot, epoch: int) -> list[str]:
    inside = f"{one.measures['energy_box']:.0%} in the box, by chance {one.measures['energy_box_chance']:.0%}"
    kind = [] if one.kind == "panel" else [one.kind.replace("_", " ")]
    return [*kind, f"epoch {epoch}", f"{one.detection.name(0)} {float(one.detection.scores[0]):.2f}", inside]
