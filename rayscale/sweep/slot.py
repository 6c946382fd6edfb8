"""The slot: a Tune trainable that is reused for all trials of one device.

Tune keeps a finished trial's actor only if the next one asks for the same resources, and never after an error; so a
failed attempt is a reported result, not an exception. `step` returns once per attempt: nothing is reported inside a
measured phase.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import ray
from ray import tune

from rayscale.design import Plan, Trial
from rayscale.energy.deviceset import devices_in, join_devices
from rayscale.energy.reader import gpu_devices
from rayscale.environment import cache_directory
from rayscale.errors import RayscaleError
from rayscale.ledger import Failure, Ledger
from rayscale.storage import LocalStorage
from rayscale.sweep.attempts import AttemptResult, SlotHost, run_attempt
from rayscale.sweep.bindings import binding_of
from rayscale.sweep.devices import SlotDevice
from rayscale.sweep.forkserver import ForkServer
from rayscale.sweep.sampler_actor import RaySampler
from rayscale.sweep.searcher import POSTPONED
from rayscale.training.bench import tflops_bench
from rayscale.training.data import PreparedData, prepare
from rayscale.training.preload import PRELOAD

_PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class Slot(tune.Trainable):
    """Runs attempts one after the other, each in a process of its own."""

    def setup(self, config: dict[str, Any], *, ledger_location: str, corpora: frozenset[str]) -> None:
        """Start the sampler and the fork server of this slot.

        Args:
            config: First attempt: `trial_key`, `device`, `device_uuid`, `node`, `binding`, `last_try`, `after`.
            ledger_location: Where the ledger lies.
            corpora: Fingerprints of the corpora that the driver prepared; this node's must be the same.
        """
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the server must not hold threads when it forks
        # Some import may ask whether there is a GPU; by NVML that leaves CUDA untouched, which a fork needs.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        forks = ForkServer(["rayscale.trial", "rayscale.sweep.substitute", *PRELOAD])
        sampler = RaySampler(forks)  # starts while the fork server imports torch
        missing = forks.missing()
        if missing:
            raise RayscaleError(f"the fork server could not import {', '.join(missing)}")
        ledger = Ledger(ledger_location)
        self._plan: Plan = ledger.read_plan()
        self._prepared: dict[str, PreparedData] = {}
        self._corpora = corpora
        spec = self._plan.spec
        device = slot_device(config, ray.get_runtime_context().get_accelerator_ids().get("GPU", []), spec.world)
        bench = _device_rate(forks, device, spec.threads * spec.world)
        self._host = SlotHost(ledger, forks, sampler, device, bench, self._plan)

    def step(self) -> dict[str, Any]:
        """Run one attempt.

        Returns:
            The result for the searcher and the live view; the record itself is in the ledger.
        """
        trial = self._trial(self.config["trial_key"])
        record = self._host.ledger.record(trial.trial_key)
        if record is not None and binding_of(record).get("device") not in (None, self._host.device.name):
            # written by a slot of a lost node after its block was given to this device
            self._host.ledger.set_aside(trial.trial_key, "its block was given to another device meanwhile")
        elif record is not None:  # a slot may die after it wrote the record and before Tune heard of it
            return {"done": True, **summarize(AttemptResult(trial.trial_key, record.attempt, record, None))}
        if close_cut_off(self._host.ledger, self.config["after"]):
            return {"done": True, "trial_key": trial.trial_key, "outcome": POSTPONED}
        result = run_attempt(self._host, trial, self._data(trial), last_try=self.config["last_try"])
        return {"done": True, **summarize(result)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next attempt on the same device."""
        return new_config["device"] == self._host.device.name

    def cleanup(self) -> None:
        """End sampling; the fork server ends with this process."""
        self._host.sampler.close()

    def _trial(self, trial_key: str) -> Trial:
        return next(trial for trial in self._plan.trials if trial.trial_key == trial_key)

    def _data(self, trial: Trial) -> PreparedData:
        """Look up the trial's corpus; prepared in a fork, so that this process never imports datasets."""
        identity = json.dumps([trial.spec.data.model_dump(mode="json"), trial.spec.model.model_dump(mode="json")])
        if identity not in self._prepared:
            prepared = self._host.forks.call(prepare, trial.spec, cache_directory())
            if prepared.fingerprint not in self._corpora:
                raise RayscaleError(
                    f"the corpus on {os.uname().nodename} is {prepared.fingerprint[:12]}, not the driver's "
                    f"{', '.join(sorted(one[:12] for one in self._corpora))} (other files or versions)"
                )
            self._prepared[identity] = prepared
        return self._prepared[identity]


