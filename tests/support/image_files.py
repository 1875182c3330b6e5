"""Image files written without Pillow, from arrays, for tests of the reader of images."""

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG colour types


def png(
    values: np.ndarray,
    colour: int,
    bits: int = 8,
    *,
    palette: np.ndarray | None = None,
    orientation: int | None = None,
    exif_first: bool = False,
) -> bytes:
    """A PNG. values: [H, W, C] of samples below 2**bits; palette: uint8 [N, 3]; orientation: EXIF, in a chunk eXIf."""
    height, width, _ = values.shape
    exif = [] if orientation is None else [_chunk(b"eXIf", exif_block(orientation))]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
            *(exif if exif_first else []),
            *([] if palette is None else [_chunk(b"PLTE", palette.tobytes())]),
            _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + _packed(row, bits) for row in values))),
            *([] if exif_first else exif),
            _chunk(b"IEND", b""),
        ]
    )


def png_without_pixels(height: int, width: int) -> bytes:
    """A grey PNG whose header is right and whose pixels are missing: decoding it would fail."""
    header = struct.pack(">IIBBBBB", width, height, 8, GREY, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


def exif_block(orientation: int) -> bytes:
    """EXIF with nothing but an orientation: a TIFF header and one directory of one entry, big-endian."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def grey_tiff(values: np.ndarray, bits: int, *, order: str = "<", white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF of one strip. values: [H, W] of samples below 2**bits; bits: 8 or 16; order: < or >"""
    height, width = values.shape
    pixels = values.astype(f"{order}u{bits // 8}").tobytes()
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 0 if white_is_zero else 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
    ]
    formats = {3: f"{order}HHIHxx", 4: f"{order}HHII"}  # a short stands in the first bytes of its four
    packed = b"".join(struct.pack(formats[kind], tag, kind, 1, value) for tag, kind, value in entries)
    pad = len(pixels) % 2
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels) + pad)
    return start + pixels + b"\0" * pad + struct.pack(f"{order}H", len(entries)) + packed + struct.pack(f"{order}I", 0)


def blocked_tiff(
    values: np.ndarray,
    block: tuple[int, int],
    *,
    order: str = "<",
    is_planar: bool = False,
    has_tiles: bool = True,
    is_deflated: bool = True,
) -> bytes:
    """A TIFF of tiles or strips. values: uint8 or uint16 [H, W, C]; block: height and width of one; order: < or >

    is_planar: each channel has tiles or strips of its own
    has_tiles: otherwise it has strips, which are as wide as the image
    """
    height, width, num = values.shape
    tall, wide = block if has_tiles else (block[0], width)
    planes = np.split(values, num, axis=2) if is_planar else [values]
    data = []
    for plane in planes:
        for top in range(0, height, tall):
            for left in range(0, width, wide):
                piece = plane[top : top + tall, left : left + wide]
                padding = (tall - piece.shape[0], wide - piece.shape[1]) if has_tiles else (0, 0)
                piece = np.pad(piece, [(0, padding[0]), (0, padding[1]), (0, 0)])
                samples = piece.astype(values.dtype.newbyteorder(order)).tobytes()
                data.append(zlib.compress(samples) if is_deflated else samples)
    starts = 8 + np.cumsum([0, *map(len, data)])
    layout = {322: [wide], 323: [tall], 324: starts[:-1], 325: list(map(len, data))}
    layout = layout if has_tiles else {273: starts[:-1], 278: [tall], 279: list(map(len, data))}
    bits, photometric = values.dtype.itemsize * 8, 2 if num >= 3 else 1
    tags = {
        256: [width],
        257: [height],
        258: [bits] * num,
        259: [8 if is_deflated else 1],
        262: [photometric],
        277: [num],
        **layout,
    }
    tags |= {284: [2 if is_planar else 1]} | ({338: [0] * (num - 3)} if num > 3 else {})
    shorts = (258, 259, 262, 277, 284, 338)
    content = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, int(starts[-1])) + b"".join(data)
    entries, behind, end = b"", b"", int(starts[-1]) + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        kind, letter = (3, "H") if tag in shorts else (4, "I")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *map(int, numbers))
        if len(packed) > 4:
            packed, behind = struct.pack(f"{order}I", end + len(behind)), behind + packed
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    return content + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright image of stored pixels [H, W, ...], from the definition of EXIF: where row 0 and column 0 belong."""
    rows_and_columns = np.swapaxes(pixels, 0, 1)
    return {
        1: pixels,  # top, left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: rows_and_columns,  # left, top
        6: rows_and_columns[:, ::-1],  # right, top
        7: rows_and_columns[::-1, ::-1],  # right, bottom
        8: rows_and_columns[::-1],  # left, bottom
    }[orientation]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _packed(row: np.ndarray, bits: int) -> bytes:
    """Bytes of a row of samples [W, C], the first one in the highest bits."""
    samples = row.reshape(-1)
    if bits >= 8:
        return samples.astype(f">u{bits // 8}").tobytes()
    each_bit = samples[:, None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each_bit.reshape(-1).astype(np.uint8)).tobytes()
