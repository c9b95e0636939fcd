"""The recorded consoles of real Xen, byte for byte, by guests that the project makes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.boot.recorded import (
    GUESTS,
    RECORDED_GRUB,
    RECORDED_SIZES,
    comparable,
    grub_version,
    recorded_console,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.boot.conftest import Boot, Booted

    Guest = Callable[[str, str], Path]

_SOURCES = {
    b"pvboot-x86_64.elf": ("pvboot", "pvboot-x86_64.elf"), b"pvboot-i386.elf": ("pvboot", "pvboot-i386.elf"),
    b"tiny.cpio.gz": ("tiny", "tiny.cpio.gz"),
}  # fmt: skip


def run(name: str, boot: Boot, guest: Guest, stop_at: str | None = None) -> Booted:
    one = GUESTS[name]
    disks = [f"xvda={guest(*one.disk)},rw"] if one.disk is not None else []
    return boot(
        guest(*one.kernel), *disks, memory=one.memory, cmdline=one.cmdline, send=one.send, epoch=one.epoch,
        stop_at=stop_at,
    )  # fmt: skip


def human_size(size: int) -> bytes:
    """GRUB's words for a size of some KiB."""
    hundredths = (size * 100 + 512) // 1024
    return b"%d.%02dKiB" % divmod(hundredths, 100)


def expect_same(console: bytes, name: str, guest: Guest) -> None:
    recorded = recorded_console(name)
    sizes = {
        file: human_size(guest(*source).stat().st_size)
        for file, source in _SOURCES.items()
        if b" %s " % file in recorded
    }
    version = grub_version(console)
    assert grub_version(recorded) == RECORDED_GRUB
    note = "" if version == RECORDED_GRUB else f" (GRUB {version.decode()} here, {RECORDED_GRUB.decode()} there)"
    ours = comparable(console, sizes, version).split(b"\n")
    theirs = comparable(recorded, RECORDED_SIZES, RECORDED_GRUB).split(b"\n")
    for number, (mine, real) in enumerate(zip(ours, theirs, strict=False), 1):
        assert mine == real, f"line {number} is not real Xen's{note}"
    assert len(ours) == len(theirs), f"the console is not as long as real Xen's{note}"


@pytest.mark.parametrize(
    "name",
    ["grub64-menu", "grub64-timeout", "grub64-pvboot-direct", "grub64-nodisk", "grub32-menu", "grub32-timeout"],
)
def test_the_console_is_real_xens(name: str, boot: Boot, guest: Guest) -> None:
    done = run(name, boot, guest)
    expect_same(done.console, name, guest)
    assert (done.verdict.verdict, done.verdict.shutdown) == ("success", "poweroff")


@pytest.mark.parametrize("name", ["grub64-chain", "grub32-chain"])
def test_the_console_of_a_chainload_is_real_xens(
    name: str, chain_boot: Callable[[str], Booted], guest: Guest
) -> None:
    done = chain_boot(name)
    expect_same(done.console, name, guest)
    assert [stage.guest_os for stage in done.verdict.stages] == ["GRUB", "GRUB"]
    assert (done.verdict.verdict, done.verdict.shutdown) == ("success", "poweroff")


@pytest.mark.slow
def test_the_console_up_to_linux_is_real_xens(boot: Boot, guest: Guest) -> None:
    done = run("grub64-linux-to-hand-off", boot, guest, stop_at="linux")
    expect_same(done.console, "grub64-linux-to-hand-off", guest)
    assert [stage.guest_os for stage in done.verdict.stages] == ["GRUB", "linux"]


def test_the_packages_are_those_of_the_recording(boot: Boot, grub: Path) -> None:
    done = boot(grub, until="grub> ", memory=64)
    version = grub_version(done.console)
    if version != RECORDED_GRUB:
        pytest.skip(
            f"Debian's GRUB is {version.decode()} now, recorded was {RECORDED_GRUB.decode()}: consoles are compared "
            "without the version and the sizes of files made from packages; time to record again"
        )


class TestWhatIsLeftOut:
    """The comparison sees everything that does not hang on the clock."""

    LINE = b"\x1b[3;39H      [ grub.cfg  620B  100%  4.20KiB/s ]\x1b[3;1Herror: no such device: /x.\n"

    def same(self, other: bytes) -> bool:
        return comparable(self.LINE, {}, b"") == comparable(other, {}, b"")

    def test_rate_and_its_length_are(self) -> None:
        assert self.same(b"\x1b[3;41H      [ grub.cfg  620B  100%  0.00B/s ]\x1b[3;1Herror: no such device: /x.\n")
        assert self.same(
            b"\x1b[3;40H      [ grub.cfg  20B  3%  4.20KiB/s ]\x1b[3;1H" + self.LINE
        ), "a message on the way is left out"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"620B", b"621B"), (b"grub.cfg", b"grub.cfh"), (b"\x1b[3;1H", b"\x1b[3;2H"), (b"[3;39H", b"[4;39H"),
            (b"/x.", b"/y."), (b"error", b" error"), (b"\n", b"\n\r"), (b"[3;39H", b"\x1b[0m[3;39H"),
        ],
    )  # fmt: skip
    def test_nothing_else_is(self, old: bytes, new: bytes) -> None:
        assert not self.same(self.LINE.replace(old, new))

    def test_a_column_that_does_not_fit_the_text_is_a_fault(self) -> None:
        with pytest.raises(AssertionError):
            comparable(self.LINE.replace(b"3;39H", b"3;38H"), {}, b"")

    def test_a_version_and_a_size_are_only_what_they_are_said_to_be(self) -> None:
        title = b"\x1b[2;24HGNU GRUB  version 2.06-13+deb12u2\n"
        assert comparable(title, {}, b"2.06-13+deb12u2") != title
        assert comparable(title, {}, b"2.06-13+deb12u3") == title
        assert comparable(self.LINE, {b"grub.cfg": b"620B"}, b"").startswith(b"<progress 3: grub.cfg <size>, back")
