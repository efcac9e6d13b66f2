"""``index.html``: the summary of an evaluation as its page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from detxai.evaluate.photos.photo import Photo
from detxai.evaluate.results.disagreement import disagreements
from detxai.evaluate.results.statistics import FEWEST_IMAGES, LEVEL, Floats, Interval, Standing
from detxai.evaluate.results.summary import GROUP_NOTES, Ranking, Summary
from detxai.evaluate.results.table import as_rank, between
from detxai.pages.evaluation_page import (
    DisagreementFigure,
    EvaluationReport,
    Figure,
    RankingRow,
    RankingSection,
    StratumTable,
    TotalRow,
    evaluation_page,
)
from detxai.pages.overlays import sheet
from detxai.pages.pictures import figure_uri
from detxai.pages.plots import box_plots, curves
from detxai.runs.files import replacing

log = logging.getLogger(__name__)

HEADLINES = ("insertion", "deletion", "overall", "pointing_box", "energy_box", "evidence_auc", "evidence_mass")
N_FIGURES = 6  # detections whose maps are drawn


def write_report(
    path: Path,
    summary: Summary,
    photos: Sequence[Photo],
    request: Mapping[str, Any],
    failures: Sequence[Mapping[str, str | None]],
) -> Path:
    """Write the whole page.

    Args:
        path: the file.
        summary: the rankings.
        photos: the images, to show some of them again.
        request: what was requested, shown at the end.
        failures: what was skipped.
    """
    totals = summary.totals
    places = {total.method: place for place, total in enumerate(totals)}
    ranked = [ranking for ranking in summary.rankings if ranking.about.better is not None]
    headlines = [ranking for ranking in ranked if _is_headline(ranking)]
    report = EvaluationReport(
        n_detections=len(summary.detections),
        n_images=len(set(summary.images)),
        n_dropped=summary.n_dropped,
        level=LEVEL,
        fewest_images=FEWEST_IMAGES,
        methods=list(places),
        groups={group: GROUP_NOTES[group] for group in summary.groups},
        headlines=[(ranking.name, ranking.about.better or "") for ranking in headlines],
        totals=[
            TotalRow(
                total.method,
                [as_rank(rank) for rank in (total.mean_rank, *total.ranks.values())],
                total.seconds.mean,
                [_mean(ranking, total.method) for ranking in headlines],
            )
            for total in totals
        ],
        rankings=[_section(summary, ranking, places) for ranking in ranked],
        curves=_curves(summary, places),
        strata={kind: _strata(summary, kind) for kind in summary.kinds_of_strata},
        figures=_figures(summary, photos),
        failures=failures,
        request="\n".join(f"{name}: {_setting(value)}" for name, value in request.items()),
    )
    with replacing(path) as temporary:
        temporary.write_text(evaluation_page(report), encoding="utf-8")
    return path


def _is_headline(ranking: Ranking) -> bool:
    """One of the headlines, or what stands for them where there are several fills."""
    return ranking.name in HEADLINES or ranking.name.startswith("overall_normalised_")


def _mean(ranking: Ranking, method: str) -> Figure:
    mean = ranking.standing(method).interval.mean
    return Figure(f"{mean:.3f}", mean == ranking.standings[0].interval.mean)


def _section(summary: Summary, ranking: Ranking, places: Mapping[str, int]) -> RankingSection:
    values = summary.values(ranking.name)
    return RankingSection(
        ranking.name,
        ranking.about.meaning.capitalize(),
        ranking.about.better or "",
        ranking.n,
        "" if np.isnan(ranking.chance) else f"{ranking.chance:.3f}",
        [RankingRow(one.method, between(one.interval), _behind(one)) for one in ranking.standings],
        box_plots({one.method: values[one.method] for one in ranking.standings}, places, ranking.chance),
    )


def _behind(standing: Standing) -> str:
    return "" if standing.behind is None else between(standing.behind) + (" *" if standing.differs else "")


def _curves(summary: Summary, places: Mapping[str, int]) -> list[Markup]:
    measured = [of_method for of_method in summary.detections if all(one.curves for one in of_method.values())]
    if not measured:
        return []
    fractions = np.linspace(0, 1, len(next(iter(measured[0].values())).curves["fractions"]))
    plots = []
    for name, across in (("insertion", "share of the pixels shown"), ("deletion", "share of the pixels hidden")):
        lines = {
            method: np.mean([_at(fractions, of_method[method].curves, name) for of_method in measured], axis=0)
            for method in places
        }
        plots.append(curves(f"{name}: mean score", fractions, lines, across, places))
    return plots


def _at(fractions: Floats, measured: Mapping[str, Sequence[float]], name: str) -> Floats:
    """A curve at other shares: superpixels are of different sizes, so every detection has shares of its own."""
    return np.asarray(np.interp(fractions, measured["fractions"], measured[name]), dtype=np.float64)


def _strata(summary: Summary, kind: str) -> list[StratumTable]:
    tables = []
    for quantity, strata in summary.by_stratum(kind).items():
        ranking = summary.ranking(quantity)
        better = ranking.about.better
        if better is None:
            continue
        best = {name: _best(means, better) for name, means in strata.items()}
        rows = [
            (
                standing.method,
                [_stratum(means[standing.method], best[name]) for name, means in strata.items()],
            )
            for standing in ranking.standings
        ]
        names = [(name, next(iter(means.values())).n) for name, means in strata.items()]
        tables.append(StratumTable(quantity, better, names, rows))
    return tables


def _best(means: Mapping[str, Interval], better: str) -> float:
    known = [interval.mean for interval in means.values() if interval.n]
    return (max(known) if better == "higher" else min(known)) if known else np.nan


def _stratum(interval: Interval, best: float) -> Figure:
    return Figure(between(interval), interval.mean == best) if interval.n else Figure("–")


def _figures(summary: Summary, photos: Sequence[Photo]) -> list[DisagreementFigure]:
    figures = []
    for found in disagreements(summary, N_FIGURES):
        try:
            image, _ = photos[found.number].load()
        except (ValueError, OSError) as error:  # gone since it was measured
            log.warning("%s is not drawn: %s", found.image, error)
            continue
        drawn = sheet(found.explanations(image), captions=found.captions, width=240)
        figures.append(DisagreementFigure(found.title, found.agreement, figure_uri(drawn)))
    return figures


def _setting(value: Any) -> str:
    """A value on one line; of methods and measures, each on a line of its own."""
    if isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
        return "".join(f"\n  {name}: {json.dumps(item)}" for name, item in value.items())
    return json.dumps(value)
