"""The tools beside the stages: one module a group of commands, each command parses and calls one function.

Heavy imports are inside the commands, so that `--help` answers at once.
"""

from pipeline.commands.choice import alpha
from pipeline.commands.data_sets import convert_coco, convert_sbd, splits
from pipeline.commands.exchange import export, import_masks
from pipeline.commands.experiment import experiment_labels, experiment_run, experiment_table
from pipeline.commands.gallery import gallery
from pipeline.commands.start import doctor, init
from pipeline.commands.stores import explain, inspect
from pipeline.commands.weights import convert_seem, download

TOOLS = (
    *(init, doctor),
    *(alpha, gallery, inspect, explain),
    *(export, import_masks),
    *(download, convert_seem),
    *(convert_sbd, convert_coco, splits),
    *(experiment_labels, experiment_run, experiment_table),
)
