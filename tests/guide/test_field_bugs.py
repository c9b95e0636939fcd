"""Bugs that people had, each by its public id: the bad image fails for the stated reason, the good one boots."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from pvemu.errors import KernelError
from pvemu.testing.failures import ExpectTimeoutError, GuestCrashError, UnexpectedOutputError
from tests.guide.kernels import bzimage, with_bad_entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pvemu.testing.plugin import BuildImage, StartGuest

    MakeDisk = Callable[[dict[str, str | bytes]], Path]

PROMPT = "grub> "
MARK = "I am "
BOOT = "linux /boot/vmlinuz\nboot\n"
NOT_XEN = "error: not xen image."
NOT_LOADED = "error: you need to load the kernel first."


class TestOpenwrt3791:
    """openwrt/openwrt#3791: the host's image looks for SUSE's /boot/grub2/grub.cfg, the guest has /boot/grub."""

    HOST = '''description = "A host image with another vendor's path"
[[artifact]]
name = "grub.bin"
kind = "grub"
target = "x86_64-xen"
prefix = "/boot/grub2"
modules = [
  "normal", "configfile", "search", "search_fs_file", "part_msdos", "ext2", "memdisk", "tar", "echo", "test", "halt",
]
config = "normal (memdisk)/grub.cfg"
[[artifact.memdisk]]
to = "/grub.cfg"
text = """
if search -s -f /boot/grub2/grub.cfg ; then
  configfile /boot/grub2/grub.cfg
fi
"""
'''

    def test_the_path_of_another_vendor(self, pv_guest: StartGuest, pv_image: BuildImage, make_disk: MakeDisk) -> None:
        host = pv_image("field-grub2-path", text=self.HOST)["grub.bin"]
        guest = pv_guest(host, make_disk({"/boot/grub/grub.cfg": f'echo "{MARK}here"\nhalt\n'}))
        with pytest.raises(UnexpectedOutputError, match="grub> "):
            guest.expect(MARK, not_matching=PROMPT)
        assert "error: no such device: /boot/grub2/grub.cfg." in guest.text

    def test_its_own(self, pv_guest: StartGuest, pv_image: BuildImage, make_disk: MakeDisk) -> None:
        host = pv_image("field-grub2-path", text=self.HOST)["grub.bin"]
        guest = pv_guest(host, make_disk({"/boot/grub2/grub.cfg": f'echo "{MARK}here"\nhalt\n'}))
        guest.expect(MARK, not_matching=PROMPT)


class TestXenclientOe1477:
    """OpenXT/xenclient-oe#1477: the entry is not the start-up code."""

    def test_the_entry_of_a_bad_link(self, pv_guest: StartGuest, kernel: bytes, tmp_path: Path) -> None:
        bad = tmp_path / "bad.elf"
        bad.write_bytes(with_bad_entry(kernel, 0x2000))
        guest = pv_guest(bad)
        with pytest.raises(GuestCrashError, match=r"vec 6, #UD") as caught:
            guest.expect(MARK)
        assert caught.value.seen.stage.entry == 0x2000
        assert "(XEN) RIP:    e033:[<0000000000002000>]" in caught.value.report
        assert caught.value.seen.hypercalls == []

    def test_the_start_up_code(self, pv_guest: StartGuest, kernel: bytes, tmp_path: Path) -> None:
        good = tmp_path / "good.elf"
        good.write_bytes(kernel)
        guest = pv_guest(good)
        guest.expect(MARK)
        assert guest.stages[0].entry == 0


