"""The page of an evaluation: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from detxai.evaluate.disagreement import disagreements
from detxai.evaluate.plots import box_plots, colour, curves, legend
from detxai.evaluate.samples import Photo
from detxai.evaluate.statistics import FEWEST_IMAGES, LEVEL, Floats, Interval, Standing
from detxai.evaluate.summary import GROUP_NOTES, Ranking, Summary
from detxai.evaluate.table import as_rank, between
from detxai.pages.overlays import sheet
from detxai.runs.files import replacing

log = logging.getLogger(__name__)

HEADLINES = ("insertion", "deletion", "overall", "pointing_box", "energy_box", "evidence_auc", "evidence_mass")
ARROWS: dict[str | None, str] = {"higher": "↑", "lower": "↓", None: ""}
SHOWN = 6  # detections whose maps are drawn
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6470; --line: #d8dce2; --card: #ffffff;
  --ground: #f4f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb8; --line: #3a3f47; --card: #22252a;
  --ground: #17191c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 8px; } h2 { font-size: 21px; margin: 0 0 6px; }
h3 { font-size: 16px; margin: 18px 0 4px; }
p { max-width: 85ch; margin: 6px 0; } .soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin: 20px 0;
  overflow-x: auto; }
.two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 24px; align-items: start; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
table.wide th { white-space: normal; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; } .best { font-weight: 700; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 8px; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .title { font-size: 14px; font-weight: 600; } svg .grid { stroke: var(--line); } svg .mean { fill: var(--ink); }
svg .chance { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 3; }
.legend span { margin-right: 18px; white-space: nowrap; } .swatch { width: 28px; height: 8px; margin-right: 6px; }
figure { margin: 14px 0; } figure img { max-width: 100%; border-radius: 6px; background: white; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; } summary { cursor: pointer; }
@media (max-width: 800px) { .two { grid-template-columns: 1fr; } }
"""


def write_page(
    path: Path,
    summary: Summary,
    photos: Sequence[Photo],
    request: Mapping[str, Any],
    failures: Sequence[Mapping[str, str | None]],
) -> Path:
    """Write the whole document.

    Args:
        path: the file.
        summary: the rankings.
        photos: the images, to show some of them again.
        request: what was asked for, shown at the end.
        failures: what was skipped.
    """
    places = {total.method: place for place, total in enumerate(summary.totals)}
    parts = [
        _head(summary, failures),
        _totals(summary, places),
        _curves(summary, places),
        *(_ranking(summary, ranking, places) for ranking in summary.rankings if ranking.about.better is not None),
        *(_strata(summary, kind) for kind in summary.kinds_of_strata),
        _maps(summary, photos),
        _request(request, failures),
    ]
    html = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>detxai evaluate: which method to believe</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _head(summary: Summary, failures: Sequence[Mapping[str, str | None]]) -> str:
    dropped = ""
    if summary.n_dropped:
        dropped = f" {summary.n_dropped} detections are left out, because not every method answered for them."
    failed = f" {len(failures)} failures are listed at the end." if failures else ""
    return (
        "<h1>Which explanation method to believe, here</h1>"
        f"<p>{len(summary.detections)} detections of {len(set(summary.images))} images, the same for every method, "
        "measured with the same settings. Intervals are 95 % bootstrap intervals; whole images are drawn, because "
        "detections of one image resemble each other. A difference to the best method is taken detection by "
        f"detection; it is marked * where it is beyond chance: p at most {LEVEL} by Holm's correction over all pairs "
        f"of methods, and never with fewer than {FEWEST_IMAGES} images.{dropped}{failed}</p>"
    )


def _totals(summary: Summary, places: Mapping[str, int]) -> str:
    shown = [ranking for ranking in summary.rankings if _is_headline(ranking) and ranking.about.better]
    head = "".join(f"<th>{escape(r.name.replace('_', ' '))} {ARROWS[r.about.better]}</th>" for r in shown)
    rows = []
    for total in summary.totals:
        ranks = [as_rank(rank) for rank in (total.mean_rank, *total.ranks.values())]
        cells = "".join(_mean(ranking, total.method) for ranking in shown)
        name = _method(total.method, places)
        rows.append(
            f"<tr><td>{name}</td><td>{'</td><td>'.join(ranks)}</td><td>{total.seconds.mean:.3g}</td>{cells}</tr>"
        )
    groups = "".join(f"<th>{escape(group)}</th>" for group in summary.groups)
    notes = "; ".join(f"<b>{escape(group)}</b>, {escape(GROUP_NOTES[group])}" for group in summary.groups)
    return (
        "<section><h2>Overall</h2><p class='soft'>Mean ranks over the measures, each measure counted once, and over "
        f"those of each group: {notes}. Then means; the best of a column is bold.</p>"
        f"<table class='wide'><tr><th>method</th><th>mean rank</th>{groups}<th>s per detection</th>"
        f"{head}</tr>{''.join(rows)}</table></section>"
    )


def _is_headline(ranking: Ranking) -> bool:
    """One of the headlines, or what stands for them where there are several fills."""
    return ranking.name in HEADLINES or ranking.name.startswith("overall_normalised_")


def _mean(ranking: Ranking, method: str) -> str:
    mean = ranking.of(method).interval.mean
    best = ' class="best"' if mean == ranking.standings[0].interval.mean else ""
    return f"<td{best}>{mean:.3f}</td>"


def _method(name: str, places: Mapping[str, int]) -> str:
    return f'<span class="dot" style="background:{colour(places[name])}"></span>{escape(name)}'


