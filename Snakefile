# From images and a few masks to a trained student: snakemake --cores 8 all --config run=NAME
#
# A rule's output is its receipt, which its stage writes last: a Zarr store or a checkpoint folder as output would be
# deleted when a job fails, and with it everything that the stage could resume from. `params` names just the settings
# that a stage depends on, so a changed setting reruns that stage and what follows.
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

try:
    experiment = experiments.experiment_of(
        config, sys.argv if workflow.is_main_process else None
    )
    settings = experiment.base
except ConfigError as error:
    sys.exit(f"error: {error}")

out = settings.folder
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
        f"{out}/report.html",


rule prepare:
    output:
        receipt=f"{out}/prepare.json",
        samples=f"{out}/samples.json",
    log:
        f"{out}/logs/prepare.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    params:
        data=settings.data.tracked(),
    shell:
        f"{pipeline} prepare {arguments} 2>&1 | tee {{log}} >&2"


rule annotate:
    input:
        rules.prepare.output.samples,
    output:
        receipt=f"{out}/annotate.json",
    log:
        f"{out}/logs/annotate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        annotate=settings.annotate.tracked(),
    shell:
        f"{pipeline} annotate {arguments} 2>&1 | tee {{log}} >&2"


rule calibrate:
    input:
        rules.prepare.output.samples,
        rules.annotate.output.receipt,
    output:
        receipt=f"{out}/calibrate.json",
    log:
        f"{out}/logs/calibrate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    params:
        calibrate=settings.calibrate.tracked(),
        alphas=settings.alphas,
        variants=settings.variants,
    shell:
        f"{pipeline} calibrate {arguments} 2>&1 | tee {{log}} >&2"


rule probe:
    input:
        rules.prepare.output.samples,
        rules.calibrate.output.receipt,
    output:
        receipt=f"{out}/probe.json",
    log:
        f"{out}/logs/probe.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        seed=settings.seed,
        probe=settings.probe.tracked(),
        # it looks at the images as training does
        views=[settings.train.crop, settings.train.scale, settings.train.flip],
    shell:
        f"{train} probe {arguments} 2>&1 | tee {{log}} >&2"


rule pseudolabel:
    input:
        rules.prepare.output.samples,
        rules.calibrate.output.receipt,
        rules.probe.output.receipt if settings.pseudolabel.rule == "probe" else [],
    output:
        receipt=f"{out}/pseudolabel.json",
    log:
        f"{out}/logs/pseudolabel.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    params:
        pseudolabel=settings.pseudolabel.tracked(),
    shell:
        f"{pipeline} pseudolabel {arguments} 2>&1 | tee {{log}} >&2"


rule stage1:
    input:
        rules.prepare.output.samples,
        # label-only, semi-baseline and allspark train without an annotator
        rules.pseudolabel.output.receipt if settings.needs_annotator else [],
    output:
        receipt=f"{out}/stage1.json",
    log:
        f"{out}/logs/stage1.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        seed=settings.seed,
        train=settings.train.tracked(),
        stage1=settings.stage1.tracked(),
        # one learning rate schedule runs over both stages, so the length of Stage II matters here
        stage2=[settings.stage2.epochs, settings.stage2.batch_unlabeled],
    shell:
        f"{train} stage1 {arguments} 2>&1 | tee {{log}} >&2"


rule stage2:
    input:
        rules.prepare.output.samples,
        rules.stage1.output.receipt,
    output:
        receipt=f"{out}/stage2.json",
    log:
        f"{out}/logs/stage2.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        seed=settings.seed,
        train=settings.train.tracked(),
        stage2=settings.stage2.tracked(),
    shell:
        f"{train} stage2 {arguments} 2>&1 | tee {{log}} >&2"


rule evaluate:
    input:
        rules.prepare.output.samples,
        rules.stage1.output.receipt,
        rules.stage2.output.receipt,
    output:
        receipt=f"{out}/evaluate.json",
    log:
        f"{out}/logs/evaluate.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        evaluate=settings.evaluate.tracked(),
    shell:
        f"{train} evaluate {arguments} 2>&1 | tee {{log}} >&2"


rule report:
    input:
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
        html=f"{out}/report.html",
        receipt=f"{out}/report.json",
    log:
        f"{out}/logs/report.log",
    conda:
        "environment.yml"
    threads: workflow.cores
    params:
        gallery=settings.gallery.tracked(),
    shell:
        f"{pipeline} report {arguments} 2>&1 | tee {{log}} >&2"


rule experiment:
    input:
        lambda wildcards: experiments.run_receipts(experiment),
    output:
        **experiments.table_paths(experiment),
    log:
        f"{out}/logs/experiment.log",
    conda:
        "environment.yml"
    params:
        lambda wildcards: [list(cell.row[:2]) for cell in experiment.cells],
    shell:
        f"{pipeline} experiment-table {arguments} {request} 2> {{log}}"


rule experiment_labels:
    input:
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
    params:
        settings=lambda wildcards: experiment.tracked(
            experiment.run_named(wildcards.name)
        ),
    shell:
        f"{pipeline} experiment-run {arguments} {request} --name {{wildcards.name}} --seed {{wildcards.seed}}"
        " > {log} 2>&1 || (tail -n 20 {log} >&2; exit 1)"
