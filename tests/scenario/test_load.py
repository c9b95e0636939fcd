"""Scenario files: what they may say, and how a mistake in one is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pvemu.errors import ConfigError
from pvemu.scenario.load import load_file, load_paths
from pvemu.scenario.model import json_schema
from pvemu.scenario.schedule import matches, shard

if TYPE_CHECKING:
    from pvemu.scenario.load import LoadedCase

LEAST = '[[scenario]]\nname = "one"\nkernel = "k"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.pvemu.toml"


def load(file: Path, text: str) -> list[LoadedCase]:
    file.write_text(text, encoding="utf-8")
    return load_file(file)


def test_the_least(file: Path) -> None:
    (case,) = load(file, LEAST)
    assert (case.name, case.id, case.place) == ("one", f"{file}::one", f"{file}:1")
    assert (case.scenario.memory, case.scenario.expect.console) == (128, [])


def test_a_matrix_gives_a_case_for_each_combination_and_fills_braces(file: Path) -> None:
    cases = load(
        file,
        "[matrix]\nmemory = [64, 128]\n"
        + LEAST
        + 'memory = "{memory}"\ncmdline = "m={memory} {arch}! {other} a{2}"\n[scenario.matrix]\narch = ["a", "b"]\n',
    )
    assert [case.name for case in cases] == [
        "one[memory=64,arch=a]",
        "one[memory=64,arch=b]",
        "one[memory=128,arch=a]",
        "one[memory=128,arch=b]",
    ]
    assert [case.scenario.memory for case in cases] == [64, 64, 128, 128]
    assert cases[0].scenario.cmdline == "m=64 a! {other} a{2}", "what is no dimension stays"


def test_a_case_of_the_matrix_may_differ(file: Path) -> None:
    text = LEAST + '[scenario.expect]\nshutdown = "poweroff"\nwithin = 5\n[scenario.matrix]\narch = ["a", "b"]\n'
    text += (
        '[[scenario.case]]\nwhen = { arch = "b" }\nxfail = "not yet"\nset = { memory = 64, expect = { within = 9 } }\n'
    )
    first, second = load(file, text)
    assert (first.scenario.xfail, first.scenario.memory, first.scenario.expect.within) == (None, 128, 5)
    assert (second.scenario.xfail, second.scenario.memory, second.scenario.expect.within) == ("not yet", 64, 9)
    assert second.scenario.expect.shutdown == "poweroff"


def test_defaults_are_for_those_that_do_not_say(file: Path) -> None:
    text = '[defaults]\nkernel = "k"\nmemory = 64\nexpect = { within = 3, shutdown = "poweroff" }\n'
    text += '[[scenario]]\nname = "one"\n[[scenario]]\nname = "two"\nmemory = 32\nexpect = { within = 4 }\n'
    one, two = load(file, text)
    assert (one.scenario.memory, two.scenario.memory) == (64, 32)
    assert (one.scenario.expect.within, two.scenario.expect.within) == (3, 4)
    assert two.scenario.expect.shutdown == "poweroff"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "scenario: expected at least one [[scenario]]"),
        ("[matrix]\n", 1, "scenario: expected at least one [[scenario]]"),
        ("matrices = 1\n" + LEAST, 1, "matrices: unknown key; expected one of scenario, matrix, defaults"),
        (LEAST + "memory = 2\n", 4, "scenario[0].memory: expected int >= 4"),
        (LEAST + 'memory = "much"\n', 4, "scenario[0].memory: expected int, got str"),
        (LEAST + "\n[scenario.expect]\nstages = [{ os = 5 }]\n", 6, "scenario[0].expect.stages[0].os: expected str"),
        (
            LEAST + "[scenario.expect]\nshut = 1\n",
            5,
            "scenario[0].expect.shut: unknown key; expected one of stages, menu",
        ),
        (LEAST + '[[scenario.expect.stages]]\nfil = "x"\n', 5, "scenario[0].expect.stages[0].fil: unknown key"),
        (LEAST + '[scenario.expect]\nconsole = ["a", "("]\n', 5, "scenario[0].expect.console[1]: expected a regular"),
        (LEAST + '[scenario.allow]\nerrors = ["["]\n', 5, "scenario[0].allow.errors[0]: expected a regular expression"),
        (
            LEAST + "[[scenario.keys]]\nat = 1\n",
            4,
            "scenario[0].keys[0]: expected exactly one of send, press and choose",
        ),
        (LEAST + 'keys = [{ press = ["return"] }]\n', 4, "expected names out of enter, escape"),
        (
            LEAST + 'keys = [{ when = "never", send = "x" }]\n',
            4,
            "scenario[0].keys[0].when: invalid enum value 'never'",
        ),
        (LEAST + "[scenario.matrix]\narch = []\n", 5, "scenario[0].matrix.arch: expected at least one value"),
        (LEAST + '[[scenario.case]]\nwhen = { arch = "b" }\n', 5, "expected a dimension of the matrix (none)"),
        ('[[scenario]]\nkernel = "k"\n', 1, "scenario[0]: object missing required field name"),
        (LEAST + LEAST.replace('"k"', '"l"'), 4, "scenario.name: another scenario is called 'one'"),
        (
            LEAST + '[[scenario.expect.files]]\npath = "/x"\n',
            5,
            "scenario[0].expect.files[0].path: expected str matching",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(file: Path, text: str, line: int, said: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_paths([file])
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("path", "said"), [("no.pvemu.toml", "No such file"), (".", "no file named *.pvemu.toml")])
def test_no_scenario_there(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("*", r"\*")):
        load_paths([tmp_path / path])


def test_not_toml(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"not TOML: .*line 1"):
        load(file, "[[scenario]\n")


def test_folders_are_searched(tmp_path: Path) -> None:
    for name in ("b/z.pvemu.toml", "b/a.pvemu.toml", "b/c/x.pvemu.toml", "b/other.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LEAST, encoding="utf-8")
    assert [case.file.name for case in load_paths([tmp_path])] == ["a.pvemu.toml", "x.pvemu.toml", "z.pvemu.toml"]


@pytest.mark.parametrize(
    ("expression", "is_match"),
    [
        ("menu", True),
        ("MENU", True),
        ("not menu", False),
        ("menu and boots", False),
        ("menu or boots", True),
        ("not (boots or linux)", True),
        ("first and not (boots and menu)", True),
        ("a=1", True),
    ],
)
def test_expressions(expression: str, is_match: bool) -> None:
    assert matches(expression, "file::the first menu[a=1]") is is_match


@pytest.mark.parametrize("expression", ["", "and", "(a", "a)", "a b", "not"])
def test_no_expression(expression: str) -> None:
    with pytest.raises(ConfigError, match="not an expression"):
        matches(expression, "x")


def test_shards_are_disjoint_and_whole(file: Path) -> None:
    cases = load(file, LEAST + "[scenario.matrix]\nn = [1, 2, 3, 4, 5, 6, 7]\n")
    parts = [shard(cases, f"{part}/3") for part in (1, 2, 3)]
    assert sorted(case.name for part in parts for case in part) == [case.name for case in cases]
    assert [len(part) for part in parts] == [3, 2, 2]
    for bad in ("0/3", "4/3", "x", "1/0"):
        with pytest.raises(ConfigError, match="not a shard"):
            shard(cases, bad)


def test_the_schema_knows_every_key_and_lets_a_dimension_stand_for_a_number() -> None:
    schema = json_schema()
    tables = schema["$defs"]
    assert set(tables["Scenario"]["properties"]) >= {"name", "kernel", "disks", "keys", "expect", "allow", "matrix"}
    assert all(table["additionalProperties"] is False for table in tables.values())
    memory = tables["Scenario"]["properties"]["memory"]
    assert [option["type"] for option in memory["anyOf"]] == ["integer", "string"]
    assert json.loads(json.dumps(schema)) == schema


def test_the_docs_name_every_key() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    tables = json_schema()["$defs"]
    keys = {key for table in tables.values() for key in table["properties"]} - {"scenario"}
    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", page)) == []
