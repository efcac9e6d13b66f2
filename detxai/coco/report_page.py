"""The page of a COCO run: AP, kinds of mistakes, where they look, and the worst of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from detxai.coco.errors import KINDS
from detxai.coco.findings import EVERY_CLASS, Findings, Share
from detxai.coco.misses import STAGES
from detxai.coco.report_style import SCRIPT, STYLE

MEANINGS: Final = {
    "true_positive": "found an annotation of its class",
    "localisation": "the right class, but overlaps the object too little",
    "classification": "on an object, but of another class",
    "both": "near an object of another class, and overlaps it too little",
    "duplicate": "on an object that a surer box has found already",
    "background": "where nothing is annotated",
    "missed": "annotated, and no prediction found it",
    "ignored": "on a crowd or an ignored annotation: counts neither way",
}
STAGE_MEANINGS: Final = {
    "found_now": "a box of its class covers it: COCOeval gave that box to a neighbour, or the file is of another run",
    "no_proposal": "no candidate covers it",
    "wrong_class": "candidates cover it, but for another class",
    "low_score": "candidates cover it, but score too low",
    "suppressed": "a surer box of its class suppressed the candidate",
    "cut_off": "scored enough, suppressed by nothing: a limit inside the detector",
}


@dataclass(frozen=True)
class Average:
    """The mean map around the boxes of a kind and class (``""``: every class), as a data URI."""

    kind: str
    category: str
    n: int
    picture: str


@dataclass(frozen=True)
class Card:
    """One box of the gallery, with its photo plain and under the map, as data URIs."""

    kind: str
    category: str
    score: float | None
    ap_loss: float | None
    energy_box: float
    story: str
    photo: str
    under_map: str
    flat: bool = False


def page(
    evaluation: Mapping[str, Any],
    manifest: Mapping[str, Any],
    findings: Findings,
    averages: Sequence[Average],
    cards: Sequence[Card],
    n_failures: int,
) -> str:
    """The whole document; every text from a file is escaped."""
    method = str(manifest["question"]["method"])
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)
    failed = f" {n_failures} failures: see failures.parquet." if n_failures else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>detxai coco: why the mistakes happened</title><style>{STYLE}</style></head><body><main>
<h1>Why the mistakes happened</h1>
<p class="soft">{findings.n} boxes explained by {escape(method)}.{failed} {escape(_asks_nothing(method, manifest))}</p>
{_left_out(evaluation)}{_ap(evaluation)}
{_kinds(evaluation, findings)}
{_averages(averages)}
{_context(findings)}
{_gallery(cards)}
<section><h2>How it was made</h2><p><code>{escape(str(manifest.get("command", "")))}</code></p>
<p class="soft">{escape(versions)}</p>
</section></main><script>{SCRIPT}</script></body></html>
"""


def _asks_nothing(method: str, manifest: Mapping[str, Any]) -> str:
    if method != "eigen_cam":
        return ""
    return "It asks no question of a box: its map is of the image, the same for all its boxes, and cannot tell why."


def _left_out(evaluation: Mapping[str, Any]) -> str:
    names = evaluation["images"]["left_out"]
    if not names:
        return ""
    return (
        f"<p><b>{len(names)} images could not be read or detected in, and are in no figure:</b> "
        f"{escape(', '.join(names[:20]))}{', ...' if len(names) > 20 else ''}</p>\n"
    )


def _ap(evaluation: Mapping[str, Any]) -> str:
    tiles = "".join(
        f"<div><small>{escape(name)}</small><b>{_share(value)}</b></div>"
        for name, value in evaluation["summary"].items()
    )
    iou = f"{evaluation['iou']:g}"
    heads = "".join(f"<th>{name}</th>" for name in ["class", "AP", f"AP at {iou}", *map(_words, KINDS)])
    rows = "".join(
        f"<tr><td>{escape(row['category'])}</td><td>{_share(row['AP'])}</td><td>{_share(row['AP_at_iou'])}</td>"
        + "".join(f"<td>{row[kind]}</td>" for kind in KINDS)
        + "</tr>"
        for row in evaluation["classes"]
    )
    return f"""<section><h2>AP</h2><div class="tiles">{tiles}</div>
<p class="soft">AP is of all predictions; the counts are of those that score {evaluation["operating_point"]:g} or more.
Click a heading to sort.</p>
<div class="tall"><table class="sorts"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _kinds(evaluation: Mapping[str, Any], findings: Findings) -> str:
    shown = {kind: len(places) for kind, places in findings.worst.items()}
    maps = {kind: findings.averages[kind, EVERY_CLASS].n for kind, _ in findings.averages}
    most = max(1, *evaluation["kinds"].values())
    rows = "".join(
        f"<tr><td>{_link(kind, shown.get(kind, 0))}</td><td>{count}</td>"
        f'<td><div class="meter" style="width:{100 * count / most:.1f}%"></div></td>'
        f"<td>{maps.get(kind, 0) + findings.flat[kind]}</td><td>{findings.flat[kind] or ''}</td>"
        f"<td>{escape(MEANINGS[kind])}</td></tr>"
        for kind, count in evaluation["kinds"].items()
    )
    alone = evaluation["missed_alone"]
    gone, n = findings.unreproduced
    again = f"<p>{gone} of {n} predictions explained could not be reproduced: the detector says otherwise now.</p>"
    return f"""<section><h2>What kinds of boxes there are</h2>
