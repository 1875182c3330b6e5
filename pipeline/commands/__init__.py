"""The tools beside the stages: one module a group of commands, each command parses and calls one function.

Heavy imports are inside the commands, so that `--help` answers at once.
"""

from pipeline.commands.data_sets import convert_coco, convert_sbd, splits
from pipeline.commands.stores import inspect
from pipeline.commands.weights import convert_seem, download

TOOLS = (inspect, download, convert_seem, convert_sbd, convert_coco, splits)
