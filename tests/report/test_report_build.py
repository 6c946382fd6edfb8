from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ledgers import example_spec, make_ledger

from rayscale.analysis.run import analyze_records
from rayscale.design import plan_sweep
from rayscale.errors import InputError
from rayscale.ledger import Failure, Ledger
from rayscale.record import EnergyResult, PhaseEnergy
from rayscale.report.build import build_report, render
from rayscale.report.gather import gather

PERPLEXITY = example_spec(analysis={"dv": ["perplexity"]})
"""One measure: fewer figures to draw."""
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects what a browser would see, and fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def page_of(ledger: Ledger) -> tuple[str, Page]:
    plan = ledger.read_plan()
    html = render(gather(ledger, analyze_records(ledger.records(plan), plan.spec)))
    return html, Page(html)


@pytest.fixture(scope="module")
def laptop_page(laptop: Ledger) -> tuple[str, Page]:
    """The page of the laptop's ledger, made once."""
    return page_of(laptop)


def rewrite(ledger: Ledger, index: int, **changes: Any) -> None:
    ledger.write_record(ledger.records()[index].model_copy(update=changes))


def test_the_page_has_everything_and_needs_nothing_from_outside(laptop_page: tuple[str, Page]) -> None:
    html, page = laptop_page
    assert page.tags["svg"] == page.tags["figure"] == page.tags["figcaption"] == 9
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert "url(http" not in html
    assert "@import" not in html
    targets = [value for name in ("href", "xlink:href", "src") for value in page.values(name)]
    assert targets
    assert all(target.startswith("#") for target in targets)


def test_anchors_are_unique_and_links_lead_somewhere(laptop_page: tuple[str, Page]) -> None:
    html, page = laptop_page
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    targets = {value[1:] for name in ("href", "xlink:href") for value in page.values(name)}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)


def test_figures_have_a_name_and_text_in_the_font_of_the_page(laptop_page: tuple[str, Page]) -> None:
    html, page = laptop_page
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(labels) == 9
    assert all(len(label) > 40 for label in labels)
    assert "DejaVu" not in html
    assert "12.5K" in page.words  # labels are text, not outlines


def test_the_head_says_what_was_run_and_how_far_to_trust_the_energy(laptop_page: tuple[str, Page]) -> None:
    _, page = laptop_page
    head = page.words[: page.words.index("Key findings")]
    for words in (
        "quickstart",
        "15 of 15 trials completed",
        "energy estimated",
        "15 suspect",
        "1.05M parameters",
        "tokens 12.5K / 25K / 50K; 5 repetitions; randomized blocks",
        "AMD Ryzen 7 5800U on laptop",
        "torch 2.13.0",
        "estimated: 5 W + 10 W per busy CPU",
        "cover 100 % of the training phases",
        "edges and gaps",
    ):
        assert words in head


def test_numbers_of_the_analysis_are_on_the_page(laptop: Ledger, laptop_page: tuple[str, Page]) -> None:
    plan = laptop.read_plan()
    tree = analyze_records(laptop.records(), plan.spec)["results"]["perplexity"]
    html, page = laptop_page
    assert f'title="{tree["anova"]["F"]:.15g}"' in html
    assert f'title="p = {tree["pairwise"]["12500|50000"]["p_bonferroni"]:.4g}"' in html
    assert tree["plain"][0] in page.words
    assert "F(2, 8) = " in page.words
    assert "12 500 vs 50 000" in page.words


def test_estimated_energy_is_marked_in_every_caption_head_and_axis_that_shows_it(laptop_page: tuple[str, Page]) -> None:
    html, page = laptop_page
    captions = re.findall(r"<(?:p class=\"caption\"[^>]*|figcaption)><b>[^<]*</b> ([^<]*)<", html)
    energy = [caption for caption in captions if re.match(r"PEE|Energy per token|Power", caption)]
    assert len(energy) == 6 + 5
    assert all("(estimated)" in caption for caption in energy)
    assert not [caption for caption in captions if caption.startswith("Perplexity") and "estimated" in caption]
    for words in ("energy in J (estimated)", "mean power in W (estimated)", "power in W (estimated)"):
        assert words in page.words
    assert page.words.count("Energy per token (estimated)") >= 6  # titles of the panels too


def test_measured_energy_is_nowhere_called_estimated(gpu: Ledger) -> None:
    _, page = page_of(gpu)
    assert "energy measured" in page.words
    assert "estimated" not in page.words.lower()


def test_the_same_ledger_gives_the_same_bytes(laptop: Ledger, laptop_page: tuple[str, Page]) -> None:
    assert page_of(laptop)[0] == laptop_page[0]


def test_the_file_is_replaced_at_once_and_nothing_is_left_behind(laptop: Ledger, tmp_path: Path) -> None:
    destination = tmp_path / "new" / "report.html"
    analysis = analyze_records(laptop.records(), laptop.read_plan().spec)
    assert build_report(laptop, analysis, destination) == destination
    build_report(laptop, analysis, destination)
    assert [file.name for file in destination.parent.iterdir()] == ["report.html"]
    assert Page(destination.read_text(encoding="utf-8")).tags["h1"] == 1


