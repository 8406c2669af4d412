"""Tars in memory."""

import io
import tarfile

NAMES = [f"{sample}.{extension}" for sample in "abcde" for extension in ("bin", "txt")]


def archive(names: list[str] = NAMES, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with the named members of 5 and 705 bytes in turn."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 700 * (number % 2) + 5
            tar.addfile(info, io.BytesIO(b"\xa5" * info.size))
    return buffer.getvalue()
