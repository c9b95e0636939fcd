"""`--record` and `pvemu replay`: the same run again, also of a crash, also elsewhere, with anything switched on."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from pvemu.cli import main
from pvemu.config import DomainConfig, GrantLimits, StrictConfig
from pvemu.control.recording import Recording, load, save
from pvemu.disk.spec import parse_disk_specs
from pvemu.errors import ConfigError
from tests.cli.test_boot import REBOOTS_TWICE
from tests.micro_guests import COUNTING, SCRIPT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import MakeGuest
    from tests.conftest import Assemble


@pytest.fixture
def crashed(assemble: Assemble, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """A recording of a crash in a folder with its kernel, and what the crash said."""
    folder = tmp_path / "run"
    folder.mkdir()
    kernel = shutil.copy(assemble(COUNTING, script=SCRIPT), folder / "kernel.elf")
    assert main(["boot", str(kernel), "--memory", "16", "--record", str(folder / "crash.rec")]) == 6
    return folder, _crash(capfd.readouterr().err)


def _crash(text: str) -> str:
    """The crash report: all but the wall time of the verdict."""
    return text[text.index("(XEN)") : text.rindex(" guest seconds in")]


def test_a_crash_is_the_same_crash(crashed: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    folder, crash = crashed
    assert main(["replay", str(folder / "crash.rec")]) == 6
    assert _crash(capfd.readouterr().err) == crash


def test_a_recording_goes_with_its_files(
    crashed: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, crash = crashed
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert main(["replay", str(elsewhere / "crash.rec")]) == 6
    assert _crash(capfd.readouterr().err) == crash
    assert str(tmp_path) not in (elsewhere / "crash.rec").read_text()


def test_a_replay_can_be_debugged(crashed: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    folder, _crash_text = crashed
    end = load(str(folder / "crash.rec")).end
    assert end is not None
    commands = ["continue", "reverse-continue", "break store", "continue", "quit"]
    options = [word for command in commands for word in ("--command", command)]
    assert main(["replay", str(folder / "crash.rec"), *options]) == 0
    text = capfd.readouterr().out
    assert f"{end.exits}+" in text, "the same place"
    assert "d1v0 Unhandled: vec 14, #PF[0002]" in text
    assert "the start of the run" in text
    assert "[1] store: " in text


def test_a_replay_can_be_traced(crashed: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    folder, crash = crashed
    assert main(["replay", str(folder / "crash.rec"), "--hypercalls"]) == 6
    said = capfd.readouterr()
    assert said.out.count(": sched_op(") == 20
    assert _crash(said.err) == crash
    assert main(["replay", str(folder / "crash.rec"), "--insns", "--last", "2", "--output", str(folder / "insns")]) == 6
    assert _crash(capfd.readouterr().err) == crash
    assert ":crash: mov qword ptr [rcx], 1" in (folder / "insns").read_text()


def test_files_are_known_by_content(
    crashed: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _crash_text = crashed
    kernel, recording = folder / "kernel.elf", str(folder / "crash.rec")
    (tmp_path / "there/deep").mkdir(parents=True)
    shutil.move(kernel, tmp_path / "there/deep/kernel.elf")
    with pytest.raises(ConfigError, match=r"kernel\.elf: missing; give the folder that has kernel\.elf with --search"):
        load(recording)
    kernel.write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"kernel\.elf: not what the recording was made with"):
        load(recording)
    assert load(recording, [str(tmp_path / "there")]).config.kernel == str(tmp_path / "there/deep/kernel.elf")
    assert main(["replay", recording]) == 2
    error = capfd.readouterr().err
    assert error.startswith("pvemu: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "pvemu recording", "version": 9}', '{"format": "pvemu recording", "version": 1}'],
)
def test_what_is_no_recording(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "x.rec"
    path.write_text(text)
    assert main(["replay", str(path)]) == 2
    assert capfd.readouterr().err.startswith(f"pvemu: {path}: ")


def test_a_run_that_writes_to_disks_cannot_be_had_again(
    crashed: tuple[Path, str], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _crash_text = crashed
    kernel = str(folder / "kernel.elf")
    assert main(["boot", kernel, "--write", "--record", str(folder / "x.rec")]) == 2
    assert "leave --write out" in capfd.readouterr().err
    assert main(["boot", kernel, "--record", kernel]) == 2
    assert "would overwrite" in capfd.readouterr().err


def test_another_end_is_told(crashed: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    path = crashed[0] / "crash.rec"
    document = json.loads(path.read_text())
    document["end"]["exits"] += 1
    document["packages"]["unicorn"] = "1.0"
    path.write_text(json.dumps(document))
    assert main(["replay", str(path), "--quiet"]) == 4
    error = capfd.readouterr().err
    assert "recorded with unicorn 1.0, this is" in error
    assert "the run is not the recorded one" in error


def test_keys_and_a_forced_end_are_had_again(
    crashed: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An end that was the user's: the run is stopped at that exit again."""
    path = crashed[0] / "crash.rec"
    document = json.loads(path.read_text())
    document["end"] |= {"exits": 5, "kind": "left", "detail": "left with Ctrl-]", "is_forced": True}
    path.write_text(json.dumps(document))
    assert main(["replay", str(path)]) == 0
    assert "left with Ctrl-]" in capfd.readouterr().err


