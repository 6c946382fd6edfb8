"""What blocking by subject bought: subject variance, ICC, relative efficiency, and within-subject intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayscale.analysis.distributions import f_tail, t_critical
from rayscale.analysis.kernel import FloatArray, centre


@dataclass(frozen=True)
class DesignEffects:
    """The subjects' part. NaN where undefined.

    Attributes:
        MS_subject: Mean square between subjects.
        MS_error: Mean square of subjects x cells.
        F_subject: Their ratio, about 1 when subjects share nothing.
        p_subject: Its p with n - 1 and (n - 1)(k - 1) df.
        icc_consistency: (MS_s - MS_e) / (MS_s + (k - 1) MS_e), ICC(3,1) of Shrout & Fleiss (1979).
        var_subject_mom: (MS_s - MS_e) / k, method of moments, negative if subjects differ less than noise would.
        relative_efficiency: Variance of an unblocked design over the blocked one,
            ((n - 1) MS_s + n (k - 1) MS_e) / ((n k - 1) MS_e) (Yates; without the small-sample df factor).
        loftus_masson: Half-width from the pooled error (Loftus & Masson 1994).
        morey: Half-width per cell from subject-centred data (Morey 2008, corrected by k / (k - 1)).
    """

    MS_subject: float
    MS_error: float
    F_subject: float
    p_subject: float
    icc_consistency: float
    var_subject_mom: float
    relative_efficiency: float
    loftus_masson: float
    morey: tuple[float, ...]


def design_effects(values: FloatArray, alpha: float) -> DesignEffects:
    """Compute what the design bought.

    Args:
        values: Finite values, shape (n >= 2, k >= 2).
        alpha: Half-widths have confidence 1 - alpha.

    Returns:
        The effects.
    """
    parts = centre(values)
    n, k = parts.n, parts.k
    noisy = float(np.max(np.abs(parts.residual))) > parts.floor
    # Ratios are taken in the kernel's units, where no square leaves the range of a double.
    error = float(np.sum(parts.residual**2)) / ((n - 1) * (k - 1)) if noisy else 0.0
    subject = float(k * np.sum(parts.subject_means**2)) / (n - 1)
    F = subject / error if error > 0 else math.nan
    below = subject + (k - 1) * error
    # A cell's residual plus its effect is the subject-centred value; its sd is that of the residual column.
    columns = np.sqrt(np.sum(parts.residual**2, axis=0) / (n - 1) * k / (k - 1)) if noisy else np.zeros(k)
    factor = t_critical(1 - alpha, n - 1) / math.sqrt(n)
    return DesignEffects(
        MS_subject=parts.in_units(subject),
        MS_error=parts.in_units(error),
        F_subject=F,
        p_subject=f_tail(F, n - 1, (n - 1) * (k - 1)),
        icc_consistency=(subject - error) / below if below > 0 else math.nan,
        var_subject_mom=parts.in_units((subject - error) / k),
        relative_efficiency=((n - 1) * F + n * (k - 1)) / (n * k - 1),
        loftus_masson=math.ldexp(t_critical(1 - alpha, (n - 1) * (k - 1)) * math.sqrt(error / n), parts.exponent),
        morey=tuple(math.ldexp(float(sd) * factor, parts.exponent) for sd in columns),
    )
