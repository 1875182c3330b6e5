"""Reads text files that users write or other programs export: id lists, class lists, label maps, run files."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from pipeline.errors import DatasetError

ENCODINGS = (  # UTF-32's little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, and the encoding that each one announces. Without a mark, a file is UTF-8."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # also ends of lines, and halves of characters
LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines also splits at characters that names may contain, e.g. U+0085


def is_one_line(text: str) -> bool:
    """Whether a name can stand in a line of a file or a message: it has no control characters and ends no line."""
    return CONTROL.search(text) is None


def read_text(path: Path) -> str:
    """Text of a file without its byte order mark. Line ends are kept.

    raises: DatasetError if the file cannot be read, or is no text in UTF-8 (UTF-16 and UTF-32 need a byte order mark)
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); correct its path or make it readable") from None
    mark, encoding = next(((mark, name) for mark, name in ENCODINGS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = len(LINE_END.split(error.object[: error.start].decode(encoding, errors="replace")))
        raise DatasetError(
            f"{path} is not a text file in UTF-8 (byte 0x{error.object[error.start]:02x} in line {line}); "
            "save it as UTF-8 text"
        ) from None
    if "\0" in text:
        line = len(LINE_END.split(text.partition("\0")[0]))
        raise DatasetError(
            f"{path} is not a text file in UTF-8 (a zero byte in line {line}, as in UTF-16 without a byte order mark); "
            "save it as UTF-8 text"
        )
    return text


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without their ends (LF, CRLF or CR) and without byte order marks; raises as `read_text`."""
    lines = [line.removeprefix("\ufeff") for line in LINE_END.split(read_text(path))]  # joined files have several
    return lines if lines[-1] else lines[:-1]
