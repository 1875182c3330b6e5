"""Long searches for what breaks: each prints a Markdown table, and ends with exit code 1 if it found anything.

    python tests/campaign.py kills|shards|flips|writers|files|disk|permissions|states
        [--seed N] [--count N] [--folder EMPTY] [--until STAGE]
    python tests/campaign.py random [--minutes 30] [--seed FIRST] [PATH ...]

`random` runs every property test with other examples, a seed after the other; the suite itself draws the same ones in
every run. The others are the modules of tests/support/campaigns that have a function `search`: the same seed takes the
same decisions.
"""

import argparse
import importlib
import itertools
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXIT_FAILED = 1  # pytest's code for tests that failed
PYTEST = ("pytest", "-q", "-m", "hypothesis", "--hypothesis-profile=campaign")
SUPPORT = Path(__file__).parent / "support"


def search_examples(seed: int, paths: list[str]) -> int:
    """Run every property test with one seed; returns the number of tests that failed, printed with their examples."""
    words = [*PYTEST, f"--hypothesis-seed={seed}"]
    finished = subprocess.run([sys.executable, "-m", *words, *paths], capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        print(f"seed {seed}: {finished.stdout.strip().splitlines()[-1]}", flush=True)
        return 0
    print(finished.stdout + finished.stderr)
    if finished.returncode != EXIT_FAILED:
        sys.exit(f"the tests could not be run with seed {seed}")
    failed = re.findall(r"^FAILED (.*?)(?: - |$)", finished.stdout, re.MULTILINE)
    for test in failed:
        print(f"found: {test}\nrepeat with: {shlex.join([*words, test])}", flush=True)
    return len(failed)


def random_examples(arguments: argparse.Namespace) -> int:
    """Search until the time is over; returns the number of failures."""
    first = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    num_failed = 0
    for seed in itertools.count(first):
        num_failed += search_examples(seed, arguments.paths)
        if time.monotonic() > end:
            break
    print(f"seeds {first} to {seed}: {num_failed} failures")
    return num_failed


def campaign(arguments: argparse.Namespace) -> int:
    """Run one of the modules in tests/support/campaigns; returns the number of failures."""
    from campaigns.outcome import markdown

    module = importlib.import_module(f"campaigns.{arguments.name}")
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    count = module.COUNT if arguments.count is None else arguments.count
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.folder is None else arguments.folder.absolute()
        options = {} if arguments.until is None else {"until": arguments.until}
        outcome = module.search(folder, seed, count, **options)
    print(markdown(outcome))
    print(f"\n{arguments.name}, seed {seed}, count {count}: {time.monotonic() - start:.0f} s")
    return len(outcome.failures)


def main() -> None:
    # the folders calib, pipeline and train of tests/ would be taken for the packages
    sys.path[:] = [str(SUPPORT), *(path for path in sys.path if Path(path).absolute() != SUPPORT.parent.absolute())]
    known = sorted(path.stem for path in SUPPORT.glob("campaigns/*.py") if "\ndef search(" in path.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True)
    examples = commands.add_parser("random")
    examples.add_argument("--minutes", type=float, default=30)
    examples.add_argument("--seed", type=int, help="the first seed; default: drawn")
    examples.add_argument("paths", nargs="*", help="default: all tests")
    examples.set_defaults(run=random_examples)
    for name in known:
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, help="default: drawn")
        command.add_argument("--count", type=int, help="how often; default: COUNT of the module")
        command.add_argument("--folder", type=Path, help="where to work, and to leave everything; default: none stays")
        command.add_argument("--until", metavar="STAGE", help="the last stage of the run; default: report")
        command.set_defaults(run=campaign)
    arguments = parser.parse_args()
    sys.exit(1 if arguments.run(arguments) else 0)


if __name__ == "__main__":
    main()
