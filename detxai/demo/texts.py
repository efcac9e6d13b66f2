"""What the page of the demo says of each kind of scene, and of each method."""

from typing import Final

from detxai.scenes.world import Kind

HEADLINES: Final[dict[Kind, str]] = {
    "local": "A small mark on the object",
    "spread": "A pattern all over the object",
    "context": "Something outside the box",
    "redundant": "Two marks, either is enough",
    "joint": "Two marks, both are needed",
    "shortcut": "A watermark the detector should not have learned",
}

LESSONS: Final[dict[Kind, str]] = {
    "local": "A good map lights up the mark, not the whole parcel.",
    "spread": "A good map covers the egg.",
    "context": "A good map must leave the box. Cropped to the box, it would be wrong.",
    "redundant": "Taking away one of two sufficient marks changes little, so methods that remove one thing at a time "
    "see little here.",
    "joint": "A good map lights up both marks.",
    "shortcut": "A good map points at the corner of the picture, and so unmasks a detector that reads the watermark.",
}

METHOD_NOTES: Final = {
    "pixel_evidence": "parts of the picture appear one after another in random orders, or are hidden at random; of "
    "the maps that tell what raises the score, the one that proves itself is kept. The default.",
    "eigen_cam": "what the detector's features have most in common. It asks nothing about a box, so cannot tell why.",
    "ablation_cam": "feature channels are switched off one by one; those this box loses score without light up.",
    "layer_cam": "features light up that lie in the box's reach and whose strengthening would raise its score.",
    "attention": "where the query behind the box looked, which is not yet what it found the box by. Only detectors "
    "with queries have it.",
    "d_rise": "parts of the picture are hidden at random, hundreds of times; what must stay visible lights up.",
}
