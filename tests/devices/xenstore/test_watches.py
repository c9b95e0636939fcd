"""Watches: what fires, for whom, under which name, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io import xs_wire as xs
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client, Nodes
    from pvemu.devices.xenstore.server import XenStore

HOME = "/local/domain/1"


class Log(list[tuple[str, str]]):
    """The events a callback was given since the last look."""

    def __call__(self, path: str, token: str) -> None:
        self.append((path, token))

    def take(self) -> list[tuple[str, str]]:
        taken = list(self)
        self.clear()
        return taken


@pytest.fixture
def log() -> Log:
    return Log()


def errno(client: Client, msg_type: int, payload: bytes) -> str:
    with pytest.raises(XsError) as caught:
        client.request(msg_type, payload)
    return caught.value.name


def test_fires_at_once_then_on_every_change_below(dom0: Client, guest: Client, log: Log) -> None:
    dom0.watch(f"{HOME}/data", "t", log)
    assert log.take() == [(f"{HOME}/data", "t")]
    guest.write("data/a/b", "1")
    guest.write("data/a/b", "1")
    guest.mkdir("data/c")
    guest.mkdir("data/c")
    guest.set_perms("data/c", ["n1", "r0"])
    guest.rm("data/a")
    guest.write("device/x", "")
    guest.read("data/c")
    assert log.take() == [
        (f"{HOME}/data/a/b", "t"),
        (f"{HOME}/data/a/b", "t"),
        (f"{HOME}/data/c", "t"),
        (f"{HOME}/data/c", "t"),
        (f"{HOME}/data/a", "t"),
    ]


def test_names_that_only_start_alike_do_not_match(dom0: Client, log: Log) -> None:
    dom0.watch("/a/b", "t", log)
    log.take()
    dom0.write("/a/bc", "")
    dom0.write("/a", "")
    assert log.take() == []


def test_a_watch_on_the_root_sees_everything(dom0: Client, log: Log) -> None:
    dom0.watch("/", "t", log)
    dom0.write("/x", "")
    assert log.take() == [("/", "t"), ("/x", "t")]


def test_relative_watches_report_relative_paths(guest: Client, dom0: Client, log: Log) -> None:
    guest.watch("data", "rel", log)
    guest.watch(f"{HOME}/data", "abs", log)
    log.take()
    dom0.write(f"{HOME}/data/x", "")
    assert log.take() == [("data/x", "rel"), (f"{HOME}/data/x", "abs")]


def test_removing_above_a_watch_fires_what_existed(dom0: Client, log: Log) -> None:
    dom0.write("/a/b/c", "")
    for path in ("/a/b", "/a/none", "/a", "/"):
        dom0.watch(path, path, log)
    log.take()
    dom0.rm("/a")
    # Below the removed root only exact watches are told, deepest first; the root's event reaches those above it.
    assert log.take() == [("/a/b", "/a/b"), ("/a", "/a"), ("/a", "/")]


def test_failed_and_empty_requests_fire_nothing(guest: Client, dom0: Client, log: Log) -> None:
    dom0.watch(HOME, "t", log)
    log.take()
    guest.rm("data/none")
    for payload in (b"name\0x", b"data/x\0" + b"x" * 3000):
        errno(guest, xs.XS_WRITE, payload)
    assert log.take() == []


def test_events_of_a_transaction_come_with_its_commit(dom0: Client, guest: Client, log: Log) -> None:
    dom0.watch(f"{HOME}/data", "t", log)
    log.take()

    def change(transaction: Nodes) -> None:
        transaction.write("data/b", "1")
        transaction.write("data/a", "1")
        transaction.write("data/b", "2")
        transaction.write("data/gone", "")
        transaction.rm("data/gone")
        assert log.take() == []

    with guest.transaction() as transaction:
        change(transaction)
    # One event a node, in the order of first touch; of a node that came and went there is nothing to see.
    assert log.take() == [(f"{HOME}/data/b", "t"), (f"{HOME}/data/a", "t")]


def test_removal_in_a_transaction_is_told_by_the_old_permissions(dom0: Client, guest: Client, log: Log) -> None:
    guest.write("data/a/b", "")
    dom0.watch(f"{HOME}/data/a", "t", log)
    log.take()
    with guest.transaction() as transaction:
        transaction.rm("data/a")
    # The tree was touched from its root down: the parent, the node, its child.
    assert log.take() == [(f"{HOME}/data/a", "t")]


def test_an_abandoned_transaction_fires_nothing(dom0: Client, guest: Client, log: Log) -> None:
    dom0.watch(f"{HOME}/data", "t", log)
    log.take()
    tx_id = int(guest.request(xs.XS_TRANSACTION_START, b"\0")[:-1])
    guest.tx_id = tx_id
    guest.write("data/a", "")
    guest.request(xs.XS_TRANSACTION_END, b"F\0")
    assert log.take() == []


def test_only_who_may_read_is_told(dom0: Client, guest: Client, log: Log) -> None:
    guest.watch("/open", "t", log)
    assert log.take() == [("/open", "t")]
    dom0.write("/open", "1")
    assert log.take() == []
    dom0.set_perms("/open", ["n0", "r1"])
    assert log.take() == [("/open", "t")]
    # A child it may not read itself, below a node it may read.
    dom0.write("/open/x", "")
    log.take()
    dom0.set_perms("/open/x", ["n0"])
    assert log.take() == [("/open/x", "t")]
    # Losing the permission is the last it hears of the node.
    dom0.set_perms("/open", ["n0"])
    assert log.take() == [("/open", "t")]
    dom0.write("/open", "2")
    assert log.take() == []


def test_duplicates_and_unwatch(guest: Client, log: Log) -> None:
    guest.watch("data", "t", log)
    assert errno(guest, xs.XS_WATCH, b"data\0t\0") == "EEXIST"
    assert errno(guest, xs.XS_WATCH, b"/local/domain/1/data\0t\0") == "EEXIST"
    guest.watch("data", "other", log)
    guest.unwatch("/local/domain/1/data", "t")
    log.take()
    guest.write("data", "")
    assert log.take() == [("data", "other")]
    assert errno(guest, xs.XS_UNWATCH, b"data\0t\0") == "ENOENT"


@pytest.mark.parametrize(
    ("msg_type", "payload"),
    [
        (xs.XS_WATCH, b"data\0"),
        (xs.XS_WATCH, b"data\0t"),
        (xs.XS_WATCH, b"data\0t\0x\0"),
        (xs.XS_WATCH, b""),
        (xs.XS_WATCH, b"data//x\0t\0"),
        (xs.XS_WATCH, b"\0t\0"),
        (xs.XS_WATCH, b"@" + b"x" * 2048 + b"\0t\0"),
        (xs.XS_UNWATCH, b"data\0"),
        (xs.XS_UNWATCH, b"data\0t\0x\0"),
    ],
)
def test_malformed(guest: Client, msg_type: int, payload: bytes) -> None:
    assert errno(guest, msg_type, payload) == "EINVAL"


def test_a_guest_has_at_most_129_watches(guest: Client, dom0: Client, log: Log) -> None:
    # The quota is 128, and xenstored compares with "more than".
    for number in range(129):
        guest.watch("data", str(number), log)
    assert errno(guest, xs.XS_WATCH, b"data\0more\0") == "E2BIG"
    guest.unwatch("data", "5")
    guest.watch("data", "more", log)
    for number in range(200):
        dom0.watch("/x", str(number), log)


def test_special_watches(store: XenStore, dom0: Client, guest: Client, log: Log) -> None:
    store.add_domain(2)
    guests = Log()
    dom0.watch("@introduceDomain", "i", log)
    dom0.watch("@releaseDomain", "r", log)
    guest.watch("@introduceDomain", "i", guests)
    assert log.take() == [("@introduceDomain", "i"), ("@releaseDomain", "r")]
    assert guests.take() == [("@introduceDomain", "i")]
    dom0.introduce(2, 0, 1)
    dom0.introduce(2, 0, 1)
    assert log.take() == [("@introduceDomain", "i")]
    dom0.release(2)
    assert log.take() == [("@releaseDomain", "r")]
    assert guests.take() == []
    dom0.set_perms("@introduceDomain", ["n0", "r1"])
    dom0.introduce(2, 0, 1)
    assert guests.take() == [("@introduceDomain", "i")]


def test_callbacks_run_after_the_answer_and_in_order(dom0: Client, guest: Client) -> None:
    seen: list[str] = []

    def first(path: str, token: str) -> None:
        seen.append(f"first {path}")
        if path == "/start":
            dom0.write("/next", "")  # answered now; its events come after those already due
            seen.append("first is done")

    dom0.watch("/start", "1", first)
    dom0.watch("/next", "1", first)
    dom0.watch("/start", "2", lambda path, token: seen.append(f"second {path}"))
    seen.clear()
    dom0.write("/start", "")
    assert seen == ["first /start", "first is done", "second /start", "first /next"]


def test_a_callback_that_takes_a_watch_away_is_obeyed(dom0: Client, log: Log) -> None:
    dom0.watch("/x", "1", lambda path, token: dom0.unwatch("/x", "2") if dom0.exists("/x") else None)
    dom0.watch("/x", "2", log)
    log.take()
    dom0.write("/x", "")
    assert log.take() == []


def test_closing_a_client_ends_its_watches(store: XenStore, dom0: Client, log: Log) -> None:
    other = store.client()
    other.watch("/x", "t", log)
    log.take()
    other.close()
    dom0.write("/x", "")
    assert log.take() == []
