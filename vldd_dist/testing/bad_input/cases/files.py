"""Bad image files, and tars that contain them."""

import io
import struct
import tarfile
import zlib

from PIL import Image


def image(form: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (12, 8)).save(buffer, form)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims to have 30,000 x 30,000 pixels."""
    whole = bytearray(image())
    whole[16:24] = struct.pack(">II", 30_000, 30_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


def bad_images() -> list[bytes]:
    whole = image("JPEG")
    return [
        b"",
        b"\0" * 100,
        b"GIF89a",
        whole[:60],
        whole[: len(whole) // 2],
        bomb(),
        image()[:40],
        b"<svg/>",
        b"\x80\x02}q\0.",
    ]


def tar(members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
