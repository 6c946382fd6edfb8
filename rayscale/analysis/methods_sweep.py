"""The sentences of a methods paragraph that only a sweep can give: design, devices, energy, stopping, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayscale.analysis.jsonable import Tree
from rayscale.analysis.walk import any_nested_order
from rayscale.quantities import format_count, format_duration

ORDERS = {
    "randomized_blocks": "in an order drawn at random for each block",
    "latin_square": "in orders balanced by Williams squares",
    "fixed": "in the same fixed order in every block, so that drift is confounded with the condition",
}
SPENDING = {"obrien_fleming": "O'Brien and Fleming", "pocock": "Pocock"}


def design_sentences(tree: Tree, first: Tree) -> list[str]:
    """Say what was trained on what, in which blocks and order.

    Args:
        tree: The analysis of a sweep, with `provenance`.
        first: The tree of one of its measures.

    Returns:
        Sentences.
    """
    made = tree["provenance"]
    design, model, training = made["design"], made["model"], made["training"]
    size = " and ".join(format_count(count) for count in model["params"])
    weights = "pretrained weights" if model["pretrained"] else "random initial weights"
    if tokens := model.get("pretrain_tokens"):
        weights = f"weights trained beforehand on {tokens:,} tokens of the same data"
    what = f"{model['name']} models ({f'{size} parameters, ' if size else ''}{weights})"
    levels = " and ".join(f"{name} ({', '.join(labels)})" for name, labels in first["levels"].items())
    # Levels after levels is what happened, whatever the plan was; the paragraph says so in a sentence of its own.
    planned = "planned " if any_nested_order(tree) else ""
    found = [
        f"{what[:1].upper()}{what[1:]} were trained in a design of {design['repetitions']} blocks; each block held all "
        f"{design['conditions']} conditions, the levels of {levels}, once, {planned}{ORDERS[design['order']]} (seed "
        f"{design['seed']}). The runs of a block shared the random seed, and with it, where the conditions allow, "
        "initial weights and data order.",
        *_treatments(design.get("treatments") or {}),
        _training(made),
    ]
    if len(training["eval_tokens"]) == 1:
        found.append(f"The held-out loss was computed on the same {training['eval_tokens'][0]:,} tokens for all runs.")
    return found


def _treatments(treatments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what each treatment sets; nothing where there are none."""
    if not treatments:
        return []
    words = (
        f"{name} ({', '.join(f'{path} = {_word(level)}' for path, level in settings.items()) or 'nothing further'})"
        for name, settings in treatments.items()
    )
    return [f"The treatments set: {'; '.join(words)}."]


def _word(level: object) -> str:
    return "null" if level is None else str(level)


def _training(made: Tree) -> str:
    data, training = made["data"], made["training"]
    parts = [f"Training used {data['source']}"]
    if data["sequence_length"] is not None:
        parts.append(f"in sequences of {data['sequence_length']} tokens")
    if training["batch_size"] is not None:
        parts.append(f"in batches of {training['batch_size']} sequences")
    if training["precision"]:
        parts.append(f"in {' and '.join(training['precision'])} precision")
    return f"{' '.join(parts)}; the token count of a run is exact."


def device_sentence(tree: Tree) -> str:
    """Say what the runs were executed on.

    Args:
        tree: The analysis of a sweep.

    Returns:
        A sentence; empty without records.
    """
    devices = tree["provenance"]["devices"]
    count = sum(devices["names"].values())
    if not count:
        return ""
    named = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in devices["names"].items())
    if count == 1:
        return f"All runs were executed on one device ({named}), each in a process of its own."
    split = devices["blocks_on_several_devices"]
    blocks = "every block on one device" if not split else f"{split} of {devices['blocks']} blocks on more than one"
    hosts = f" in {devices['hosts']} machines" if devices["hosts"] > 1 else ""
    return f"The runs were executed on {count} devices ({named}){hosts}, {blocks}."


