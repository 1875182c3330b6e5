"""A run: its files, its commands, and its receipts and stores, checked against its settings and each other."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from pipeline.datasets import SampleIndex, load_samples
from pipeline.dependencies import differences, is_stale, receipts_before, stages_before, tracked_settings
from pipeline.digests import changed_files
from pipeline.errors import StoreError, UserError
from pipeline.folder import Folder, command_of
from pipeline.lock import check_leases
from pipeline.overrides import as_arguments, as_workflow_config
from pipeline.receipt import (
    AnnotateReceipt,
    BaselineReceipt,
    CalibrateReceipt,
    EvaluateReceipt,
    PrepareReceipt,
    ProbeReceipt,
    PseudolabelReceipt,
    Receipt,
    Stage1Receipt,
    Stage2Receipt,
    TrainingReceipt,
    fingerprint,
    follows,
    input_digests,
    read_receipt,
    write_receipt,
)
from pipeline.record import is_whole
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.store import CalibrationStore, LabelStore, ProbabilityStore

CHOSEN_LATER = ("alphas", "calibrate.alpha", "calibrate.alphas", "calibrate.variants", "variants")
"""Settings of calibrate that change no threshold at a given alpha and variant: tools that sweep those ignore them."""
MAX_SHOWN = 3

TrainingStage = Literal["stage1", "stage2"]


@dataclass(frozen=True)
class Run:
    """Access to a run's folder: its files, receipts and stores, checked to belong together, and its commands."""

    settings: Settings

    @property
    def folder(self) -> Folder:
        return Folder(self.settings.folder)

    def command(self, stage: str, rerun: str | None = None, **changes: Any) -> str:
        """Command line that runs a stage of this run, with the overrides that its settings were loaded with.

        In a folder of an experiment: as `command_of`.

        rerun:   stage that is run even if its receipt exists
        changes: further overrides, by short name
        """
        return command_of(self.folder.path, stage, as_workflow_config(self.settings, changes), rerun)

    def tool(self, name: str, *options: str) -> str:
        """Command line of a tool on this run, with the overrides that its settings were loaded with."""
        return shlex.join(["conformalsam", *self.arguments(name, *options)])

    def arguments(self, name: str, *options: str) -> list[str]:
        """Words of a tool or stage on this run, as the console script takes them."""
        origin = self.settings.origin
        return [name, origin.run or self.settings.name, *as_arguments(origin.overrides), *options]

    def tracked(self, stage: str) -> dict[str, Any]:
        """Every setting that the result of a stage depends on, directly or through the stages before it."""
        return tracked_settings(self.settings, stage)

    def has_receipt(self, stage: str) -> bool:
        return self.folder.receipt(stage).is_file()

    def is_stale(self, stage: str) -> bool:
        """Whether a stage has finished, but with other settings than these, or its records are damaged."""
        is_damaged = stage == "prepare" and self.folder.samples.is_file() and not is_whole(self.folder.samples)
        return is_stale(self.folder.receipt(stage), stage, self.tracked(stage)) or (
            is_damaged and self.has_receipt(stage)
        )

    def is_current(self, stage: str) -> bool:
        """Whether a stage has finished with these settings, images and masks, and samples.json or report.html is there.

        The stages before it do not count.
        """
        products = {"prepare": self.folder.samples, "report": self.folder.report}
        is_finished = self.has_receipt(stage) and products.get(stage, self.folder.receipt(stage)).is_file()
        if not is_finished or self.is_stale(stage) or self.has_other_sources(stage):
            return False
        return stage != "evaluate" or not self._stages_of_other_students(self.recorded("evaluate"))

    def sources(self, stage: str) -> str | None:
        """Fingerprint of the images and masks in samples.json that a stage after prepare depends on."""
        from pipeline.sources.fingerprints import sources_fingerprint

        return sources_fingerprint(self.folder.samples, stage)

    def has_other_sources(self, stage: str) -> bool:
        """Whether a finished stage read other images or masks than samples.json lists; for prepare: than are on disk.

        False if its receipt cannot be read.
        """
        if stage == "prepare":
            return self._has_other_files()
        try:
            return self.recorded(stage).get("sources") != self.sources(stage)
        except UserError:
            return False

    def _has_other_files(self) -> bool:
        """Whether files or contents differ from those that prepare read, or samples.json is missing or damaged.

        False if the data root does not exist: nothing can be read from it.
        """
        from pipeline.sources.stamps import has_changed

        if not Path(self.settings.data.root).is_dir():
            return False
        try:
            index = self.samples()
        except UserError:
            return True
        return has_changed(self.settings.data, index, self.folder.stamps, self.settings.needs_unlabeled)

    def begin(self, stage: str) -> None:
        """Remove the receipt of a stage. To be called after its inputs are checked and before its results change."""
        check_leases()
        self.folder.receipt(stage).unlink(missing_ok=True)

    def finish(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Write the receipt of a stage that has finished."""
        config = {"config": as_workflow_config(self.settings, {})}
        write_receipt(
            self.folder.receipt(stage), stage, {**facts, **self.made_from(stage), **config}, self.tracked(stage)
        )

    def made_from(self, stage: str) -> dict[str, Any]:
        """Entries `sources` and `inputs` of the receipt of a stage that has read what is there now."""
        if stage == "prepare":
            return {}
        return {"sources": self.sources(stage), "inputs": input_digests(receipts_before(self.settings, stage))}

    def is_finished(self, stage: str) -> bool:
        """Whether a stage is current, and has not read other inputs than are there now, as far as its receipt tells."""
        return self.is_current(stage) and self.follows_inputs(stage) is not False

    def follows_inputs(self, stage: str) -> bool | None:
        """Whether a finished stage has read what is there now, as `receipt.follows`."""
        return follows(self.recorded(stage), receipts_before(self.settings, stage))

    @overload
    def recorded(self, stage: Literal["prepare"]) -> PrepareReceipt: ...
    @overload
    def recorded(self, stage: Literal["annotate"]) -> AnnotateReceipt: ...
    @overload
    def recorded(self, stage: Literal["calibrate"]) -> CalibrateReceipt: ...
    @overload
    def recorded(self, stage: Literal["probe"]) -> ProbeReceipt: ...
    @overload
    def recorded(self, stage: Literal["pseudolabel"]) -> PseudolabelReceipt: ...
    @overload
    def recorded(self, stage: Literal["stage1"]) -> Stage1Receipt: ...
    @overload
    def recorded(self, stage: Literal["stage2"]) -> Stage2Receipt: ...
    @overload
    def recorded(self, stage: TrainingStage) -> TrainingReceipt: ...
    @overload
    def recorded(self, stage: Literal["evaluate"]) -> EvaluateReceipt: ...
    @overload
    def recorded(self, stage: Literal["baseline"]) -> BaselineReceipt: ...
    @overload
    def recorded(self, stage: str) -> Receipt: ...
    def recorded(self, stage: str) -> Any:
        """Receipt of a stage, made with any settings; StoreError if it has not finished, RecordError if damaged."""
        return read_receipt(self.folder.receipt(stage), stage, self.command(stage))

    @overload
    def receipt(self, stage: Literal["prepare"], free: Collection[str] = ()) -> PrepareReceipt: ...
    @overload
    def receipt(self, stage: Literal["annotate"], free: Collection[str] = ()) -> AnnotateReceipt: ...
    @overload
    def receipt(self, stage: Literal["calibrate"], free: Collection[str] = ()) -> CalibrateReceipt: ...
    @overload
    def receipt(self, stage: Literal["probe"], free: Collection[str] = ()) -> ProbeReceipt: ...
    @overload
    def receipt(self, stage: Literal["pseudolabel"], free: Collection[str] = ()) -> PseudolabelReceipt: ...
    @overload
    def receipt(self, stage: Literal["stage1"], free: Collection[str] = ()) -> Stage1Receipt: ...
    @overload
    def receipt(self, stage: Literal["stage2"], free: Collection[str] = ()) -> Stage2Receipt: ...
    @overload
    def receipt(self, stage: TrainingStage, free: Collection[str] = ()) -> TrainingReceipt: ...
    @overload
    def receipt(self, stage: Literal["evaluate"], free: Collection[str] = ()) -> EvaluateReceipt: ...
    def receipt(self, stage: str, free: Collection[str] = ()) -> Any:
        """Receipt of a stage, made with these settings.

        free:   full names of settings that may differ
        raises: StoreError if the stage has not finished, or was run with other settings, images or masks; RecordError
                if the receipt is damaged; DatasetError if samples.json is missing
        """
        return self._matching(stage, free)

    def _matching(self, stage: str, free: Collection[str] = ()) -> Receipt:
        receipt = self.recorded(stage)
        pairs = differences(receipt["settings"], self.tracked(stage))
        changed = [f"{name} {was}, now {now}" for name, was, now in pairs if name not in free]
        if changed:
            more = f", and {len(changed) - MAX_SHOWN} more" if len(changed) > MAX_SHOWN else ""
            raise StoreError(
                f"{self.folder.receipt(stage)} was made with other settings ({'; '.join(changed[:MAX_SHOWN])}{more}); "
                f"change them back, or run {self.command(stage)}"
            )
        if stage != "prepare" and receipt.get("sources") != self.sources(stage):
            self.samples()  # raises DatasetError if samples.json is missing
            raise StoreError(
                f"{self.folder.receipt(stage)} was made from other images or masks than {self.folder.samples} lists "
                f"now; run {self.command(stage)}"
            )
        if stage == "evaluate":
            self.refuse_other_students(cast(EvaluateReceipt, receipt))
        return receipt

    def student_digest(self, stage: TrainingStage) -> str:
        """Fingerprint of the students of a finished stage, the last and the best one; raises as `recorded`."""
        folders = [folder.name for folder in (self.folder.student(stage), self.folder.best_student(stage))]
        files = self.recorded(stage)["files"]
        return fingerprint({name: digest for name, digest in files.items() if name.partition("/")[0] in folders})

    def refuse_other_students(self, evaluated: EvaluateReceipt) -> None:
        """StoreError if a student was trained again since it was measured, or if it is not known which one was."""
        others = self._stages_of_other_students(evaluated)
        if others:
            raise StoreError(
                f"{self.folder.receipt('evaluate')} has the scores of another student of {others[0]} than "
                f"{self.folder.student(others[0])}, or does not record which; run "
                f"{self.command('evaluate', rerun='evaluate')}"
            )

    def _stages_of_other_students(self, evaluated: EvaluateReceipt) -> list[TrainingStage]:
        measured = evaluated.get("weights", {})
        return [
            stage
            for stage in cast(list[TrainingStage], list(evaluated["students"]))
            if not self.has_receipt(stage) or measured.get(stage) != self.student_digest(stage)
        ]

    def check_file(self, stage: TrainingStage | Literal["evaluate"], path: Path) -> None:
        """StoreError unless a file, or every file of a folder, has the SHA-256 in the receipt of the stage."""
        folder = self.folder.training(stage)
        name = path.relative_to(folder).as_posix()
        listed = cast(TrainingReceipt | EvaluateReceipt, self.recorded(stage))["files"]
        digests = {other: digest for other, digest in listed.items() if f"{other}/".startswith(f"{name}/")}
        changed = changed_files(folder, digests) if digests else [name]
        if changed:
            from_start = ", which trains it from the beginning" if stage in ("stage1", "stage2") else ""
            raise StoreError(
                f"{folder / changed[0]} is not as {stage} wrote it: its SHA-256 is not that in "
                f"{self.folder.receipt(stage)}; put it back, or run {self.command(stage, rerun=stage)}{from_start}"
            )

    def check_inputs(self, stage: str) -> None:
        """Check that every stage whose results a stage reads has finished with these settings; raises as `receipt`."""
        for before in stages_before(self.settings, stage):
            self._matching(before)

    def samples(self, stage: str = "pseudolabel") -> SampleIndex:
        """The samples that prepare listed.

        stage:  stage that is run, after prepare, by the command in errors about changed files
        raises: DatasetError if prepare has not run; RecordError if samples.json is damaged
        """
        index = load_samples(self.folder.samples, self.command("prepare"))
        return replace(index, again=self.command(stage, rerun="prepare"))

    def open_probabilities(self) -> ProbabilityStore:
        """The annotator's maps; StoreError unless annotate made them with these settings."""
        from pipeline.store import open_probabilities

        made_by = self.receipt("annotate")["fingerprint"]
        store = open_probabilities(self.folder.probabilities, again=self.command("annotate"))
        self._refuse_other("probabilities", store.fingerprint, made_by, "annotate")
        return store

    def open_calibration(self, free: Collection[str] = ()) -> CalibrationStore:
        """The thresholds; StoreError unless calibrate made them with these settings from the run's maps.

        free: full names of settings that may differ
        """
        from pipeline.store import open_calibration

        made_by = self.receipt("calibrate", free)["fingerprint"]
        store = open_calibration(self.folder.calibration, again=self.command("calibrate"))
        self._refuse_other("calibration", store.fingerprint, made_by, "calibrate")
        if self.has_receipt("annotate"):
            maps = self.recorded("annotate")["fingerprint"]
            self._refuse_other("calibration", store.state["probabilities"], maps, "calibrate", "from the maps")
        return store

    def open_labels(self, is_of_settings: bool = True) -> LabelStore:
        """The pseudo-labels of the run's unlabeled images and classes, made with its thresholds.

        is_of_settings: whether they must be made with these settings; a tool may show those of another alpha or rule
        raises:         StoreError if they do not exist or do not belong to the run
        """
        from pipeline.store import open_labels

        receipt = self.receipt("pseudolabel") if is_of_settings else self.recorded("pseudolabel")
        store = open_labels(self.folder.labels, again=self.command("pseudolabel"))
        self._refuse_other("labels", store.fingerprint, receipt["fingerprint"], "pseudolabel")
        if self.has_receipt("calibrate"):
            self.refuse_other_thresholds(store, self.recorded("calibrate"))
        if store.sample_ids != [sample.id for sample in self.samples().of("unlabeled")]:
            raise StoreError(
                f"{store.path} labels other images than the unlabeled ones of {self.folder.samples}; "
                f"run {self.command('pseudolabel', rerun='pseudolabel')}"
            )
        if store.class_names != self.settings.data.class_names:
            raise StoreError(
                f"{store.path} has the classes {store.class_names}, expected {self.settings.data.class_names}; "
                f"run {self.command('pseudolabel', rerun='pseudolabel')}"
            )
        return store

    def refuse_other_thresholds(self, labels: LabelStore, calibrated: CalibrateReceipt) -> None:
        """StoreError if the labels, finished or not, were not made with the run's thresholds."""
        alpha, variant = labels.state["alpha"], labels.state["variant"]
        made_by = labels.state.get("calibration", calibrated["fingerprint"])
        variants = [calibrated["variant"], *calibrated["beside"]]
        if made_by == calibrated["fingerprint"] and alpha in calibrated["alphas"] and variant in variants:
            return
        alphas = ", ".join(f"{alpha:g}" for alpha in calibrated["alphas"])
        raise StoreError(
            f"{labels.path} was made by other thresholds (alpha {alpha:g}, variant {variant}) than "
            f"{self.folder.calibration} has now (alpha {alphas}, variant {', '.join(variants)}); "
            f"run {self.command('pseudolabel', rerun='pseudolabel')}"
        )

    def _refuse_other(self, kind: str, actual: str, expected: str, stage: str, origin: str = "") -> None:
        if actual != expected:
            made = f"made {origin}".strip()
            raise StoreError(
                f"{self.folder.store(kind)} was {made} with fingerprint {actual}, expected {expected}; run "
                f"{self.command(stage, rerun=stage)}"
            )
