"""The variational mixture of the drawn features: a Dirichlet process decides how many of K concepts it needs.

The model, whose evidence lower bound ``FitRecord.bound`` is, up to a constant. With u_i (D,) a cell's coordinates and
y_i the class of its box, written as one-hot times ``class_weight`` and observed beside them:

    weights by breaking a stick:  v_k ~ Beta(1, gamma),  phi_k = v_k prod_{l < k} (1 - v_l)
    precision and centre of a concept:  L_k ~ Wishart(W_0, D),  z_k ~ N(m_0, (b_0 L_k)^-1)
    a cell:  c_i ~ Categorical(phi),  (u_i, y_i) ~ N(z_{c_i}, L_{c_i}^-1)

Coordinate ascent on q(v) q(z, L) q(c) never lowers the bound. Full covariances: scikit-learn's updates for diagonal and
spherical ones do not belong to the bound that it reports, which then falls now and then.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detxai.engine.concepts.mixture import Mixture

Floats = npt.NDArray[np.float64]
LEAST_WEIGHT = 0.002  # of a concept that is kept: below it, a dozen of some thousand cells
LEAST_CELLS = 20


@dataclass(frozen=True)
class Fitting:
    """How the features are clustered.

    Attributes:
        n_concepts: K, the most concepts for each set of levels.
        n_dimensions: D, principal components of the features that are clustered.
        class_weight: how much the class of the box counts; 0: the class is not looked at.
        concentration: gamma; the larger, the more concepts.
        max_iter: iterations at the most.
        n_seeds: fits with other seeds, to say how stable the concepts are; the first is kept.
    """

    n_concepts: int = 40
    n_dimensions: int = 12
    class_weight: float = 0.0
    concentration: float = 1.0
    max_iter: int = 100
    n_seeds: int = 3


@dataclass(frozen=True)
class FitRecord:
    """What a fit says of itself.

    Attributes:
        bound: the evidence lower bound after each iteration, up to a constant.
        explained: share of the features' variance in the D components.
        n_cells: clustered.
        stability: adjusted Rand index of the concepts of these cells with those of each other seed; 1: the same.
    """

    bound: Sequence[float]
    explained: float
    n_cells: int
    stability: Sequence[float]


def import_mixture() -> Any:
    """scikit-learn's ``BayesianGaussianMixture``.

    Raises:
        ImportError: it is not installed; the message has the pip line.
    """
    try:
        from sklearn.mixture import BayesianGaussianMixture
    except ImportError as error:
        raise ImportError('detxai concepts find needs scikit-learn: pip install "detxai[concepts]"') from error
    return BayesianGaussianMixture


def fit_mixture(
    levels: Sequence[str], cells: Floats, labels: npt.NDArray[np.int64], fitting: Fitting, seed: int
) -> tuple[Mixture, FitRecord]:
    """The concepts of some cells, and how the fit went.

    Args:
        levels: that the cells are from.
        cells: (n, C) features.
        labels: (n,) the class of the box that each was drawn for.
        fitting: settings.
        seed: of the first fit.

    Raises:
        ValueError: there are too few cells, or they do not vary.
    """
    if len(cells) < LEAST_CELLS:
        raise ValueError(f"concepts need at least {LEAST_CELLS} cells of {', '.join(levels)}, got {len(cells)}")
    mean = cells.mean(0)
    basis, explained = _components(cells - mean, fitting.n_dimensions)
    coordinates = (cells - mean) @ basis
    observed = np.concatenate([coordinates, fitting.class_weight * _class_places(labels)], 1)
    observed = observed if fitting.class_weight else coordinates
    fits = [_fit(observed, fitting, seed + number) for number in range(fitting.n_seeds)]
    kept = np.flatnonzero(fits[0].weights_ >= LEAST_WEIGHT)
    memberships = fits[0].predict_proba(observed)[:, kept]
    d = basis.shape[1]
    mixture = Mixture(
        tuple(levels),
        mean=torch.from_numpy(mean),
        basis=torch.from_numpy(basis),
        weights=torch.from_numpy(fits[0].weights_[kept] / fits[0].weights_[kept].sum()),
        centres=torch.from_numpy(fits[0].means_[kept, :d].copy()),
        covariances=torch.from_numpy(fits[0].covariances_[kept, :d, :d].copy()),
        places=torch.from_numpy(memberships.T @ cells / np.maximum(memberships.sum(0), 1e-12)[:, None]),
    )
    record = FitRecord(_bounds(fits[0]), explained, len(cells), _stability(fits, observed))
    return mixture, record


def _class_places(labels: npt.NDArray[np.int64]) -> Floats:
    """(n, classes - 1): one-hot vectors in coordinates of the plane that they lie in.

    Their distances are those of the one-hot vectors, which sum to 1 and would have a singular covariance.
    """
    classes = np.unique(labels)
    centred = np.eye(len(classes)) - 1 / len(classes)
    plane = np.linalg.svd(centred)[0][:, : len(classes) - 1]
    places: Floats = (labels[:, None] == classes) @ plane
    return places


def _components(centred: Floats, n: int) -> tuple[Floats, float]:
    """(C, D) principal components over one common scale, and the share of the variance that they hold."""
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    if not variances[-1] > 0:
        raise ValueError("features must vary from cell to cell, got the same everywhere")
    kept = min(n, int((variances > 1e-9 * variances[-1]).sum()))
    basis = vectors[:, ::-1][:, :kept]
    scale = float(np.sqrt(variances[::-1][:kept].mean()))
    return np.ascontiguousarray(basis / scale), float(variances[::-1][:kept].sum() / variances.sum())


def _fit(observed: Floats, fitting: Fitting, seed: int) -> Any:
    mixture = import_mixture()(
        n_components=min(fitting.n_concepts, len(observed) // 4),
        covariance_type="full",
        weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=fitting.concentration,
        init_params="k-means++",
        reg_covar=0,  # it is no part of the model, and with it the bound may fall; the prior does its work
        max_iter=fitting.max_iter,
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge: the bound says by how much
        return mixture.fit(observed)


def _bounds(fit: Any) -> list[float]:
    return [float(bound) for bound in fit.lower_bounds_]


def _stability(fits: Sequence[Any], observed: Floats) -> list[float]:
    from sklearn.metrics import adjusted_rand_score

    first, *others = (fit.predict(observed) for fit in fits)
    return [float(adjusted_rand_score(first, other)) for other in others]
