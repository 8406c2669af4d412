"""Damaged shards: truncated anywhere, a flipped bit in a header, a missing end. Samples are never lost without an error."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.files.archives import archive
from vldd_dist.data.files import tars
from vldd_dist.data.files.shards import samples_of
from vldd_dist.errors import DataError


def read(data: bytes) -> list[dict[str, Any]]:
    return list(samples_of("a.tar", io.BytesIO(data)))


def headers(data: bytes) -> list[int]:
    """The offset of each header."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.offset for member in tar]


def end_of(data: bytes) -> int:
    """The offset of the first of the two zero blocks."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        return tar.offset


def test_whole_tars_are_read_whole() -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        data = archive(form=form)
        for whole in (data, data[: end_of(data) + 1024], data + bytes(5000), gzip.compress(data)):
            samples = read(whole)
            assert [sample["__key__"] for sample in samples] == list("abcde")
            assert all(sample["bin"] == b"\xa5" * 5 and sample["txt"] == b"\xa5" * 705 for sample in samples)
    assert read(archive([])) == []
    assert len(read(archive(["é" * 200 + ".txt"]))) == 1, "a name so long that it needs extra headers"


def test_a_tar_cut_anywhere_is_an_error() -> None:
    data = archive()
    end = end_of(data)
    for length in {*range(0, end + 1024, 256), *(at + more for at in [*headers(data), end] for more in (0, 1, 511, 512, 1023))}:
        with pytest.raises(DataError, match=r"a\.tar: not a complete WebDataset tar \(.+\)"):
            read(data[:length])
    with pytest.raises(DataError, match="not a complete WebDataset tar"):
        read(gzip.compress(data)[:-200])


def test_a_flipped_bit_in_any_header_names_its_place() -> None:
    data = archive()
    for at in headers(data)[1:]:
        # Some bits of the checksum field have no meaning: those of a space or NUL next to the digits.
        for byte in (0, 99, 100, 124, 135, 149, 153, 156, 257, 345, 511):
            for bit in (0, 4):
                damaged = bytearray(data)
                damaged[at + byte] ^= 1 << bit
                with pytest.raises(DataError, match=rf"a\.tar: not a complete WebDataset tar \(at byte {at}: "):
                    read(bytes(damaged))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data, end: data[: end + 512], "one zero block instead of two"),
        (lambda data, end: data[: end + 512] + data[:1024], "one zero block instead of two"),
        (lambda data, end: data[:end] + b"\1" + data[end + 1 :], "at byte "),
        (lambda data, end: data[: end + 600] + b"\1" + data[end + 601 :], "one zero block instead of two"),
        (lambda data, end: data + data, "but data follows: name concatenated tars one by one"),
        (lambda data, end: data[:end] + b"x" * 512, "at byte "),
        (lambda data, end: data[:end], "at byte "),
    ],
)
def test_the_end_is_two_zero_blocks_and_then_nothing(change: Any, sentence: str) -> None:
    data = archive()
    with pytest.raises(DataError, match=sentence):
        read(change(data, end_of(data)))


def test_a_sample_of_which_something_is_wrong_says_so_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_MEMBER_BYTES", 1000)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, size in [("a.txt", 1), ("b.txt", 1001), ("c.txt", 1), ("c.TXT", 1), ("d.__fault__", 1), ("e.txt", 1000)]:
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    samples = read(buffer.getvalue())
    assert [sample["__key__"] for sample in samples] == list("abcde")
    assert [sample["__key__"] for sample in samples if "__fault__" in sample] == list("bcd")


def test_hidden_files_between_the_members_of_a_sample_are_ignored() -> None:
    """A Mac writes `._1.png` beside `1.png`."""
    (sample,) = read(archive(["d/._1.png", "d/1.png", "d/._1.json", "d/.DS_Store", "d/1.json", "._x.png"]))
    assert (sample["__key__"], sample.keys() - {"__key__"}) == ("d/1", {"png", "json"})


def test_a_name_longer_than_a_path_can_be_is_refused() -> None:
    """webdataset's regular expression would take seconds for a name of 50 kB and hours for one of megabytes."""
    with pytest.raises(
        DataError, match=r"a\.tar: a member's name has 49,999 characters: write a tar with names of up to 4,096"
    ):
        read(archive(["a/" * 25_000]))


def test_a_sparse_member_that_claims_a_terabyte_is_not_unfolded(tmp_path: Path) -> None:
    """In GNU's old sparse format a header of 512 bytes states the size of the expanded file."""
    info = tarfile.TarInfo("a.txt")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[482:483] = b"\0"
    header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    samples = read(bytes(header) + archive(["b.txt"]))
    assert ["__fault__" in sample for sample in samples] == [True, False]


def test_a_chain_of_extended_headers_is_an_error() -> None:
    link = tarfile.TarInfo.create_pax_global_header({"comment": "x"}).replace(b"g" + bytes(100), b"x" + bytes(100), 1)
    header = bytearray(link)
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    with pytest.raises(DataError, match="not a complete WebDataset tar"):
        read(bytes(header) * 3000 + archive())
