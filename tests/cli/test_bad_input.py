"""Every bad input gives one line that says what, where and what to do, exit code 2, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.builder.make_elf import Load, make_elf, make_kernel, pv_notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Pvemu

NOBODY = 65534
PAGE = b"\xf4" * 0x1000
NOTES = pv_notes(entry=0x100000)
EM_ARM, EM_AARCH64 = 40, 183

KERNELS = {
    "an empty file": (b"", "empty file", "give a PV kernel"),
    "a truncated ELF header": (make_kernel()[:40], "cut short (40 bytes in all): truncated", "copy it again"),
    "truncated program headers": (make_kernel()[:100], "run past the end of the file", "copy it again"),
    "not an ELF file": (b"#!/bin/sh\n" * 100, "neither an ELF file nor a Linux bzImage", "give a PV kernel"),
    "an ELF file without Xen notes": (
        make_elf(64, [Load(0x100000, PAGE)]), "not a PV kernel: no Xen notes",
        "Not a Xen-ELF image: No ELF notes or '__xen_guest' section found",
    ),
    "an i386 ELF file": (make_elf(32, [Load(0x100000, PAGE)]), "not a PV kernel", "build it with Xen PV support"),
    "an ARM ELF file": (make_elf(32, [Load(0x100000, PAGE)], machine=EM_ARM), "ELF for ARM", "give an x86-64"),
    "an AArch64 ELF file": (
        make_elf(64, [Load(0x100000, PAGE)], machine=EM_AARCH64), "ELF for AArch64", "give an x86-64"
    ),
    "more memory than given": (
        make_elf(64, [Load(0x100000, PAGE, 1 << 30)], NOTES), "needs 1024 MiB", "give more memory"
    ),
    "more memory than there can be": (
        make_elf(64, [Load(0x100000, PAGE, (1 << 47) - 1)], NOTES), "needs 134217728 MiB", "link it again"
    ),
    "more memory than there are addresses": (
        make_elf(64, [Load(0x100000, PAGE), Load(0x200000, PAGE, (1 << 64) - 0x300000)], NOTES),
        "needs 17592186044414 MiB", "link it again",
    ),
}  # fmt: skip

#: What libxc builds a domain from without a word (elf_load_binary, elf_memcpy_safe), and pvemu with a warning.
ODD_KERNELS = {
    "program headers that overlap": (
        make_elf(64, [Load(0x100000, PAGE, 0x2000), Load(0x101000, PAGE)], NOTES),
        "program headers overlap at paddr 0x101000",
    ),
    "program headers out of the file": (
        make_elf(64, [Load(0x100000, PAGE), Load(0x101000, PAGE, 0x100000, filesz=0x80000)], NOTES),
        "truncated or corrupted; nothing of it is loaded",
    ),
}  # fmt: skip


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A kernel that would do."""
    path = tmp_path / "good"
    path.write_bytes(make_kernel())
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk that would do."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8192))
    return path


def refused(pvemu: Pvemu, *arguments: str | Path, says: tuple[str, ...]) -> None:
    done = pvemu("boot", *arguments)
    assert (done.code, done.out) == (2, b""), done.err
    assert done.line.startswith("pvemu: ")
    for text in says:
        assert text in done.line


@pytest.mark.parametrize("what", KERNELS)
def test_a_kernel_that_is(what: str, pvemu: Pvemu, tmp_path: Path) -> None:
    content, *says = KERNELS[what]
    path = tmp_path / "kernel"
    path.write_bytes(content)
    refused(pvemu, path, says=(f"{path}: ", *says))


@pytest.mark.parametrize("what", ODD_KERNELS)
def test_a_kernel_that_has(what: str, pvemu: Pvemu, tmp_path: Path) -> None:
    """It gets one line of warning, and runs: to its first instruction, HLT, which a guest may not execute."""
    content, says = ODD_KERNELS[what]
    path = tmp_path / "kernel"
    path.write_bytes(content)
    done = pvemu("boot", path)
    lines = done.err.splitlines()
    assert done.code == 6
    assert lines[0].startswith(f"pvemu: warning: {path}: program header")
    assert says in lines[0]
    assert done.err.count("warning") == 1
    assert lines[-1].startswith("pvemu: crash: d1v0 Unhandled: vec 13, #GP[0000]")
    assert "(XEN) RIP:    e033:[<0000000000100000>]" in lines