class TestKernelPayload:
    """What a distribution packs its kernel with: the toolstack takes more than the loader does."""

    @pytest.mark.parametrize(
        "compression",
        [
            pytest.param("zstd", id="NixOS/nixpkgs#121087"),
            pytest.param("lz4", id="BitFolk-users-2020-04"),
        ],
    )
    def test_what_the_loader_cannot_decode(
        self, compression: str, pv_guest: StartGuest, host_grub: Path, kernel: bytes, make_disk: MakeDisk
    ) -> None:
        guest = pv_guest(
            host_grub, make_disk({"/boot/vmlinuz": bzimage(kernel, compression), "/boot/grub/grub.cfg": BOOT})
        )
        with pytest.raises(UnexpectedOutputError):
            guest.expect(MARK, not_matching=PROMPT)
        assert guest.errors()[:2] == [NOT_XEN, NOT_LOADED]
        assert len(guest.stages) == 1

    @pytest.mark.parametrize(
        ("compression", "package"), [("gzip", ""), ("xz", ""), ("zstd", "zstandard"), ("lz4", "lz4")]
    )
    def test_the_toolstack_boots_it_or_names_what_it_needs(
        self, compression: str, package: str, pv_guest: StartGuest, kernel: bytes, tmp_path: Path
    ) -> None:
        packed = tmp_path / "vmlinuz"
        packed.write_bytes(bzimage(kernel, compression))
        if package and find_spec(package) is None:
            with pytest.raises(KernelError, match=f"compressed with {compression}: .*pip install {package}"):
                pv_guest(packed)
            return
        pv_guest(packed).expect(MARK)

    @pytest.mark.parametrize(
        "compression", [pytest.param("gzip", id="grub-15aee573d"), pytest.param("xz", id="grub-529818738")]
    )
    def test_what_the_loader_decodes(
        self, compression: str, pv_guest: StartGuest, host_grub: Path, kernel: bytes, make_disk: MakeDisk
    ) -> None:
        guest = pv_guest(
            host_grub, make_disk({"/boot/vmlinuz": bzimage(kernel, compression), "/boot/grub/grub.cfg": BOOT})
        )
        guest.expect(MARK, not_matching=PROMPT)
        assert guest.errors() == []
        assert len(guest.stages) == 2


class TestGrub4231927e4:
    """grub 4231927e4, 7d3993847: a second `linux` after one that failed."""

    MENU = """set timeout=-1
menuentry "bad" { linux /boot/bad; boot }
menuentry "good" { linux /boot/vmlinuz second=1; boot }
"""

    def test_the_second_entry_boots_after_the_first_failed(
        self, pv_guest: StartGuest, host_grub: Path, kernel: bytes, make_disk: MakeDisk
    ) -> None:
        disk = make_disk({
            "/boot/bad": bzimage(kernel, "zstd"), "/boot/vmlinuz": bzimage(kernel, "gzip"),
            "/boot/grub/grub.cfg": self.MENU,
        })  # fmt: skip
        guest = pv_guest(host_grub, disk)
        assert guest.wait_for_menu() == (("bad", "good"), 0, None)
        guest.send("\r")
        guest.expect("Press any key", not_matching=MARK)
        assert guest.errors()[:2] == [NOT_XEN, NOT_LOADED]
        guest.send(" ")
        guest.wait_for_menu()
        guest.send("\x1b[B\r")
        guest.expect(MARK)
        assert [stage.cmdline for stage in guest.stages[1:]] == ["second=1"]


class TestGrub8a96fc409:
    """grub 8a96fc409: chainloading one GRUB from another, where memory's end decides what goes where."""

    @pytest.mark.parametrize("memory", [16, 64, 300])
    def test_chainloading(self, memory: int, pv_guest: StartGuest, host_grub: Path, pv_image: BuildImage) -> None:
        guest = pv_guest(host_grub, pv_image("guide-chainload")["root-x86_64.img"], memory=memory)
        guest.expect(MARK, not_matching=PROMPT)
        assert len(guest.stages) == 2

    def test_without_memory_for_two(self, pv_guest: StartGuest, host_grub: Path, pv_image: BuildImage) -> None:
        guest = pv_guest(host_grub, pv_image("demo")["demo.img"], memory=12)
        guest.wait_for_menu()
        assert guest.errors() == ["error: out of memory.", NOT_LOADED]
        assert len(guest.stages) == 1, "the menu is the host's GRUB's own"


class TestQubes5212:
    """QubesOS/qubes-issues#5212: the host's image says `error:` of each place it looks at in vain, and all is well."""

    def test_a_probe_in_vain_is_no_error(self, pv_guest: StartGuest, host_grub: Path, make_disk: MakeDisk) -> None:
        guest = pv_guest(host_grub, make_disk({"/boot/grub/grub.cfg": f'echo "{MARK}here"\nhalt\n'}))
        guest.expect(MARK)
        assert "error: no such device: /boot/xen/pvboot-x86_64.elf." in guest.text
        assert guest.errors() == []
        assert guest.errors(benign=()) != []

    @pytest.mark.parametrize(
        ("command", "error"),
        [
            ("linux /boot/vmlinuz", "error: file `/boot/vmlinuz' not found."),
            ("search --set=root --fs-uuid 0000", "error: no such device: 0000."),
        ],
    )
    def test_a_real_one_is(
        self, command: str, error: str, pv_guest: StartGuest, host_grub: Path, make_disk: MakeDisk
    ) -> None:
        guest = pv_guest(host_grub, make_disk({"/boot/grub/grub.cfg": f'{command}\necho "{MARK}here"\nhalt\n'}))
        guest.expect(MARK)
        assert guest.errors() == [error]


