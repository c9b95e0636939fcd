"""What a judge sees that no loader at hand does wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io.xenbus import XenbusState
from pvemu.devices.blkback import Blkback
from pvemu.filesystems.ext import Ext
from pvemu.scenario.drive import run_cases
from pvemu.scenario.load import load_file
from pvemu.scenario.start import Images

if TYPE_CHECKING:
    from pathlib import Path

    from pvemu.scenario.result import Result

CHAINLOAD = """[[scenario]]
name = "chainload"
kernel = "pvgrub:grub-x86_64-xen.bin"
disks = ["demo:demo.img,ro"]
memory = 256
expect = { stages = [{}, {}] }
"""


def outcome(folder: Path, text: str) -> Result:
    (folder / "a.pvemu.toml").write_text(text, encoding="utf-8")
    (case,) = load_file(folder / "a.pvemu.toml")
    (result,) = run_cases(Images().start(case), [case])
    return result


@pytest.mark.parametrize("state", [XenbusState.XenbusStateInitialised, XenbusState.XenbusStateConnected])
def test_a_disk_that_is_left_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: int) -> None:
    monkeypatch.setattr(Blkback, "state", property(lambda backend: state))
    result = outcome(tmp_path, CHAINLOAD)
    assert result.outcome == "failed"
    assert result.message == (
        "allow.devices: wanted every disk given back at a hand-off, found xvda still connected as stage 1 starts"
    )
    assert outcome(tmp_path, CHAINLOAD + "allow = { devices = true }\n").outcome == "passed"


def test_a_disk_that_is_given_back(tmp_path: Path) -> None:
    assert outcome(tmp_path, CHAINLOAD).outcome == "passed"



def test_a_file_that_may_be_in_a_journal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = CHAINLOAD.replace("stages = [{}, {}]", 'stages = [{}, {}], files = [{ path = "xvda1:/etc/new" }]')
    result = outcome(tmp_path, wanted)
    assert result.message == "expect.files[0].path: wanted a file xvda1:/etc/new, found none"
    monkeypatch.setattr(Ext, "has_pending_journal", property(lambda ext: True, lambda ext, value: None), raising=False)
    result = outcome(tmp_path, wanted)
    assert result.message == (
        "expect.files[0].path: wanted a file xvda1:/etc/new, found none (its file system's journal holds changes that "
        "were not written back, and are not seen)"
    )
