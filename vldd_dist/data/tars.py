"""Tars read forward, whole: what `tarfile` takes for the end (a damaged header, a missing end) is an error here."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any, Self, cast

from vldd_dist.control_characters import one_line
from vldd_dist.errors import DataError

# A member larger than this is no photograph; a sparse one may claim any size.
MAX_MEMBER_BYTES = 256 << 20
_ZEROS = tarfile.NUL * tarfile.BLOCKSIZE


def members_of(name: str, stream: io.BufferedIOBase) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of a tar's regular files, in order; None for the content of one that is too large.

    Args:
        name: of the tar, for errors.
        stream: read to its end; it may be compressed.

    Raises:
        DataError: a damaged header, a tar that is cut, without the two zero blocks of its end, or followed by something.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_SoundHeader) as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, _content(tar, member)
                # The archive would keep every header until it is closed.
                tar.members = []  # type: ignore[attr-defined]
    except Exception as error:
        raise DataError(f"{name}: not a whole WebDataset tar ({one_line(' '.join(str(error).split()))})") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if not 0 <= member.size <= MAX_MEMBER_BYTES:
        return None
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read()


class _SoundHeader(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next header. `HeaderError`, which `TarFile` takes for the end, is raised only where the archive does end."""
        stream = cast(Any, archive.fileobj)
        at = stream.tell()
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ != "EOFHeaderError":
                raise tarfile.ReadError(f"at byte {at}: {error or 'empty header'}: it is damaged, or was cut there") from None
            _check_end(stream, at)
            raise


def _check_end(stream: Any, at: int) -> None:
    """After one zero block, at byte `at`: another, and nothing but zeros to the end of the file."""
    if stream.read(tarfile.BLOCKSIZE) != _ZEROS:
        raise tarfile.ReadError(f"at byte {at}: one zero block where two end an archive: it is damaged, or was cut there")
    while rest := stream.read(1 << 20):
        if rest.strip(tarfile.NUL):
            raise tarfile.ReadError(f"its end is at byte {at}, and something follows: give concatenated tars one by one")
