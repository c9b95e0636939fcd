"""From a file to a domain: what is accepted, what draws a warning, what is refused, and the words for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pvemu.config import GrantLimits
from pvemu.xlcfg.domain import XlDomain, load_domain, read_domain
from pvemu.xlcfg.errors import XlConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kernel and two disks in it, and we are in it."""
    for name in ("k", "rd", "a.img", "b,c.img"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def domain(text: str) -> XlDomain:
    return read_domain("g.cfg", f'name="g"\nkernel="k"\nmemory=64\n{text}\n')


def refused(text: str) -> XlConfigError:
    with pytest.raises(XlConfigError) as caught:
        read_domain("g.cfg", text)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_a_machine_is_made_from() -> None:
    found = domain(
        'ramdisk="rd"\nroot="/dev/xvda1"\nextra="ro quiet"\nvcpus=2\nuuid="6E0BBE24-9bf7-45f8-8f2f-e8ab0a4ba3a1"\n'
        'disk=[ "a.img,raw,xvda,w", "format=raw, vdev=hdc, devtype=cdrom, target=b,c.img" ]\non_crash="preserve"'
    )
    config = found.config
    assert (config.kernel, config.ramdisk, config.memory_mib, config.name) == ("k", "rd", 64, "g")
    assert config.cmdline == "root=/dev/xvda1 ro quiet"
    assert [(disk.path, disk.vdev, disk.read_only, disk.writable, disk.cdrom) for disk in config.disks] == [
        ("a.img", "xvda", False, True, False),
        ("b,c.img", "hdc", True, False, True),
    ]
    assert found.actions == {
        "poweroff": "destroy", "reboot": "restart", "watchdog": "destroy", "crash": "preserve",
        "soft_reset": "soft-reset",
    }  # fmt: skip
    assert (found.vcpus, found.uuid) == (2, "6e0bbe24-9bf7-45f8-8f2f-e8ab0a4ba3a1")
    assert found.warnings == ()


def test_the_command_line_comes_behind_the_file(folder: Path) -> None:
    (folder / "g.cfg").write_text('name="g"\nkernel="k"\nmemory=64\nextra="a"')
    found = load_domain("g.cfg", ["memory=128", 'extra="b"'])
    assert (found.config.memory_mib, found.config.cmdline) == (128, "b")
    assert load_domain("/dev/null", ['name="n"', 'kernel="k"', "memory=16"]).name == "n"


def test_cmdline_wins() -> None:
    found = domain('cmdline="all"\nextra="x"')
    assert found.config.cmdline == "all"
    assert found.warnings == ("Warning: ignoring root= and extra= in favour of cmdline=",)


def test_files_beside_the_configuration_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "g.cfg").write_text('name="g"\nkernel="k"\nmemory=64\n')
    monkeypatch.chdir("/")
    found = load_domain(str(folder / "g.cfg"))
    assert found.config.kernel == str(folder / "k")
    assert "xl would look for kernel k in the current folder" in found.warnings[0]


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("memroy=64", "g.cfg:4: warning: xl knows no memroy and does without it; did you mean memory?"),
        ('initrd="rd"', "g.cfg:4: warning: xl knows no initrd and does without it; did you mean ramdisk?"),
        ("zzzzz=1", "g.cfg:4: warning: xl knows no zzzzz and does without it"),
        ('vif=["bridge=br0"]', "g.cfg:4: warning: vif is left out: there is no such device here"),
        ('boot="c"', "g.cfg:4: warning: boot has no effect on a PV guest"),
        ('extra=["a"]', "g.cfg:4: warning: parameter `extra' is a list but should be a single value"),
        ("vcpus=1f", "g.cfg:4: warning: parameter `vcpus' is not a valid number"),
        ('disk="a.img"', "g.cfg:4: warning: parameter `disk' is a single value but should be a list"),
    ],
)
def test_warnings(line: str, warning: str) -> None:
    assert domain(line).warnings == (warning,)


