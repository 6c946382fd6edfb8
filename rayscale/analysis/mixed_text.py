"""The mixed models and the order of runs in words: sentences for every reader, and lines for the terminal."""

from __future__ import annotations

from rayscale.analysis.jsonable import Tree
from rayscale.analysis.sentences import show, show_p

MODELS = {
    "lmm_random_intercept": "mixed model of all rows (subjects with missing cells kept)",
    "lmm_nested": "mixed model of all rows (several rows per cell kept)",
    "lmm_subject": "mixed model, subject random (devices ignored)",
    "lmm_device": "mixed model, device and subject random (devices in general)",
    "lmm_device_condition": "mixed model, device, its conditions and subject random (the effect may differ by device)",
    "lmm_device_fixed": "mixed model, device fixed, subject random (these devices)",
    "lmm_device_drift": "mixed model with the order of runs",
    "lmm_start_temperature": "mixed model with the order of runs and the start temperature",
}


def mixed_sentences(tree: Tree) -> list[str]:
    """Say what the missing cells, the devices and the order of runs mean for the result.

    Args:
        tree: The tree of one measure with the parts of `run`.

    Returns:
        Sentences; the order of runs first. Empty if the tree has none of these parts.
    """
    found = [tree["run_order"]["sentence"]] if tree.get("run_order") else []
    found += [_missing(tree), _devices(tree), _drift(tree)]
    return [sentence for sentence in found if sentence]


def mixed_text(tree: Tree) -> list[str]:
    """Write the mixed models and the order of runs for the terminal.

    Args:
        tree: The tree of one measure.

    Returns:
        One line per test, unwrapped; empty if there is nothing to show.
    """
    lines = []
    for name, title in MODELS.items():
        model = tree.get(name)
        if name in tree:
            lines.append(f"{title}: " + (_tests(tree, model) if model else "undefined (see the notes)"))
    device = tree.get("device_as_subject_anova")
    if device and "F" in device:
        test = f"F({device['df1']}, {device['df2']}) = {show(device['F'])}, p {show_p(device['p_unc'])}"
        lines.append(f"ANOVA of the devices' means (device as subject): {test}")
    return lines


def _tests(tree: Tree, model: Tree) -> str:
    tests = [_test(term, numbers) for term, numbers in terms_of(tree, model).items()]
    return f"{'; '.join(tests)}; sd: {_spread(model)}"


def terms_of(tree: Tree, model: Tree) -> dict[str, Tree]:
    """Take the tests of a model apart.

    Args:
        tree: The tree of the measure, for the factor's name where the model has a single term.
        model: One of `MODELS`.

    Returns:
        Term -> `F_kr, df1, df2_kr, p_kr, log10_p_kr` of the Kenward-Roger test, and `df2_satterthwaite,
        p_satterthwaite` beside it.
    """
    keys = ("F_kr", "df1", "df2_kr", "p_kr", "log10_p_kr", "df2_satterthwaite", "p_satterthwaite")
    if isinstance(model["df1"], dict):
        return {term: {key: model[key][term] for key in keys} for term in model["df1"]}
    return {tree["within"][0]: {key: model[key] for key in keys}}


def _test(term: str, numbers: Tree) -> str:
    if numbers["F_kr"] is None or numbers["df2_kr"] is None:
        return f"{term}: undefined"
    p = show_p(numbers["p_kr"], numbers["log10_p_kr"])
    text = f"{term}: F({numbers['df1']}, {numbers['df2_kr']:.1f}) = {show(numbers['F_kr'])}, p {p}"
    other = numbers["df2_satterthwaite"]
    return text if other is None else f"{text} (Satterthwaite: df {other:.1f}, p {_other_p(numbers)})"


def _other_p(numbers: Tree) -> str:
    return show_p(numbers["p_satterthwaite"]) if numbers["p_satterthwaite"] is not None else "< 1e-300"


