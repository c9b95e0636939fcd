"""The configurations of the Xen project's guide to GRUB 2 for PV guests, as far as they are no scenarios.

The others are in configurations.pvemu.toml, and the bugs that people had in field-bugs.pvemu.toml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.builder.elfnotes import find_notes
from pvemu.mkimage import NotHereError
from pvemu.scenario.load import load_file

if TYPE_CHECKING:
    from pvemu.testing.plugin import BuildImage, StartGuest

HERE = Path(__file__).parent
ARCHES = ["x86_64", "i386"]


@pytest.mark.slow
def test_what_grub_install_makes_is_chainloaded(pv_guest: StartGuest, pv_image: BuildImage, tmp_path: Path) -> None:
    kernel = pv_image("debian-kernel")["vmlinuz"]
    ramdisk = pv_image("linux-root")["root.cpio.gz"]
    disk = tmp_path / "root.img"
    disk.write_bytes(pv_image("guide-install")["root.img"].read_bytes())
    inside = pv_guest(kernel, f"xvda={disk},rw", memory=128, ramdisk=ramdisk, cmdline="console=hvc0 quiet", write=True)
    for arch in ARCHES:
        inside.expect(f"Installing for {arch}-xen platform")
        inside.expect("Installation finished. No error reported.", not_matching="error:")
        inside.expect(f"installed for {arch} at")
    assert inside.text.count("warning: no hints available for your platform") == 2
    assert inside.wait_for_shutdown() == "poweroff"
    inside.close()
    for arch in ARCHES:
        guest = pv_guest(pv_image("pvgrub")[f"grub-{arch}-xen.bin"], disk)
        guest.expect(re.escape(f"Chainloading (xen/xvda,msdos1)/boot/xen/pvboot-{arch}.elf"))
        guest.expect(re.escape(f"This is {arch}-xen from (xen/xvda,msdos1)/boot/grub"))
        assert guest.wait_for_shutdown() == "poweroff"
        assert [stage.guest_os for stage in guest.stages] == ["GRUB", "GRUB"]
        assert guest.errors() == []


def test_without_a_pv_grub_it_says_what_to_set(
    pv_image: BuildImage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PVEMU_PVGRUB_LEGACY", str(tmp_path / "none"))
    with pytest.raises(NotHereError, match=r"PVEMU_PVGRUB_LEGACY: expected the path of a file"):
        pv_image("pvgrub-legacy")


@pytest.mark.parametrize("arch", ARCHES)
def test_a_guests_loader_is_what_the_protocol_wants(arch: str, pv_image: BuildImage) -> None:
    image = pv_image("pvboot")[f"pvboot-{arch}.elf"].read_bytes()
    assert image[:5] == b"\x7fELF" + {"x86_64": b"\2", "i386": b"\1"}[arch]
    (notes,) = find_notes(memoryview(image))
    assert (notes.parms.guest_os, notes.parms.loader) == ("GRUB", "generic")


def test_each_bug_has_an_image_that_is_red_for_its_reason_and_one_that_is_green() -> None:
    bugs: dict[str, list[str | None]] = {}
    for case in load_file(HERE / "field-bugs.pvemu.toml"):
        bugs.setdefault(case.scenario.name, []).append(case.scenario.xfail_match if case.scenario.xfail else "")
    assert len(bugs) >= 15
    for name, reasons in bugs.items():
        assert "" in reasons, f"{name}: no green one"
        assert any(reasons), f"{name}: no red one, or one that is red for whatever reason"
        assert None not in reasons, f"{name}: a red one may be so for whatever reason"


def test_all_seven_configurations_and_all_sixteen_subsets_are_there() -> None:
    cases = load_file(HERE / "configurations.pvemu.toml")
    assert {case.scenario.name[0] for case in cases} == set("123467")
    combined = [case for case in cases if case.scenario.name == "4-combined"]
    assert len({case.axes for case in combined}) == 16 * len(ARCHES)