def test_a_domain_after_a_reboot_can_be_debugged(
    micro: MakeGuest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel, recording = str(micro(REBOOTS_TWICE)), str(tmp_path / "run.rec")
    assert main(["boot", kernel, "--max-reboots", "2", "--record", recording]) == 0
    capfd.readouterr()
    commands = ["continue", "reverse-continue", "stages", "quit"]
    options = [word for command in commands for word in ("--command", command)]
    texts = {}
    for domain in ("1", "2", "3"):
        assert main(["debug", kernel, "--domain", domain, *options]) == 0
        texts[domain] = capfd.readouterr().out
        assert main(["replay", recording, "--domain", domain, *options]) == 0
        assert capfd.readouterr().out == texts[domain]
    assert main(["replay", recording, "--domain", "2"]) == 2
    assert "--debug, --gdb or --command" in capfd.readouterr().err
    assert texts["1"] != texts["2"] != texts["3"]
    assert texts["2"].startswith("1"), "the console of the domain before"
    assert "the guest shut down (reboot)" in texts["2"]
    assert "the guest shut down (poweroff)" in texts["3"]


@pytest.mark.parametrize(
    ("code", "domain", "says"),
    [
        ("shutdown 0", "2", "--domain 2: domain 1 did not reboot, it shut down (poweroff); give a lower number"),
        ("shutdown 1", "0", "--domain '0': no number of a domain; give 1, 2 or more"),
        ("shutdown 1", "x", "--domain 'x': no number of a domain; give 1, 2 or more"),
    ],
)
def test_a_domain_that_never_is(
    micro: MakeGuest, capfd: pytest.CaptureFixture[str], code: str, domain: str, says: str
) -> None:
    assert main(["debug", str(micro(code)), "--domain", domain, "--command", "quit"]) == 2
    assert capfd.readouterr().err == f"pvemu: {says}\n"


def test_what_a_domain_is_made_from_is_recorded_whole(tmp_path: Path) -> None:
    """Every field, of what no run here sets as well."""
    paths = [tmp_path / name for name in ("kernel", "ramdisk", "disk")]
    for path in paths:
        path.write_bytes(path.name.encode())
    kernel, ramdisk, disk = map(str, paths)
    others: dict[str, object] = {
        "kernel": kernel, "ramdisk": ramdisk, "disks": parse_disk_specs([f"xvdb={disk},ro"]), "write": False,
        "strict": StrictConfig(7, ("memory",)), "grants": GrantLimits(9, 8, 1), "tsc_mode": "native",
        "restarts_on": ("crash",),
    }  # fmt: skip
    plain = DomainConfig(kernel)
    for field in fields(DomainConfig):
        value = getattr(plain, field.name)
        if field.name not in others:
            others[field.name] = value + type(value)(1) if not isinstance(value, bool) else not value
            assert others[field.name] != value
    others["maxmem_mib"] = others["memory_mib"]
    config = DomainConfig(**others)  # type: ignore[arg-type]  # by name, each of its own type
    save(Recording.begin(config, {}), str(tmp_path / "run.rec"))
    assert load(str(tmp_path / "run.rec")).config == config
