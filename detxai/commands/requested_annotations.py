"""The images and annotations that a command is about."""

from __future__ import annotations

import argparse

from detxai.data.readers import AnnotatedImages, read_annotated_images


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
