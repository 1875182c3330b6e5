"""Commands that are not stages: one module per command, named as the command, which parses and calls one function.

Heavy imports are inside the commands, so that `--help` is fast.
"""

from pipeline.commands.alpha import alpha
from pipeline.commands.annotators import annotators
from pipeline.commands.cache import cache
from pipeline.commands.convert_coco import convert_coco
from pipeline.commands.convert_sbd import convert_sbd
from pipeline.commands.convert_seem import convert_seem
from pipeline.commands.doctor import doctor
from pipeline.commands.download import download
from pipeline.commands.experiment import experiment_labels, experiment_run, experiment_table
from pipeline.commands.explain import explain
from pipeline.commands.export import export
from pipeline.commands.gallery import gallery
from pipeline.commands.import_masks import import_masks
from pipeline.commands.init import init
from pipeline.commands.inspect import inspect
from pipeline.commands.next import next_images
from pipeline.commands.next_round import next_round, train_fold
from pipeline.commands.prompts import prompts
from pipeline.commands.push import push
from pipeline.commands.run import run
from pipeline.commands.serve import serve
from pipeline.commands.settings import settings
from pipeline.commands.splits import splits

TOOLS = (
    *(run, init, annotators, settings, doctor, prompts),
    *(alpha, gallery, inspect, explain),
    *(next_images, export, serve, import_masks, push, next_round),
    *(download, convert_seem, cache),
    *(convert_sbd, convert_coco, splits),
    *(experiment_labels, experiment_run, experiment_table, train_fold),
)
