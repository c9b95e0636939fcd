"""Where the cases of `pvemu test` run."""

from __future__ import annotations

import multiprocessing.context

import pytest

from pvemu.errors import ConfigError
from pvemu.scenario import schedule


def test_one_job_needs_no_pool() -> None:
    with schedule.executor(1, None) as pool:
        assert pool is None


def test_a_machine_whose_processes_cannot_share_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_context: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(multiprocessing.context.BaseContext, "Lock", refuse)
    refusal = pytest.raises(ConfigError, match=r"-j 2: .*\(Permission denied\); mount /dev/shm, or give -j 1")
    with refusal, schedule.executor(2, None):
        pass
