"""Generated token streams whose entropy is known exactly, so that the reachable loss is known.

`markov`: every token has `branching` distinct successors, drawn with the same probabilities p_k ~ 1/k whatever the
token, so the entropy rate is H(p) exactly and needs no stationary distribution. One successor of each token is its
neighbour on a random cycle, so that every token is reached from every other.
`zipf`: independent draws with p(rank) ~ 1/rank; the entropy rate is H(p).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayscale.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from rayscale.spec import SyntheticSpec


def entropy_rate(source: SyntheticSpec) -> float:
    """Tell the entropy rate of a source: no model can reach a lower expected loss.

    Units: nats per token.

    Args:
        source: The source.

    Returns:
        H(p) of its harmonic distribution.
    """
    import numpy as np

    p = _harmonic(source.branching if source.kind == "markov" else source.vocab_size)
    return float(-np.sum(p * np.log(p)))


def generate(source: SyntheticSpec, tokens: int, part: int) -> np.ndarray:
    """Generate a stream.

    Args:
        source: The source.
        tokens: Length.
        part: 0 for training, 1 for the held-out stream: independent draws from the same source.

    Returns:
        Token ids, uint16, shape (tokens,).

    Raises:
        InputError: If a token is to have more successors than there are tokens.
    """
    import numpy as np

    if source.kind == "markov" and source.branching > source.vocab_size:
        limit = f"at most vocab_size = {source.vocab_size}"
        raise InputError(f"data.synthetic.branching: expected {limit}, got {source.branching}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([source.seed, 1 + part])))
    kinds = source.branching if source.kind == "markov" else source.vocab_size
    cumulative = np.cumsum(_harmonic(kinds))
    draws = np.minimum(np.searchsorted(cumulative, rng.random(tokens), side="right"), kinds - 1)
    if source.kind == "zipf":
        return draws.astype(np.uint16)
    return _walk(_successors(source), draws)


def _harmonic(count: int) -> np.ndarray:
    import numpy as np

    weights = 1.0 / np.arange(1, count + 1)
    return weights / weights.sum()


def _successors(source: SyntheticSpec) -> list[list[int]]:
    """Draw each token's successors, most likely first, in a place of its own for the cycle's neighbour."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([source.seed, 0])))
    cycle = rng.permutation(source.vocab_size)
    following = np.empty(source.vocab_size, dtype=np.int64)
    following[cycle] = np.roll(cycle, -1)
    table: list[list[int]] = []
    for neighbour in following:
        others = rng.choice(source.vocab_size, size=source.branching, replace=False)
        # Put the neighbour in, without making it appear twice.
        row = [neighbour, *others[others != neighbour]][: source.branching]
        table.append([int(token) for token in rng.permutation(row)])
    return table


def _walk(successors: list[list[int]], draws: np.ndarray) -> np.ndarray:
    import numpy as np

    state, path = 0, []
    for draw in draws.tolist():
        state = successors[state][draw]
        path.append(state)
    return np.asarray(path, dtype=np.uint16)
