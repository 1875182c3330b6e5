"""One of several processes that measure a student together."""

import datetime

import torch
from pixel_students import FormulaStudent, of_colour
from torch import distributed as dist

from train.measure.tally import tally_of


def count(_, rank, num_processes, meeting_place, images, settings):
    """Count the images of this process; returns the counts of all processes together."""
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=300)
    dist.init_process_group("gloo", f"file://{meeting_place}", limit, rank=rank, world_size=num_processes)
    try:
        return tally_of(FormulaStudent(of_colour), images, settings, workers=0)
    finally:
        dist.destroy_process_group()