def energy_sentences(tree: Tree) -> list[str]:
    """Say where the energy comes from and how far it can be trusted.

    Args:
        tree: The analysis of a sweep.

    Returns:
        Sentences; one that says so where no energy is known.
    """
    energy = tree["provenance"]["energy"]
    if not energy["methods"]:
        return ["The energy of the runs is not known."]
    kinds = "; ".join(method.removeprefix("estimated: ") for method in energy["methods"])
    total = sum(energy["methods"].values())
    if energy["estimated_trials"] == total:
        found = [f"Energy was not measured but estimated from processor time ({kinds})."]
    elif energy["estimated_trials"]:
        found = [f"The energy of {energy['estimated_trials']} of {total} runs was estimated, not measured ({kinds})."]
    else:
        found = [f"The energy of the training phase was measured ({kinds})."]
    return [*found, _trust(energy), _flags(energy)]


def _trust(energy: Tree) -> str:
    coverage, bounds = energy["coverage"], []
    if coverage is None:
        return ""
    low, high = (f"{100 * coverage[end]:.3g}" for end in ("lo", "hi"))
    share = f"{high}%" if low == high else f"{low} to {high}%"
    if energy["open_share_median"] is not None:
        bounds.append(f"edges and gaps leave ±{100 * energy['open_share_median']:.2g}% open (median)")
    if energy["sensor_share"] is not None:
        bounds.append(f"the accuracy class of the sensor is ±{100 * energy['sensor_share']:.2g}%")
    if energy["estimated_trials"]:
        bounds.append("the error of the estimate itself is unknown")
    period = format_duration(energy["period_s"]) if energy["period_s"] >= 1 else f"{1000 * energy['period_s']:.3g} ms"
    return (
        "; ".join([f"Power was sampled every {period}; the samples cover {share} of the training phases", *bounds])
        + "."
    )


def _flags(energy: Tree) -> str:
    suspect = energy["verdicts"].get("suspect", 0)
    reasons = {code: count for code, count in energy["reasons"].items() if code != "estimated"}
    if not suspect or not reasons:
        return ""
    codes = ", ".join(f"{code.replace('_', ' ')} in {count}" for code, count in reasons.items())
    runs = "1 run in the analysis is" if suspect == 1 else f"{suspect} runs in the analysis are"
    return f"{runs} flagged as suspect by the quality rules ({codes})."


def stop_sentences(tree: Tree) -> list[str]:
    """Say how the number of repetitions came about, where a rule could end the sweep early.

    Args:
        tree: The analysis of a sweep.

    Returns:
        Sentences; none without such a rule.
    """
    stop = (tree.get("provenance") or {}).get("design", {}).get("stop")
    done = tree.get("sequential")
    if not stop:
        return []
    spending = SPENDING.get(stop["spending"], stop["spending"])
    target = stop["target_halfwidth"]
    also = f", or an interval of at most ±{target:g} for every difference" if target is not None else ""
    rule = (
        f"Before the first run, looks at {stop['dv']} were planned after {', '.join(map(str, stop['after']))} complete "
        f"blocks and at the end, with alpha spent after {spending}{also} as reason to stop."
    )
    if not done:
        return [rule]
    ended = (
        f"The sweep ended after {done['n_used']} of {done['repetitions']} blocks at look {len(done['looks'])}"
        if done["decision"] != "continue"
        else f"So far {len(done['looks'])} of these looks were taken, after up to {done['n_used']} blocks"
    )
    p = "; its p is adjusted for the looks by stage-wise ordering" if done["log10_p_adjusted"] is not None else ""
    return [rule, f"{ended}{p}."]


def version_sentence(tree: Tree) -> str:
    """Name the software, with all versions that occur.

    Args:
        tree: The analysis of a sweep.

    Returns:
        A sentence; empty without records.
    """
    from rayscale import __version__

    versions = dict((tree.get("provenance") or {}).get("versions") or {})
    ran = versions.pop("rayscale", [])
    if not versions:
        return ""
    named = ", ".join(f"{name} {' and '.join(known)}" for name, known in versions.items())
    runs = f"rayscale {' and '.join(ran)}, " if ran else ""
    return f"The runs used {runs}{named}; all analyses were made with rayscale {__version__}."