def close_cut_off(ledger: Ledger, trial_key: str | None) -> bool:
    """Close the attempt that died with an earlier slot of this device, if there is one.

    Args:
        ledger: The ledger.
        trial_key: The trial that came before on this device; None: there was none, or it will not be tried again.

    Returns:
        Whether its last attempt was cut off: then it is its turn again.
    """
    attempts = ledger.attempts(trial_key) if trial_key else []
    if trial_key is None or not attempts or ledger.record(trial_key) or ledger.failure(trial_key, attempts[-1]):
        return False
    failure = Failure("slot_died", "the slot's process ended in mid-trial", datetime.now(UTC).isoformat())
    ledger.publish_attempt(trial_key, attempts[-1])
    ledger.write_failure(trial_key, attempts[-1], failure)
    return True


def slot_device(config: dict[str, Any], given: list[str], gpus: int = 1, *, nvml: Any = None) -> SlotDevice:
    """Say where a slot trains; on a node that names no GPUs, on the one that Ray gave it.

    Args:
        config: The slot's first attempt.
        given: The GPUs that Ray gave it: NVML indices, or the UUIDs that its node was started with.
        gpus: How many GPUs train one trial.
        nvml: The binding; None imports `pynvml`.

    Returns:
        The device; a GPU with its UUID.

    Raises:
        RayscaleError: If Ray's GPU cannot be found.
    """
    name, uuid, binding = config["device"], config["device_uuid"], config["binding"]
    if binding == "best effort":
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(given), **_PCI_ORDER}
        found = gpu_devices(nvml=nvml, environ=visible) if given else []
        if len(found) != gpus:
            raise RayscaleError(f"{name}: of Ray's GPUs ({', '.join(given)}) {len(found)} are usable; expected {gpus}")
        uuid = join_devices(gpu.uuid for gpu in found)
    return SlotDevice(name, uuid, name, node=config["node"], binding=binding)


def summarize(result: AttemptResult) -> dict[str, Any]:
    """Write an attempt's end as a flat Tune result.

    Args:
        result: The attempt.

    Returns:
        Plain values; Tune adds keys of its own, whose names are not used here.
    """
    summary: dict[str, Any] = {"trial_key": result.trial_key, "attempt": result.attempt}
    if result.failure:
        return summary | {"outcome": "failed", "reason": result.failure.reason, "detail": result.failure.detail}
    if result.record is None:
        return summary | {"outcome": "failed", "reason": "crashed", "detail": "no record"}
    record = result.record
    train = record.energy.phases.get("train")
    return summary | {
        "outcome": "completed",
        "verdict": record.quality.verdict,
        "perplexity": record.evaluation.perplexity,
        "train_s": record.phase_seconds("train"),
        "energy_j": train.energy_j if train else None,
        "energy_estimated": record.energy.estimated,
    }


def _device_rate(forks: ForkServer, device: SlotDevice, threads: int) -> float | None:
    """Measure the devices' matrix-product rates once and keep them; outside every measured phase.

    Args:
        forks: Where to run it.
        device: The slot's.
        threads: CPU threads of all processes of a trial.

    Returns:
        Their sum, TFLOP/s; None if the benchmark failed.
    """
    rates = [_rate_of(forks, uuid, threads) for uuid in devices_in(device.uuid) or (None,)]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if len(known) == len(rates) else None


def _rate_of(forks: ForkServer, uuid: str | None, threads: int) -> float | None:
    storage = LocalStorage(cache_directory() / "devices")
    name = f"{uuid or os.uname().nodename}-{'gpu' if uuid else f'cpu-{threads}-threads'}.json"
    stored = storage.read(name)
    if stored:
        return float(json.loads(stored)["tflops_bench"])
    try:
        rate = forks.call(_bench, uuid, threads)
    except Exception:
        return None
    storage.write(name, json.dumps({"tflops_bench": rate}).encode())
    return rate


def _bench(device_uuid: str | None, threads: int) -> float:
    os.environ["CUDA_VISIBLE_DEVICES"] = device_uuid or ""
    return tflops_bench("cuda" if device_uuid else "cpu", threads)
