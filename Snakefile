# From images and a few masks to a trained student: snakemake --cores 8 all --config run=NAME
#
# A rule's output is a mark: Snakemake deletes outputs, and a receipt, a Zarr store or a checkpoint folder would be lost
# when a job refuses its inputs or fails. Before every call the marks are made to agree with the receipts, whoever ran
# the stages: a stage has no mark if its receipt is missing, damaged, or of other settings, images or masks. Snakemake's
# own records of params, inputs and incomplete outputs are not asked (see profiles/default), because a stage that is run
# by hand leaves none.
#
# A table of the paper, or one of its kind: snakemake --cores 8 experiment --config table=5 run=NAME seeds=3
import os
import shlex
import sys

# Snakemake puts the working folder before the standard library. A file train.py or scipy.py in it would be taken for the
# package. An editable install puts it behind all packages, where it is harmless.
asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
behind = sys.path.index(os.path.dirname(os.__file__))
before = [
    path for path in sys.path[:behind] if path in asked or path not in ("", os.getcwd())
]
sys.path[:behind] = before
os.environ.update(PYTHONSAFEPATH="1")  # in jobs

from pipeline.errors import UserError, disk_problem
from pipeline.experiment import workflow as experiments
from pipeline.gpus import visible_gpus
from pipeline.marks import mark_of, update_marks
from pipeline.overrides import as_arguments
from pipeline.rounds.workflow import fold_mark, folds_for, update_fold_marks
from pipeline.run import Run
from pipeline.shards import shards, update_shard_marks

try:
    experiment = experiments.experiment_of(config, sys.argv, workflow.is_main_process)
    settings = experiment.base
    out, run, folds = settings.folder, Run(settings), folds_for(settings)
    parts = shards(settings.annotate.shards)
    folds_folder = folds[0].base.folder.folds if folds else run.folder.folds
    if workflow.is_main_process:  # in jobs the marks stay as Snakemake left them
        update_fold_marks(folds)
        update_marks(run)
        update_shard_marks(run, parts)
        experiments.update_marks(experiment, sys.argv)
except UserError as error:
    sys.exit(f"error: {error}")
except OSError as error:
    sys.exit(f"error: {disk_problem(error) or error}")


def words(*given):
    """Words of a shell line, quoted for the shell; braces are doubled, because Snakemake formats the line."""
    return shlex.join(given).replace("{", "{{").replace("}", "}}")


arguments = words(experiment.run_file, *as_arguments(experiment.overrides))
request = words(*experiment.request.as_arguments())
pipeline, train = (
    words(sys.executable, "-P", "-m", package) for package in ("pipeline", "train")
)


rule all:
    input:
        mark_of(run.folder.receipt("report")),


rule prepare:
    output:
        touch(mark_of(run.folder.receipt("prepare"))),
    log:
        f"{out}/logs/prepare.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} prepare {arguments} 2>&1 | tee {{log:q}} >&2"


rule annotate:
    input:
        rules.prepare.output,
        [fold_mark(fold.folder) for fold in folds],
        [mark_of(run.folder.shard(part.name)) for part in parts]
        if len(parts) > 1
        else [],
    output:
        touch(mark_of(run.folder.receipt("annotate"))),
    log:
        f"{out}/logs/annotate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{pipeline} annotate {arguments} 2>&1 | tee {{log:q}} >&2"


rule annotate_shard:
    input:
        rules.prepare.output,
        [fold_mark(fold.folder) for fold in folds],
    output:
        temp(touch(mark_of(run.folder.shard("{part}")))),
    log:
        f"{out}/logs/annotate/{{part}}.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{pipeline} annotate {arguments} --shard {{wildcards.part:q}} 2>&1 | tee {{log:q}} >&2"


rule fold:
    input:
        # its images and masks are those of the run before; `ancient(rules.prepare.output)` would mark that of all rules
        ancient(mark_of(run.folder.receipt("prepare"))),
    output:
        touch(fold_mark(folds_folder / "{fold}")),
    log:
        f"{out}/logs/folds/{{fold}}.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{pipeline} train-fold {arguments} --fold {{wildcards.fold:q}} 2>&1 | tee {{log:q}} >&2"


