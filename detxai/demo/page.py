"""The page of ``detxai demo``: one HTML file that needs nothing beside it."""

from dataclasses import dataclass
from html import escape
from typing import Final

METHOD_NOTES: Final = {
    "pixel_evidence": "parts of the picture appear one after another in random orders, or are hidden at random; of "
    "the maps that tell what raises the score, the one that proves itself is kept. The default.",
    "eigen_cam": "what the detector's features have most in common. It is asked about no box, so it cannot tell why.",
    "ablation_cam": "feature channels are switched off one by one; those this box loses score without light up.",
    "layer_cam": "features light up that lie in the box's reach and whose strengthening would raise its score.",
    "attention": "where the query behind the box looked, which is not yet what it found the box by. Only detectors "
    "with queries have it.",
    "d_rise": "parts of the picture are hidden at random, hundreds of times; what must stay visible lights up.",
}


@dataclass(frozen=True)
class Panel:
    """A picture (a data URI) with its caption; ``hit`` says whether a map's peak lies on the evidence."""

    title: str
    image: str
    note: str = ""
    hit: bool | None = None


@dataclass(frozen=True)
class Story:
    """What one detector says of a scene, and the maps of it."""

    detector: str
    said: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Section:
    """One scene."""

    kind: str
    description: str
    panels: tuple[Panel, ...]
    stories: tuple[Story, ...]


@dataclass(frozen=True)
class Total:
    """How the maps of one method did: ``n`` of them, ``hits`` with their peak on the evidence, mean shares of heat."""

    method: str
    detector: str
    n: int
    hits: int
    heat: float
    chance: float


HEADLINES: Final = {
    "local": "A small mark on the object",
    "spread": "A pattern all over the object",
    "context": "Something outside the box",
    "redundant": "Two marks, either is enough",
    "joint": "Two marks, both are needed",
    "shortcut": "A watermark the detector should not have learned",
}

LESSONS: Final = {
    "local": "A good map lights up the mark, not the whole parcel.",
    "spread": "A good map covers the egg.",
    "context": "A good map must leave the box. Cropped to the box, it would be wrong.",
    "redundant": "Taking away one of two sufficient marks changes little, so methods that remove one thing at a time "
    "see little here.",
    "joint": "A good map lights up both marks.",
    "shortcut": "A good map points at the corner of the picture, and so unmasks a detector that reads the watermark.",
}

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6470; --line: #d8dce2; --card: #ffffff; --ground: #f4f5f7;
  --yes: #12703a; --no: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb8; --line: #3a3f47; --card: #22252a;
  --ground: #17191c; --yes: #6ee7a0; --no: #fdba74; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; margin: 0 0 8px; }
h2 { font-size: 22px; margin: 0 0 4px; }
p { max-width: 75ch; margin: 6px 0; }
ul { max-width: 80ch; padding-left: 20px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin: 24px 0; }
.scene { display: grid; grid-template-columns: 210px minmax(0, 1fr); gap: 28px; margin-top: 14px; }
.truth, .row { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.truth { align-content: start; grid-template-columns: 1fr; }
.row { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); max-width: calc(var(--columns) * 300px); }
figure { margin: 0; }
figure img { width: 100%; display: block; border-radius: 6px; }
figcaption { font-size: 14px; margin-top: 4px; }
figcaption small, .soft { color: var(--soft); }
.said { margin: 14px 0 6px; }
.said:first-child { margin-top: 0; }
.yes { color: var(--yes); font-weight: 600; } .no { color: var(--no); font-weight: 600; }
table { border-collapse: collapse; margin-top: 8px; } td, th { text-align: left; padding: 4px 24px 4px 0;
  border-bottom: 1px solid var(--line); font-size: 15px; }
.lesson { font-weight: 600; }
.bar { height: 12px; width: 260px; border-radius: 6px;
  background: linear-gradient(90deg, #777, #420a68, #932667, #dd513a, #fca50a, #fcffa4); }
@media (max-width: 800px) { .scene { grid-template-columns: 1fr; } .truth { grid-template-columns: repeat(3, 1fr);
  max-width: none; } .row { grid-template-columns: repeat(2, 1fr); } }
"""


def page(sections: list[Section], methods: list[str], totals: list[Total], missing: list[str], seconds: float) -> str:
    """The whole document.

    Args:
        sections: one for each scene.
        methods: names of the explanation methods, in the order of the panels.
        totals: how the methods did, shown above the scenes.
        missing: why a detector is not shown.
        seconds: what it took to make.
    """
    notes = "".join(f"<li><b>{escape(name)}</b>: {escape(METHOD_NOTES.get(name, ''))}</li>" for name in methods)
    absent = "".join(f'<p class="soft">Not shown: {escape(reason)}</p>' for reason in missing)
    body = "".join(_section(section, len(methods)) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>detxai demo: why did the detector put this box here?</title><style>{_STYLE}</style></head><body><main>
<h1>Why did the detector put this box here?</h1>
<p>An object detector finds things in a picture and draws a box around each. An <b>explanation</b> is a map of the
picture that shows which pixels made it do so. With photographs nobody can check whether such a map is right.</p>
<p>So these pictures are made to be checked. In each, the <b>evidence</b> that decides what an object is was planted on
purpose, and small detectors were trained until they use exactly that evidence: paint the picture again without it and
the detection is gone. Compare each map with the known evidence beside it.</p>
<ul>{notes}</ul>
<p>Colours of a map, from no evidence to the strongest:</p><div class="bar"></div>
<p class="soft">Bright is what counts for the box outlined in white. <span class="yes">&#10003; peak on the
evidence</span> means the brightest point lies on the known evidence, <span class="no">&#10007; peak elsewhere</span>
that it does not. Made in {seconds:.0f} seconds without a network.</p>{absent}
{_table(totals)}
{body}</main></body></html>
"""


def _table(totals: list[Total]) -> str:
    rows = "".join(
        f"<tr><td>{escape(total.method)}</td><td>{escape(total.detector)}</td><td>{total.hits} of {total.n}</td>"
        f"<td>{total.heat:.0%}</td><td>{total.chance:.0%}</td></tr>"
        for total in totals
    )
    return f"""<section><h2>How they did</h2><p>A handful of scenes shows what to look for; it is no ranking.</p>
<table><tr><th>method</th><th>detector</th><th>peak on the evidence</th><th>heat on the evidence</th>
<th>by chance</th></tr>{rows}</table></section>"""


def _section(section: Section, columns: int) -> str:
    truth = "".join(_figure(panel) for panel in section.panels)
    stories = "".join(_story(story) for story in section.stories)
    return f"""<section><h2>{escape(HEADLINES[section.kind])}</h2>
<p>{escape(section.description)} <span class="lesson">{escape(LESSONS[section.kind])}</span></p>
<div class="scene" style="--columns:{columns}"><div class="truth">{truth}</div><div>{stories}</div></div></section>
"""


def _story(story: Story) -> str:
    maps = "".join(_figure(panel) for panel in story.panels)
    return f'<p class="said"><b>{escape(story.detector)}</b> {escape(story.said)}</p><div class="row">{maps}</div>'


def _figure(panel: Panel) -> str:
    hit = ""
    if panel.hit is not None:
        mark, words = ("yes", "&#10003; peak on the evidence") if panel.hit else ("no", "&#10007; peak elsewhere")
        hit = f'<br><span class="{mark}">{words}</span>'
    note = f"<br><small>{escape(panel.note)}</small>" if panel.note else ""
    alt = escape(panel.title, quote=True)
    caption = f"{escape(panel.title)}{hit}{note}"
    return f'<figure><img src="{panel.image}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
