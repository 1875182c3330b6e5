"""Images and masks that change before a stage runs: refused in one line, or not read; the printed command helps."""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import forked
from campaigns.outcome import Outcome
from campaigns.scenarios import FINISHED, Bench, Scenario
from contents import contents, differences
from PIL import Image

from pipeline.datasets import Sample, load_samples

COUNT = 80
ROOT = Path(__file__).parents[3]
TOOLS = {"gallery": (), "export": ("--to", "huggingface")}  # and their options
OF_TRAINING = ("stage1", "stage2", "evaluate", "report")
IDS_OF_MAPS = "probs.zarr/sample/c/0"
WRITE_PICTURES = ("report", *TOOLS)  # of unlabeled images; what they write is not compared


class Case(NamedTuple):
    """A change to the image or the mask of one sample before a command."""

    command: str
    change: str
    kind: str
    sample: Sample

    @property
    def file(self) -> str:
        return str(self.sample.image if self.kind == "image" else self.sample.mask)

    def __str__(self) -> str:
        return f"{self.command}, {self.kind} of {self.sample.id} ({self.sample.split}) {self.change}"


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Change files before stages and tools, and do what their messages say."""
    bench, rng = Bench(folder, until), random.Random(seed)
    shutil.copytree(folder / "data", folder / "unchanged")
    samples = load_samples(bench.run / "samples.json").samples
    commands = [*bench.stages[1:], *TOOLS]
    order = rng.sample([(command, change) for command in commands for change in CHANGES], len(commands) * len(CHANGES))
    counts: dict[str, Counter[str]] = {command: Counter() for command in commands}
    failures = []
    for number in range(count):
        command, change = order[number % len(order)]
        sample = rng.choice(samples)
        kind = "image" if sample.mask is None or rng.random() < 0.5 else "mask"
        case = Case(command, change, kind, sample)
        others = [one for one in samples if one.id != sample.id and (kind == "image" or one.mask is not None)]
        fate, problems = play(bench, case, rng.choice(others))
        counts[command] += Counter({"times": 1, fate: 1})
        failures += [f"{case}: {problem}" for problem in problems]
    columns = ("command", "times", "refused in one line", "not read: equal bytes", "silent or a traceback")
    names = ("times", "refused", "not read", "silent")
    return Outcome(columns, [(command, *(counts[command][name] for name in names)) for command in commands], failures)


def play(bench: Bench, case: Case, other: Sample) -> tuple[str, list[str]]:
    """What a command did after a change, `refused`, `not read` or `silent`; and what went wrong then or afterwards."""
    restore(bench)
    state = FINISHED if case.command in TOOLS else case.command
    shutil.rmtree(bench.run)
    shutil.copytree(bench.states / state, bench.run)
    CHANGES[case.change](bench.folder / "data", case.file, str(other.image if case.kind == "image" else other.mask))
    ended = forked.run(words_of(case, bench), bench.folder, bench.log)
    if ended.code == 0:
        changed = unexpected(bench, case)
        return ("silent", [f"silent: {changed}"]) if changed else ("not read", [])
    name = re.escape(case.file) if case.change != "swapped" else r"im\d\d\.png"  # whichever is read first
    found = re.search(rf"error: .*{name}.* run (snakemake .*?)$", ended.text, re.MULTILINE)
    if not ended.is_refused or found is None:
        return "silent", [f"ended badly: {ended.text[-2000:]}"]
    return "refused", problems_of_command(bench, case, shlex.split(found[1]))


def problems_of_command(bench: Bench, case: Case, command: Sequence[str]) -> list[str]:
    """What goes wrong when the printed command is run; where prepare refuses the file, it is put back first."""
    ended = run_snakemake(bench, command)
    if ended.returncode and case.change in UNREADABLE:
        text = ended.stdout + ended.stderr
        if case.file not in text or not re.search("(replace|restore) (it )?or", text) or "Traceback" in text:
            return [f"prepare does not say what to do: {text[-2000:]}"]
        shutil.copy(bench.folder / "unchanged" / case.file, bench.folder / "data" / case.file)
        ended = run_snakemake(bench, command)
    if ended.returncode:
        return [f"the command {shlex.join(command)} failed: {(ended.stdout + ended.stderr)[-2000:]}"]
    if case.command in TOOLS:
        again = forked.run(words_of(case, bench), bench.folder, bench.log)
        return [f"refused after the command: {again.text[-2000:]}"] if again.code else []
    return other_than_from_the_start(bench, case.command)


def other_than_from_the_start(bench: Bench, stage: str) -> list[str]:
    """How the run differs from one in an empty folder with the same images and masks."""
    fresh = bench.folder / "fresh/tiny"
    shutil.rmtree(fresh, ignore_errors=True)
    number = bench.stages.index(stage) + 1
    for each in bench.stages[:number]:
        words = [each, str(bench.folder / "tiny.yaml"), "--set", f"results={fresh.parent}"]
        ended = forked.run(words, bench.folder, bench.log)
        if ended.code:
            return [f"{each} failed in an empty folder: {ended.text[-2000:]}"]
    own, other = contents(bench.run), contents(fresh)
    # weights depend on the number of threads, which Snakemake sets
    found = [path for path in differences(own, other) if path.split("/")[0].partition(".")[0] not in OF_TRAINING]
    if IDS_OF_MAPS in found and maps_of(own) == maps_of(other):
        # an image that has lost its mask is unlabeled now, and its maps keep their row
        found = [path for path in found if not depends_on_rows(path)]
    return [f"differs from a run from the start: {found}"] if found else []


def maps_of(digests: dict[str, str]) -> list[str]:
    """Digests of the maps of all images, whatever their rows in the store."""
    return sorted(digest for path, digest in digests.items() if path.startswith("probs.zarr/logits/c/"))


def depends_on_rows(path: str) -> bool:
    """Whether a file depends on the rows of the maps: the maps themselves, fingerprints, and receipts with them."""
    return path.startswith("probs.zarr/") or path.endswith(("/made_by/c/0", "/zarr.json")) or "/" not in path


def restore(bench: Bench) -> None:
    """Put the images and masks back."""
    shutil.rmtree(bench.folder / "data")
    shutil.copytree(bench.folder / "unchanged", bench.folder / "data")


def unexpected(bench: Bench, case: Case) -> list[str]:
    """What differs from an undisturbed command after one that has not refused a file."""
    if case.command in WRITE_PICTURES and (case.kind, case.sample.split) == ("image", "unlabeled"):
        return ["it has read the image"]
    if case.command in TOOLS:
        return []
    found = bench.contents()
    restore(bench)
    return differences(found, bench.undisturbed(Scenario(case.command, "fresh")).contents)


def words_of(case: Case, bench: Bench) -> list[str]:
    shutil.rmtree(bench.run / "export", ignore_errors=True)
    return [case.command, str(bench.folder / "tiny.yaml"), *TOOLS.get(case.command, ())]


def run_snakemake(bench: Bench, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a printed command as it is, from the run's folder, with the workflow of this checkout."""
    assert command[0] == "snakemake"
    workflow = "--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles/default")
    words = [sys.executable, "-P", "-m", "snakemake", *workflow, *command[1:]]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False)


def change(root: Path, file: str, other: str) -> None:
    """Another picture of the same size and kind: rows in another order."""
    with Image.open(root / file) as opened:
        turned = opened.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(root / file)


def swap(root: Path, file: str, other: str) -> None:
    first, second = (root / name for name in (file, other))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def truncate(root: Path, file: str, other: str) -> None:
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: len(content) // 2])


CHANGES = {
    "changed": change,
    "swapped": swap,
    "truncated": truncate,
    "emptied": lambda root, file, other: (root / file).write_bytes(b""),
    "deleted": lambda root, file, other: (root / file).unlink(),
}
UNREADABLE = ("truncated", "emptied")
