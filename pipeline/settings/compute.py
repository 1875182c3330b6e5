"""`compute`: where the Dask stages run."""

from __future__ import annotations

from pipeline.settings.section import Section, runtime
from pipeline.settings.values import SCHEDULER, Device


class ComputeSettings(Section):
    """Where the Dask stages (calibrate and pseudolabel) run."""

    device: Device = runtime("cpu")
    """Device that up-samples class maps and reduces them over the classes: `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA if
    available). Every device gives the same labels. A GPU pays off with many classes: the rest of these stages, which
    reads, counts, compresses and writes, stays on the CPU."""
    scheduler: str = runtime("threads", pattern=SCHEDULER)
    """`threads`, or the address of a running Dask scheduler, e.g. tcp://host:8786, to compute on a cluster. tcp is
    neither encrypted nor authenticated; tls://host:8786 is, with the certificates of Dask's own configuration."""
    workers: int | None = runtime(None, ge=1)
    """Number of threads of the `threads` scheduler. Default: one per core."""
    tile_megabytes: int = runtime(64, ge=1)
    """Size in megabytes of a block of score maps, and of the sketches of a band of rows. A task holds a few of them;
    lower it if memory runs out."""