def _curves(summary: Summary, places: Mapping[str, int]) -> str:
    drawn = [of for of in summary.detections if all(record.curves for record in of.values())]
    if not drawn:
        return ""
    charts = []
    fractions = np.linspace(0, 1, len(next(iter(drawn[0].values())).curves["fractions"]))
    for name, across in (("insertion", "share of the pixels shown"), ("deletion", "share of the pixels hidden")):
        lines = {
            method: np.mean([_at(fractions, of[method].curves, name) for of in drawn], axis=0)
            for method in sorted(summary.methods, key=places.__getitem__)
        }
        charts.append(curves(f"{name}: mean score", fractions, lines, across, places))
    names = sorted(summary.methods, key=places.__getitem__)
    return (
        f"<section><h2>Insertion and deletion</h2>{legend(names, places)}"
        f'<div class="two"><div>{charts[0]}</div><div>{charts[1]}</div></div></section>'
    )


def _at(fractions: Floats, measured: Mapping[str, Sequence[float]], name: str) -> Floats:
    """A curve at other shares: superpixels are of different sizes, so every detection has shares of its own."""
    return np.asarray(np.interp(fractions, measured["fractions"], measured[name]), dtype=np.float64)


def _ranking(summary: Summary, ranking: Ranking, places: Mapping[str, int]) -> str:
    rows = "".join(
        f"<tr><td>{_method(standing.method, places)}</td><td>{between(standing.interval)}</td>"
        f"<td>{_behind(standing)}</td></tr>"
        for standing in ranking.standings
    )
    values = summary.values(ranking.name)
    plot = box_plots({s.method: values[s.method] for s in ranking.standings}, places, ranking.chance)
    chance = "" if np.isnan(ranking.chance) else f" Chance, dashed: {ranking.chance:.3f}."
    return (
        f"<section><h2>{escape(ranking.name)}</h2><p class='soft'>{escape(ranking.about.meaning.capitalize())}; "
        f"{ranking.about.better} is better. {ranking.n} detections.{chance}</p><div class='two'>"
        f"<table><tr><th>method</th><th>mean [95 %]</th><th>behind the best by</th></tr>{rows}</table>"
        f"<div>{plot}</div></div></section>"
    )


def _behind(standing: Standing) -> str:
    return "" if standing.behind is None else between(standing.behind) + (" *" if standing.differs else "")


def _strata(summary: Summary, kind: str) -> str:
    tables = []
    for quantity, strata in summary.by_stratum(kind).items():
        better = summary.ranking(quantity).about.better
        if better is None:
            continue
        head = "".join(f"<th>{escape(name)} ({_n(of)})</th>" for name, of in strata.items())
        best = {name: _best(of, better) for name, of in strata.items()}
        rows = "".join(
            f"<tr><td>{escape(method)}</td>"
            + "".join(_stratum(of[method], best[name] == of[method].mean) for name, of in strata.items())
            + "</tr>"
            for method in (standing.method for standing in summary.ranking(quantity).standings)
        )
        tables.append(
            f"<h3>{escape(quantity)} {ARROWS[better]}</h3><table><tr><th>method</th>{head}</tr>{rows}</table>"
        )
    return (
        f"<section><details><summary><b>By {escape(kind)}</b> <span class='soft'>means with intervals; detections in "
        f"brackets</span></summary>{''.join(tables)}</details></section>"
    )


def _n(of: Mapping[str, Interval]) -> int:
    return next(iter(of.values())).n


def _best(of: Mapping[str, Interval], better: str) -> float:
    means = [interval.mean for interval in of.values() if interval.n]
    return (max(means) if better == "higher" else min(means)) if means else np.nan


def _stratum(interval: Interval, best: bool) -> str:
    if not interval.n:
        return "<td>–</td>"
    return f"<td{' class=best' if best else ''}>{between(interval)}</td>"


def _maps(summary: Summary, photos: Sequence[Photo]) -> str:
    figures = []
    for found in disagreements(summary, SHOWN):
        try:
            image, _ = photos[found.number].load()
        except (ValueError, OSError) as error:  # gone since it was measured
            log.warning("%s is not drawn: %s", found.image, error)
            continue
        buffer = io.BytesIO()
        sheet(found.explanations(image), captions=found.captions, width=240).savefig(buffer, format="png")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        figures.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(found.title, quote=True)}">'
            f"<figcaption>{escape(found.title)}; mean rank correlation between the methods "
            f"{found.agreement:.2f}</figcaption></figure>"
        )
    if not figures:
        return ""
    return (
        "<section><h2>Where the methods disagree most</h2><p class='soft'>Each map is scaled to its own peak; "
        f"baselines are drawn, but do not count in the disagreement.</p>{''.join(figures)}</section>"
    )


def _request(request: Mapping[str, Any], failures: Sequence[Mapping[str, str | None]]) -> str:
    listed = "".join(
        f"<li>{escape(str(f['image']))}{'' if f['method'] is None else ', ' + escape(str(f['method']))}: "
        f"{escape(str(f['error']))}</li>"
        for f in failures
    )
    failed = f"<h3>Failures</h3><ul>{listed}</ul>" if failures else ""
    asked = "\n".join(f"{name}: {_setting(value)}" for name, value in request.items())
    return (
        f"<section>{failed}<details><summary><b>What was asked for</b></summary><pre>{escape(asked)}</pre></details>"
        "</section>"
    )


def _setting(value: Any) -> str:
    """A value on one line; of methods and measures, each on a line of its own."""
    if isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
        return "".join(f"\n  {name}: {json.dumps(item)}" for name, item in value.items())
    return json.dumps(value)
