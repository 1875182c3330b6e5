"""Reads a table of colours: one colour and its name on each line, as data sets and painting programs write them."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import DatasetError
from pipeline.files import normal
from pipeline.text import read_lines

BETWEEN = r"[\s,;:]+"
CHANNELS = rf"(?P<red>\d{{1,3}}){BETWEEN}(?P<green>\d{{1,3}}){BETWEEN}(?P<blue>\d{{1,3}})"
CODE = r"#?(?P<code>[0-9a-fA-F]{6})"
NAME = r"(?P<name>\S.*?)"
LINES = tuple(
    re.compile(pattern)
    for colour in (CHANNELS, CODE)
    for pattern in (rf"{NAME}{BETWEEN}{colour}[,;:]*", rf"{colour}{BETWEEN}{NAME}")
)
"""NAME,R,G,B and R,G,B,NAME, and the same with #RRGGBB; separated by commas, semicolons, colons, tabs or spaces."""
COMMENT = "# "

Colour = tuple[int, int, int]


def read_colour_table(path: Path) -> list[tuple[str, Colour]]:
    """Names and colours of a table. A name may have several colours. The first line may be a header.

    raises: DatasetError for a line that is no colour with a name, and for a colour that two names have
    """
    table: dict[Colour, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip()
        if not text or text.startswith(COMMENT):
            continue
        match = next((match for pattern in LINES if (match := pattern.fullmatch(text))), None)
        if match is None and number == 1 and not re.search(r"\d", text):
            continue  # a header
        if match is None:
            raise DatasetError(f"{path} line {number} is {text!r}, expected NAME,RED,GREEN,BLUE or NAME,#RRGGBB")
        colour = _colour(match, f"{path} line {number}")
        name = normal(match["name"].strip("\"'"))
        if table.setdefault(colour, name) != name:
            raise DatasetError(
                f"{path} line {number} gives {name!r} the colour of {table[colour]!r}; change one of them"
            )
    if not table:
        raise DatasetError(f"{path} has no colour; write a line for each, e.g. cat,255,0,0")
    return [(name, colour) for colour, name in table.items()]


def _colour(match: re.Match[str], where: str) -> Colour:
    found = match.groupdict()
    if found.get("code"):
        code = int(match["code"], 16)
        return code >> 16, code >> 8 & 0xFF, code & 0xFF
    red, green, blue = int(match["red"]), int(match["green"]), int(match["blue"])
    if max(red, green, blue) > 255:
        raise DatasetError(f"{where} has the colour {red}, {green}, {blue}, expected numbers from 0 to 255")
    return red, green, blue
