"""References of what a sweep used, as BibTeX: only those whose method, data or software took part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayscale.spec import SweepSpec

Tree = Mapping[str, Any]
Uses = Callable[[SweepSpec, Tree], bool]


@dataclass(frozen=True)
class Reference:
    """One entry.

    Attributes:
        key: BibTeX key.
        kind: BibTeX entry type.
        fields: BibTeX fields.
        used: Whether a sweep and its analysis used it.
    """

    key: str
    kind: str
    fields: Mapping[str, str]
    used: Uses

    def text(self) -> str:
        """Write the entry as BibTeX."""
        rows = ",\n".join(f"  {name} = {{{value}}}" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{rows}\n}}"


def _article(key: str, used: Uses, author: str, title: str, year: int, **fields: str) -> Reference:
    kind = "article" if "journal" in fields else "misc"
    return Reference(key, kind, {"author": author, "title": f"{{{title}}}", "year": str(year), **fields}, used)


def _always(spec: SweepSpec, tree: Tree) -> bool:
    return True


def _has(part: str) -> Uses:
    return lambda spec, tree: bool(tree.get(part))


def _results_have(part: str) -> Uses:
    return lambda spec, tree: any(result.get(part) for result in (tree.get("results") or {}).values())


def _corrected_by(name: str) -> Uses:
    return lambda spec, tree: spec.analysis.correction == name


def _stops_by(spending: str) -> Uses:
    return lambda spec, tree: spec.design.stop is not None and spec.design.stop.spending == spending


def _grid_of_codecarbon(spec: SweepSpec, tree: Tree) -> bool:
    grids = ((tree.get("accounting") or {}).get("rates") or {}).get("grids") or []
    return any("codecarbon" in (grid["source"] or "") for grid in grids)


def _measures_pee(spec: SweepSpec, tree: Tree) -> bool:
    return "pee" in spec.analysis.dv


def _compares(setting: str) -> Uses:
    """Whether a factor or a treatment sets something, e.g. `train.lora_rank`."""

    def used(spec: SweepSpec, tree: Tree) -> bool:
        names = [*spec.design.factors, *(name for bundle in spec.design.treatments.values() for name in bundle)]
        return any(name.startswith(setting) for name in names)

    return used


def _forecasts(spec: SweepSpec, tree: Tree) -> bool:
    return (tree.get("forecast") or {}).get("kappa") is not None


def references(spec: SweepSpec, tree: Tree) -> list[Reference]:
    """List what a sweep used.

    Args:
        spec: The sweep.
        tree: Its analysis tree.

    Returns:
        The references, in the order of the work: question, training, energy, statistics, software.
    """
    return [reference for reference in _all() if reference.used(spec, tree)]


def bibtex(spec: SweepSpec, tree: Tree) -> str:
    """Write the references of a sweep.

    Args:
        spec: The sweep.
        tree: Its analysis tree.

    Returns:
        BibTeX, one entry per reference.
    """
    return "\n\n".join(reference.text() for reference in references(spec, tree))


def _all() -> tuple[Reference, ...]:
    return (*_question(), *_statistics(), *_software())


def _question() -> tuple[Reference, ...]:
    return (
        _article("dwyer2026revisiting", _measures_pee, "Dwyer", "Revisiting Training Scale", 2026, eprint="2601.06649",
                 archiveprefix="arXiv"),
        _article("schwartz2020green", _has("accounting"), "Schwartz, Roy and Dodge, Jesse and Smith, Noah A. and "
                 "Etzioni, Oren", "Green AI", 2020, journal="Communications of the ACM", volume="63", number="12",
                 pages="54--63"),
        _article("kaplan2020scaling", _has("accounting"), "Kaplan, Jared and McCandlish, Sam and others",
                 "Scaling Laws for Neural Language Models", 2020, eprint="2001.08361", archiveprefix="arXiv"),
        _article("hoffmann2022training", _has("scaling"), "Hoffmann, Jordan and Borgeaud, Sebastian and others",
                 "Training Compute-Optimal Large Language Models", 2022, eprint="2203.15556", archiveprefix="arXiv"),
        _article("lu2025race", _forecasts, "Lu, Chien-Ping",
                 "The Race to Efficiency: A New Perspective on AI Scaling Laws", 2025, eprint="2501.02156",
                 archiveprefix="arXiv"),
        _article("hu2021lora", _compares("train.lora_rank"), "Hu, Edward J. and Shen, Yelong and others",
                 "LoRA: Low-Rank Adaptation of Large Language Models", 2021, eprint="2106.09685",
                 archiveprefix="arXiv"),
        _article("hinton2015distilling", _compares("model.distill_from"), "Hinton, Geoffrey and Vinyals, Oriol and "
                 "Dean, Jeff", "Distilling the Knowledge in a Neural Network", 2015, eprint="1503.02531",
                 archiveprefix="arXiv"),
        Reference("codecarbon", "misc", {"author": "{CodeCarbon contributors}", "url": "https://codecarbon.io",
                  "title": "{CodeCarbon: Track and reduce the CO2 emissions of your computing}"}, _grid_of_codecarbon),
    )  # fmt: skip


def _statistics() -> tuple[Reference, ...]:
    return (
        _article("greenhouse1959methods", _results_have("anova"), "Greenhouse, Samuel W. and Geisser, Seymour",
                 "On methods in the analysis of profile data", 1959, journal="Psychometrika", volume="24",
                 pages="95--112"),
        _article("dunn1961multiple", _corrected_by("bonferroni"), "Dunn, Olive Jean",
                 "Multiple comparisons among means", 1961,
                 journal="Journal of the American Statistical Association", volume="56", pages="52--64"),
        _article("holm1979simple", _corrected_by("holm"), "Holm, Sture",
                 "A simple sequentially rejective multiple test procedure", 1979,
                 journal="Scandinavian Journal of Statistics", volume="6", pages="65--70"),
        _article("benjamini1995controlling", _corrected_by("bh"), "Benjamini, Yoav and Hochberg, Yosef",
                 "Controlling the false discovery rate", 1995,
                 journal="Journal of the Royal Statistical Society B", volume="57", pages="289--300"),
        _article("fieller1954problems", _has("marginal"), "Fieller, E. C.",
                 "Some problems in interval estimation", 1954, journal="Journal of the Royal Statistical Society B",
                 volume="16", pages="175--185"),
        _article("obrien1979multiple", _stops_by("obrien_fleming"), "O'Brien, Peter C. and Fleming, Thomas R.",
                 "A multiple testing procedure for clinical trials", 1979, journal="Biometrics", volume="35",
                 pages="549--556"),
        _article("pocock1977group", _stops_by("pocock"), "Pocock, Stuart J.",
                 "Group sequential methods in the design and analysis of clinical trials", 1977, journal="Biometrika",
                 volume="64", pages="191--199"),
    )  # fmt: skip


def _software() -> tuple[Reference, ...]:
    return (
        _article("paszke2019pytorch", _always, "Paszke, Adam and Gross, Sam and others",
                 "PyTorch: An Imperative Style, High-Performance Deep Learning Library", 2019, eprint="1912.01703",
                 archiveprefix="arXiv"),
        _article("wolf2020transformers", _always, "Wolf, Thomas and Debut, Lysandre and others",
                 "HuggingFace's Transformers: State-of-the-art Natural Language Processing", 2020, eprint="1910.03771",
                 archiveprefix="arXiv"),
        _article("liaw2018tune", _always, "Liaw, Richard and Liang, Eric and others",
                 "Tune: A Research Platform for Distributed Model Selection and Training", 2018, eprint="1807.05118",
                 archiveprefix="arXiv"),
    )  # fmt: skip
