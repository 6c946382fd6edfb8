"""One sweep at a time on a cluster, whoever started it and on whichever node: a named actor stands for the turn.

    run A ── makes the actor ──▶ Ray: the name is taken ◀── run B tries, says whom it waits for, tries again
             A's process ends, however it ends ──▶ Ray ends its actor ──▶ the name is free ──▶ B makes it

Ray gives a name once in the whole cluster and at once, before the actor's process is up. Submitted sweeps wait for each
other before this, on the head (`rayscale.cluster.turn`), where they have not touched their ledger yet. While one of
them waits here it keeps only its place among them, which runs by hand never ask for: nobody waits in a circle.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rayscale.cluster.turn import await_turn
from rayscale.environment import JOB_VARIABLE

NAME = NAMESPACE = "rayscale-turn"
ANSWER_TIMEOUT_S = 5.0
"""How long the actor may take to say whose it is; its process may still be starting."""


class Turn:
    """The actor: knows who has the cluster, and does nothing."""

    def __init__(self, holder: str) -> None:
        """Belong to a run."""
        self._holder = holder

    def holder(self) -> str:
        """Return who has the cluster."""
        return self._holder


def holder_name(sweep: str, environment: Mapping[str, str]) -> str:
    """Name a run for those who wait for it.

    Args:
        sweep: Name of its sweep.
        environment: Environment of its process.

    Returns:
        The sweep, and its job or where it was started by hand.
    """
    job = environment.get(JOB_VARIABLE)
    return f"sweep {sweep} " + (
        f"(job {job})" if job else f"(run by hand on {socket.gethostname()}, pid {os.getpid()})"
    )


@contextlib.contextmanager
def cluster_turn(
    holder: str, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Wait until nobody else has the cluster that this process is connected to, then hold it.

    Args:
        holder: What those who wait are told.
        say: Shows a line to the user.
        sleep: Waits.

    Yields:
        Nothing; the cluster is ours meanwhile.
    """
    import ray

    held: list[Any] = []

    def take() -> bool:
        held[:] = filter(None, [_make(holder)])
        return bool(held)

    await_turn(take, _present_holder, say, sleep=sleep)
    try:
        yield
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # a cluster that is gone has no turn to give back
            ray.kill(held[0])


def _make(holder: str) -> Any:
    """Make the actor on this node, with which it ends as we do; None if there is one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Turn).options(
        name=NAME, namespace=NAMESPACE, num_cpus=0, max_restarts=0, scheduling_strategy=here
    )
    try:
        return actor.remote(holder)
    except ValueError:  # the name is taken
        return None


def _present_holder() -> str:
    import ray

    try:
        there = ray.get_actor(NAME, namespace=NAMESPACE)
        return str(ray.get(there.holder.remote(), timeout=ANSWER_TIMEOUT_S))
    except (ValueError, ray.exceptions.RayError):  # gone meanwhile, or not up yet
        return ""
