"""Training scenes for a detector that eats them faster than one process can paint."""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detxai.scenes.scene import generate
from detxai.scenes.training.dataset import TRAIN_SEED
from detxai.scenes.training.set_loss import Objects
from detxai.scenes.world import DEFAULT_SIZE

MAX_OBJECTS = 4
"""More than any scene holds."""

CHUNK = 32
MAX_BACKLOG = 64 * CHUNK
WAIT_SECONDS = 120.0


class SceneArrays(NamedTuple):
    """``images`` (N, H, W, 3); ``labels`` (N, 4), -1 where there are fewer; ``boxes`` (N, 4, 4) cxcywh in [0, 1]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]


def paint_scenes(first_seed: int, count: int = CHUNK) -> SceneArrays:
    """The scenes of ``count`` consecutive seeds."""
    images = np.empty((count, DEFAULT_SIZE, DEFAULT_SIZE, 3), np.uint8)
    labels = np.full((count, MAX_OBJECTS), -1, np.int64)
    boxes = np.zeros((count, MAX_OBJECTS, 4), np.float32)
    for row in range(count):
        scene = generate(first_seed + row)
        images[row] = scene.image
        labels[row, : len(scene)] = scene.labels
        corners = scene.boxes / DEFAULT_SIZE
        boxes[row, : len(scene), :2] = (corners[:, :2] + corners[:, 2:]) / 2
        boxes[row, : len(scene), 2:] = corners[:, 2:] - corners[:, :2]
    return SceneArrays(images, labels, boxes)


def training_seed(seed: int, number: int) -> int:
    """The seed of the ``number``-th training scene of a run."""
    return TRAIN_SEED + seed * 100_000_000 + number


class SceneBatches:
    """Batch ``step`` is always the same: painted here and now, as many fresh scenes a step as it holds."""

    def __init__(self, seed: int, batch_size: int, device: str) -> None:
        self.seed, self.batch_size, self.device = seed, batch_size, device

    def batch(self, step: int) -> tuple[Tensor, Objects]:
        """``images`` (B, 3, H, W) in [0, 1] and their objects."""
        scenes = paint_scenes(training_seed(self.seed, step * self.batch_size), self.batch_size)
        images, labels, boxes = (torch.from_numpy(array).to(self.device) for array in scenes)
        return _batch(images, labels, boxes)

    def close(self) -> None:
        """Nothing to end."""


class ScenePool:
    """A pool on the device that other processes fill with scenes while batches are drawn from it.

    A batch is drawn at random from what is there, so no step waits for painting and a scene may come again; a run is
    not repeatable.

    Args:
        seed: of the run.
        batch_size: scenes a batch.
        device: where the pool lies.
        n_workers: processes that paint.
        capacity: scenes it can hold, 77 kB each, a multiple of 32; when it is full, painting ends.
        first: scenes to wait for before the first batch.
    """

    def __init__(
        self, seed: int, batch_size: int, device: str, n_workers: int, capacity: int = 400_000, first: int = 2048
    ) -> None:
        # before the first use of CUDA, which does not survive a fork; Ctrl-C is for this process alone
        self.workers = multiprocessing.Pool(n_workers, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        self.batch_size, self.device, self.capacity, self.first = batch_size, device, capacity, max(first, batch_size)
        self.images = torch.empty((0,))
        self.labels = torch.empty((0,))
        self.boxes = torch.empty((0,))
        self.painted = 0
        self.failure: BaseException | None = None
        self.enough = threading.Event()
        self.stopped = threading.Event()
        self.filling = threading.Thread(target=self._fill, args=(seed,), daemon=True)
        self.filling.start()

    def batch(self, step: int) -> tuple[Tensor, Objects]:
        """``images`` (B, 3, H, W) in [0, 1] and their objects, drawn with torch's generator."""
        if not self.enough.wait(WAIT_SECONDS):
            raise RuntimeError(f"only {self.painted} scenes were painted in {WAIT_SECONDS:.0f} seconds")
        if self.failure is not None:
            raise RuntimeError("painting scenes failed") from self.failure
        drawn = torch.randint(self.painted, (self.batch_size,), device=self.device)
        return _batch(self.images[drawn], self.labels[drawn], self.boxes[drawn])

    def close(self) -> None:
        """End the processes."""
        self.stopped.set()
        self.workers.terminate()
        self.workers.join()

    def _fill(self, seed: int) -> None:
        try:
            shape = (self.capacity, DEFAULT_SIZE, DEFAULT_SIZE, 3)
            self.images = torch.empty(shape, dtype=torch.uint8, device=self.device)
            self.labels = torch.empty((self.capacity, MAX_OBJECTS), dtype=torch.int64, device=self.device)
            self.boxes = torch.empty((self.capacity, MAX_OBJECTS, 4), device=self.device)
            with _copying(self.device) as copied:
                for scenes in self.workers.imap_unordered(paint_scenes, self._seeds(seed)):
                    if self.stopped.is_set():
                        return
                    room = slice(self.painted, self.painted + len(scenes.labels))
                    self.images[room] = torch.from_numpy(scenes.images).to(self.device)
                    self.labels[room] = torch.from_numpy(scenes.labels).to(self.device)
                    self.boxes[room] = torch.from_numpy(scenes.boxes).to(self.device)
                    copied()
                    self.painted = room.stop  # only now may they be drawn
                    if self.painted >= self.first:
                        self.enough.set()
        except BaseException as error:  # raised again where a batch is asked for
            if not self.stopped.is_set():
                self.failure = error
                self.enough.set()

    def _seeds(self, seed: int) -> Iterator[int]:
        """First seeds of chunks, held back so that no backlog of painted scenes grows."""
        for number in range(0, self.capacity, CHUNK):
            while number - self.painted > MAX_BACKLOG:
                if self.stopped.wait(0.005):
                    return
            yield training_seed(seed, number)


@contextlib.contextmanager
def _copying(device: str) -> Iterator[Callable[[], None]]:
    """On a GPU, copy beside the training and not after the work it has queued; yields what waits for the copies."""
    if not device.startswith("cuda"):
        yield lambda: None
        return
    beside = torch.cuda.Stream(device)
    with torch.cuda.stream(beside):
        yield beside.synchronize


def _batch(images: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Objects]:
    return images.permute(0, 3, 1, 2).float() / 255, Objects(labels, boxes)
