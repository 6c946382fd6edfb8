"""The mixed model with random slopes: does the effect of the levels itself differ between devices?

    y = X beta + device + device x condition + subject (within device) + e

The variance of *device x condition* is what a random slope (0 + factor | device) adds when all conditions vary alike;
the unstructured matrix of k (k + 1) / 2 covariances that lme4 would fit needs far more devices than anybody has. With
it, F is tested against how far the effect varies between devices, so its denominator df come from the devices; in
complete balanced data F and df are those of the ANOVA of the devices' means.

Conditions and subjects cross within a device, so V has no small blocks beyond the device: each device is one dense
block of its rows. The rest (REML, derivatives, finite df) is `mixed` as it stands, with no within part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rayscale.analysis.kernel import FloatArray
from rayscale.analysis.mixed import MixedFit, RandomTerm, System, UndefinedModelError, check_fixed, fit_system

LARGEST_DEVICE = 300
"""Rows of one device; the cost grows with the third power."""

LARGEST_CHECK = 5e9
"""Rows x columns squared of the check for a residual; some 10 s on one core, and it grows with the third power too."""


def fit_crossed(y: FloatArray, x: FloatArray, terms: Sequence[RandomTerm]) -> MixedFit:
    """Fit a model whose random terms cross within the first one, by REML.

    Args:
        y: Finite values; shape (rows,). Take a large common offset off first.
        x: Fixed-effects design of full column rank; shape (rows, p).
        terms: The coarsest (device), then those within it.

    Returns:
        The fit.

    Raises:
        UndefinedModelError: If a device or the data has too many rows, a term is not within the first one, there is no
            residual variance, or terms or fixed effects cannot be told apart.
    """
    exponent = math.frexp(float(np.max(np.abs(y), initial=0.0)))[1]
    scaled = np.ldexp(y, -exponent)
    check_fixed(x)
    _check_residual(scaled, x, terms)
    return fit_system(_split_rows(scaled, x, terms), exponent)


def _check_residual(y: FloatArray, x: FloatArray, terms: Sequence[RandomTerm]) -> None:
    columns = x.shape[1] + sum(len(np.unique(term.codes)) for term in terms)
    if len(y) * columns**2 > LARGEST_CHECK:
        raise UndefinedModelError(f"{len(y)} rows with {columns} effects: this mixed model is not computed")
    groups = [(term.codes[:, None] == np.unique(term.codes)).astype(float) for term in terms]
    left, singular, _ = np.linalg.svd(np.hstack([x, *groups]), full_matrices=False)
    basis = left[:, singular > 1e-9 * singular[0]]
    if basis.shape[1] >= len(y):
        raise UndefinedModelError("there is no row left for the residual of the mixed model")
    if float(np.max(np.abs(y - basis @ (basis.T @ y)))) <= 1e-13:
        raise UndefinedModelError("the residual variance is zero, so the mixed model has nothing to test against")


def _split_rows(y: FloatArray, x: FloatArray, terms: Sequence[RandomTerm]) -> System:
    """One block per device, its rows as they are; shorter blocks padded with rows of nothing."""
    block = np.unique(terms[0].codes, return_inverse=True)[1]
    sizes = np.bincount(block)
    if sizes.max() > LARGEST_DEVICE:
        raise UndefinedModelError(f"more than {LARGEST_DEVICE} rows on one device: this mixed model is not computed")
    for term in terms[1:]:
        if len(np.unique(term.codes)) < len(np.unique(np.column_stack([term.codes, block]), axis=0)):
            raise UndefinedModelError(f"{term.name} does not lie within {terms[0].name}")
    order = np.argsort(block, kind="stable")
    place = np.empty(len(y), dtype=np.int64)
    place[order] = np.arange(len(y)) - (np.cumsum(sizes) - sizes)[block[order]]
    shape = (len(sizes), int(sizes.max()))
    between = np.zeros((*shape, x.shape[1] + 1))
    between[block, place] = np.column_stack([x, y])
    parts = np.zeros((len(terms) + 1, *shape, shape[1]))
    for index, term in enumerate(terms):
        codes = np.full(shape, -1, dtype=np.int64)
        codes[block, place] = term.codes
        parts[index] = (codes[:, :, None] == codes[:, None, :]) & (codes[:, :, None] >= 0)
    parts[-1] = np.eye(shape[1])
    within = np.zeros((len(y), x.shape[1] + 1))
    return System(tuple(term.name for term in terms), len(y), len(y), within, between, parts)
