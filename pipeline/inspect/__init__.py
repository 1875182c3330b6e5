"""Inspection of a run or a store: its origin, integrity and content; and every number behind the label of one pixel.

run       the state of a run                    run_check      reading all of a run
summary   the facts of a store                  held_out       held-out estimates of a store
lines     these facts as text                   pictures       a picture of one image of a store
check     reading all of a store, repairing it  findings       what is wrong, and the command that fixes it
explain   the numbers behind one pixel          explain_lines  these numbers as text
decision  their arithmetic                      evidence       the stores and the image that they are computed from
location  thresholds of a location at any alpha
"""

from pipeline.inspect.check import check_facts, check_store, format_check, is_sound, repair
from pipeline.inspect.lines import format_summary
from pipeline.inspect.pictures import write_picture
from pipeline.inspect.run import format_run, inspect_run
from pipeline.inspect.run_check import check_run, format_run_check
from pipeline.inspect.summary import inspect_store

__all__ = [
    "check_facts",
    "check_run",
    "check_store",
    "format_check",
    "format_run",
    "format_run_check",
    "format_summary",
    "inspect_run",
    "inspect_store",
    "is_sound",
    "repair",
    "write_picture",
]
