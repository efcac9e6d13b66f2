"""What can be known to be wrong with a request before anything is written or done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detxai.adapters.network import require_network
from detxai.coco.selecting import check_selection
from detxai.data.cocoeval import expect_iou
from detxai.formats import category_names

if TYPE_CHECKING:
    from detxai.coco.running import Run


def check_request(run: Run) -> None:
    """Refuse what the run could only fail of later, when its folder would already hold the wrong request.

    Raises:
        ValueError: an option is wrong, or no image is in the folder of images.
        LookupError: the method is to explain a layer that the detector does not have.
    """
    expect_iou(run.evaluation, run.options.iou)
    content = run.annotations.dataset
    check_selection(run.selection, category_names(content["categories"]), run.annotations.imgs)
    layers = getattr(run.method, "layers", None)
    if layers is not None:
        require_network(run.detector).layer_names(layers)  # finds each of them
    names = [image["file_name"] for image in content["images"]]
    if names and not any((run.images / name).exists() for name in names):
        raise ValueError(f"images: none of the {len(names)} images that are annotated is in {run.images}")
