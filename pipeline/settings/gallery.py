"""`gallery`: the page of images with a slider for alpha."""

from __future__ import annotations

from pydantic import Field

from pipeline.settings.section import Section


class GallerySettings(Section):
    """The page of images with a slider for alpha (`conformalsam gallery`, and a section of the report)."""

    num_images: int = Field(60, ge=1)
    """Number of images shown. If there are more, half of those shown have the lowest keep rates and half are evenly
    spaced. Counts are of all images."""
    longest_side: int = Field(256, ge=32, le=2048)
    """Length in pixels of the longer side of the labels shown, which are reduced from the grid by nearest pixel;
    photographs have up to twice as many. 60 images of 256 pixels make a page of 5 to 10 MB."""
    show_truth: bool = True
    """Show masks of unlabeled images where they exist. The gallery uses them for nothing else."""
    in_report: bool = True
    """Put the gallery into the report as well. This evaluates some sixty alphas on held-out images, once per
    calibration."""
