"""What one attempt costs the driver: the runner's own Tune set-up over a simulated Ray, or over a real one."""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.simulated_tune import SimulatedRay, in_place_of_ray
from rayscale.design import Plan, plan_sweep
from rayscale.ledger import Ledger
from rayscale.specfile import parse_spec
from rayscale.sweep.devices import FixedFleet, SlotDevice, gpu_slot
from rayscale.sweep.events import AttemptEnd
from rayscale.sweep.live import LineView
from rayscale.sweep.progress import Progress
from rayscale.sweep.stopping import NeverStopping

SWEEP = """\
name: scale
design: {{factors: {{tokens: [500K, 1M, 2M]}}, repetitions: {repetitions}}}
model: {{config: {{}}}}
data: {{synthetic: {{}}, sequence_length: 2048}}
resources: {{gpus: {gpus}, cpus: 1}}
"""
TRIAL_S = (50.0, 70.0)
"""Shortest and longest simulated trial: shorter than any that a cluster is used for. Units: s."""


@dataclass(frozen=True)
class DriverCost:
    """What a sweep cost the driver's process.

    Attributes:
        trials: Trials that were completed.
        devices: Devices of the fleet.
        plan_s: CPU for the plan. Units: s.
        fixed_s: CPU for what happens once per sweep. Units: s.
        loop_s: CPU from the first suggestion to the last end. Units: s.
        wall_s: The same on the clock. Units: s.
        rss_mb: Peak memory of the process. Units: MB.
        groups: Placement groups that were asked for.
        waited_for: The most futures in one `ray.wait`; None on a real Ray.
    """

    trials: int
    devices: int
    plan_s: float
    fixed_s: float
    loop_s: float
    wall_s: float
    rss_mb: float
    groups: int | None
    waited_for: int | None

    @property
    def per_trial_ms(self) -> float:
        """CPU of the loop per trial. Units: ms."""
        return self.loop_s / self.trials * 1e3