<p>Of predictions that score {evaluation["operating_point"]:g} or more, at IoU {evaluation["iou"]:g}, by COCOeval's own
matching and TIDE's definitions. TIDE itself counts {alone} of the
missed: the others were meant by a misplaced or misclassified box.</p>
<table class="kinds"><thead><tr><th>kind</th><th>boxes</th><th></th><th>explained</th><th>of them flat</th>
<th></th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="soft">A flat map has nothing that speaks for its box; it is left out of the averages and shares below.</p>
{again if n else ""}{_stages(findings)}</section>"""


def _stages(findings: Findings) -> str:
    if not findings.stages:
        return ""
    rows = "".join(
        f"<tr><td>{_words(stage)}</td><td>{findings.stages[stage]}</td><td>{escape(STAGE_MEANINGS[stage])}</td></tr>"
        for stage in STAGES
        if findings.stages[stage]
    )
    return f"""<h2 style="margin-top:18px">Where the misses explained were lost</h2>
<table class="told"><thead><tr><th>stage</th><th>misses</th><th></th></tr></thead><tbody>{rows}</tbody></table>"""


def _averages(averages: Sequence[Average]) -> str:
    classes = sorted({average.category for average in averages} - {EVERY_CLASS})
    figures = "".join(
        f'<figure data-category="{escape(average.category, quote=True)}"><div class="average">'
        f'<img src="{average.picture}" alt="average map"></div>'
        f"<figcaption>{_words(average.kind)}<br><small>{average.n} boxes</small></figcaption></figure>"
        for average in averages
    )
    return f"""<section><h2>Where they look</h2>
<p>The maps of a kind laid over one another, each box stretched to the white square: light inside it is evidence on
the object, light around it is context. All pictures share one scale, from no evidence <span class="scale"></span> to
most; a map is scaled to 1 at its own peak first.</p>
<div class="filters"><label>class<select id="average-class">{_options(classes, "every class")}</select></label></div>
<div class="maps" id="averages">{figures}</div></section>"""


def _context(findings: Findings) -> str:
    classes = sorted(set(findings.found) | set(findings.wrong))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_shares(findings.found.get(name))}{_shares(findings.wrong.get(name))}</tr>"
        for name in classes
    )
    heads = "".join(
        f"<th>{head}</th>"
        for what in ("found", "false")
        for head in (f"{what}: boxes", f"{what}: outside", f"{what}: by chance")
    )
    return f"""<section><h2>How much evidence lies outside the box</h2>
<p>The mean share of a map's positive sum outside its box, for true positives and for false ones. A flat map has the
share <i>by chance</i>, so small boxes have much outside anyhow: compare the two.</p>
<div class="tall"><table class="sorts"><thead><tr><th>class</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
</section>"""


def _gallery(cards: Sequence[Card]) -> str:
    kinds = [kind for kind in KINDS if any(card.kind == kind for card in cards)]
    named = "".join(f'<option value="{kind}">{_words(kind)}</option>' for kind in kinds)
    classes = sorted({card.category for card in cards})
    figures = "".join(map(_figure, cards))
    return f"""<section id="worst"><h2>The worst of each kind</h2>
<p>Those that cost most AP. Each outlined in white; the annotation it found, missed or meant in green; what suppressed
a miss in orange. Click a picture for the photo without its map.</p>
<div class="filters"><label>kind<select id="kind"><option value="">every kind</option>{named}</select></label>
<label>class<select id="class">{_options(classes, "every class")}</select></label>
<label>score from <span id="score-shown"></span><input id="score" type="range" min="0" max="1" step="0.01" value="0">
</label><label>words<input id="words" type="search"></label>
<label>order<select id="order"><option value="loss">loss of AP</option><option value="score">score</option>
<option value="outside">evidence outside the box</option></select></label>
<span><b id="shown">{len(cards)}</b> of {len(cards)} shown</span></div>
<div class="gallery" id="gallery">{figures}</div></section>"""


def _figure(card: Card) -> str:
    score = "" if card.score is None else f"{card.score:.4f}"
    loss = "" if card.ap_loss is None else f"{card.ap_loss:.6f}"
    name, quoted = escape(card.category), escape(card.category, quote=True)
    facts = ["nothing speaks for it" if card.flat else f"{1 - card.energy_box:.0%} of the evidence outside the box"]
    facts += [] if card.ap_loss is None else [f"costs {card.ap_loss:.4f} AP"]
    return (
        f'<figure data-kind="{card.kind}" data-category="{quoted}" data-score="{score}" '
        f'data-loss="{loss}" data-outside="{"" if card.flat else f"{1 - card.energy_box:.4f}"}">'
        f'<img class="map" loading="lazy" src="{card.under_map}" alt="{quoted} under its map">'
        f'<img class="photo" src="{card.photo}" alt="{quoted}">'
        f'<figcaption><span class="tag">{_words(card.kind)}</span><b>{name}</b> '
        f"{'' if card.score is None else f'{card.score:.2f}'}<br>{escape(card.story)}<br>"
        f"<small>{escape('; '.join(facts))}</small></figcaption></figure>"
    )


def _options(values: Sequence[str], every: str) -> str:
    named = "".join(f'<option value="{escape(value, quote=True)}">{escape(value)}</option>' for value in values)
    return f'<option value="">{every}</option>{named}'


def _link(kind: str, shown: int) -> str:
    return f'<a href="#worst" data-kind="{kind}">{_words(kind)}</a>' if shown else _words(kind)


def _shares(share: Share | None) -> str:
    if share is None:
        return "<td>0</td><td></td><td></td>"
    return f"<td>{share.n}</td><td>{share.outside:.0%}</td><td>{share.chance:.0%}</td>"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