def _spread(model: Tree) -> str:
    """Standard deviations of the random parts: they are in the units of the measure."""
    variances = model.get("var") or {"subject": model.get("var_subject"), "residual": model.get("var_resid")}
    return ", ".join(f"{name} {show(value**0.5, 3)}" for name, value in variances.items() if value is not None)


def _below(p: float | None, alpha: float) -> bool:
    """Whether a p of the tree is below the limit; a p too small for a double is null there."""
    return p is None or p < alpha


def _missing(tree: Tree) -> str:
    model = tree.get("lmm_random_intercept")
    if not model or isinstance(model["df1"], dict) or model["F_kr"] is None:
        return ""
    kept = f"The mixed model keeps all {model['n_rows']} rows in spite of {tree['missing']['n_missing_cells']} missing "
    test = _test(tree["within"][0], model)
    listwise = tree["anova"]
    if listwise["F"] is None:
        return f"{kept}cells: {test}. Without it there is no result, as too few subjects are complete."
    agree = _below(model["p_kr"], tree["alpha"]) == _below(listwise["p_GG"], tree["alpha"])
    end = (
        "Both lead to the same conclusion."
        if agree
        else "The two do not lead to the same conclusion: what is missing matters here."
    )
    n = tree["missing"]["n_complete"]
    return (
        f"{kept}cells: {test}. The {n} complete subjects alone give F({listwise['df1']}, {listwise['df2']}) = "
        f"{show(listwise['F'])}, p(GG) {show_p(listwise['p_GG'], listwise['log10_p_GG'])}. {end}"
    )


def _devices(tree: Tree) -> str:
    model, count = tree.get("lmm_device"), tree.get("n_devices", 0)
    if not model:
        return ""
    spread = model["var"]["device"]
    share = spread / sum(model["var"].values()) if all(v is not None for v in model["var"].values()) else None
    text = f"The runs are spread over {count} devices"
    if share is not None:
        text += f"; differences between devices make up {100 * share:.0f}% of the variance beside the factors"
    errors = (
        [
            (ours, theirs)
            for ours, theirs in zip(_leaves(model["emmean_se"]), _leaves(tree["lmm_subject"]["emmean_se"]), strict=True)
            if ours and theirs
        ]
        if tree.get("lmm_subject")
        else []
    )
    if errors:
        ratio = max(ours / theirs for ours, theirs in errors)
        text += f". For devices in general a level's mean is uncertain by {ratio:.2g} times what ignoring devices says"
    return f"{text}.{_slopes(tree)}"


def _slopes(tree: Tree) -> str:
    """Say whether the effect differs between devices."""
    model = tree.get("lmm_device_condition")
    if not model:
        return ""
    if "device_condition" in model["at_zero"]:
        return " The effect is not seen to differ between the devices."
    spread = model["var"]["device_condition"]
    shown = [f"{term} p {show_p(row['p_kr'], row['log10_p_kr'])}" for term, row in terms_of(tree, model).items()]
    size = f"sd {show(spread**0.5, 3)}" if spread is not None else "sd out of range"
    return f" The effect itself differs between the devices ({size}); tested against that: {', '.join(shown)}."


def _leaves(tree: Tree) -> list[float | None]:
    return [leaf for item in tree.values() for leaf in (_leaves(item) if isinstance(item, dict) else [item])]


def _drift(tree: Tree) -> str:
    model = tree.get("lmm_device_drift")
    if not model or model.get("drift_per_run") is None or model["drift_df"] is None:
        return ""
    if (tree.get("run_order") or {}).get("warning"):
        return ""  # drift and effect are one thing there, whatever the model says
    p, dv = model["drift_p"], tree["dv"]
    size = f"{model['drift_per_run']:+.3g} per run (p {show_p(p)})"
    if _below(p, tree["alpha"]):
        return f"{dv} drifts with the order of the runs: {size}; lmm_device_drift compares the levels without it."
    return f"No drift of {dv} with the order of the runs is shown: {size}."
