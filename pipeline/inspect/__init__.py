"""A look into a run or a store: what made it, whether it is whole, what is in it; and every number behind one pixel.

run       the state of a run                    run_check      reading all of a run
summary   the facts of a store                  held_out       what held-out images say of it
lines     the same for people                   pictures       an image of a store, painted
check     reading all of a store, repairing it  findings       what is wrong, and the command that fixes it
explain   what is behind one pixel of a run     explain_lines  the same for people
decision  its arithmetic
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
