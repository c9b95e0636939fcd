"""The configurations of the Xen project's guide to GRUB 2 for PV guests: host images and what they boot, in order."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pvemu.testing.plugin import BuildImage, StartGuest

ARCHES = ["x86_64"]
PROMPT = r"grub> "


@pytest.fixture(params=ARCHES)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loader(arch: str) -> str:
    return f"grub-{arch}-xen.bin"


class TestBasic:
    """1: `normal (xen/xvda,msdos1)/boot/grub/grub.cfg`, every module in the image."""

    def test_the_default_entry_of_the_guests_menu_boots(
        self, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        image = pv_image("guide-basic")
        guest = pv_guest(image[loader(arch)], image["basic.img"])
        assert guest.wait_for_menu() == (("first", "second"), 1, 3)
        guest.expect(r"I am the second entry of \(.*\)/boot/grub/grub\.cfg", not_matching="error:")
        assert guest.wait_for_shutdown() == "poweroff"
        assert 3 <= guest.seconds < 4
        assert len(guest.stages) == 1

    def test_another_entry_can_be_chosen(self, arch: str, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        image = pv_image("guide-basic")
        guest = pv_guest(image[loader(arch)], image["basic.img"])
        guest.wait_for_menu()
        guest.send("\x1b[A")
        guest.wait_for_input()
        assert guest.menu == (("first", "second"), 0, None)
        guest.send("\r")
        guest.expect("I am the first entry")

    @pytest.mark.parametrize("disks", [["xvda={empty}"], ["xvdb={basic}"], []])
    def test_without_the_file_there_is_a_prompt(
        self, disks: list[str], arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        image = pv_image("guide-basic")
        paths = {"empty": image["empty.img"], "basic": image["basic.img"]}
        guest = pv_guest(image[loader(arch)], *(disk.format(**paths) for disk in disks))
        guest.expect(PROMPT, not_matching="I am")
        guest.wait_for_input()
        assert guest.menu is None


class TestMemdisk:
    """2: the memdisk's configuration searches for the guest's."""

    @pytest.mark.parametrize(
        ("disks", "shown"),
        [
            (["xvda=root"], "(xen/xvda,msdos1)/boot/grub/grub.cfg"),
            (["xvda=separate-boot"], "(xen/xvda,msdos2)/grub/grub.cfg"),
            (["xvda=data", "xvdb=root"], "(xen/xvdb,msdos1)/boot/grub/grub.cfg"),
            (["xvda=data", "xvdc=separate-boot"], "(xen/xvdc,msdos2)/grub/grub.cfg"),
            (["xvda=separate-boot", "xvdb=root"], "(xen/xvdb,msdos1)/boot/grub/grub.cfg"),
        ],
        ids=["on-root", "own-partition", "other-disk", "own-partition-other-disk", "boot-grub-before-grub"],
    )
    def test_the_configuration_is_found(
        self, disks: list[str], shown: str, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        image = pv_image("guide-memdisk")
        specs = [f"{vdev}={image[name + '.img']}" for vdev, name in (disk.split("=") for disk in disks)]
        guest = pv_guest(image[loader(arch)], *specs)
        assert guest.expect([r"Reading (\S+)", PROMPT]).match[1] == shown
        assert guest.expect(r"I am (\S+)").match[1] == shown
        assert guest.wait_for_shutdown() == "poweroff"
        assert guest.errors() == []


class TestChainload:
    """3: the guest's own loader, from either standard place."""

    @pytest.mark.parametrize(
        ("disk", "place", "file"),
        [
            ("root", "(xen/xvda,msdos1)", "/boot/xen/pvboot-{arch}.elf"),
            ("separate-boot", "(xen/xvda,msdos2)", "/xen/pvboot-{arch}.elf"),
        ],
    )
    def test_the_guests_loader_runs(
        self, disk: str, place: str, file: str, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        image = pv_image("guide-chainload")
        path = file.format(arch=arch)
        guest = pv_guest(image[loader(arch)], f"xvda={image[disk + '.img']}")
        assert guest.expect(r"Chainloading (\S+)").match[1] == place + path
        assert guest.expect(r"I am (\S+)").match[1] == path
        assert guest.wait_for_shutdown() == "poweroff"
        assert [stage.guest_os for stage in guest.stages] == ["GRUB", "GRUB"]

    def test_a_configuration_alone_is_not_read(self, arch: str, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        guest = pv_guest(pv_image("guide-chainload")[loader(arch)], pv_image("guide-memdisk")["root.img"])
        guest.expect(PROMPT, not_matching=["Chainloading", "I am"])
        assert len(guest.stages) == 1


#: 4: what is searched for, in the documented order.
ORDER = ["/boot/xen/pvboot-{arch}.elf", "/xen/pvboot-{arch}.elf", "/boot/grub/grub.cfg", "/grub/grub.cfg"]
SUBSETS = list(product([True, False], repeat=len(ORDER)))


def subset_name(subset: tuple[bool, ...]) -> str:
    return "".join("x" if is_there else "-" for is_there in subset)


def disk_with(files: list[str], arch: str) -> str:
    """A recipe for a disk of two partitions: the root, and a /boot of its own that has the files without /boot."""
    parts = []
    for number, on_root in ((1, True), (2, False)):
        entries = ""
        for file in files:
            if file.startswith("/boot/") != on_root:
                continue
            source = f"text = '''\necho \"I am {file}\"\nhalt\n'''"
            if file.endswith(".elf"):
                artifact = f"boot-xen-{arch}.elf" if on_root else f"xen-{arch}.elf"
                source = f'recipe = "guide-stage2"\nartifact = "{artifact}"'
            entries += f'[[artifact.partition.file]]\nto = "{file}"\n{source}\n'
        uuid = f"6d1de400-0000-4000-8000-{number:012}"
        parts.append(f'[[artifact.partition]]\nsize = "4MiB"\nfs = "ext2"\nuuid = "{uuid}"\n{entries}')
    return 'description = "A case of the guide"\n[[artifact]]\nname = "disk.img"\nkind = "disk"\n' + "".join(parts)


class TestCombined:
    """4: the guest's own loader from either place first, then its configuration from either place."""

    @pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
    def test_the_first_file_of_the_order_wins(
        self, subset: tuple[bool, ...], arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        files = [file.format(arch=arch) for file, is_there in zip(ORDER, subset, strict=True) if is_there]
        disk = pv_image(f"guide-{arch}-{subset_name(subset)}", text=disk_with(files, arch))["disk.img"]
        guest = pv_guest(pv_image("guide-combined")[loader(arch)], f"xvda={disk}")
        if not files:
            guest.expect(PROMPT, not_matching="I am|Chainloading|Reading")
            assert len(guest.stages) == 1
            return
        place = "(xen/xvda,msdos1)" if files[0].startswith("/boot/") else "(xen/xvda,msdos2)"
        is_loader = files[0].endswith(".elf")
        verb = "Chainloading" if is_loader else "Reading"
        assert guest.expect([r"(Chainloading|Reading) (\S+)", PROMPT]).text == f"{verb} {place}{files[0]}"
        assert guest.expect(r"I am (\S+)").match[1] == files[0]
        assert guest.wait_for_shutdown() == "poweroff"
        assert len(guest.stages) == 1 + is_loader
        assert guest.errors() == []
