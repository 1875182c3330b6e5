"""What a message tells the user to do, taken out of it, so that a test does exactly that."""

import re
import shlex

import yaml


def settings_in(message: str, section: str = "") -> dict[str, object]:
    """`set NAME: VALUE`, as overrides of a run. section: of names without one"""
    pairs = re.findall(r"\bset ([a-z_0-9.]+): (\[.*?\]|[^\s;,)]+)", message)
    assert pairs, message
    return {name if "." in name else f"{section}.{name}": yaml.safe_load(value) for name, value in pairs[:1]}


def set_words(message: str) -> list[str]:
    """The same as words of a command line."""
    return [word for name, value in settings_in(message).items() for word in ("--set", f"{name}={yaml_text(value)}")]


def yaml_text(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def options_in(message: str) -> list[str]:
    """`add --OPTION VALUE`, as words."""
    found = re.search(r"\badd (?:e\.g\. )?(--[a-z-]+(?: [\w.,=\[\]]+)?)(?= to |;|,| \(|$|\n)", message)
    assert found, message
    return shlex.split(found[1])


def command_in(message: str, program: str) -> list[str]:
    """The words of the command of a program, up to the end of the line or what a comma or parenthesis begins."""
    found = re.search(rf"(?<![\w-]){program} [^\n]*?(?=, which|\)| or name |$|\n)", message)
    assert found, message
    return shlex.split(found[0])
