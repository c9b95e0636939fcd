from __future__ import annotations

import errno
import os
import random
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from pvemu.disk.image import open_disk, open_disks
from pvemu.disk.spec import DiskConfig
from pvemu.errors import DiskError

SECTORS = 4096


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SECTORS * 512))
    return path


def refusal(path: str | Path, *, writable: bool = False, sector_size: int = 512) -> str:
    with pytest.raises(DiskError) as caught:
        open_disk(str(path), writable=writable, sector_size=sector_size)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_what_the_file_has(image: Path) -> None:
    disk = open_disk(str(image), writable=False)
    data = image.read_bytes()
    assert (disk.sectors, disk.sector_size) == (SECTORS, 512)
    assert disk.read(0, SECTORS) == data
    assert disk.read(SECTORS - 1, 1) == data[-512:]
    assert disk.read(5, 0) == b""
    buffer = bytearray(2048)
    disk.readinto(9, memoryview(buffer)[512:1536])
    assert bytes(buffer) == bytes(512) + data[9 * 512 : 11 * 512] + bytes(512)
    disk.close()
    disk.close()


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(("sector", "count"), [(SECTORS, 1), (0, SECTORS + 1), (-1, 1), (1 << 60, 1)])
def test_ranges_off_the_disk_are_errors(image: Path, writable: bool, sector: int, count: int) -> None:
    disk = open_disk(str(image), writable=writable)
    with pytest.raises(ValueError, match="are not on a disk of 4096"):
        disk.read(sector, count)
    with pytest.raises(ValueError, match="are not on a disk of 4096"):
        disk.write(sector, bytes(count * 512))
    with pytest.raises(ValueError, match="are not on a disk of 4096"):
        disk.discard(sector, count)
    with pytest.raises(ValueError, match="are not on a disk of 4096"):
        disk.write(0, b"short")
    disk.close()


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_the_file_is_not_written_unless_writable(image: Path, mode: int) -> None:
    image.chmod(mode)
    before = image.read_bytes()
    status = image.stat()
    disk = open_disk(str(image), writable=False)
    assert not disk.read_only
    disk.write(0, b"w" * 512 * 100)
    disk.discard(100, 2000)
    disk.flush()
    assert disk.read(99, 2) == b"w" * 512 + bytes(512)
    disk.close()
    assert image.read_bytes() == before
    assert image.stat().st_mtime_ns == status.st_mtime_ns


