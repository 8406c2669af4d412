"""Reading a tar sequentially and completely. A damaged header or a missing end, which `tarfile` accepts as the end of the
archive, is an error here."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any, Self, cast

from vldd_dist.errors import DataError, message_of
from vldd_dist.store.user_files.reachability import check_reachable

# A member larger than this is not a photograph. (A sparse member may claim any size.)
MAX_MEMBER_BYTES = 256 << 20
# What is wrong with a link. `tar` and `tarfile` write links for symbolic links and for further names of a file (hard links).
LINK = "is a link to another file: write the tar with --dereference --hard-dereference (Python's tarfile: dereference=True)"
_ZEROS = tarfile.NUL * tarfile.BLOCKSIZE


def members_of(name: str, stream: io.BufferedIOBase) -> Iterator[tuple[str, bytes | str]]:
    """Names and contents of a tar's files in order. Links, and files that are too large, have no content but a text that says
    why, to follow the name in a sentence. Folders, devices and labels are left out.

    Args:
        name: name of the tar, for error messages.
        stream: the tar, which may be compressed; it is read to its end.

    Raises:
        DataError: a header is damaged, or the tar is truncated, does not end with two zero blocks, or is followed by other
            data.
        StoreError: the rest of the tar cannot be reached at the moment.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictHeader) as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, _content(tar, member)
                elif member.issym() or member.islnk():
                    # What it points to is outside the tar, or has been read and forgotten.
                    yield member.name, LINK
                # Otherwise `tarfile` keeps every header in memory until the archive is closed.
                tar.members = []  # type: ignore[attr-defined]
    except Exception as error:
        check_reachable(name, error)
        raise DataError(f"{name}: not a complete WebDataset tar ({message_of(error)})") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | str:
    if not 0 <= member.size <= MAX_MEMBER_BYTES:
        return f"is larger than {MAX_MEMBER_BYTES >> 20} MiB: remove it"
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read()


class _StrictHeader(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next header. Raises `HeaderError`, which `TarFile` treats as the end, only at the real end of the archive."""
        stream = cast(Any, archive.fileobj)
        offset = stream.tell()
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ != "EOFHeaderError":
                reason = error or "empty header"
                raise tarfile.ReadError(f"at byte {offset}: {reason}: it is damaged or truncated there") from None
            _check_end(stream, offset)
            raise


def _check_end(stream: Any, offset: int) -> None:
    """After a zero block at byte `offset`: check that a second one follows, and only zeros up to the end of the file."""
    if stream.read(tarfile.BLOCKSIZE) != _ZEROS:
        raise tarfile.ReadError(f"at byte {offset}: one zero block instead of two at the end: it is damaged or truncated there")
    while rest := stream.read(1 << 20):
        if rest.strip(tarfile.NUL):
            raise tarfile.ReadError(f"it ends at byte {offset}, but data follows: name concatenated tars one by one")