rule calibrate:
    input:
        rules.prepare.output,
        rules.annotate.output,
    output:
        touch(mark_of(run.folder.receipt("calibrate"))),
    log:
        f"{out}/logs/calibrate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} calibrate {arguments} 2>&1 | tee {{log:q}} >&2"


rule probe:
    input:
        rules.prepare.output,
        rules.calibrate.output,
    output:
        touch(mark_of(run.folder.receipt("probe"))),
    log:
        f"{out}/logs/probe.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} probe {arguments} 2>&1 | tee {{log:q}} >&2"


rule pseudolabel:
    input:
        rules.prepare.output,
        rules.calibrate.output,
        rules.probe.output if settings.pseudolabel.rule == "probe" else [],
    output:
        touch(mark_of(run.folder.receipt("pseudolabel"))),
    log:
        f"{out}/logs/pseudolabel.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} pseudolabel {arguments} 2>&1 | tee {{log:q}} >&2"


rule stage1:
    input:
        rules.prepare.output,
        # label-only, semi-baseline and allspark train without an annotator
        rules.pseudolabel.output if settings.needs_annotator else [],
    output:
        touch(mark_of(run.folder.receipt("stage1"))),
    log:
        f"{out}/logs/stage1.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} stage1 {arguments} 2>&1 | tee {{log:q}} >&2"


rule stage2:
    input:
        rules.prepare.output,
        rules.stage1.output,
    output:
        touch(mark_of(run.folder.receipt("stage2"))),
    log:
        f"{out}/logs/stage2.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} stage2 {arguments} 2>&1 | tee {{log:q}} >&2"


rule evaluate:
    input:
        rules.prepare.output,
        rules.stage1.output,
        rules.stage2.output,
    output:
        touch(mark_of(run.folder.receipt("evaluate"))),
    log:
        f"{out}/logs/evaluate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} evaluate {arguments} 2>&1 | tee {{log:q}} >&2"


rule baseline:
    input:
        rules.prepare.output,
    output:
        touch(mark_of(run.folder.receipt("baseline"))),
    log:
        f"{out}/logs/baseline.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{pipeline} baseline {arguments} 2>&1 | tee {{log:q}} >&2"


rule report:
    input:
        rules.prepare.output,
        (
            [
                rules.annotate.output,
                rules.calibrate.output,
                rules.pseudolabel.output,
            ]
            if settings.needs_annotator
            else []
        ),
        rules.stage1.output,
        rules.stage2.output,
        rules.evaluate.output,
        rules.baseline.output if settings.baseline else [],
    output:
        touch(mark_of(run.folder.receipt("report"))),
    log:
        f"{out}/logs/report.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} report {arguments} 2>&1 | tee {{log:q}} >&2"


rule experiment:
    input:
        lambda wildcards: experiments.run_marks(experiment),
    output:
        touch(experiments.table_mark(experiment)),
    log:
        f"{out}/logs/experiment.log",
    conda:
        "environment.yml"
    shell:
        f"{pipeline} experiment-table {arguments} {request} 2> {{log:q}}"


rule experiment_labels:
    input:
        rules.prepare.output,
        rules.annotate.output,
    output:
        touch(mark_of(out / "experiments/labels/{labels}/labels.json")),
    log:
        f"{out}/logs/experiment/{{labels}}.log",
    priority: 1  # before any training, which would keep a core from the labels of the others
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} experiment-labels {arguments} {request} --labels {{wildcards.labels:q}} 2>&1 | tee {{log:q}} >&2"


rule experiment_run:
    input:
        rules.prepare.output,
        lambda wildcards: experiments.labels_mark(experiment, wildcards.name),
    output:
        touch(mark_of(out / "experiments/runs/{name}-{seed}/run.json")),
    log:
        f"{out}/logs/experiment/{{name}}-{{seed}}.log",
    wildcard_constraints:
        seed=r"\d+",
    conda:
        "environment.yml"
    threads: 1
    resources:
        gpu=len(visible_gpus()[:1]),
    shell:
        f"{pipeline} experiment-run {arguments} {request} --name {{wildcards.name:q}} --seed {{wildcards.seed:q}}"
        " > {log:q} 2>&1 || (tail -n 20 {log:q} >&2; exit 1)"
