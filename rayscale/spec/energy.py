"""The section `energy`: how power is sampled, and what makes a trial suspect or invalid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayscale.spec.base import Duration, Positive, Section


class SettleSpec(Section):
    """Waiting for the device to be back near its temperature and power at the block's start."""

    max_rise_c: Positive = 5.0
    """Largest allowed temperature above the block's first trial, in degrees Celsius."""
    max_rise_w: Positive = 10.0
    """Largest allowed power above the block's first trial before the trial begins, in watts."""
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
    max_counter_deviation: Positive = 0.10
    """Relative distance from the integral of power up to which a GPU's energy counter is believed and is the energy."""
    max_standstill: Annotated[Duration, Field(gt=0)] | None = None
    """How long the energy counter may stand still before it counts as faulty; null: nine of its updates, at least
    0.9 s."""
    lag: Duration | None = None
    """How far the GPU's averaged power trails what it describes; null: by the sensor's documented window."""
    accuracy: float = Field(default=0.05, ge=0, lt=1)
    """Accuracy class of the GPU's power sensor, relative. A constant of each card: it cancels within a block."""
    max_throttled: float = Field(default=0.01, ge=0, le=1)
    """Share of the training phase in which the device may be slowed down; above it the trial is suspect."""
    max_limit_change: float = Field(default=0.005, ge=0)
    """Relative change of power limit or clock policy during training that makes a trial suspect."""
    max_failed_polls: float = Field(default=0.01, ge=0, le=1)
    """Share of the polls in the training phase that may fail; above it the trial is suspect."""
    min_periods: float = Field(default=5, ge=1)
    """Sampling periods that a training phase must last; a shorter one is suspect."""
    max_resonance: Positive = 0.03
    """Relative bias that step time and part-time sensor may cause in resonance; above it the trial is suspect."""