class TestXenFb31b1475f:
    """xen fb31b1475f: a file system on the whole disk with 0xaa55 where a partition table would have it."""

    @pytest.fixture
    def disk(self, make_disk: MakeDisk, tmp_path: Path) -> Path:
        partitioned = make_disk({"/boot/grub/grub.cfg": f'echo "{MARK}(${{root}})"\nhalt\n'}).read_bytes()
        image = bytearray(partitioned[1 << 20 :])
        image[510:512] = b"\x55\xaa"
        path = tmp_path / "no-table.img"
        path.write_bytes(image)
        return path

    def test_a_fixed_partition_is_not_there(self, disk: Path, pv_guest: StartGuest, pv_image: BuildImage) -> None:
        guest = pv_guest(pv_image("guide-basic")["grub-x86_64-xen.bin"], disk)
        with pytest.raises(ExpectTimeoutError, match=r"\| grub>") as caught:
            guest.expect(MARK, timeout=5)
        assert "the guest waits for a key" in caught.value.reason

    def test_a_search_finds_it(self, disk: Path, pv_guest: StartGuest, host_grub: Path) -> None:
        guest = pv_guest(host_grub, disk)
        assert guest.expect(MARK + ".*").text == MARK + "(xen/xvda)"


class TestGrub2f73d2733:
    """grub 2f73d2733: old configurations say hd0."""

    @pytest.mark.parametrize(("name", "error"), [("hd0", []), ("hd1", ["error: disk `hd1,msdos1' not found."])])
    def test_hd_is_an_alias(
        self, name: str, error: list[str], pv_guest: StartGuest, host_grub: Path, make_disk: MakeDisk
    ) -> None:
        config = f'cat ({name},msdos1)/boot/motd\necho "end"\nhalt\n'
        guest = pv_guest(host_grub, make_disk({"/boot/grub/grub.cfg": config, "/boot/motd": f"{MARK}motd\n"}))
        guest.expect("\nend")
        assert guest.errors() == error
        assert (MARK + "motd" in guest.text) == (not error)


class TestOmarchyIso128:
    """omacom/omarchy-iso#128: GRUB says of an initrd that it cannot load it, and boots without."""

    RAMDISK = b"not really a cpio archive\n" * 999

    @pytest.mark.parametrize("name", ["/boot/initrd", "/boot/initramfs"])
    def test_the_ramdisk_is_the_one_that_the_entry_names(
        self, name: str, pv_guest: StartGuest, host_grub: Path, kernel: bytes, make_disk: MakeDisk
    ) -> None:
        config = "linux /boot/vmlinuz\ninitrd /boot/initrd\nboot\n"
        guest = pv_guest(
            host_grub,
            make_disk({"/boot/vmlinuz": bzimage(kernel, "gzip"), name: self.RAMDISK, "/boot/grub/grub.cfg": config}),
        )
        guest.expect(MARK)
        ramdisk = guest.stages[1].ramdisk
        if name == "/boot/initrd":
            assert ramdisk is not None
            assert (ramdisk.size, ramdisk.sha256) == (len(self.RAMDISK), hashlib.sha256(self.RAMDISK).hexdigest())
            assert guest.errors() == []
        else:
            assert ramdisk is None
            assert guest.errors() == ["error: file `/boot/initrd' not found."]


class TestGrubC7995256e:
    """grub c7995256e: a kernel cannot attach a disk that the loader left connected."""

    def test_the_disk_is_free_then(self, pv_guest: StartGuest, host_grub: Path, pv_image: BuildImage) -> None:
        guest = pv_guest(host_grub, pv_image("guide-chainload")["root-x86_64.img"])
        state = '/local/domain/1/device/vbd/51712/state = "{}"'
        guest.expect("Chainloading")
        assert state.format(3) in guest.xenstore, "while the loader reads, the disk is connected (3 is all it says)"
        guest.wait_for_stage(1)
        assert state.format(1) in guest.xenstore
