"""What people had that is no scenario: kernels that the toolstack refuses, and the state of a disk at the hand-off.

The others are in field-bugs.pvemu.toml.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from pvemu.errors import KernelError

if TYPE_CHECKING:
    from pvemu.testing.plugin import BuildImage, StartGuest

ARCHES = ["x86_64", "i386"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    ("compression", "package"),
    [("gzip", ""), ("bzip2", ""), ("lzma", ""), ("xz", ""), ("zstd", "zstandard"), ("lz4", "lz4")],
)
def test_nixpkgs_121087_the_toolstack_boots_what_the_loader_cannot_or_names_what_it_needs(
    compression: str, package: str, arch: str, pv_guest: StartGuest, pv_image: BuildImage
) -> None:
    packed = pv_image("packed-kernels")[f"vmlinuz-{compression}-{arch}"]
    if package and find_spec(package) is None:
        with pytest.raises(KernelError, match=f"compressed with {compression}: .*pip install {package}"):
            pv_guest(packed)
        return
    pv_guest(packed).expect(f"I am /boot/xen/pvboot-{arch}.elf")


def test_mirage_998_a_kernel_without_xen_notes(pv_guest: StartGuest, pv_image: BuildImage) -> None:
    with pytest.raises(KernelError, match="no Xen"):
        pv_guest(pv_image("field-bugs")["no-notes.elf"])


def test_qubes_issues_3136_a_loader_for_another_type_of_guest(pv_guest: StartGuest, pv_image: BuildImage) -> None:
    with pytest.raises(KernelError, match="PVH"):
        pv_guest(pv_image("field-bugs")["pvh.elf"])


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("loader", "state"), [("pvgrub:grub-{}-xen.bin", 1), ("field-bugs:no-reset-{}.bin", 6)])
def test_grub_c7995256e_a_disk_can_be_attached_anew_only_when_its_state_is_1(
    loader: str, state: int, arch: str, pv_guest: StartGuest, pv_image: BuildImage
) -> None:
    recipe, artifact = loader.format(arch).split(":")
    guest = pv_guest(pv_image(recipe)[artifact], pv_image("guide-chainload")[f"root-{arch}.img"])
    node = '/local/domain/1/device/vbd/51712/state = "{}"'
    guest.expect("Chainloading")
    assert node.format(3) in guest.xenstore, "while the loader reads, the disk is connected (3 is all it says)"
    guest.wait_for_stage(1)
    assert node.format(state) in guest.xenstore
