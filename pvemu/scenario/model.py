"""What a ``*.pvemu.toml`` file may say, as types; docs/scenarios.md is the same for readers.

The JSON schema for editors is made from these types, so it cannot differ from what is read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pvemu.testing.keys import PRESSED

__all__ = [
    "Allow",
    "Case",
    "Expect",
    "FileExpect",
    "Key",
    "MenuExpect",
    "Scenario",
    "ScenarioFile",
    "StageExpect",
    "json_schema",
]

Regex = Annotated[str, msgspec.Meta(description="a regular expression (Python's)")]
Seconds = Annotated[float, msgspec.Meta(gt=0, description="guest seconds")]
Value = str | int
Matrix = Annotated[
    dict[str, list[Value]],
    msgspec.Meta(description="dimension -> its values; {dimension} stands for one of them in every string"),
]


class _Table(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a scenario file; a key that is not known is a mistake."""


class Key(_Table):
    """Something typed, and when: one of ``send``, ``press`` and ``choose``; at the earliest moment that ``when``,
    ``after``, ``at`` and ``stage`` allow, and after the keys before it.
    """

    send: Annotated[str, msgspec.Meta(description="text to type")] | None = None
    press: Annotated[list[str], msgspec.Meta(description="keys by name: " + ", ".join(PRESSED))] | None = None
    choose: Annotated[Value, msgspec.Meta(description="title (or place, from 0) of the entry to run")] | None = None
    when: Annotated[Literal["menu", "input"], msgspec.Meta(description="a menu shows; a key is waited for")] | None = (
        None
    )
    after: Annotated[str, msgspec.Meta(description="a regular expression that the console must match")] | None = None
    at: Annotated[float, msgspec.Meta(ge=0, description="guest seconds since the start")] | None = None
    stage: Annotated[int, msgspec.Meta(ge=0, description="the stage that must run")] = 0


class StageExpect(_Table):
    """One kernel that must run; what is left out may be anything."""

    os: Annotated[str, msgspec.Meta(description="guest OS of its Xen notes: GRUB, linux")] | None = None
    version: Annotated[str, msgspec.Meta(description="guest version of its Xen notes")] | None = None
    file: Annotated[str, msgspec.Meta(description="where it came from: xvda1:/boot/vmlinuz")] | None = None
    cmdline: Annotated[str, msgspec.Meta(description="its whole command line")] | None = None
    ramdisk: Annotated[str, msgspec.Meta(description="SHA-256 of its ramdisk; empty for none")] | None = None
    ramdisk_file: Annotated[str, msgspec.Meta(description="where the ramdisk came from; empty for none")] | None = None


class MenuExpect(_Table):
    """The first menu that shows and waits for a key."""

    entries: Annotated[list[str], msgspec.Meta(description="all titles on the screen, in order")] | None = None
    selected: Annotated[str, msgspec.Meta(description="title of the highlighted one")] | None = None
    countdown: Annotated[int, msgspec.Meta(ge=0, description="seconds left")] | None = None


class FileExpect(_Table):
    """A file on a disk of the guest's after the run: all that is given must hold."""

    path: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+:/.", description='such as "xvda1:/boot/grub/grubenv"')]
    matches: Annotated[str, msgspec.Meta(description="a regular expression found in it")] | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    exists: bool = True


class Expect(_Table):
    """What must come of the run; what is left out may be anything."""

    stages: Annotated[list[StageExpect], msgspec.Meta(description="every kernel that runs, in order")] | None = None
    menu: MenuExpect | None = None
    console: Annotated[list[Regex], msgspec.Meta(description="what the console must show, in this order")] = []
    never: Annotated[list[Regex], msgspec.Meta(description="what it must not show")] = []
    shutdown: Annotated[str, msgspec.Meta(description="poweroff, reboot, suspend, crash, ...")] | None = None
    within: Annotated[float, msgspec.Meta(gt=0, description="guest seconds that all of it may take")] | None = None
    files: list[FileExpect] = []


class Allow(_Table):
    """Trouble that is none here."""

    errors: Annotated[list[Regex], msgspec.Meta(description="`error: ...` lines that may show, matched in full")] = []
    crash: Annotated[bool, msgspec.Meta(description="the guest may crash")] = False
    stages: Annotated[bool, msgspec.Meta(description="more kernels may start than are expected")] = False
    devices: Annotated[bool, msgspec.Meta(description="disks may be left connected when a kernel starts")] = False


class Case(_Table):
    """Changes to a scenario for the cases of its matrix where ``when`` holds."""

    when: dict[str, Value]
    set: Annotated[dict[str, Any], msgspec.Meta(description="keys of a scenario, laid over what it says")] = {}
    xfail: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    xfail_match: Regex | None = None
    skip: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class Scenario(_Table):
    """One run and what must come of it."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    kernel: Annotated[str, msgspec.Meta(description="RECIPE:ARTIFACT, a path from this file's folder, or $VARIABLE")]
    description: str = ""
    ramdisk: Annotated[str, msgspec.Meta(description="as kernel")] | None = None
    cmdline: str = ""
    memory: Annotated[int, msgspec.Meta(ge=4, description="MiB")] = 128
    disks: Annotated[list[str], msgspec.Meta(description="[VDEV=]DISK[,ro]; DISK as kernel")] = []
    keys: list[Key] = []
    expect: Expect = msgspec.field(default_factory=Expect)
    allow: Allow = msgspec.field(default_factory=Allow)
    matrix: Matrix = {}
    case: list[Case] = []
    xfail: Annotated[str, msgspec.Meta(min_length=1, description="why it fails for now; it must")] | None = None
    xfail_match: Regex | None = None  # what fails first must match it
    skip: Annotated[str, msgspec.Meta(min_length=1, description="why it is not run")] | None = None


class ScenarioFile(_Table):
    """A whole file. ``matrix`` is for each of its scenarios; ``defaults`` are keys of a scenario."""

    scenario: Annotated[list[Scenario], msgspec.Meta(min_length=1)]
    matrix: Matrix = {}
    defaults: Annotated[dict[str, Any], msgspec.Meta(description="keys of a scenario, for those that do not say")] = {}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a scenario file. A dimension may stand where a number is wanted, so text is allowed there."""
    schema = msgspec.json.schema(ScenarioFile)
    for table in schema["$defs"].values():
        for name, field in table.get("properties", {}).items():
            if field.get("type") in ("integer", "number", "boolean"):
                described = {key: field.pop(key) for key in ("description", "default") if key in field}
                in_braces = {"type": "string", "pattern": r"^\{[A-Za-z_][A-Za-z0-9_]*\}$"}
                table["properties"][name] = {**described, "anyOf": [dict(field), in_braces]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A pvemu scenario file", **schema}
