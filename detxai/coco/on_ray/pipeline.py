"""Images streamed through ``ray.data``: read in tasks, answered in workers, a bounded number of them in memory."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from detxai.coco.on_ray.attempts import RemoteAttempts, start_attempts
from detxai.coco.on_ray.cluster import CPUS_OF_READER, CPUS_OF_WORKER
from detxai.coco.on_ray.reading import Batch, read_images
from detxai.coco.on_ray.worker import Raised, Worker, WorkerSpec
from detxai.data.image_files import ImageFile

MOST_IMAGES_PER_TASK = 8  # what a worker that dies has to do again
TASKS_PER_WORKER = 16  # at least, where there are so many images: the last ones to end wait for little


class WorkerFromStore(Worker):
    """A worker whose spec, with the detector's weights, lies in Ray's object store: it travels once to each node."""

    def __init__(self, stored: Sequence[Any], attempts: RemoteAttempts) -> None:
        super().__init__(lambda: _from_store(stored[0]), attempts)


def _from_store(stored: Any) -> WorkerSpec:
    import ray

    spec: WorkerSpec = pickle.loads(ray.get(stored))  # noqa: S301  made by this run's own driver
    return spec


@dataclass(frozen=True)
class Pipeline:
    """The path of every image of a stage.

    Attributes:
        ray: the module, connected.
        workers: processes that hold the detector.
        gpus: of each of them.
    """

    ray: ModuleType
    workers: int
    gpus: float = 0.0

    def answers(self, spec: WorkerSpec, tasks: Sequence[tuple[ImageFile, Any]]) -> Iterator[tuple[int, Any]]:
        """The answer for each image, by its place in ``tasks``, in the order in which they are done.

        A worker that dies is replaced, and its images are done again, by it or by another.

        Raises:
            Exception: what a worker raised, where that is no failure of its image.
        """
        ray = self.ray
        _quiet(ray)
        stored = ray.put(pickle_by_value(spec))  # held until the end: workers that are replaced read it again
        attempts = start_attempts(ray)
        rows = as_rows(tasks)
        images = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // self._images_per_task(len(rows))))
        answered = images.map_batches(
            read_images,
            batch_size=None,
            fn_kwargs={"attempts": attempts},
            compute=ray.data.TaskPoolStrategy(size=self.workers),  # more would only wait
            num_cpus=CPUS_OF_READER,
        ).map_batches(
            WorkerFromStore,
            batch_size=None,
            fn_constructor_args=([stored], attempts),  # a list: a bare reference would be replaced by its content
            compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=CPUS_OF_WORKER,
            num_gpus=self.gpus or None,
        )
        for batch in answered.iter_batches(batch_size=None, prefetch_batches=0):
            yield from unpacked(batch)

    def _images_per_task(self, n_images: int) -> int:
        return max(1, min(MOST_IMAGES_PER_TASK, n_images // (self.workers * TASKS_PER_WORKER)))


def as_rows(tasks: Sequence[tuple[ImageFile, Any]]) -> list[dict[str, Any]]:
    """What is sent of each image: its place, and its file and task pickled."""
    return [{"place": place, "task": pickle.dumps(task)} for place, task in enumerate(tasks)]


def unpacked(batch: Batch) -> Iterator[tuple[int, Any]]:
    """Place and answer of each image of a batch; raises what a worker raised."""
    for place, packed in zip(batch["place"], batch["answer"], strict=True):
        answer = pickle.loads(packed)  # noqa: S301  made by this run's own worker
        if isinstance(answer, Raised):
            raise answer.error
        yield int(place), answer


def pickle_by_value(content: Any) -> bytes:
    """Pickled as Ray does it: also what a user's own script defines.

    Raises:
        TypeError: the detector or the method cannot be sent to another process.
    """
    from ray import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(content)
    except Exception as error:
        raise TypeError(
            f"detector: engine ray sends it to other processes, and it cannot be pickled ({error}); name it as the "
            "command line does (--model), or run with engine local"
        ) from error
    return pickled


def _quiet(ray: ModuleType) -> None:
    """No bars and messages of ray.data beside those of the run."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
