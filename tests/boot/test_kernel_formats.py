"""Kernels of all compressions: the domain builder takes each, GRUB some; where it does not, the verdict says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.mkimage.bzimage import COMPRESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvemu.machine import Machine
    from tests.boot.conftest import Boot, Booted

    Guest = Callable[[str, str], Path]

DOWN = "\x1b[B"
#: What needs a package of its own to unpack here.
PACKAGES = {"lzo": "lzallright", "lz4": "lz4", "zstd": "zstandard"}


def stop_at_hypercall(machine: Machine, name: str) -> None:
    """End the run when the guest first makes that hypercall."""
    machine.hypercalls.monitor(
        lambda row, args: machine.stop("seen", name) if row.name == name else None, lambda row, args, result: None
    )


@pytest.mark.slow
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_xen_starts_each_kernel(compression: str, boot: Boot, guest: Guest) -> None:
    if compression in PACKAGES:
        pytest.importorskip(PACKAGES[compression])
    done = boot(
        guest("kernels", f"vmlinuz-{compression}"), memory=128, cmdline="console=hvc0",
        prepare=lambda machine: stop_at_hypercall(machine, "set_trap_table"), timeout=10,
    )  # fmt: skip
    assert done.verdict.reason == "set_trap_table", "the kernel's C code runs"
    assert done.verdict.stages[0].guest_os == "linux"


def through_grub(compression: str, boot: Boot, grub: Path, guest: Guest) -> Booted:
    """The menu's entry for that kernel, to the kernel's start or until GRUB has given up (gzip starts in
    test_linux_storage.py, xz in test_linux.py).
    """
    keys = DOWN * COMPRESSIONS.index(compression) + "\r"
    return boot(
        grub, f"xvda={guest('kernel-menu', 'kernel-menu.img')},ro", send=[keys], stop_at="linux", timeout=40
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["bzip2", "lzma", "lzo", "lz4", "zstd"])
def test_grub_refuses_the_others_and_the_verdict_says_why(
    compression: str, boot: Boot, grub: Path, guest: Guest
) -> None:
    done = through_grub(compression, boot, grub, guest)
    assert b"error: not xen image." in done.console
    assert done.verdict.verdict == "failure"
    refusal = done.verdict.refusal
    assert refusal is not None
    assert refusal.error == "error: not xen image."
    kernel = refusal.kernel
    assert (kernel.vdev, kernel.kind, kernel.payload, kernel.bits) == ("xvda", "bzImage", compression, 64)
    assert kernel.file == f"xvda1:/boot/vmlinuz-{compression}"
    image = guest("kernel-menu", "kernel-menu.img").read_bytes()
    start = guest("kernels", f"vmlinuz-{compression}").read_bytes()[:1024]
    assert image[kernel.sector * 512 :].startswith(start)
    for said in (
        "the loader refused the kernel (error: not xen image.)", f"payload of format {compression}",
        f"Xen's domain builder {compression} too: boot it directly",
    ):  # fmt: skip
        assert said in done.verdict.reason