def test_a_guest_may_grow() -> None:
    found = domain("maxmem=128")
    assert (found.config.memory_mib, found.config.maxmem_mib, found.warnings) == (64, 128, ())


def test_no_memory_is_as_little_as_under_xl() -> None:
    found = read_domain("g.cfg", 'name="g"\nkernel="k"\n')
    assert found.config.memory_mib == 32
    assert "no memory given" in found.warnings[0]


@pytest.mark.parametrize("line", ["vif=[]", "pci=[]", 'loader="generic"', "cpu_weight=256", 'cpus="all"'])
def test_what_changes_nothing_is_silent(line: str) -> None:
    assert domain(line).warnings == ()


@pytest.mark.parametrize(
    ("text", "message", "xl_line"),
    [
        ('kernel="k"\n', "g.cfg: no name; add name =", "Domain name must be specified."),
        ('name="g"\n', "g.cfg: no kernel; add kernel =", "Neither kernel nor bootloader specified"),
        ('name="g"\ntype="xyz"\n', "g.cfg:2: type 'xyz' is none; write type =", "Invalid domain type xyz."),
        (
            'name="g"\nkernel="k"\nmaxvcpus=1\nvcpus=2\n', "g.cfg:3: maxvcpus is less than vcpus",
            "xl: maxvcpus < vcpus",
        ),
        (
            'name="g"\nkernel="k"\non_crash="explode"\n', "g.cfg:3: on_crash 'explode' is no action; take one of",
            'Unknown on_crash action "explode" specified',
        ),
        (
            'name="g"\nkernel="k"\nfirmware="pvgrub64"\n', "g.cfg:3: both kernel and firmware are given",
            "ERROR: both kernel and firmware specified",
        ),
        (
            'name="g"\nfirmware="ovmf"\n', "g.cfg:2: firmware 'ovmf' is none",
            "ERROR: only pvgrub{32|64} supported as firmware options",
        ),
        ('name="g"\nkernel="k"\nuuid="12"\n', "g.cfg:3: uuid '12' is none", "Failed to parse UUID: 12"),
    ],
)  # fmt: skip
def test_what_xl_refuses(text: str, message: str, xl_line: str) -> None:
    error = refused(text)
    assert str(error).startswith(message)
    assert (error.xl_lines, error.xl_exit) == ((xl_line,), 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('type="hvm"', "pvemu runs PV guests alone, and an HVM guest starts in its firmware; try type"),
        ('type="pvh"', "pvemu runs PV guests alone, and a PVH guest"),
        ('builder="hvm"', "g.cfg:4: pvemu runs PV guests alone"),
        ('pci=["00:1f.0"]', "g.cfg:4: pci hands hardware or a memory layout to the guest"),
        ('disk=["a.img,raw,xvda,w,script=x"]', "disk 'a.img,raw,xvda,w,script=x': pvemu has no script x"),
        ('disk=["a.img,raw,xvda,w,backend=d1"]', "pvemu has no driver domain d1"),
        ('disk=["a.img,qcow2,xvda,w"]', "pvemu reads raw images, no qcow2; convert it: qemu-img convert -O raw a.img"),
        ('disk=["a.img,raw,foo,w"]', "g.cfg:4: disk name 'foo': not a device name"),
        ('disk=["nothing.img,raw,xvda,w"]', "g.cfg:4: disk nothing.img: no such file; give a path that exists"),
        ("memory=1", "memory = 1: a guest has 4 to"),
        ('ramdisk="none"', "g.cfg:4: ramdisk none: no such file"),
    ],
)
def test_what_pvemu_refuses(line: str, words: str) -> None:
    assert words in str(refused(f'name="g"\nkernel="k"\nmemory=64\n{line}\n'))


def test_a_bootloader_in_dom0_is_answered() -> None:
    error = refused('name="g"\nbootloader="pygrub"\nmemory=64\n')
    assert "bootloader 'pygrub' would run in dom0" in str(error)
    assert 'firmware = "pvgrub64"' in str(error)


