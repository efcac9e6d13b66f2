"""The images and annotations that a command is about."""

from __future__ import annotations

import argparse

from detxai.data.readers import AnnotatedImages, read_annotated_images


def expect_images_or_scenes(given: argparse.Namespace) -> None:
    """Raise ``ValueError`` where the options of ``add_photo_options`` name no images, or scenes beside images."""
    if given.scenes is not None and (given.images is not None or given.annotations is not None):
        raise ValueError("--scenes takes the place of --images and --annotations, got both")
    if given.scenes is None and given.images is None and given.annotations is None:
        raise ValueError("give --images and --annotations, or --scenes")


def requested_images(given: argparse.Namespace) -> AnnotatedImages:
    """The data set that the options of ``add_annotation_options`` name.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: an option is wrong, or the data set is.
    """
    if given.images is None and given.annotations is None:
        raise ValueError("give --images and --annotations, or --images alone for images that nobody annotated")
    return read_annotated_images(
        given.annotations, given.images, annotation_format=given.annotation_format, split=given.split
    )
