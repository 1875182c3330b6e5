"""Commands in the README and the documents exist, with their options and settings; quoted messages are in the code."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import snakemake

from pipeline.__main__ import every_command
from pipeline.overrides import CONFIG_OPTIONS, parse_overrides, split_workflow_config
from pipeline.run_file import full_names

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for folder in ("docs", "docs/howto") for path in (ROOT / folder).glob("*.md")),
]
PACKAGES = ("calib", "pipeline", "train")
SHORTEST = 12  # characters of a message between two values that name it
VALUES = re.compile(r"\.\.\.|…|\b[A-Z]{1,}\b|\d+")  # what stands for a value in a quoted message


def code_of(document):
    """Code blocks and code spans, continued lines joined, comments left out."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for block in blocks for line in block.splitlines()] + spans


def commands_of(document):
    """Words of each simple command that begins with a program of ours."""
    for line in code_of(document):
        lexer = shlex.shlex(line.replace("'\\''", ""), posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # prose with an apostrophe
        while words:
            end = next((i for i, word in enumerate(words) if set(word) <= set("&;|")), len(words))
            command, words = words[:end], words[end + 1 :]
            if command and command[0] in ("conformalsam", "snakemake", "--config", "python", "make"):
                yield command


def check_conformalsam(words):
    command, rest = every_command(), list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0].isupper() or rest[0] in ("...", "$stage"):
            return
        context = click.Context(command)
        assert rest[0] in command.list_commands(context), f"no command {rest[0]}"
        command = command.get_command(context, rest.pop(0))
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    for word, value in zip(rest, [*rest, ""][1:], strict=True):
        if word.startswith("-") and word.strip("-."):
            option = word.partition("=")[0]
            is_known = option in options or option == "--help" or "ignore_unknown_options" in command.context_settings
            assert is_known, f"{command.name} has no option {option}"
            if option == "--set" and "$" not in value and not value.isupper():
                full_names(parse_overrides([value]))


def check_snakemake(words):
    given = [word.partition("=")[0] for word in words if "=" in word and not word.startswith("-")]
    if any("$" in name for name in given):
        return
    experiment = {"table", "seeds", "protocol", "budget", "arms", "root", "run", "to", "RUN"}
    split_workflow_config(dict.fromkeys(name for name in given if name not in experiment), words)


def check(words):
    program, *rest = words
    if program == "conformalsam":
        check_conformalsam(rest)
    elif program in ("snakemake", *CONFIG_OPTIONS):
        check_snakemake(words)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets for word in rest if word.islower())
    elif rest and rest[0].startswith(("benchmarks/", "docs/", "tests/")):
        script = ROOT / rest[0]
        assert script.is_file(), f"no script {rest[0]}"
        for option in (word.partition("=")[0] for word in rest if re.match("--[a-z]", word) and " " not in word):
            is_shared = option == "--set"  # of every script with the decorator of a command on a run
            assert is_shared or f'"{option}"' in script.read_text(), f"{rest[0]} has no option {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_exists_with_its_options_and_settings(document):
    wrong = []
    for words in commands_of(document):
        try:
            check(words)
        except Exception as error:
            wrong.append(f"{shlex.join(words)}: {error}")
    assert wrong == []


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises(AssertionError, match="no command exprot"):
        check(["conformalsam", "exprot", "mine"])
    with pytest.raises(AssertionError, match="export has no option --format"):
        check(["conformalsam", "export", "mine", "--format", "png"])
    with pytest.raises(Exception, match="aplha is not a setting"):
        check(["snakemake", "--cores", "8", "all", "--config", "run=mine", "aplha=0.1"])


def texts_of_the_code():
    """Text of every string in the code, an f-string as the list of its fixed texts."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_quoted_messages_are_those_of_the_code():
    ours, snakemakes = (ROOT / "docs/troubleshooting.md").read_text().split("## Snakemake")
    quoted = re.findall(r"^\| `([^`]+)`", ours, re.MULTILINE)
    fragments = [part.strip(" :;,()") for message in quoted for part in VALUES.split(message)]
    long = [fragment for fragment in fragments if len(fragment) >= SHORTEST]
    assert len(long) >= 10
    code = "\n".join(texts_of_the_code())
    assert [fragment for fragment in long if fragment not in code] == []
    code = "".join(path.read_text() for path in Path(snakemake.__file__).parent.rglob("*.py"))
    quoted = re.findall(r"^\| `([^`]+)` \|", snakemakes, re.MULTILINE)
    assert len(quoted) >= 2
    assert [message for message in quoted if message not in code] == []
