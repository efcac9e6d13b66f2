"""What is requested of a run, and what follows from it for every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from detxai.adapters.detector import Detector
from detxai.adapters.network import require_network
from detxai.coco.folder import CocoFolder
from detxai.coco.options import Options
from detxai.coco.selection import Selection, check_selection
from detxai.data.cocoeval import expect_iou
from detxai.data.image_files import ImageFile, ImageFolder
from detxai.explain import Method
from detxai.formats import category_names
from detxai.runs.remote.address import OF_THIS_PROCESS, Address

ASKED_FOR = 20  # images at an address: each costs a request
DEFAULT_SCORE_THRESHOLD = 0.001  # the detector's own predictions are kept down to it, for the sake of AP


@dataclass(frozen=True)
class CocoRequest:
    """What is requested of a run.

    Attributes:
        detector: the detector.
        method: the method.
        images: folder of the images, or its address.
        annotations: a ``COCO``.
        predictions: a ``COCO``; None: the detector makes them.
        label_to_category: the detector's label -> category id; boxes of other classes are not explained.
        folder: where everything goes.
        selection: which boxes are explained.
        options: how.
        evaluation: a finished COCOeval of these; None: one is made.
        about: further entries of the manifest, such as the command.
        detector_source: with engine ``ray``, what a worker builds the detector from (a
            ``detxai.coco.on_ray.detector_source.DetectorSource``); None: the detector itself, pickled.
        device: with engine ``ray``, where workers without a GPU of their own bring it; None: where it is.
        config: the YAML file that repeats the command, kept as ``run.yaml``; None: none is kept.
    """

    detector: Detector
    method: Method
    images: ImageFolder
    annotations: Any
    predictions: Any | None
    label_to_category: Mapping[int, int]
    folder: CocoFolder
    selection: Selection
    options: Options = field(default_factory=Options)
    evaluation: Any | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    detector_source: Any | None = None
    device: str | None = None
    config: str | None = None

    @property
    def from_file(self) -> bool:
        """Whether the predictions come from a file, and so may be of another detector than this one."""
        return self.predictions is not None

    @property
    def wants_misses(self) -> bool:
        return "missed" in self.selection.kinds

    @cached_property
    def category_to_label(self) -> dict[int, int]:
        return {category: label for label, category in self.label_to_category.items()}

    @cached_property
    def files(self) -> list[ImageFile]:
        """The images of the annotation file, in its order."""
        return [ImageFile.from_record(record, self.images) for record in self.annotations.dataset["images"]]

    @cached_property
    def score_threshold(self) -> float:
        """The lowest score of the predictions, in [0, 1]."""
        if self.options.score_threshold is not None:
            return self.options.score_threshold
        scores = [] if self.predictions is None else [p["score"] for p in self.predictions.anns.values()]
        return min(max(min(scores, default=DEFAULT_SCORE_THRESHOLD), 0.0), 1.0)

    @property
    def operating_point(self) -> float:
        """The score from which a prediction counts."""
        return max(self.options.operating_point, self.score_threshold)

    @property
    def workers(self) -> int:
        """Threads that decode images ahead."""
        if self.options.workers is not None:
            return self.options.workers
        return 0 if self.detector.device.type == "cpu" else 2

    def failed_images(self) -> set[int]:
        """Ids of the images that failed while predictions were made: they are in no figure, and not explained."""
        return {row["image_id"] for row in self.folder.failures("detecting")}

    def check(self) -> None:
        """Refuse what the run could only fail of later, when its folder would already hold the wrong request.

        Raises:
            ValueError: an option is wrong, or no image is in the folder of images.
            LookupError: the method is to explain a layer that the detector does not have.
        """
        expect_iou(self.evaluation, self.options.iou)
        content = self.annotations.dataset
        check_selection(self.selection, category_names(content["categories"]), self.annotations.imgs)
        layers = getattr(self.method, "layers", None)
        if layers is not None:
            require_network(self.detector).layer_names(layers)  # finds each of them
        self._check_images([image["file_name"] for image in content["images"]])

    def _check_images(self, names: Sequence[str]) -> None:
        images, asked = self.images, names
        if isinstance(images, Address):
            if images.protocol in OF_THIS_PROCESS and self.options.engine == "ray":
                raise ValueError(f"images: {images} is in the memory of this process, which Ray's workers do not see")
            asked = names[:ASKED_FOR]
        if asked and not any((images / name).exists() for name in asked):
            first = f"first {len(asked)} of the " if len(asked) < len(names) else ""
            raise ValueError(f"images: none of the {first}{len(names)} images that are annotated is in {images}")
