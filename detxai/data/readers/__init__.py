"""One strict reader for each way in which annotations are kept; all give the content of a COCO annotation file."""

from detxai.data.readers.annotated_images import AnnotatedImages
from detxai.data.readers.recognise import FORMATS, read_annotated_images

__all__ = ["FORMATS", "AnnotatedImages", "read_annotated_images"]
