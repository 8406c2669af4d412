"""Files of samples: an image, an image with its captions, and a tar."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def jpeg(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> bytes:
    """A JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar with these members."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def pair(path: Path, captions: str | bytes | None, colour: int = 0) -> None:
    """Write an image, and a text file of its captions beside it unless they are None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg((20 * colour, 0, 0)))
    if captions is not None:
        path.with_suffix(".txt").write_bytes(captions if isinstance(captions, bytes) else captions.encode())