class _Clock(NeverStopping):
    """Listens where the sweep begins (the first block is asked for) and where its attempts end."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None
        self.last = (0.0, 0.0)
        self.completed = 0

    def __reduce__(self) -> tuple[type[NeverStopping], tuple[()]]:
        return NeverStopping, ()

    def may_start(self, in_progress: int) -> bool:
        self.first = self.first or (time.process_time(), time.monotonic())
        return True

    def started(self, trial_key: str, device: str) -> None:
        """An attempt starts."""

    def ended(self, end: AttemptEnd) -> None:
        """Take the time."""
        self.completed += end.completed
        self.last = (time.process_time(), time.monotonic())


def make_plan(trials: int, gpus: int = 1) -> Plan:
    """Plan a sweep of at least so many trials: three budgets, as the published study."""
    return plan_sweep(parse_spec(SWEEP.format(repetitions=-(-trials // 3), gpus=gpus), "scale.yaml"))


def gpu_fleet(nodes: int, gpus: int) -> FixedFleet:
    """Name the devices of so many simulated nodes."""
    names = [(f"GPU-{node:04d}-{index}", f"node{node:04d}") for node in range(nodes) for index in range(gpus)]
    return FixedFleet(tuple(gpu_slot(uuid, "A10G", "A10G", node, "resource", ray_gpu=True) for uuid, node in names))


def cpu_fleet(slots: int) -> FixedFleet:
    """Name some CPU slots of this machine."""
    names = [f"cpu:{index}" for index in range(slots)]
    return FixedFleet(tuple(SlotDevice(name, None, name, "cpu", "here", claims=((name, 1.0),)) for name in names))


def reported(trial_key: str) -> dict[str, Any]:
    """Make what a slot reports of a completed attempt."""
    known = {"verdict": "clean", "perplexity": 12.3, "train_s": 60.0, "energy_j": 1.2e4, "energy_estimated": False}
    return {"trial_key": trial_key, "attempt": 1, "outcome": "completed", **known}


def simulated(trials: int, fleet: FixedFleet) -> DriverCost:
    """Run a sweep on a simulated Ray.

    Args:
        trials: How many.
        fleet: Its devices.

    Returns:
        What it cost.
    """
    rng = random.Random(1)
    sim = SimulatedRay(lambda config: (rng.uniform(*TRIAL_S), reported(config["trial_key"])))
    with local_ray(fleet, claims=False), in_place_of_ray(sim):
        cost = _run(make_plan, trials, fleet)
    return DriverCost(**{**cost, "groups": sim.calls["group"], "waited_for": sim.most_waited_for})


def real(trials: int, slots: int) -> DriverCost:
    """Run a sweep of empty trials on a real Ray, whose slots are real actors that report at once.

    Args:
        trials: How many.
        slots: CPU slots.

    Returns:
        What it cost the driver's process.
    """
    from ray import tune

    from rayscale.sweep import slot as module

    class Empty(tune.Trainable):
        def setup(self, config: dict[str, Any], **parameters: Any) -> None:
            """Nothing to start."""

        def step(self) -> dict[str, Any]:
            return {"done": True, **reported(self.config["trial_key"])}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    fleet, before = cpu_fleet(slots), module.Slot
    with local_ray(fleet, claims=True):
        module.Slot = Empty  # type: ignore[misc]
        try:
            return DriverCost(**_run(lambda count: make_plan(count, gpus=0), trials, fleet))
        finally:
            module.Slot = before  # type: ignore[misc]


def _run(planned: Callable[[int], Plan], trials: int, fleet: FixedFleet) -> dict[str, Any]:
    from rayscale.sweep import runner
    from rayscale.sweep.bindings import BlockKeeper

    start = time.process_time()
    plan = planned(trials)
    plan_s = time.process_time() - start
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="rayscale-scale-") as directory:
        ledger = Ledger(Path(directory) / plan.spec.name)
        ledger.root.mkdir()
        with (Path(directory) / "lines.txt").open("w") as lines:
            view = LineView(Progress.from_ledger(plan, ledger), Console(file=lines))
            work = runner._Work(plan, ledger, list(plan.trials), fleet, frozenset())
            start = time.process_time()
            runner._fit(work, [view, clock], clock, BlockKeeper(plan, ledger, view.say))
            all_s = time.process_time() - start
    first = clock.first or (0.0, 0.0)
    loop_s, wall_s = clock.last[0] - first[0], clock.last[1] - first[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        **{"trials": clock.completed, "devices": len(fleet.slots), "plan_s": plan_s, "fixed_s": all_s - loop_s},
        **{"loop_s": loop_s, "wall_s": wall_s, "rss_mb": peak, "groups": None, "waited_for": None},
    }


@contextlib.contextmanager
def local_ray(fleet: FixedFleet, *, claims: bool) -> Iterator[None]:
    """Start a quiet Ray; a simulated sweep needs it only for Tune's registry of trainables."""
    from rayscale.sweep.session import set_ray_environment

    set_ray_environment(None)
    import ray

    slots = fleet.slots if claims else ()
    ray.init(
        address="local",
        num_cpus=2 * len(slots) + 1,
        resources={slot.name: 1 for slot in slots},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def ray_calls_ms(futures: int) -> dict[str, float]:
    """Measure what the simulation leaves out, on a real Ray.

    Args:
        futures: Futures to wait for: one per running attempt.

    Returns:
        CPU of this process per call, in ms: `wait` on so many futures that are not ready, and `group`, one placement
        group requested and taken back.
    """
    with local_ray(FixedFleet(()), claims=False):
        import ray
        from ray.util import placement_group, remove_placement_group

        never = ray.remote(resources={"never": 1})(lambda: None)
        waiting = [never.remote() for _ in range(futures)]
        time.sleep(1.0)
        wait = _cpu_ms(200, lambda: ray.wait(waiting, num_returns=1, timeout=0.001))
        group = _cpu_ms(50, lambda: remove_placement_group(placement_group([{"never": 1}, {"CPU": 0.1}])))
    return {"wait": wait, "group": group}


def _cpu_ms(times: int, call: Callable[[], object]) -> float:
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times * 1e3