def test_a_kernel_that_is_not_there(pvemu: Pvemu, tmp_path: Path) -> None:
    refused(pvemu, tmp_path / "none", says=(f"{tmp_path}/none: no such file", "check the path of the kernel"))
    refused(pvemu, tmp_path / "good" / "none", says=(f"{tmp_path}/good/none: ",))


def test_a_kernel_that_is_a_directory(pvemu: Pvemu, tmp_path: Path) -> None:
    refused(pvemu, tmp_path, says=(f"{tmp_path}: is a directory", "give the kernel file in it"))


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ("1", "a guest has 4 to"), ("0", "a guest has 4 to"), ("-5", "a guest has 4 to"), ("1e9", "a guest has 4 to"),
        ("1000000000000000000000", "a guest has 4 to"), ("abc", "give MiB, such as 256"), ("", "give MiB, such as 256"),
        ("nan", "not a whole number"), ("inf", "not a whole number"), ("1.5", "not a whole number of MiB"),
        ("128M", "give MiB, such as 256"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("joined", [True, False], ids=["--memory=", "--memory "])
def test_memory_of(memory: str, says: str, joined: bool, pvemu: Pvemu, kernel: Path) -> None:
    option = [f"--memory={memory}"] if joined else ["--memory", memory]
    refused(pvemu, kernel, *option, says=("--memory ", says))


@pytest.mark.parametrize("vcpus", ["0", "-1", "two", "1.5", "129"])
def test_vcpus(pvemu: Pvemu, kernel: Path, vcpus: str) -> None:
    refused(pvemu, kernel, f"--vcpus={vcpus}", says=("--vcpus ", "give "))


def test_memory_too_small_for_the_kernel(pvemu: Pvemu, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(make_kernel(memsz=0x7FD000))
    refused(pvemu, path, "--memory", "8", says=(f"{path}: ", "give more memory"))


class TestDisks:
    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("empty.img", b"", ("empty", "give an image with at least one sector")),
            ("odd.img", bytes(1000), ("1000 bytes is not a multiple of the sector size 512", "cut or pad it")),
        ],
    )
    def test_that_no_one_could_use(
        self, name: str, content: bytes, says: tuple[str, ...], pvemu: Pvemu, kernel: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        refused(pvemu, kernel, "--disk", f"xvda={path},ro", says=(str(path), *says))

    def test_of_half_a_large_sector(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        path = tmp_path / "disk.img"
        path.write_bytes(bytes(4096 + 512))
        refused(pvemu, kernel, "--disk", f"{path},sector-size=4096", says=(str(path), "not a multiple of the sector"))

    def test_that_are_not_there(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        refused(pvemu, kernel, "--disk", f"xvda={tmp_path}/none", says=(f"{tmp_path}/none: no such file", "check the"))
        refused(pvemu, kernel, "--disk", "", says=("no path", "write [VDEV=]PATH"))
        refused(pvemu, kernel, "--disk", "xvda=", says=("no path", "write [VDEV=]PATH"))

    def test_that_are_directories_or_devices(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        refused(pvemu, kernel, "--disk", str(tmp_path), says=(f"{tmp_path}: a directory", "give an image file"))
        refused(pvemu, kernel, "--disk", "/dev/null", says=("/dev/null: a character device", "give an image file"))

    def test_named_twice(self, pvemu: Pvemu, kernel: Path, disk: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.img"
        other.write_bytes(bytes(512))
        refused(
            pvemu, kernel, "--disk", f"xvda={disk}", "--disk", f"xvda={other}", says=("xvda: named twice", "give each")
        )
        refused(pvemu, kernel, "--disk", f"xvda={disk}", "--disk", f"xvdb={disk}", says=("used by both", "add ,ro"))

    def test_with_options_nobody_knows(self, pvemu: Pvemu, kernel: Path, disk: Path) -> None:
        refused(pvemu, kernel, "--disk", f"{disk},rx", says=("no such file", "options behind it are ro, rw"))
        refused(pvemu, kernel, "--disk", f"{disk},ro,rw", says=("both ro and rw", "give one"))
        refused(pvemu, kernel, "--disk", f"{disk},sector-size=1024", says=("sector size is 512 or 4096",))

    @pytest.mark.parametrize("options", [",ro", ",rw"])
    def test_that_may_not_be_read(self, options: str, pvemu: Pvemu) -> None:
        with tempfile.TemporaryDirectory() as made:
            scratch = Path(made)
            scratch.chmod(0o755)
            kernel, disk = scratch / "kernel", scratch / "disk.img"
            kernel.write_bytes(make_kernel())
            disk.write_bytes(bytes(512))
            disk.chmod(0)
            with as_nobody():
                refused(pvemu, kernel, "--disk", f"{disk}{options}", says=("may not be read", "check its permissions"))
                refused(pvemu, disk, says=(f"{disk}: cannot read the kernel: Permission denied",))

    def test_that_may_not_be_written(self, pvemu: Pvemu) -> None:
        with tempfile.TemporaryDirectory() as made:
            scratch = Path(made)
            scratch.chmod(0o755)
            kernel, disk = scratch / "kernel", scratch / "disk.img"
            kernel.write_bytes(make_kernel())
            disk.write_bytes(bytes(512))
            disk.chmod(0o444)
            with as_nobody():
                refused(pvemu, kernel, "--write", "--disk", f"{disk},rw", says=("may not be written", "leave out rw"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything, if we have it."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


class TestOptions:
    @pytest.mark.parametrize("regex", ["(", "*a", "[", "a{2,1}", "(?P<a>.)(?P<a>.)"])
    def test_a_bad_regex(self, regex: str, pvemu: Pvemu, kernel: Path) -> None:
        refused(pvemu, kernel, "--until", regex, says=(f"--until {regex!r}: not a regular expression", "escape"))

    @pytest.mark.parametrize("timeout", ["abc", "", "0", "-1", "nan", "inf", "1e999"])
    def test_a_bad_timeout(self, timeout: str, pvemu: Pvemu, kernel: Path) -> None:
        refused(pvemu, kernel, f"--timeout={timeout}", says=(f"--timeout {timeout!r}: not a time", "give guest"))

    @pytest.mark.parametrize("option", ["--json", "--transcript"])
    def test_an_output_that_cannot_be_written(self, option: str, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none" / "file", kernel / "file"):
            refused(pvemu, kernel, option, path, says=(f"{option} {path}: cannot be written", "give a path"))

    @pytest.mark.parametrize("option", ["--json", "--transcript"])
    def test_an_output_over_an_input(self, option: str, pvemu: Pvemu, kernel: Path, disk: Path) -> None:
        before = kernel.read_bytes()
        for path in (kernel, disk):
            refused(pvemu, kernel, "--disk", disk, option, path, says=(f"{option} {path}: ", "give another"))
        assert (kernel.read_bytes(), disk.read_bytes()) == (before, bytes(8192))

    def test_both_outputs_to_one_file(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        refused(pvemu, kernel, "--json", out, "--transcript", out, says=("--json", "--transcript", "give another"))

    def test_a_ramdisk_that_is_not_one(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        none, empty = tmp_path / "none", tmp_path / "empty"
        empty.touch()
        refused(pvemu, kernel, "--ramdisk", none, says=(f"{none}: no such file", "check the path of the ramdisk"))
        refused(pvemu, kernel, "--ramdisk", tmp_path, says=("is a directory", "give the ramdisk file in it"))
        refused(pvemu, kernel, "--ramdisk", empty, says=("ramdisk is an empty file", "leave it out"))

    def test_a_ramdisk_that_is_too_large(self, pvemu: Pvemu, kernel: Path, tmp_path: Path) -> None:
        path = tmp_path / "ramdisk"
        with path.open("wb") as file:
            file.truncate(64 << 20)
        refused(pvemu, kernel, "--memory", "32", "--ramdisk", path, says=("ramdisk needs 64 MiB", "give more memory"))

    def test_a_command_line_that_is_too_long(self, pvemu: Pvemu, kernel: Path) -> None:
        refused(pvemu, kernel, "--cmdline", "x" * 1024, says=("--cmdline: 1024 bytes", "make it shorter"))

    @pytest.mark.parametrize(
        "arguments", [("--bogus",), ("--disk",), ("another-kernel",), ("--memory", "64", "--until"), ("--json",)]
    )
    def test_bad_usage(self, arguments: tuple[str, ...], pvemu: Pvemu, kernel: Path) -> None:
        done = pvemu("boot", kernel, *arguments)
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith("usage: pvemu")
        assert done.err.splitlines()[-1].startswith("pvemu")

    @pytest.mark.parametrize("words", [(), ("bood", "x"), ("--bogus",)])
    def test_no_verb_no_kernel(self, words: tuple[str, ...], pvemu: Pvemu) -> None:
        done = pvemu(*words)
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith("usage: pvemu")


def test_the_process_says_no_more_than_that(kernel: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pvemu.cli", "boot", kernel, "--memory", "1"], capture_output=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"pvemu: --memory 1: ")
    assert done.stderr.count(b"\n") == 1
