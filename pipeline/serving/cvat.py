"""CVAT's auto-annotation: `cvat-cli task auto-annotate TASK --function-module pipeline.serving.cvat -p run=str:RUN`.

CVAT's own command line runs the function where the run's folder is, and sends masks to the server. The images of the
task are those of the run, by name (`conformalsam export RUN --to cvat` lists them).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image

from pipeline.errors import ConfigError
from pipeline.exchange.polygons import outlines
from pipeline.run_file import load_settings
from pipeline.serving.labels_by_file import labels_of

try:
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk.masks import encode_mask
except ImportError:
    raise ConfigError("CVAT's auto-annotation needs the package cvat-sdk: pip install cvat-cli") from None


class CalibratedLabels:
    """A detection function of cvat_sdk: one mask for each class of an image; pixels without a label are in none.

    run:   run file, or its name in config/
    alpha: one of the stored alphas; default: the chosen one
    raises: as `labels_of`, and ConfigError for a wrong run file
    """

    def __init__(self, run: str, alpha: float | None = None) -> None:
        self._labels = labels_of(load_settings(run), alpha)
        exported = self._labels.exported
        self._classes = [k for k in range(len(exported.class_names)) if k != exported.background]

    @cached_property
    def spec(self) -> Any:
        """The classes of the run without the background, as labels of CVAT."""
        names = self._labels.exported.class_names
        return cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(names[k], k) for k in self._classes])

    def detect(self, context: Any, image: PIL.Image.Image) -> list[Any]:
        """Masks of the frame `context.frame_name`, or polygons if CVAT asks for them.

        raises: StoreError if the run has no such unlabeled image, or one of another size
        """
        label = self._labels.label(context.frame_name, (image.height, image.width))
        if context.conv_mask_to_poly:
            found = [outline for outline in outlines(label) if outline.class_index in self._classes]
            return [cvataa.polygon(outline.class_index, outline.points.ravel().tolist()) for outline in found]
        present = [k for k in self._classes if np.any(label == k)]
        return [cvataa.mask(k, encode_mask(label == k)) for k in present]


create = CalibratedLabels
