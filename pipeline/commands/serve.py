"""Command `serve`: calibrated labels as predictions in Label Studio."""

from __future__ import annotations

import logging

import click

from pipeline.cli import run_argument
from pipeline.settings import Settings

log = logging.getLogger(__name__)


@click.command()
@run_argument
@click.option("--alpha", type=float, help="One of the stored alphas. Default: the chosen one.")
@click.option("--port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="Port; 0: a free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Anybody who reaches it reads labels.",
)
def serve(settings: Settings, alpha: float | None, port: int, host: str) -> None:
    """Serve the pseudo-labels to Label Studio (ML backend).

    It serves until Ctrl-C. In Label Studio: Settings, Model, Connect Model, with the address that is printed. The
    labeling interface needs <BrushLabels> with the names of the classes; `conformalsam export RUN --to label-studio`
    writes one. Tasks are matched by the names of their image files. Correct the predictions, export the project as
    JSON, and read it with `conformalsam import-masks`.

    For CVAT: cvat-cli task auto-annotate TASK --function-module pipeline.serving.cvat -p run=str:RUN
    """
    from pipeline.serving.label_studio import open_backend
    from pipeline.serving.labels_by_file import labels_of

    with open_backend(labels_of(settings, alpha), host, port) as backend:
        address, number = backend.server_address[:2]
        log.info("labels of %d images at http://%s:%s", len(backend.labels.exported.samples), address, number)
        try:
            backend.serve_forever()
        except KeyboardInterrupt:
            log.info("stopped")
