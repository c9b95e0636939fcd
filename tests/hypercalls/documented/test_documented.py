"""Each documented error of each hypercall is what the handlers and the real ports give, in both widths."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hypercalls.public import errno, grant_table
from hypercalls.table import TABLE
from tests.hypercalls import documented
from tests.hypercalls.documented.world import WIDTHS, World
from tests.hypercalls.operations import OPERATIONS, declared

if TYPE_CHECKING:
    from tests.hypercalls.documented import Case, Family

ERRORS = {number: name for name, number in vars(errno).items() if isinstance(number, int)}
STATUSES = {number: name for name, number in vars(grant_table).items() if name.startswith("GNTST_")}

FAMILIES: dict[str, Family] = {
    module.name: import_module(f"{documented.__name__}.{module.name}").FAMILY
    for module in pkgutil.iter_modules(documented.__path__)
    if module.name != "world" and not module.name.startswith("test_")
}


class Run(NamedTuple):
    """One case in one width."""

    case: Case
    bits: int

    def __str__(self) -> str:
        number = self.case.error
        return f"{self.case.operation}-{(STATUSES if number <= 0 else ERRORS)[number]}-{self.bits}"


RUNS = [
    Run(case, bits)
    for family in FAMILIES.values()
    for case in family.cases
    for bits in (64, 32)
    if case.bits in (0, bits)
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_error_is_given(run: Run) -> None:
    world = World(WIDTHS[run.bits])
    assert run.case.provoke(world) == -abs(run.case.error)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_row_has_a_case_and_each_case_its_row(name: str) -> None:
    family = FAMILIES[name]
    assert {case.key for case in family.cases} == set(family.documented)
    assert not set(family.documented) & set(family.unreachable)
    assert not {name for name, _ in family.documented} & set(family.never_fails)


def test_no_hypercall_and_no_operation_is_forgotten() -> None:
    """Each row of the table, or each of its operations where it has some, is told of by exactly one module."""
    wanted = {row.name for row in TABLE.values()}
    for call in OPERATIONS:
        wanted |= set(declared(call))
    told = [name for family in FAMILIES.values() for name in family.operations]
    assert sorted(told) == sorted(set(told)), "told of twice"
    assert set(told) == wanted