def test_a_loader_that_is_not_here_is_offered_as_a_recipe() -> None:
    error = refused('name="g"\nmemory=64\nkernel="/usr/lib/grub2/x86_64-xen/grub.xen"\n')
    assert "pvemu image build pvgrub" in str(error) or "is one" in str(error)


def test_a_missing_file_is_named_as_xl_does() -> None:
    with pytest.raises(XlConfigError) as caught:
        load_domain("nowhere.cfg")
    assert caught.value.xl_lines == ("Failed to read config file: nowhere.cfg: No such file or directory",)


def test_a_binary_file_is_none(folder: Path) -> None:
    (folder / "binary.cfg").write_bytes(b"\x7fELF\x00\x01")
    with pytest.raises(XlConfigError, match=r"binary.cfg: is no text"):
        load_domain("binary.cfg")


@pytest.mark.parametrize(("line", "mode"), [
    ("", "default"), ('tsc_mode="always_emulate"', "always_emulate"), ('tsc_mode="Native"', "native"),
    ("tsc_mode=1", "always_emulate"), ('tsc_mode="0x2"', "native"),
])  # fmt: skip
def test_tsc_modes(line: str, mode: str) -> None:
    found = domain(line)
    assert (found.config.tsc_mode, found.config.may_migrate) == (mode, True)
    is_number = any(digit in line for digit in "012")
    assert [warning[:49] for warning in found.warnings] == (
        ['WARNING: specifying "tsc_mode" as an integer is d'] if is_number else []
    )
    assert not domain("nomigrate=1").config.may_migrate


@pytest.mark.parametrize(("value", "says"), [
    ("5", 'ERROR: invalid value 5 for "tsc_mode"'),
    ('"pvrdtscp"', 'ERROR: invalid value "pvrdtscp" for "tsc_mode"'),
    ('"native_paravirt"', "TSC Mode native_paravirt (a.k.a PVRDTSCP) has been removed"),
])  # fmt: skip
def test_tsc_modes_that_xl_refuses(value: str, says: str) -> None:
    error = refused(f'name="g"\nkernel="k"\nmemory=64\ntsc_mode={value}')
    assert says in error.xl_lines[0]
    assert "take one of default, always_emulate, native" in str(error)


def test_what_a_grant_table_may_grow_to() -> None:
    """max_grant_frames and its like (grant_table_init): less than Xen's own limits, not more."""
    assert domain("").config.grants == GrantLimits(64, 1024, 2)
    found = domain("max_grant_frames=0x10\nmax_maptrack_frames=0\nmax_grant_version=1")
    assert (found.config.grants, found.warnings) == (GrantLimits(16, 0, 1), ())


@pytest.mark.parametrize(("line", "says", "code"), [
    ("max_grant_frames=0", "max_grant_frames 0: Xen takes 1 to 64", 3),
    ("max_grant_frames=65", "max_grant_frames 65: Xen takes 1 to 64", 3),
    ("max_maptrack_frames=1025", "max_maptrack_frames 1025: Xen takes 0 to 1024", 3),
    ("max_grant_version=0", "max_grant_version 0: Xen takes 1 to 2", 3),
    ("max_grant_version=3", "max_grant_version 3: Xen takes 1 to 2", 3),
    ('max_grant_frames="-1"', "max_grant_frames is no number from 0 on", 1),
    ("max_grant_version=0x80000000", "max_grant_version is no number from 0 on", 1),
    ('max_maptrack_frames="many"', "max_maptrack_frames is no number from 0 on", 1),
])  # fmt: skip
def test_limits_of_a_grant_table_that_xen_refuses(line: str, says: str, code: int) -> None:
    error = refused(f'name="g"\nkernel="k"\nmemory=64\n{line}')
    assert says in str(error)
    assert ":4: " in str(error)
    assert error.xl_exit == code
    assert ("domain creation fail" in error.xl_lines[0]) == (code == 3)
