"""From a ledger or a table to its analysis: the glue between what is stored and `analysis`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayscale.accounting import accounting_of
from rayscale.analysis.equivalence_ratio import parse_margin
from rayscale.analysis.forecast_sweep import sweep_forecast
from rayscale.analysis.looks import with_sequential
from rayscale.analysis.resampling import RESAMPLES
from rayscale.analysis.returns_tree import returns_trees
from rayscale.analysis.run import AnalysisRequest, analyze_frame, analyze_records, to_json
from rayscale.analysis.scaling_sweep import sweep_scaling
from rayscale.analysis.table import ledger_frame, read_table
from rayscale.design import Plan
from rayscale.errors import InputError
from rayscale.ledger import Ledger
from rayscale.record import Record


def finished_records(ledger: Ledger, plan: Plan) -> list[Record]:
    """Read the records of a plan.

    Args:
        ledger: The ledger.
        plan: The plan.

    Returns:
        At least one record.

    Raises:
        InputError: If no trial is completed yet.
    """
    records = ledger.records(plan)
    if not records:
        raise InputError(f"{ledger}: no completed trial yet; expected at least one (rayscale run SWEEP.yaml)")
    return records


def analyze_ledger(ledger: Ledger, plan: Plan, dv: str | None = None, alpha: float | None = None) -> dict[str, Any]:
    """Analyse a sweep as its file declares, and store the result as `analysis.json` unless it was varied.

    Args:
        ledger: The ledger.
        plan: The plan.
        dv: Other dependent variables, comma-separated; None takes the declared ones.
        alpha: Other significance level.

    Returns:
        The tree of design 4.6 with `results.<dv>`.
    """
    spec = plan.spec
    changes: dict[str, Any] = {}
    if dv is not None:
        changes["dv"] = _names(dv)
    if alpha is not None:
        changes["alpha"] = alpha
    if changes:
        spec = spec.model_copy(update={"analysis": spec.analysis.model_copy(update=changes)})
    records = finished_records(ledger, plan)
    tree = with_sequential(analyze_records(records, spec), ledger.read_looks(), spec)
    kept = [record for record in records if record.quality.verdict not in spec.analysis.exclude]
    frame = ledger_frame(kept, spec.analysis.metrics, spec.report)
    tree |= {"accounting": accounting_of(ledger, plan, records)}
    tree |= returns_trees(frame, spec, bool(tree["energy_estimated"]))
    varied = [name for name, levels in spec.design.factors.items() if len(levels) > 1]
    if (scaling := sweep_scaling(frame, spec.name, varied)) is not None:
        tree |= {"scaling": scaling, "forecast": sweep_forecast(scaling, spec.report.forecast, spec.name)}
    if not changes:
        ledger.storage.write("analysis.json", (to_json(tree) + "\n").encode())
    return tree


def analyze_table(
    path: Path,
    *,
    dv: str | None,
    within: str | None,
    subject: str | None,
    alpha: float | None,
    aggregate: str | None,
    device: str | None = None,
    order: str | None = None,
    scale: str = "raw",
    margin: str | None = None,
) -> dict[str, Any]:
    """Analyse any long table.

    Args:
        path: .csv, .parquet or .json with one row per observation.
        dv: Dependent variable(s), comma-separated.
        within: Within-subject factor(s), comma-separated.
        subject: Column that names the subject.
        alpha: Significance level; None takes 0.05.
        aggregate: `mean` averages repeated cells.
        device: Column that names the device of each row: adds the mixed models with devices.
        order: Column that grows with time: adds the check of the run order and the drift model.
        scale: Primary scale, raw or log.
        margin: Equivalence margin in units of the measure, or as a ratio like `x1.05`.

    Returns:
        The tree of design 4.6.

    Raises:
        InputError: If an option is missing or the table does not fit.
    """
    missing = [name for name, value in (("--dv", dv), ("--within", within), ("--subject", subject)) if not value]
    if missing or dv is None or within is None or subject is None:
        raise InputError(f"{path}: a table needs {', '.join(missing)} (names of columns)")
    raw, ratio = parse_margin(margin) if margin is not None else (None, None)
    request = AnalysisRequest(
        dv=tuple(_names(dv)),
        scale=scale,
        equivalence=dict.fromkeys(_names(dv), raw) if raw is not None else {},
        equivalence_ratio=dict.fromkeys(_names(dv), ratio) if ratio is not None else {},
        within=tuple(_names(within)),
        subject=subject,
        alpha=0.05 if alpha is None else alpha,
        aggregate=aggregate,
        resamples=RESAMPLES,
        device=device,
        order=order,
    )
    return analyze_frame(read_table(path), request)


def render_tree(tree: dict[str, Any], form: str) -> str:
    """Write an analysis for people or papers.

    Args:
        tree: The tree of design 4.6.
        form: `text`, `csv`, `latex` (booktabs and APA sentences) or `methods` (a paragraph).

    Returns:
        Text.
    """
    from rayscale.analysis.csv_tables import to_csv
    from rayscale.analysis.latex import to_latex
    from rayscale.analysis.methods import methods_paragraph
    from rayscale.analysis.text import render_text

    writers = {"text": render_text, "csv": to_csv, "latex": to_latex, "methods": methods_paragraph}
    text = writers[form](tree)
    return "\n".join([text, *_further_text(tree)]) if form == "text" else text


def _further_text(tree: dict[str, Any]) -> list[str]:
    """Write what a sweep took and what its loss cost; nothing for a table."""
    from rayscale.analysis.accounting_tree import accounting_text
    from rayscale.analysis.fit_text import render_fit
    from rayscale.analysis.forecast_sweep import forecast_text
    from rayscale.analysis.returns_text import returns_text

    scaling = f"Scaling law\n===========\n{render_fit(tree['scaling'])}" if "scaling" in tree else ""
    outlook = f"Relative-loss forecast\n{'=' * 22}\n{forecast_text(tree['forecast'])}" if "forecast" in tree else ""
    parts = [
        returns_text(tree),
        scaling,
        outlook,
        accounting_text(tree["accounting"]) if tree.get("accounting") else "",
    ]
    return [f"{part}\n" for part in parts if part]


def export_table(ledger: Ledger, plan: Plan, form: str, out: Path | None) -> str | None:
    """Write one row per completed trial with all columns and metrics.

    Args:
        ledger: The ledger.
        plan: The plan.
        form: `csv`, `json` (a list of rows, null where unknown) or `parquet`.
        out: The file; None returns text.

    Returns:
        The text if there is no file.

    Raises:
        InputError: If the format is unknown, or parquet has no file to go to.
    """
    if form not in ("csv", "json", "parquet"):
        raise InputError(f"--format {form}: expected csv, json or parquet")
    if form == "parquet" and out is None:
        raise InputError("--format parquet: expected --out FILE, parquet does not go to a terminal")
    frame = ledger_frame(finished_records(ledger, plan), plan.spec.analysis.metrics, report=plan.spec.report)
    if form != "parquet":
        text = frame.to_csv(index=False) if form == "csv" else to_json({"trials": frame.to_dict("records")}) + "\n"
        if out is None:
            return text
        out.write_text(text, encoding="utf-8")
    elif out is not None:
        frame.to_parquet(out, index=False)
    return None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
