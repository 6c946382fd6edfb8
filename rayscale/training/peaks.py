"""Dense peak rates of GPUs from their data sheets (no structured sparsity), looked up by ordered name patterns.

An unknown device has no peak: MFU is then absent, never 0 or infinite. More special names come first, since `H200 NVL`
contains `H200`. fp32 is the rate of the ordinary cores: training here never switches TF32 on.
"""

from __future__ import annotations

from dataclasses import dataclass

# (patterns that must all occur in the lower-case name, bf16 tensor-core TFLOP/s, fp32 TFLOP/s)
_PEAKS: tuple[tuple[tuple[str, ...], float, float | None], ...] = (
    (("gb300",), 2500.0, 80.0),
    (("gb200",), 2500.0, 80.0),
    (("b300",), 2250.0, 75.0),
    (("b200",), 2250.0, 75.0),
    (("h200", "nvl"), 836.0, 60.0),
    (("h200",), 989.0, 67.0),
    (("h100", "nvl"), 835.0, 60.0),
    (("h100", "pcie"), 756.0, 51.0),
    (("h100",), 989.0, 67.0),
    (("gh200",), 989.0, 67.0),
    (("h800", "pcie"), 756.0, 51.0),
    (("h800",), 989.0, 67.0),
    (("h20",), 148.0, 44.0),
    (("a100",), 312.0, 19.5),
    (("a800",), 312.0, 19.5),
    (("a10g",), 70.0, 35.0),
    (("a10",), 125.0, 31.2),
    (("a30",), 165.0, 10.3),
    (("a40",), 149.7, 37.4),
    (("a6000", "ada"), 364.2, 91.1),
    (("a6000",), 154.8, 38.7),
    (("l40s",), 362.0, 91.6),
    (("l40",), 181.0, 90.5),
    (("l4",), 121.0, 30.3),
    (("rtx 5090",), 209.5, 104.8),
    (("rtx 4090",), 165.2, 82.6),
    (("rtx 4080",), 97.5, 48.7),
    (("rtx 3090",), 71.0, 35.6),
)


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Look up the dense peak of a device.

    Units: TFLOP/s.

    Args:
        device_name: As the driver writes it, e.g. `NVIDIA H200`.
        precision: `bf16`, `bf16-pure` or `fp32`.

    Returns:
        The data sheet's dense rate; None if the device or precision is unknown.
    """
    name = device_name.lower()
    for patterns, bf16, fp32 in _PEAKS:
        if all(pattern in name for pattern in patterns):
            return {"bf16": bf16, "bf16-pure": bf16, "fp32": fp32}.get(precision)
    return None


@dataclass(frozen=True)
class Peak:
    """What MFU is a share of.

    Attributes:
        tflops: Dense peak. Units: TFLOP/s.
        source: Where it comes from, in words.
    """

    tflops: float
    source: str


def known_peak(device_name: str | None, precision: str, stated: float | None) -> Peak | None:
    """Find a device's peak: as the sweep file states it, else from the table.

    Args:
        device_name: Name of the GPU; None for a CPU, of which the table knows nothing.
        precision: `bf16`, `bf16-pure` or `fp32`.
        stated: `train.peak_tflops`. Units: TFLOP/s.

    Returns:
        The peak; None if it is unknown.
    """
    if stated is not None:
        return Peak(stated, "train.peak_tflops")
    found = peak_tflops(device_name, precision) if device_name else None
    return (
        None if found is None else Peak(found, f"data sheet of {device_name}: dense {precision.removesuffix('-pure')}")
    )