def test_a_disk_that_is_not_writable_is_opened_for_reading_only(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    really_open = os.open

    def note(path: str, how: int) -> int:
        flags.append(how)
        return really_open(path, how)

    monkeypatch.setattr(os, "open", note)
    open_disk(str(image), writable=False).close()
    open_disk(str(image), writable=True).close()
    assert [how & os.O_ACCMODE for how in flags] == [os.O_RDONLY, os.O_RDWR]
    assert not any(how & (os.O_CREAT | os.O_TRUNC) for how in flags)


def test_writable_writes_go_through(image: Path) -> None:
    data = bytearray(image.read_bytes())
    disk = open_disk(str(image), writable=True)
    disk.write(7, b"w" * 1024)
    disk.flush()
    data[7 * 512 : 9 * 512] = b"w" * 1024
    assert image.read_bytes() == data
    with suppress(OSError):  # not every file system can
        disk.discard(100, 64)
        data[100 * 512 : 164 * 512] = bytes(64 * 512)
    assert disk.read(0, SECTORS) == data == image.read_bytes()
    disk.close()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sectors", [SECTORS, SECTORS - 3])
def test_the_overlay_behaves_as_a_disk_would(tmp_path: Path, seed: int, sectors: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "disk.img"
    model = bytearray(rng.randbytes(sectors * 512))
    path.write_bytes(model)
    disk = open_disk(str(path), writable=False)
    for _ in range(400):
        sector = rng.randrange(sectors)
        count = min(rng.choice([0, 1, 2, 7, 8, 9, 16, 100, 1000, sectors]), sectors - sector)
        where = slice(sector * 512, (sector + count) * 512)
        match rng.randrange(4):
            case 0 | 1:
                assert disk.read(sector, count) == model[where]
            case 2:
                model[where] = data = rng.randbytes(512) * count
                disk.write(sector, data)
            case _:
                disk.discard(sector, count)
                model[where] = bytes(count * 512)
    assert disk.read(0, sectors) == model
    disk.close()


def test_a_sparse_image_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.img"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    disk = open_disk(str(path), writable=False)
    last = (1 << 34) - 1
    assert disk.sectors == 1 << 34
    assert disk.read(last, 1) == bytes(512)
    disk.write(last, b"w" * 512)
    disk.write(12345, b"x" * 512)
    assert disk.read(last - 1, 2) == bytes(512) + b"w" * 512
    disk.discard(0, disk.sectors)
    assert disk.read(last, 1) == disk.read(12345, 1) == bytes(512)
    disk.write(8, b"y" * 512)
    assert disk.read(7, 3) == bytes(512) + b"y" * 512 + bytes(512)
    disk.close()
    assert path.stat().st_blocks == 0


def test_4096_byte_sectors(image: Path) -> None:
    disk = open_disk(str(image), writable=False, sector_size=4096)
    assert (disk.sectors, disk.sector_size) == (SECTORS, 4096)
    disk.close()


def test_a_file_that_shrinks_gives_an_input_output_error(image: Path) -> None:
    disk = open_disk(str(image), writable=False)
    os.truncate(image, 1024)
    with pytest.raises(OSError, match="shorter"):
        disk.read(1, 2)
    disk.close()


def test_what_cannot_be_a_disk(tmp_path: Path) -> None:
    assert "no such file; check the path" in refusal(tmp_path / "nowhere")
    assert "options behind it are ro, rw" in refusal(tmp_path / "disk.img,rx")
    assert "a directory, not a disk" in refusal(tmp_path)
    (tmp_path / "empty").touch()
    assert "empty; give an image with at least one sector of 512" in refusal(tmp_path / "empty")
    assert "no such file" in refusal(tmp_path / "empty" / "below")
    os.mkfifo(tmp_path / "fifo")
    assert "a FIFO, not a disk" in refusal(tmp_path / "fifo")
    assert "a character device, not a disk" in refusal("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    assert "not a path" in refusal("")
    assert "not a path" in refusal("a\0b")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s"))
        assert "a socket, not a disk" in refusal(tmp_path / "s")


@pytest.mark.parametrize(("size", "sector_size"), [(511, 512), (513, 512), (1536, 4096), (4097, 4096)])
def test_a_size_that_is_no_multiple_of_the_sector_size(tmp_path: Path, size: int, sector_size: int) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(size))
    message = refusal(path, sector_size=sector_size)
    assert f"its size of {size} bytes is not a multiple of the sector size {sector_size}" in message
    assert ("drop sector-size=4096" in message) == (size == 1536)


@pytest.mark.parametrize("sector_size", [0, -512, 1, 511, 1024, 2048, 8192])
def test_other_sector_sizes_are_refused(image: Path, sector_size: int) -> None:
    assert "use 512 or 4096" in refusal(image, sector_size=sector_size)


@pytest.mark.parametrize(
    ("error", "writable", "text"),
    [
        (errno.EACCES, False, "may not be read (permission denied); check its permissions"),
        (errno.EACCES, True, "may not be written (permission denied); check its permissions, or leave out rw"),
        (errno.EROFS, True, "lies on a read-only file system; leave out rw, or copy it"),
        (errno.EIO, False, "cannot be read (Input/output error)"),
    ],
)
def test_a_file_that_may_not_be_opened(
    image: Path, monkeypatch: pytest.MonkeyPatch, error: int, writable: bool, text: str
) -> None:
    """The superuser may open everything, so the refusal is made up."""

    def refuse(path: str, flags: int) -> int:
        raise OSError(error, os.strerror(error), path)

    monkeypatch.setattr(os, "open", refuse)
    assert text in refusal(image, writable=writable)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")
def test_permissions_are_the_hosts(image: Path) -> None:
    image.chmod(0o444)
    assert "may not be written" in refusal(image, writable=True)
    image.chmod(0)
    assert "may not be read" in refusal(image)


def test_a_file_is_written_only_if_both_the_disk_and_the_caller_say_so(image: Path) -> None:
    before = image.read_bytes()
    for config, write in ((DiskConfig(str(image), writable=True), False), (DiskConfig(str(image)), True)):
        (disk,) = open_disks([config], write=write)
        disk.write(0, bytes(512))
        disk.close()
        assert image.read_bytes() == before
    (disk,) = open_disks([DiskConfig(str(image), writable=True)], write=True)
    disk.write(0, bytes(512))
    disk.close()
    assert image.read_bytes() == bytes(512) + before[512:]


def test_two_names_of_one_file_are_found(image: Path, tmp_path: Path) -> None:
    (tmp_path / "hard").hardlink_to(image)
    paths = [str(image), str(tmp_path / "hard")]
    for disk in open_disks([DiskConfig(path, read_only=True) for path in paths], write=False):
        disk.close()
    with pytest.raises(DiskError, match=r"the same file as .*; add ,ro to each or use a copy"):
        open_disks([DiskConfig(path) for path in paths], write=False)


def test_nothing_stays_open_when_one_disk_is_bad(image: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DiskError):
        open_disks([DiskConfig(str(image)), DiskConfig(str(tmp_path))], write=False)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
