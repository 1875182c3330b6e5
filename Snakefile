# From images and a few masks to a trained student: snakemake --cores 8 all --config run=NAME
#
# A rule's output is its receipt, which its stage writes last: a Zarr store or a checkpoint folder as output would be
# deleted when a job fails, and with it everything that the stage could resume from. A receipt records the settings that
# its stage depends on, through the stages before it too, whoever ran the stage. A receipt of other settings gets a note
# beside it that is newer, as one more input: Snakemake runs that stage again, and what follows. Its own records of
# params and inputs are not asked (see profiles/default), because a stage that is run by hand leaves none.
#
# A table of the paper, or one of its kind: snakemake --cores 8 experiment --config table=5 run=NAME seeds=3
import os
import shlex
import sys

# Snakemake imports from the working folder first. A file train.py or scipy.py in it would be taken for the package.
asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
sys.path[:] = [
    path for path in sys.path if path in asked or path not in ("", os.getcwd())
]
os.environ.update(PYTHONSAFEPATH="1")  # in jobs

from pipeline.run_file import as_arguments
from pipeline.errors import ConfigError
from pipeline.experiment import workflow as experiments
from pipeline.experiment.devices import visible_gpus
from pipeline.run import Run

try:
    experiment = experiments.experiment_of(
        config, sys.argv if workflow.is_main_process else None
    )
    settings = experiment.base
except ConfigError as error:
    sys.exit(f"error: {error}")

out, run = settings.folder, Run(settings)
arguments = shlex.join([experiment.run_file, *as_arguments(experiment.overrides)])
arguments = arguments.replace("{", "{{").replace(
    "}", "}}"
)  # Snakemake formats a shell line
request = shlex.join(experiment.request.as_arguments())
pipeline, train = (
    f"{shlex.quote(sys.executable)} -P -m {package}"
    for package in ("pipeline", "train")
)


rule all:
    input:
        run.folder.report,


rule prepare:
    input:
        run.stale_notes("prepare"),
    output:
        receipt=run.folder.receipt("prepare"),
        samples=run.folder.samples,
    log:
        f"{out}/logs/prepare.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} prepare {arguments} 2>&1 | tee {{log}} >&2"


rule annotate:
    input:
        run.stale_notes("annotate"),
        rules.prepare.output.samples,
    output:
        receipt=run.folder.receipt("annotate"),
    log:
        f"{out}/logs/annotate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{pipeline} annotate {arguments} 2>&1 | tee {{log}} >&2"


rule calibrate:
    input:
        run.stale_notes("calibrate"),
        rules.prepare.output.samples,
        rules.annotate.output.receipt,
    output:
        receipt=run.folder.receipt("calibrate"),
    log:
        f"{out}/logs/calibrate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} calibrate {arguments} 2>&1 | tee {{log}} >&2"


rule probe:
    input:
        run.stale_notes("probe"),
        rules.prepare.output.samples,
        rules.calibrate.output.receipt,
    output:
        receipt=run.folder.receipt("probe"),
    log:
        f"{out}/logs/probe.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} probe {arguments} 2>&1 | tee {{log}} >&2"


rule pseudolabel:
    input:
        run.stale_notes("pseudolabel"),
        rules.prepare.output.samples,
        rules.calibrate.output.receipt,
        rules.probe.output.receipt if settings.pseudolabel.rule == "probe" else [],
    output:
        receipt=run.folder.receipt("pseudolabel"),
    log:
        f"{out}/logs/pseudolabel.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} pseudolabel {arguments} 2>&1 | tee {{log}} >&2"


rule stage1:
    input:
        run.stale_notes("stage1"),
        rules.prepare.output.samples,
        # label-only, semi-baseline and allspark train without an annotator
        rules.pseudolabel.output.receipt if settings.needs_annotator else [],
    output:
        receipt=run.folder.receipt("stage1"),
    log:
        f"{out}/logs/stage1.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} stage1 {arguments} 2>&1 | tee {{log}} >&2"


rule stage2:
    input:
        run.stale_notes("stage2"),
        rules.prepare.output.samples,
        rules.stage1.output.receipt,
    output:
        receipt=run.folder.receipt("stage2"),
    log:
        f"{out}/logs/stage2.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} stage2 {arguments} 2>&1 | tee {{log}} >&2"


rule evaluate:
    input:
        run.stale_notes("evaluate"),
        rules.prepare.output.samples,
        rules.stage1.output.receipt,
        rules.stage2.output.receipt,
    output:
        receipt=run.folder.receipt("evaluate"),
    log:
        f"{out}/logs/evaluate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    shell:
        f"{train} evaluate {arguments} 2>&1 | tee {{log}} >&2"


rule report:
    input:
        run.stale_notes("report"),
        rules.prepare.output.receipt,
        (
            [
                rules.annotate.output.receipt,
                rules.calibrate.output.receipt,
                rules.pseudolabel.output.receipt,
            ]
            if settings.needs_annotator
            else []
        ),
        rules.stage1.output.receipt,
        rules.stage2.output.receipt,
        rules.evaluate.output.receipt,
    output:
        html=run.folder.report,
        receipt=run.folder.receipt("report"),
    log:
        f"{out}/logs/report.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} report {arguments} 2>&1 | tee {{log}} >&2"


rule experiment:
    input:
        lambda wildcards: experiments.run_receipts(experiment),
        lambda wildcards: experiments.stale_table(experiment),
    output:
        **experiments.table_paths(experiment),
    log:
        f"{out}/logs/experiment.log",
    conda:
        "environment.yml"
    shell:
        f"{pipeline} experiment-table {arguments} {request} 2> {{log}}"


rule experiment_labels:
    input:
        lambda wildcards: experiments.stale_labels(experiment, wildcards.labels),
        rules.prepare.output.samples,
        rules.annotate.output.receipt,
    output:
        receipt=f"{out}/experiments/labels/{{labels}}/labels.json",
    log:
        f"{out}/logs/experiment/{{labels}}.log",
    priority: 1  # before any training, which would keep a core from the labels of the others
    conda:
        "environment.yml"
    threads: workflow.cores
    shell:
        f"{pipeline} experiment-labels {arguments} {request} --labels {{wildcards.labels}} 2>&1 | tee {{log}} >&2"


rule experiment_run:
    input:
        rules.prepare.output.samples,
        lambda wildcards: experiments.labels_receipt(experiment, wildcards.name),
        lambda wildcards: experiments.stale_run(
            experiment, wildcards.name, wildcards.seed
        ),
    output:
        receipt=f"{out}/experiments/runs/{{name}}-{{seed}}/run.json",
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
        f"{pipeline} experiment-run {arguments} {request} --name {{wildcards.name}} --seed {{wildcards.seed}}"
        " > {log} 2>&1 || (tail -n 20 {log} >&2; exit 1)"
