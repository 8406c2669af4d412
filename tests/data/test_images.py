"""Images are decoded as a viewer shows them: 16 bits scaled, upright, transparency on white. Other bytes give a one-sentence
error."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from vldd_dist.control_characters import one_line
from vldd_dist.data.images import decode
from vldd_dist.errors import DataError

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, depth: int, colour: int, row: bytes, *before: bytes, height: int = 1) -> bytes:
    """A PNG of one `row` of pixels; `colour` 0 is grey, 2 RGB, 3 a palette, 4 grey and alpha, 6 RGBA."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + body + chunk(b"IEND", b"")


def pixels(data: bytes) -> list[tuple[int, ...]]:
    image = decode(data, "x")
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(4, 16, 0, words(0, 257, 32768, 65535)), grey(0, 1, 128, 255), id="16-bit grey"),
        pytest.param(
            png(3, 16, 0, words(0, 1, 65535), chunk(b"tRNS", words(0))), grey(255, 0, 255), id="16-bit grey, one transparent"
        ),
        pytest.param(png(2, 16, 2, words(65535, 0, 0, 0, 0, 65535)), [RED, BLUE], id="16-bit RGB"),
        pytest.param(
            png(2, 16, 2, words(65535, 0, 0, 0, 0, 65535), chunk(b"tRNS", words(0, 0, 65535))),
            [RED, WHITE],
            id="16-bit RGB, one transparent",
        ),
        pytest.param(png(2, 16, 4, words(0, 65535, 0, 0)), grey(0, 255), id="16-bit grey and alpha"),
        pytest.param(png(3, 8, 4, bytes([0, 255, 0, 0, 0, 127])), grey(0, 255, 128), id="grey and alpha"),
        pytest.param(png(2, 8, 0, bytes([9, 8]), chunk(b"tRNS", words(9))), grey(255, 8), id="grey, one transparent"),
        pytest.param(
            png(4, 2, 0, bytes([0b00011011]), chunk(b"tRNS", words(1))),
            grey(0, 255, 170, 255),
            id="2-bit grey, one transparent",
        ),
        pytest.param(png(2, 4, 0, bytes([0x3F]), chunk(b"tRNS", words(3))), grey(255, 255), id="4-bit grey, one transparent"),
        pytest.param(png(2, 1, 0, bytes([0b01000000]), chunk(b"tRNS", words(0))), grey(255, 255), id="1 bit, one transparent"),
        pytest.param(png(2, 8, 2, bytes([*RED, *BLUE]), chunk(b"tRNS", words(*RED))), [WHITE, BLUE], id="RGB, one transparent"),
        pytest.param(
            png(3, 8, 6, bytes([*RED, 255, *RED, 0, *BLACK, 127])), [RED, WHITE, (128, 128, 128)], id="RGBA, hidden red"
        ),
        pytest.param(
            png(2, 8, 3, bytes([0, 1]), chunk(b"PLTE", bytes([*RED, *BLUE])), chunk(b"tRNS", b"\0")),
            [WHITE, BLUE],
            id="palette",
        ),
        pytest.param(
            png(3, 8, 3, bytes([0, 1, 2]), chunk(b"PLTE", bytes([*BLACK, *BLUE, *RED])), chunk(b"tRNS", bytes([127, 0, 255]))),
            [(128, 128, 128), WHITE, RED],
            id="palette of alphas",
        ),
    ],
)
def test_levels_and_transparency(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    assert pixels(data) == expected


def test_webp_transparency() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 0))
    image.putpixel((1, 0), (*BLUE, 255))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, exact=True)
    assert pixels(buffer.getvalue()) == [WHITE, BLUE]


# Positions of the four corners' values in an upright image of 16 x 32 pixels; the stored image is turned or mirrored.
UPRIGHT = np.kron(np.array([[10, 90], [170, 250]], np.uint8), np.ones((16, 8), np.uint8))
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].T,
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_stand_upright(orientation: int, kind: str) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT))).convert("RGB").save(buffer, kind, exif=exif, quality=95)
    shown = np.asarray(decode(buffer.getvalue(), "x"))[:, :, 0].astype(int)
    assert shown.shape == UPRIGHT.shape
    assert np.abs(shown - UPRIGHT).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"\0" * 60_000])
def test_a_damaged_exif_block_leaves_the_image_as_it_lies(exif: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), "x").size == (16, 32)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GIF89a" + bytes(100), id="another format"),
        pytest.param(png(1, 16, 2, words(1, 2, 3), chunk(b"tRNS", b"\0")), id="short tRNS"),
        pytest.param(png(4, 8, 2, b"\1"), id="short row"),
        pytest.param(png(4, 8, 0, bytes(4), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2 << 20)))), id="text bomb"),
        pytest.param(b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(64), id="WebP header"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\x1b]0;x\x07" * 9, id="JPEG header, escapes"),
    ],
)
def test_bytes_that_are_no_image_are_a_one_sentence_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^here: ") as raised:
        decode(data, "here")
    assert one_line(str(raised.value)) == str(raised.value)
    assert " at 0x" not in str(raised.value), "an address in memory"


@pytest.mark.parametrize("side", [13_400, 60_000])
def test_an_image_with_too_many_pixels_is_told_so(side: int) -> None:
    with pytest.raises(DataError, match=r"^here: more than 178,956,970 pixels: make it smaller, or remove it$"):
        decode(png(side, 1, 0, b"", height=side), "here")


def test_a_large_image_is_no_reason_for_a_warning() -> None:
    """In a process of its own, because pytest has warning filters of its own."""
    code = "import sys; from vldd_dist.data.images import decode; decode(sys.stdin.buffer.read(), 'here')"
    data = png(13_000, 1, 0, b"", height=13_700)
    ended = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert b"here: not a readable JPEG, PNG or WebP image" in ended.stderr, "it has no pixels"
    assert b"Warning" not in ended.stderr