def test_names_from_the_sweep_file_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> id="x" $\\frac{1}{2}$ #0072b2'
    spec = example_spec(
        design={"factors": {"tokens": [1000, 2000], "model.pretrained": [evil, "b & <i>c</i>"]}, "repetitions": 3},
        analysis={"dv": ["perplexity", "<b>m</b>"], "metrics": {"<b>m</b>": "energy_j * 2"}},
        model={"pretrained": "a", "config": {}},
    )
    html, page = page_of(make_ledger(tmp_path, spec))
    assert "<script" not in html
    assert "<b>m" not in html
    assert page.tags["i"] == page.tags["script"] == 0
    assert page.words.count(evil) >= 5  # legend, axis and tables show it as it is
    assert "<b>m</b> (estimated)" in page.words  # its expression names energy


def test_two_factors_are_told_apart(tmp_path: Path) -> None:
    factors = {"tokens": [1000, 2000, 4000], "train.precision": ["fp32", "bf16"]}
    ledger = make_ledger(tmp_path, example_spec(design={"factors": factors, "repetitions": 4}))
    html, page = page_of(ledger)
    for effect in ("tokens", "train.precision", "tokens:train.precision"):
        assert f'<td class="text">{effect.replace(":", " × ")}</td>' in html
    assert "4K tokens" in page.words
    assert "train.precision bf16" in page.words
    assert "train.precision: fp32 vs bf16" in page.words
    assert page.tags["svg"] == 8


def test_an_unfinished_sweep_has_a_report(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, PERPLEXITY)
    trials = ledger.read_plan().trials
    for trial in trials[-3:]:
        (ledger.root / "trials" / trial.trial_key / "record.json").unlink()
    ledger.write_failure(trials[-1].trial_key, 1, Failure("out_of_memory", "12 GiB <wanted>", "2026-01-10T09:00:00"))
    _, page = page_of(ledger)
    assert "12 of 15 trials completed, 1 failed, 2 not yet run" in page.words
    assert "3 of 15 planned trials have no result" in page.words
    assert "12 GiB <wanted>" in page.words
    assert "out of memory" in page.words


def test_a_sweep_without_any_record_has_a_report(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "quickstart")
    ledger.write_plan(plan_sweep(example_spec()), {})
    _, page = page_of(ledger)
    assert "0 of 15 trials completed, 15 not yet run" in page.words
    assert page.tags["svg"] == 0
    assert "Power and its sampling" not in page.words


def test_a_single_record_has_a_report(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, example_spec(design={"factors": {"tokens": [1000]}, "repetitions": 1}))
    _, page = page_of(ledger)
    assert "not tested" in page.words
    assert page.tags["svg"] == 8


def test_unavailable_energy_is_na_with_its_reason_and_never_zero(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    nothing = EnergyResult(
        source="none",
        method="the sampler died",
        estimated=False,
        phases={"train": PhaseEnergy(duration_s=2.0, energy_j=None)},
        net_energy_j=None,
        net_baseline=None,
        idle_w=None,
        idle_sd_w=None,
        temp_start_c=None,
        temp_end_c=None,
    )
    for index in range(15):
        rewrite(ledger, index, energy=nothing)
    html, page = page_of(ledger)
    assert "energy not available" in page.words
    assert "the sampler died" in page.words
    assert "pee: n/a in every trial." in page.words
    row = re.search(r"<tr><td[^>]*>1</td>.*?</tr>", html, re.DOTALL)
    assert row is not None
    assert row.group().count(">n/a<") == 3  # energy, net energy, power
    assert page.tags["svg"] == 4  # perplexity against tokens and order, power trace, time budget


def test_trials_left_out_of_the_analysis_are_hollow_and_named(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, PERPLEXITY, estimated=False)
    record = ledger.records()[4]
    rewrite(ledger, 4, quality=record.quality.model_copy(update={"verdict": "invalid"}))
    _, page = page_of(ledger)
    assert "1 invalid" in page.words
    assert "1 trial is left out of the analysis because of a verdict: invalid." in page.words
    assert "Hollow dots are left out of the analysis." in page.words


def test_only_the_traces_of_one_block_are_read(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, PERPLEXITY)
    before = page_of(ledger)[0]
    for record in ledger.records()[3:]:
        (ledger.attempt_directory(record.trial_key, record.attempt) / "power.parquet").write_bytes(b"damaged")
    assert page_of(ledger)[0] == before


def test_a_damaged_trace_gives_way_to_another_block(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, PERPLEXITY)
    first = ledger.records()[0]
    (ledger.attempt_directory(first.trial_key, first.attempt) / "power.parquet").write_bytes(b"damaged")
    _, page = page_of(ledger)
    assert "over the trials of repetition 1," in page.words


def test_many_trials_are_folded_away(tmp_path: Path) -> None:
    html, page = page_of(make_ledger(tmp_path, example_spec(12, analysis={"dv": ["perplexity"]})))
    assert "36 rows" in page.words
    assert html.count("<details>") == 2  # the trials and the versions


def test_a_directory_without_a_plan_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ledger here"):
        build_report(Ledger(tmp_path), {}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
