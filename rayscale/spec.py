"""The sweep file as typed settings (design 4.1): what each key means, its unit, its default and what it may be.

Reading order: the sections of one trial (`ModelSpec` ... `EnergySpec`), then what surrounds trials, then `SweepSpec`.
`specfile` turns a YAML file into a `SweepSpec`; `design` turns a `SweepSpec` into trials.
"""

from __future__ import annotations

import copy
import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from rayscale.quantities import parse_bytes, parse_count, parse_duration


def _quantity(example: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [example]})


Duration = Annotated[float, BeforeValidator(parse_duration), _quantity("100ms")]
Count = Annotated[int, BeforeValidator(parse_count), _quantity("500K")]
Size = Annotated[int, BeforeValidator(parse_bytes), _quantity("4MB")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = int | float | str | bool

TRIAL_SECTIONS = ("model", "data", "train", "eval", "energy")
"""Sections whose settings change a trial's result; only these may be factors and enter the trial key."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen, field docstrings go to the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSpec(Section):
    """The model: pretrained weights by name, or random weights from a config. Both: the config states the shape."""

    pretrained: str | None = None
    """Hub name or local directory of a causal language model with safetensors weights."""
    revision: str | None = None
    """Commit or tag of the pretrained model; null takes the newest and records its commit."""
    config: dict[str, Any] | None = None
    """Fields of the transformers config (default model_type: llama). Beside `pretrained` it states the shape, so that
    the sweep can be planned offline; loading checks it."""

    @model_validator(mode="after")
    def _some_source(self) -> ModelSpec:
        if self.pretrained is None and self.config is None:
            raise ValueError("expected `pretrained` (hub name or path) or `config` (random weights)")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("`revision` needs `pretrained`")
        return self


class SyntheticSpec(Section):
    """A generated token source whose entropy is known, so that the reachable loss is known."""

    kind: Literal["markov", "zipf"] = "markov"
    """`markov`: first-order chain; `zipf`: independent draws with p(rank) ~ 1/rank."""
    vocab_size: int = Field(default=256, ge=2, le=65536)
    """Number of distinct tokens."""
    tokens: Annotated[Count, Field(gt=0)] = 2_000_000
    """Length of the generated training stream."""
    branching: int = Field(default=8, ge=2)
    """Successors per token of the Markov chain."""
    seed: int = 0
    """Seed of the source; one source serves the whole sweep."""


class BpeSpec(Section):
    """A byte-level BPE tokenizer trained on the data and cached."""

    bpe: int = Field(ge=257, le=262144)
    """Vocabulary size, including 256 bytes and the end-of-text token."""


class DataSpec(Section):
    """Training text. Exactly one source: `dataset`, `files`, `corpus` or `synthetic`."""

    dataset: str | None = None
    """Name of a dataset on the hub, or a local dataset directory."""
    subset: str | None = None
    """Configuration name of the dataset."""
    split: str = "train"
    """Split of the dataset to read."""
    revision: str | None = None
    """Commit or tag of the dataset; null takes the newest and records it."""
    text_column: str = "text"
    """Column or key that holds the text (datasets, jsonl, parquet)."""
    files: list[str] | None = None
    """Glob patterns of local .txt, .py, .rst, .md, .jsonl or .parquet files, relative to the sweep file."""
    corpus: Literal["python-stdlib"] | None = None
    """A corpus that every machine has: the sources and documentation texts of the running Python."""
    synthetic: SyntheticSpec | None = None
    """A generated source of known entropy."""
    tokenizer: str | BpeSpec | None = None
    """`bytes`, {bpe: N}, a hub name, a directory or a tokenizer.json; null: the pretrained model's own."""
    sequence_length: int = Field(ge=8)
    """Targets per row (context length)."""
    held_out: float = Field(default=0.05, gt=0, lt=0.9)
    """Share of the documents that no trial trains on."""
    max_bytes: Size | None = None
    """Read at most this much text (documents in a fixed pseudo-random order)."""
    max_epochs: int = Field(default=1, ge=1)
    """How often the training stream may be repeated to reach a budget."""

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        given = [name for name in ("dataset", "files", "corpus", "synthetic") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one source of `dataset`, `files`, `corpus`, `synthetic`; got {found}")
        return self


class TrainSpec(Section):
    """Optimisation of one trial."""

    batch_size: int = Field(default=8, ge=1)
    """Rows per optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass; null: the whole batch."""
    optimizer: Literal["adamw"] = "adamw"
    """The optimiser."""
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW moments."""
    eps: Positive = 1e-8
    """AdamW epsilon."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices; vectors (norms, biases) get none."""
    grad_clip: Positive | None = 1.0
    """Largest gradient norm; null: no clipping."""
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    """Learning rate over the trial's own budget; wsd: warm-up, stable, 1-sqrt decay."""
    warmup_tokens: Count = 0
    """Linear warm-up of the learning rate, in tokens (not a share, so that budgets share their start)."""
    cooldown: float = Field(default=0.2, gt=0, le=1)
    """Share of the budget that the decay of wsd takes."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate as a share of the peak (cosine and wsd)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs that have it, else fp32."""
    compile: Literal["auto", "off", "on"] = "auto"
    """torch.compile per block; auto: off (the cost rule comes with the training issue)."""
    deterministic: bool = True
    """Use deterministic kernels where they exist, so that the same trial gives the same bits."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; null: `resources.cpus`."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps run before the measured phase on state that is thrown away."""
    log_every: Duration = 1.0
    """Time between progress lines; the loss is only read from the device then."""

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainSpec:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` {self.micro_batch_size} does not divide `batch_size` {self.batch_size}"
            )
        return self


class EvalSpec(Section):
    """Evaluation on held-out tokens, the same for every trial."""

    tokens: Annotated[Count, Field(gt=0)] = 65_536
    """Held-out targets."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass; null: the training micro-batch."""


class SettleSpec(Section):
    """Waiting for the device to be back near its temperature at the block's start."""

    max_rise_c: Positive = 5.0
    """Largest allowed temperature above the block's first trial, in degrees Celsius."""
    timeout: Duration = 120.0
    """Longest wait; when it passes the trial starts all the same and is flagged."""


class EstimateSpec(Section):
    """Constants of the CPU estimate: power = idle_w + w_per_cpu x busy CPUs of the trial's process."""

    w_per_cpu: Positive = 10.0
    """Watts added by one fully busy CPU. A declared constant, not a measurement."""
    idle_w: float = Field(default=5.0, ge=0)
    """Watts of the idle machine attributed to the trial."""


class EnergySpec(Section):
    """Power sampling and its quality rules."""

    source: Literal["auto", "nvml", "rapl", "estimated"] = "auto"
    """auto: NVML with a GPU; else RAPL where readable; else the estimate."""
    period: Annotated[Duration, Field(gt=0)] = 0.1
    """Time between power samples."""
    idle: Duration = 10.0
    """Length of each idle baseline (without and with the device context)."""
    settle: SettleSpec = SettleSpec()
    """Thermal settling before a trial."""
    estimate: EstimateSpec = EstimateSpec()
    """Constants of the CPU estimate."""
    min_coverage: float = Field(default=0.95, ge=0, le=1)
    """Share of the training phase that samples must cover; below it the trial is suspect."""
    suspect_disagreement: Positive = 0.03
    """Relative disagreement of the energy estimates that makes a trial suspect."""
    invalid_disagreement: Positive = 0.10
    """Relative disagreement of the energy estimates that makes a trial invalid."""
    lag: Duration | None = None
    """How far the GPU's averaged power trails what it describes; null: by the sensor's documented window."""
    accuracy: float = Field(default=0.05, ge=0, lt=1)
    """Accuracy class of the GPU's power sensor, relative. A constant of each card: it cancels within a block."""
    max_throttled: float = Field(default=0.01, ge=0, le=1)
    """Share of the training phase in which the device may be slowed down; above it the trial is suspect."""
    max_limit_change: float = Field(default=0.005, ge=0)
    """Relative change of power limit or clock policy during training that makes a trial suspect."""
    max_resonance: Positive = 0.03
    """Relative bias that step time and part-time sensor may cause in resonance; above it the trial is suspect."""


class StopSpec(Section):
    """Group-sequential stopping: looks at whole blocks, no further block once the question is answered."""

    dv: str
    """The measure that is tested; one of `analysis.dv`."""
    after: list[int] = Field(min_length=1)
    """Numbers of complete blocks at which to look, ascending. The end of the sweep is always the last look."""
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    """How alpha is spread over the looks: little at first, or about evenly."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Type-I error over all looks; null: `analysis.alpha`."""
    target_halfwidth: Positive | None = None
    """Stop, too, when the widest confidence interval of a difference between levels is at most +- this (unit of dv)."""

    @field_validator("after", mode="after")
    @classmethod
    def _ascending(cls, after: list[int]) -> list[int]:
        if after[0] < 2 or any(later <= earlier for earlier, later in itertools.pairwise(after)):
            raise ValueError("expected ascending numbers of complete blocks, the first at least 2")
        return after


class DesignSpec(Section):
    """The experiment: what is varied, how often, in which order."""

    factors: dict[str, list[Level]]
    """`tokens` and any dotted setting of model, data, train, eval or energy, each with its levels."""
    repetitions: int = Field(default=5, ge=1)
    """Number of blocks; the trials of one share seed and device."""
    seed: int = Field(default=2601, ge=0)
    """Seed of run order, initial weights and data order."""
    order: Literal["randomized_blocks", "fixed", "latin_square"] = "randomized_blocks"
    """Order of conditions within a block. Only random order keeps drift from looking like an effect."""
    stop: StopSpec | None = None
    """Rule that may end the sweep before all repetitions; null: none."""

    @field_validator("factors", mode="after")
    @classmethod
    def _levels(cls, factors: dict[str, list[Level]]) -> dict[str, list[Level]]:
        if "tokens" not in factors:
            raise ValueError("expected the factor `tokens` with at least one level, e.g. tokens: [500K, 1M, 2M]")
        for name, levels in factors.items():
            if not levels:
                raise ValueError(f"factor `{name}` has no levels")
        factors = factors | {"tokens": sorted(parse_count(level) for level in factors["tokens"])}
        for name, levels in factors.items():
            if len({str(level) for level in levels}) < len(levels):
                raise ValueError(f"factor `{name}` names a level twice")
        if factors["tokens"][0] < 1:  # type: ignore[operator]
            raise ValueError("levels of `tokens` are at least 1")
        return factors

    @model_validator(mode="after")
    def _stop_fits(self) -> DesignSpec:
        if self.stop is not None and self.stop.after[-1] > self.repetitions:
            raise ValueError(f"stop.after: expected looks at no more than `repetitions` ({self.repetitions}) blocks")
        if self.stop is not None and all(len(levels) < 2 for levels in self.factors.values()):
            raise ValueError("stop: expected a factor with at least two levels; there is nothing to test")
        return self


class ResourcesSpec(Section):
    """What one trial gets, and how failures are treated."""

    gpus: Literal["auto", 0, 1] = "auto"
    """GPUs per trial; auto: one where the machine has any, else none."""
    cpus: int = Field(default=2, ge=1)
    """CPUs per trial."""
    slots: int | None = Field(default=None, ge=1)
    """Trials at the same time; null: one per GPU, or one on a CPU machine (trials would disturb each other)."""
    max_attempts: int = Field(default=2, ge=1)
    """Attempts per trial in one run."""
    time_limit: Annotated[Duration, Field(gt=0)] = 7200.0
    """Longest attempt; a trial that hangs past it is killed and counts as failed."""


class AnalysisSpec(Section):
    """What is tested, declared before the runs."""

    dv: list[str] = Field(default=["pee", "joules_per_token", "perplexity"], min_length=1)
    """Dependent variables: columns, built-in metrics or names from `metrics`."""
    correction: Literal["bonferroni", "holm", "hochberg", "hommel", "bh", "by", "none"] = "bonferroni"
    """Adjustment of the pairwise p values that the text leads with."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Significance level; intervals have confidence 1 - alpha."""
    metrics: dict[str, str] = {}
    """User-defined metrics: name -> arithmetic expression over the columns."""
    exclude: list[Literal["suspect", "invalid"]] = ["invalid"]
    """Verdicts whose trials the analysis leaves out (it says how many)."""
    scale: Literal["raw", "log"] = "raw"
    """Primary scale, declared before the runs: log compares ratios, raw differences. Both are always computed."""
    equivalence: dict[str, Positive] = {}
    """Margin per dependent variable, in its units: pairs of levels are tested for differing by less (TOST)."""

    @model_validator(mode="after")
    def _known_margins(self) -> AnalysisSpec:
        unknown = [name for name in self.equivalence if name not in self.dv]
        if unknown:
            raise ValueError(f"equivalence: `{unknown[0]}` is not among analysis.dv ({', '.join(self.dv)})")
        return self


class TrackingSpec(Section):
    """The MLflow mirror."""

    uri: str | None = None
    """Tracking server; null: a sqlite file beside the ledger."""


class ReportSpec(Section):
    """Figures that turn energy into carbon and money. What is not given stays null."""

    grid_g_per_kwh: float | None = Field(default=None, ge=0)
    """Grid carbon intensity in g CO2e per kWh."""
    country: str | None = None
    """ISO 3166 code, for the report's head."""
    pue: float = Field(default=1.0, ge=1)
    """Power usage effectiveness of the building."""
    price_per_kwh: float | None = Field(default=None, ge=0)
    """Price of electricity."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Price of a device hour."""


class SweepSpec(Section):
    """One designed experiment, as described by one YAML file."""

    name: str
    """Name of the sweep: directory of the ledger and MLflow experiment."""
    design: DesignSpec
    model: ModelSpec
    data: DataSpec
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    energy: EnergySpec = EnergySpec()
    resources: ResourcesSpec = ResourcesSpec()
    analysis: AnalysisSpec = AnalysisSpec()
    tracking: TrackingSpec = TrackingSpec()
    report: ReportSpec = ReportSpec()

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("expected letters, digits, '.', '_' or '-' (it names a directory)")
        return name

    @model_validator(mode="after")
    def _whole(self) -> SweepSpec:
        if self.data.tokenizer is None and self.model.pretrained is None and self.data.synthetic is None:
            raise ValueError(
                "data.tokenizer: expected `bytes`, {bpe: N} or a path, since the model has none of its own"
            )
        if self.design.stop is not None and self.design.stop.dv not in self.analysis.dv:
            raise ValueError(f"design.stop.dv: expected one of analysis.dv ({', '.join(self.analysis.dv)})")
        return self

    @property
    def threads(self) -> int:
        """CPU threads of one trial."""
        return self.train.threads or self.resources.cpus

    def with_setting(self, path: str, value: Level) -> SweepSpec:
        """Return the sweep with one trial setting replaced, as a factor's level does.

        Args:
            path: Dotted setting such as `train.precision`, in one of `TRIAL_SECTIONS`.
            value: The level.

        Returns:
            The validated sweep.

        Raises:
            ValueError: If the path is no trial setting or the value does not fit.
        """
        parts = path.split(".")
        if len(parts) < 2 or parts[0] not in TRIAL_SECTIONS:
            raise ValueError(
                f"`{path}` is no trial setting; expected `tokens` or one of {', '.join(TRIAL_SECTIONS)} + `.key`"
            )
        tree = self.model_dump(exclude_unset=True)
        node: Any = tree
        for part in parts[:-1]:
            child = node.get(part)
            node[part] = copy.copy(child) if isinstance(child, dict) else {}
            node = node[part]
        node[parts[-1]] = value
        return SweepSpec.model_validate(tree)
