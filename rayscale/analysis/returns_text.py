"""`pareto` and `marginal` as text and plain sentences."""

from __future__ import annotations

import textwrap
from typing import Any

from rayscale.quantities import format_count

WIDTH = 100

Tree = dict[str, Any]


def returns_text(tree: Tree) -> str:
    """Write fronts and marginal returns.

    Args:
        tree: An analysis tree, with or without these parts.

    Returns:
        Text with lines of at most 100 columns; empty if there is nothing to say.
    """
    lines: list[str] = []
    for name, found in (tree.get("pareto") or {}).items():
        title = f"Loss against {shown(name)}{mark(found)} [{found['unit']}], {found['n_blocks']} blocks"
        lines += [title, "-" * len(title)]
        lines.append(f"{'condition':<32}{'loss':>9}{'resource':>12}{'on front':>10}{'share':>8}")
        lines += [_point_line(label, point) for label, point in found["points"].items()]
        steps = (tree.get("marginal") or {}).get(name)
        lines += [line for sentence in (step_sentences(steps, name) if steps else []) for line in _wrap(sentence)]
        lines.append("")
    lines += [line for row in tree.get("purchases") or [] for line in _wrap(purchase_sentence(row))]
    return "\n".join(lines).rstrip()


def label_words(label: str) -> str:
    """Write a condition's label as people read it.

    Args:
        label: `50000`, `lora`, or `tokens=50000,model.config.hidden_size=16`.

    Returns:
        `50K`, `lora`, or `50K, hidden_size 16`.
    """
    if label.isdigit():
        return format_count(int(label))
    parts = [part.partition("=") for part in label.split(",")]
    if not all(equals for _, equals, _ in parts):
        return label
    return ", ".join(
        format_count(int(level)) if name == "tokens" and level.isdigit() else f"{name.rsplit('.', 1)[-1]} {level}"
        for name, _, level in parts
    )


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")


def shown(name: str) -> str:
    """Name a resource in words."""
    return {"flops": "compute"}.get(name, name)


def mark(found: Tree) -> str:
    """Mark what rests on estimated energy."""
    return " (*estimated*)" if found["energy_estimated"] else ""


def front_word(point: Tree) -> str:
    """Say where a condition lies: `yes`, `overlaps` (its intervals reach the front) or `no`."""
    return "yes" if point["on_front"] else "overlaps" if point["overlaps"] else "no"


def _point_line(label: str, point: Tree) -> str:
    return (
        f"{label_words(label)[:31]:<32}{point['loss']:>9.4f}{point['resource']:>12.4g}{front_word(point):>10}"
        f"{point['front_share']:>8.2f}"
    )


def step_sentences(found: Tree, name: str) -> list[str]:
    """Say what each step buys.

    Args:
        found: One resource of the part `marginal`.
        name: The resource.

    Returns:
        One sentence per step.
    """
    sentences = []
    for pair, step in found["steps"].items():
        lower, upper = (label_words(end) for end in pair.split("|", 1))
        price = f"{step['spent']:.4g} {found['unit']} more {shown(name)}"
        text = f"from {lower} to {upper}: {step['gain_nats']:.4g} nats for {price}"
        if step["return"] is None:
            sentences.append(f"{text}: no return is defined")
            continue
        interval = (
            f"[{step['ci'][0]:.4g}, {step['ci'][1]:.4g}]"
            if step["ci"]
            else "no bounded interval: the additional resource itself cannot be told from 0, or one block only"
        )
        sentences.append(f"{text} = {step['return']:.4g} nats/{found['unit']}, {interval}")
    return sentences


def purchase_sentence(row: Tree) -> str:
    """Say what an amount buys."""
    amount = f"{row['amount']:.4g} {row['unit']} of {shown(row['resource'])}"
    if row["label"] is None:
        return f"{amount} pays for no condition of this sweep"
    doubt = "" if row["sure"] else " on average; its interval reaches beyond the amount"
    takes = f"held-out loss {row['loss']:.4f}; it takes {row['takes']:.4g}"
    return f"{amount} buys {label_words(row['label'])} ({takes}){doubt}"
