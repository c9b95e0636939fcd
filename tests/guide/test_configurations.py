"""The configurations of the Xen project's guide to GRUB 2 for PV guests: host images and what they boot, in order."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

import pytest

from pvemu.builder.elfnotes import find_notes
from pvemu.mkimage import NotHereError

if TYPE_CHECKING:
    from pathlib import Path

    from pvemu.testing.plugin import BuildImage, StartGuest

ARCHES = ["x86_64", "i386"]
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
        guest = pv_guest(image[loader(arch)], f"xvda={image[f'{disk}-{arch}.img']}")
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


def disk_name(subset: tuple[bool, ...], arch: str) -> str:
    return f"disk-{arch}-{'-'.join('yes' if is_there else 'no' for is_there in subset)}.img"


class TestCombined:
    """4: the guest's own loader from either place first, then its configuration from either place."""

    @pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
    def test_the_first_file_of_the_order_wins(
        self, subset: tuple[bool, ...], arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        files = [file.format(arch=arch) for file, is_there in zip(ORDER, subset, strict=True) if is_there]
        image = pv_image("guide-combined")
        guest = pv_guest(image[loader(arch)], f"xvda={image[disk_name(subset, arch)]}")
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


class TestGuestSide:
    """5: `grub-install` in the guest, and its core.elf at the standard place."""

    @pytest.mark.slow
    def test_what_grub_install_makes_is_chainloaded(
        self, pv_guest: StartGuest, pv_image: BuildImage, tmp_path: Path
    ) -> None:
        kernel = pv_image("debian-kernel")["vmlinuz"]
        ramdisk = pv_image("linux-root")["root.cpio.gz"]
        disk = tmp_path / "root.img"
        disk.write_bytes(pv_image("guide-install")["root.img"].read_bytes())
        inside = pv_guest(
            kernel, f"xvda={disk},rw", memory=128, ramdisk=ramdisk, cmdline="console=hvc0 quiet", write=True
        )
        for arch in ARCHES:
            inside.expect(f"Installing for {arch}-xen platform")
            inside.expect("Installation finished. No error reported.", not_matching="error:")
            inside.expect(f"installed for {arch} at")
        assert inside.text.count("warning: no hints available for your platform") == 2
        assert inside.wait_for_shutdown() == "poweroff"
        inside.close()
        for arch in ARCHES:
            guest = pv_guest(pv_image("pvgrub")[loader(arch)], disk)
            guest.expect(re.escape(f"Chainloading (xen/xvda,msdos1)/boot/xen/pvboot-{arch}.elf"))
            guest.expect(re.escape(f"This is {arch}-xen from (xen/xvda,msdos1)/boot/grub"))
            assert guest.wait_for_shutdown() == "poweroff"
            assert [stage.guest_os for stage in guest.stages] == ["GRUB", "GRUB"]
            assert guest.errors() == []


class TestMenuLst:
    """6: `kernel (hd0,0)/boot/xen/pvboot-x86_64.elf` in a guest's menu.lst."""

    def test_pv_grub_chainloads_by_it(self, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        try:
            kernel = pv_image("pvgrub-legacy")["pv-grub-x86_64.gz"]
        except NotHereError as error:
            pytest.skip(str(error))
        disk = pv_image("guide-legacy")["menu-lst-x86_64.img"]
        guest = pv_guest(kernel, disk, cmdline="(hd0,0)/boot/grub/menu.lst")
        guest.expect("I am /boot/xen/pvboot-x86_64.elf")
        assert len(guest.stages) == 2

    def test_without_a_pv_grub_it_says_what_to_set(
        self, pv_image: BuildImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PVEMU_PVGRUB_LEGACY", str(tmp_path / "none"))
        with pytest.raises(NotHereError, match=r"PVEMU_PVGRUB_LEGACY: expected the path of a file"):
            pv_image("pvgrub-legacy")

    def test_grub_2_reads_it_too(self, arch: str, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        image = pv_image("guide-legacy")
        guest = pv_guest(image[loader(arch)], image[f"menu-lst-{arch}.img"])
        assert guest.wait_for_menu() == (("Chainload grub2",), 0, 1)
        guest.expect(f"I am /boot/xen/pvboot-{arch}.elf", not_matching="error:")
        assert guest.wait_for_shutdown() == "poweroff"
        assert [stage.guest_os for stage in guest.stages] == ["GRUB", "GRUB"]

    def test_hd_names_are_aliases_in_the_order_of_the_disks(
        self, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        image = pv_image("guide-legacy")
        first = pv_image("guide-memdisk")["data.img"]
        guest = pv_guest(image[loader(arch)], first, image[f"menu-lst-{arch}.img"])
        guest.expect(re.escape("error: file `/boot/grub/menu.lst' not found."))
        guest.wait_for_input()
        guest.send("cat (hd0,msdos1)/etc/hostname; ls (hd1,msdos1)/boot/xen; cat (hd2,msdos1)/x\r")
        guest.expect("\ndata only")
        guest.expect(f"pvboot-{arch}.elf")
        guest.expect("error: disk `hd2,msdos1' not found.")


class TestDebian:
    """7: Debian's image as it is, by Xen's x86 PV boot loader protocol: two paths, in this order, of its own width."""

    @pytest.mark.parametrize(
        ("subset", "file"),
        [
            ((True, True, True, True), "/boot/xen/pvboot-{arch}.elf"),
            ((False, True, True, True), "/xen/pvboot-{arch}.elf"),
            ((False, False, True, True), "/boot/grub/grub.cfg"),
            ((False, False, False, True), "/grub/grub.cfg"),
        ],
        ids=lambda value: subset_name(value) if isinstance(value, tuple) else None,
    )
    def test_it_looks_in_the_documented_order(
        self, subset: tuple[bool, ...], file: str, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        disk = pv_image("guide-combined")[disk_name(subset, arch)]
        guest = pv_guest(pv_image("pvgrub")[loader(arch)], disk)
        assert guest.expect(r"I am (\S+)").match[1] == file.format(arch=arch)
        assert guest.wait_for_shutdown() == "poweroff"
        assert len(guest.stages) == 1 + file.endswith(".elf")
        assert guest.errors() == []

    def test_of_two_widths_it_takes_its_own(self, arch: str, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        guest = pv_guest(pv_image("pvgrub")[loader(arch)], pv_image("guide-widths")["both.img"])
        guest.expect(f"I am /boot/xen/pvboot-{arch}.elf")
        assert len(guest.stages) == 2

    def test_another_width_under_its_own_name_is_refused(
        self, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        guest = pv_guest(pv_image("pvgrub")[loader(arch)], pv_image("guide-widths")["swapped.img"])
        guest.expect(PROMPT, not_matching="I am")
        assert guest.errors() != []
        assert len(guest.stages) == 1

    def test_the_root_of_a_file_system_is_not_searched(
        self, arch: str, pv_guest: StartGuest, pv_image: BuildImage
    ) -> None:
        guest = pv_guest(pv_image("pvgrub")[loader(arch)], pv_image("guide-widths")["top.img"])
        guest.expect(PROMPT, not_matching=["Chainloading", "I am"])
        probed = re.findall(r"no such device: (\S+)\.\n", guest.text)
        assert probed[:2] == [f"/boot/xen/pvboot-{arch}.elf", f"/xen/pvboot-{arch}.elf"]
        assert not [path for path in probed if path.startswith("/pvboot")]

    def test_both_of_a_guests_loaders_are_what_the_protocol_wants(self, arch: str, pv_image: BuildImage) -> None:
        image = (pv_image("pvboot")[f"pvboot-{arch}.elf"]).read_bytes()
        assert image[:5] == b"\x7fELF" + {"x86_64": b"\2", "i386": b"\1"}[arch]
        (notes,) = find_notes(memoryview(image))
        assert (notes.parms.guest_os, notes.parms.loader) == ("GRUB", "generic")
