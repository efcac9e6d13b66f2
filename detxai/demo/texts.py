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
    "context": "A good map lights up the cause outside the box. If it is cropped to the box, it is wrong.",
    "redundant": "Taking away one of two sufficient marks changes little, so methods that remove one thing at a time "
    "see little here.",
    "joint": "A good map lights up both marks.",
    "shortcut": "A good map lights up the watermark in the corner: it shows that the detector reads the watermark.",
}

METHOD_NOTES: Final = {
    "pixel_evidence": "the default method. It shows and hides parts of the picture at random, makes four maps of what "
    "raises the score, and keeps the map that does best in a test.",
    "eigen_cam": "what the detector's features have most in common. Its map is of the whole picture, so it cannot tell "
    "why there is a box.",
    "ablation_cam": "switches feature channels off one by one. The channels without which the box's score falls light "
    "up.",
    "layer_cam": "lights up the features that the box was read from and that would raise its score if they were "
    "stronger.",
    "attention": "where the query behind the box looked. This need not be what made it find the box. Only detectors "
    "with queries have it.",
    "d_rise": "hides parts of the picture at random, hundreds of times. What must be visible for the box to be found "
    "lights up.",
}
