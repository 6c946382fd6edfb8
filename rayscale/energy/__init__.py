"""Power and energy: device readers, the sampler beside the trial, exact integration, verdicts.

    reader (nvml | rapl | estimated) -> sampler (thread, or process) -> trace (Arrow on disk)
                                             trace + phases -> integrate -> measure -> quality -> Record

Everything is stamped with CLOCK_MONOTONIC, which all processes of one Linux host share: the trial stamps its phases,
the sampler its polls, and nobody talks to anybody inside a measured phase. Between two phases the trial rings
(`edges`): the sampler reads everything at once, and at the ends of `train` waits for the tick of the energy counter
(`ticks`). Gaps between polls are filled from the driver's own buffer (`backfill`).
"""
