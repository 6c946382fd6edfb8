"""The sections that describe one trial's work: model, data, training, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rayscale.spec.base import Count, Duration, Positive, Section, Size
from rayscale.spec.teacher import PretrainSpec, TeacherSpec

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {
            "model_type": "llama",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 384,
            "tie_word_embeddings": True,
        },
        "tinyllama-1.1b": {
            "model_type": "llama",
            "vocab_size": 32000,
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "tie_word_embeddings": False,
        },
    }
)
"""Shapes by name: `tiny` for a laptop (0.8 M parameters beside its vocabulary), `tinyllama-1.1b` of arXiv 2401.02385. A
trial key holds the name, so a shape never changes; a new one gets a new name."""


class ModelSpec(Section):
    """The model: pretrained weights, or random ones from a config or preset. With both, the latter state the shape."""

    preset: Literal["tiny", "tinyllama-1.1b"] | None = None
    """A shape by name; fields of `config` beside it replace its own."""
    pretrained: str | None = None
    """Hub name or local directory of a causal language model with safetensors weights."""
    revision: str | None = None
    """Commit or tag of the pretrained model; null takes the newest and records its commit."""
    config: dict[str, Any] | None = None
    """Fields of the transformers config (default model_type: llama). Beside `pretrained` it states the shape, so that
    the sweep can be planned offline; loading checks it."""
    pretrain: PretrainSpec | None = None
    """Start every trial from weights that are trained once on the sweep's data, {tokens: N}, instead of random ones."""
    prune: float = Field(default=0.0, ge=0, lt=1)
    """Share of the weights of the blocks' linear layers, the smallest, that are zero before and while training."""
    distill_from: str | TeacherSpec | None = None
    """A teacher of the same vocabulary: hub name, local directory, or {tokens: N} to train one on the sweep's data."""

    @model_validator(mode="after")
    def _some_source(self) -> ModelSpec:
        if self.pretrained is None and self.fields is None:
            raise ValueError("expected `pretrained` (hub name or path), `config` or `preset` (random weights)")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("`revision` needs `pretrained`")
        if self.pretrain is not None and self.pretrained is not None:
            raise ValueError("expected only one of `pretrained` and `pretrain`; both say where the weights come from")
        return self

    @property
    def fields(self) -> dict[str, Any] | None:
        """Fields of the transformers config: those of the preset, replaced by `config`; None if neither is given."""
        if self.preset is None:
            return self.config
        return {**PRESETS[self.preset], **(self.config or {})}


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
    """Column or key that holds the text (datasets, jsonl, parquet, arrow)."""
    files: list[str] | None = None
    """Glob patterns of local .txt, .py, .rst, .md, .jsonl, .parquet or .arrow files, relative to the sweep file."""
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
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows per forward pass; null: the whole batch; auto: as many as fit the device's memory by arithmetic."""
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
    """Learning rate over the trial's own budget; wsd: warm-up, stable, decay (`cooldown`, `cooldown_shape`)."""
    warmup_tokens: Count = 0
    """Linear warm-up of the learning rate, in tokens (not a share, so that budgets share their start)."""
    cooldown: float = Field(default=0.2, gt=0, le=1)
    """Share of the budget that the decay of wsd takes."""
    cooldown_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """Form of the decay of wsd."""
    share_prefix: bool = False
    """Train one trunk per repetition and branch the decays of all budgets from it (wsd only): a block runs its budgets
    in ascending order, and each starts where the decay of the one before began. Same weights, dependent energies."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate as a share of the peak (cosine and wsd)."""
    precision: Literal["auto", "fp32", "bf16", "bf16-pure", "fp8"] = "auto"
    """auto: bf16 on GPUs that have it, else fp32. bf16: autocast over fp32 weights; bf16-pure: weights, gradients and
    moments in bf16, half the memory and a coarser update, for small cards; fp8: bf16 with fp8 products in the blocks,
    on GPUs that have them (Ada, Hopper, Blackwell)."""
    lora_rank: int = Field(default=0, ge=0)
    """Train adapters of this rank beside frozen weights (needs rayscale[lora]); 0: train all weights."""
    lora_alpha: Positive | None = None
    """Scale of the adapters is lora_alpha / lora_rank; null: 2."""
    distill_weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher's distribution in the loss, where `model.distill_from` names one."""
    distill_temperature: Positive = 2.0
    """Temperature of both distributions in that part of the loss."""
    checkpointing: bool = False
    """Keep only the inputs of each block and compute the rest again on the way back: less memory, a third more work."""
    compile: Literal["auto", "off", "on"] = "auto"
    """torch.compile per block; auto: on a GPU, where the sweep's tokens repay the time to compile; never on a CPU."""
    peak_tflops: Positive | None = None
    """The device's dense peak for the precision, where the table lacks it or is wrong; null: the table. TFLOP/s."""
    deterministic: bool = True
    """Use deterministic kernels where they exist, so that the same trial gives the same bits."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several GPUs (or `resources.ranks`) train one trial: ddp: each holds the whole model, gradients are added;
    fsdp: weights, gradients and moments are spread over them (FSDP2). The same losses but for rounding."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads, of each rank; null: `resources.cpus`, shared by the ranks."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps run before the measured phase on state that is thrown away."""
    log_every: Duration = 1.0
    """Time between progress lines; the loss is only read from the device then."""

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _rows_or_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto" and not value.isdigit():
            raise ValueError(f"expected a number of rows, `auto` or null, got {value!r}")
        return value

    @model_validator(mode="after")
    def _trunk_is_shared(self) -> TrainSpec:
        if self.share_prefix and self.schedule != "wsd":
            raise ValueError(f"`share_prefix` needs schedule wsd, whose budgets share their trunk; got {self.schedule}")
        return self

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainSpec:
        if isinstance(self.micro_batch_size, int) and self.batch_size % self.micro_batch_size:
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
    quantize: Literal["none", "int8", "int4"] = "none"
    """Evaluate once more with the blocks' linear layers in int8 or int4; that loss is then the trial's."""
