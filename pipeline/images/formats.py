"""The formats in which photographs and masks may be, by the first bytes of a file."""

from __future__ import annotations

from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LFS_POINTER = "Git LFS pointer"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (PNG_SIGNATURE, "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\x05\x16\x07", "AppleDouble"),
    (b"version https://git-lfs", LFS_POINTER),
    (b"<", "HTML, SVG or XML"),
)
"""First bytes of a file -> its format, as Pillow names it where it is one of ours."""
START = 32  # bytes at the start of a file that tell its format


class Kind(NamedTuple):
    """What a file should be, and the formats in which it may be."""

    name: str
    formats: tuple[str, ...]


PHOTOGRAPH = Kind("image", ("JPEG", "PNG", "TIFF", "WEBP", "BMP"))
MASK = Kind("mask", ("PNG", "TIFF", "BMP", "GIF"))


def format_of(start: bytes) -> str:
    """Format of a file by its first bytes, as Pillow names it; a name in words, or empty, for any other."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return "HEIC or AVIF" if start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif") else "MP4"
    return next((name for signature, name in SIGNATURES if start.startswith(signature)), "" if start else "empty")


def other_format(found: str, kind: Kind) -> str:
    """The rest of a message on a file that has none of a kind's formats."""
    *first, last = ("WebP" if name == "WEBP" else name for name in kind.formats)
    expected = f"expected {', '.join(first)} or {last}"
    if kind is MASK and found in ("JPEG", "WEBP"):
        return (
            f"is a {found.replace('WEBP', 'WebP')} file, whose compression may change class values, {expected}; export "
            "the mask again as PNG from the original"
        )
    if found == LFS_POINTER:
        return f"is a {LFS_POINTER} in place of the file; run git lfs pull"
    if found == "empty":
        return f"is an empty file, {expected}; restore or remove it"
    if not found:
        return f"is no image of a known format, {expected}; replace or remove it"
    return f"has the format {found}, {expected}; save it as PNG, or remove it"
