"""Transactions: private until the end, and EAGAIN when a touched node was changed from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io import xs_wire as xs
from pvemu.devices.xenstore.client import Nodes
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client
    from pvemu.devices.xenstore.server import XenStore


def start(client: Client, store: XenStore) -> Nodes:
    return Nodes(store, client._conn, int(client.request(xs.XS_TRANSACTION_START, b"\0")[:-1]))


def end(nodes: Nodes, *, commit: bool = True) -> str:
    try:
        return nodes.request(xs.XS_TRANSACTION_END, b"T\0" if commit else b"F\0")[:-1].decode()
    except XsError as error:
        return error.name


def test_changes_show_at_the_end(dom0: Client, guest: Client) -> None:
    with guest.transaction() as transaction:
        transaction.write("data/x", "1")
        assert transaction.read("data/x") == b"1"
        assert transaction.directory("data") == ["x"]
        assert not dom0.exists("/local/domain/1/data/x")
        assert dom0.directory("/local/domain/1/data") == []
    assert dom0.read("/local/domain/1/data/x") == b"1"


def test_an_exception_abandons(guest: Client) -> None:
    def failing() -> None:
        with guest.transaction() as transaction:
            transaction.write("data/x", "1")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert not guest.exists("data/x")
    assert not guest._conn.transactions


def test_a_read_node_changed_outside_conflicts(store: XenStore, guest: Client, dom0: Client) -> None:
    transaction = start(guest, store)
    transaction.read("name")
    dom0.write("/local/domain/1/name", "other")
    transaction.write("data/x", "1")
    assert transaction.read("name") == b"guest"
    assert end(transaction) == "EAGAIN"
    assert not guest.exists("data/x")
    assert end(transaction) == "ENOENT"


def test_a_node_made_outside_conflicts_with_having_missed_it(store: XenStore, guest: Client, dom0: Client) -> None:
    transaction = start(guest, store)
    assert not transaction.exists("data/x")
    dom0.write("/local/domain/1/data/x", "")
    assert end(transaction) == "EAGAIN"


def test_a_node_removed_outside_conflicts(store: XenStore, guest: Client, dom0: Client) -> None:
    guest.write("data/x", "")
    transaction = start(guest, store)
    transaction.read("data/x")
    dom0.rm("/local/domain/1/data/x")
    assert end(transaction) == "EAGAIN"


def test_siblings_made_side_by_side_conflict_at_their_parent(store: XenStore, guest: Client, dom0: Client) -> None:
    transaction = start(guest, store)
    transaction.write("data/mine", "")
    dom0.write("/local/domain/1/data/theirs", "")
    assert end(transaction) == "EAGAIN"


def test_untouched_nodes_do_not_conflict_and_are_seen_as_they_are(store: XenStore, guest: Client, dom0: Client) -> None:
    transaction = start(guest, store)
    dom0.write("/local/domain/1/name", "late")
    assert transaction.read("name") == b"late"
    guest.write("device/x", "")
    assert end(transaction) == "OK"


def test_of_two_transactions_the_second_conflicts(store: XenStore, guest: Client) -> None:
    guest.write("data/a", "0")
    guest.write("data/b", "0")
    first, second = start(guest, store), start(guest, store)
    assert first.tx_id != second.tx_id
    first.read("data/a")
    second.read("data/b")
    first.write("data/b", "1")
    second.write("data/a", "2")
    assert end(first) == "OK"
    assert end(second) == "EAGAIN"
    assert (guest.read("data/a"), guest.read("data/b")) == (b"0", b"1")


def test_remove_and_make_again_inside(store: XenStore, guest: Client) -> None:
    guest.write("data/a/b", "old")
    transaction = start(guest, store)
    transaction.rm("data/a")
    assert not transaction.exists("data/a/b")
    transaction.write("data/a", "new")
    transaction.write("data/c", "")
    transaction.rm("data/c")
    assert guest.read("data/a/b") == b"old"
    assert end(transaction) == "OK"
    assert guest.directory("data") == ["a"]
    assert guest.read("data/a") == b"new"
    assert guest.directory("data/a") == []


def test_set_perms_inside(store: XenStore, guest: Client) -> None:
    guest.write("data/a", "")
    transaction = start(guest, store)
    transaction.set_perms("data/a", ["n1", "r0"])
    assert guest.get_perms("data/a") == ("n1",)
    assert end(transaction) == "OK"
    assert guest.get_perms("data/a") == ("n1", "r0")


def test_abandoned(store: XenStore, guest: Client) -> None:
    transaction = start(guest, store)
    transaction.write("data/a", "")
    assert end(transaction, commit=False) == "OK"
    assert not guest.exists("data/a")


@pytest.mark.parametrize("payload", [b"", b"T", b"X\0", b"T\0T\0", b"TF\0"])
def test_a_bad_end_leaves_the_transaction(store: XenStore, guest: Client, payload: bytes) -> None:
    transaction = start(guest, store)
    with pytest.raises(XsError, match="EINVAL"):
        transaction.request(xs.XS_TRANSACTION_END, payload)
    assert end(transaction) == "OK"


def test_no_transaction_within_a_transaction(store: XenStore, guest: Client) -> None:
    transaction = start(guest, store)
    with pytest.raises(XsError, match="EBUSY"):
        transaction.request(xs.XS_TRANSACTION_START, b"\0")


def test_an_end_without_a_start(guest: Client) -> None:
    with pytest.raises(XsError, match="ENOENT"):
        guest.request(xs.XS_TRANSACTION_END, b"T\0")


def test_a_guest_has_at_most_11_transactions(store: XenStore, guest: Client, dom0: Client) -> None:
    # The quota is 10, and xenstored compares with "more than".
    transactions = [start(guest, store) for _ in range(11)]
    with pytest.raises(XsError, match="ENOSPC"):
        start(guest, store)
    assert end(transactions[3]) == "OK"
    start(guest, store)
    for _ in range(20):
        start(dom0, store)


def test_a_guests_transaction_touches_at_most_1024_nodes(store: XenStore, guest: Client, dom0: Client) -> None:
    dom0.control("quota", "set", "transaction-nodes", "5")
    transaction = start(guest, store)
    for number in range(4):
        assert not transaction.exists(f"data/{number}")  # their parent is the fifth
    with pytest.raises(XsError, match="ENOSPC"):
        transaction.read("name")
    assert end(transaction) == "ENOMEM"


def test_a_write_that_fails_fails_the_transaction(store: XenStore, guest: Client) -> None:
    transaction = start(guest, store)
    with pytest.raises(XsError, match="ENOSPC"):
        transaction.write("data/x", b"x" * 3000)
    assert end(transaction) == "ENOMEM"


def test_the_quota_on_nodes_is_checked_at_the_end(store: XenStore, guest: Client, dom0: Client) -> None:
    dom0.control("quota", "set", "nodes", "5")
    transaction = start(guest, store)
    for number in range(4):
        transaction.write(f"data/{number}", "")
    assert end(transaction) == "ENOSPC"
    assert guest.directory("data") == []


def test_nodes_are_counted_once_committed(store: XenStore, guest: Client, dom0: Client) -> None:
    def usage() -> list[str]:
        return [line.split()[-1] for line in dom0.control("quota", "1").splitlines()[1:]]

    before = usage()
    transaction = start(guest, store)
    transaction.write("data/a", "value")
    transaction.write("data/b", "value")
    transaction.rm("data/b")
    assert end(transaction) == "OK"
    assert usage()[0] == str(int(before[0]) + 1)
    guest.rm("data/a")
    assert usage() == before


def test_transaction_ids_start_at_1_and_skip_those_in_use(store: XenStore, guest: Client) -> None:
    transactions = [start(guest, store) for _ in range(3)]
    assert [transaction.tx_id for transaction in transactions] == [1, 2, 3]
    guest._conn.next_transaction_id = 0xFFFFFFFF
    assert start(guest, store).tx_id == 0xFFFFFFFF
    assert start(guest, store).tx_id == 4
