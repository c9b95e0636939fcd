"""Every request type: what it does, and each error xenstored 4.17 has for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypercalls.public.io import xs_wire as xs
from pvemu.devices.xenstore.wire import XsError

if TYPE_CHECKING:
    from pvemu.devices.xenstore.client import Client
    from pvemu.devices.xenstore.server import XenStore


def errno(client: Client, msg_type: int, payload: bytes) -> str:
    """The error a request gets."""
    with pytest.raises(XsError) as caught:
        client.request(msg_type, payload)
    return caught.value.name


# READ, WRITE, MKDIR


def test_read_absolute_and_relative(guest: Client) -> None:
    assert guest.read("name") == b"guest"
    assert guest.read("/local/domain/1/name") == b"guest"


def test_a_tool_reads_relative_to_dom0(dom0: Client) -> None:
    dom0.write("/local/domain/0/name", "Domain-0")
    assert dom0.read("name") == b"Domain-0"


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"data/none\0", "ENOENT"),
        (b"none\0", "ENOENT"),
        (b"/secret/inner\0", "EACCES"),
        (b"/secret/none\0", "EACCES"),
        (b"/none\0", "EACCES"),
        (b"/\0", "EACCES"),
        (b"", "EINVAL"),
        (b"name", "EINVAL"),
        (b"name\0name\0", "EINVAL"),
        (b"\0", "EINVAL"),
        (b"data/\0", "EINVAL"),
        (b"/local//domain\0", "EINVAL"),
        (b"na me\0", "EINVAL"),
        (b"caf\xc3\xa9\0", "EINVAL"),
        (b"@releaseDomain\0", "EINVAL"),
        (b"data/" + b"x" * 2043 + b"\0", "ENOENT"),
        (b"data/" + b"x" * 2044 + b"\0", "EINVAL"),
        (b"/local/domain/0/" + b"x" * 2048 + b"\0", "EACCES"),
        (b"/local/domain/0/" + b"x" * 2049 + b"\0", "EINVAL"),
        (b"/local/domain/123456/" + b"x" * 2040 + b"\0", "EINVAL"),
    ],
)
def test_read_errors(guest: Client, payload: bytes, name: str) -> None:
    assert errno(guest, xs.XS_READ, payload) == name


def test_write_makes_parents_the_guest_owns(guest: Client, dom0: Client) -> None:
    guest.write("data/a/b", b"\0\xff")
    assert dom0.read("/local/domain/1/data/a/b") == b"\0\xff"
    assert dom0.read("/local/domain/1/data/a") == b""
    assert dom0.get_perms("/local/domain/1/data/a/b") == ("n1",)
    assert dom0.directory("/local/domain/1/data") == ["a"]


def test_new_nodes_inherit_permissions(dom0: Client, guest: Client) -> None:
    dom0.write("/local/domain/1/x/y", "v")
    assert dom0.get_perms("/local/domain/1/x/y") == ("n0", "r1")
    dom0.set_perms("/local/domain/1/x", ["r0", "b1"])
    guest.write("x/mine", "v")
    assert dom0.get_perms("/local/domain/1/x/mine") == ("r1", "b1")


def test_children_are_listed_in_the_order_they_were_made(guest: Client) -> None:
    for name in ("zz", "a", "m"):
        guest.mkdir(f"data/{name}")
    guest.rm("data/a")
    guest.mkdir("data/a")
    assert guest.directory("data") == ["zz", "m", "a"]


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"name\0other", "EACCES"),
        (b"new\0value", "EACCES"),
        (b"/secret/inner\0value", "EACCES"),
        (b"no nul", "EINVAL"),
        (b"", "EINVAL"),
        (b"data//x\0value", "EINVAL"),
        (b"\0value", "EINVAL"),
    ],
)
def test_write_errors(guest: Client, payload: bytes, name: str) -> None:
    assert errno(guest, xs.XS_WRITE, payload) == name


def test_a_guests_node_has_less_than_2048_bytes(guest: Client, dom0: Client) -> None:
    header = 24 + 8  # the record's header and one permission
    guest.write("data/big", b"x" * (2047 - header))
    assert errno(guest, xs.XS_WRITE, b"data/big\0" + b"x" * (2048 - header)) == "ENOSPC"
    assert errno(guest, xs.XS_WRITE, b"data/new/sub\0" + b"x" * (2048 - header)) == "ENOSPC"
    assert guest.directory("data") == ["big"]
    dom0.write("/local/domain/1/data/big", b"x" * 4000)


def test_a_guest_owns_at_most_1000_nodes(guest: Client) -> None:
    # data and device were there, and 20 directories are made on the way.
    for number in range(1000 - 2 - 20):
        guest.write(f"data/{number // 50}/{number % 50}", "")
    assert errno(guest, xs.XS_WRITE, b"data/19/more\0") == "ENOSPC"
    guest.write("data/0/0", "those that are there can still be written")
    guest.rm("data/0")
    guest.write("data/again", "")


def test_a_node_that_cannot_be_made_whole_leaves_nothing(guest: Client, dom0: Client) -> None:
    dom0.control("quota", "set", "nodes", "4")
    assert errno(guest, xs.XS_WRITE, b"data/a/b/c\0") == "ENOSPC"
    assert guest.directory("data") == []
    guest.write("data/a/b", "")


def test_mkdir(guest: Client, dom0: Client) -> None:
    guest.mkdir("data/dir")
    guest.write("data/dir", "kept")
    guest.mkdir("data/dir")
    assert dom0.read("/local/domain/1/data/dir") == b"kept"
    assert errno(guest, xs.XS_MKDIR, b"new\0") == "EACCES"
    assert errno(guest, xs.XS_MKDIR, b"data/x") == "EINVAL"
    assert errno(guest, xs.XS_MKDIR, b"data/x/\0") == "EINVAL"


# RM


def test_rm_takes_the_tree(guest: Client) -> None:
    guest.write("data/a/b/c", "")
    guest.rm("data/a")
    assert guest.directory("data") == []
    assert not guest.exists("data/a/b/c")


def test_rm_of_what_is_not_there_is_fine_below_an_existing_parent(guest: Client) -> None:
    guest.rm("data/none")
    assert errno(guest, xs.XS_RM, b"data/none/none\0") == "ENOENT"


def test_rm_errors(guest: Client, dom0: Client) -> None:
    assert errno(guest, xs.XS_RM, b"name\0") == "EACCES"
    assert errno(guest, xs.XS_RM, b"/\0") == "EACCES"
    assert errno(dom0, xs.XS_RM, b"/\0") == "EINVAL"
    assert errno(guest, xs.XS_RM, b"data") == "EINVAL"


def test_rm_of_a_deep_tree(dom0: Client) -> None:
    path = "/deep" + "/d" * 1000
    dom0.write(path, "")
    dom0.rm("/deep")
    assert not dom0.exists("/deep")


# DIRECTORY, DIRECTORY_PART


def test_directory(guest: Client, dom0: Client) -> None:
    assert guest.request(xs.XS_DIRECTORY, b"data\0") == b""
    guest.mkdir("data/a")
    guest.mkdir("data/b")
    assert guest.request(xs.XS_DIRECTORY, b"data\0") == b"a\0b\0"
    assert dom0.directory("/") == ["tool", "local", "secret"]
    assert errno(guest, xs.XS_DIRECTORY, b"data/c\0") == "ENOENT"
    assert errno(guest, xs.XS_DIRECTORY, b"/\0") == "EACCES"
    assert errno(guest, xs.XS_DIRECTORY, b"data") == "EINVAL"


def test_a_long_directory_comes_in_parts(dom0: Client) -> None:
    names = [f"child-{number:05}" for number in range(1000)]
    for name in names:
        dom0.mkdir(f"/many/{name}")
    assert errno(dom0, xs.XS_DIRECTORY, b"/many\0") == "E2BIG"
    first = dom0.request(xs.XS_DIRECTORY_PART, b"/many\0000\0")
    assert len(first) <= xs.XENSTORE_PAYLOAD_MAX
    generation, *rest = first.split(b"\0")
    assert int(generation) > 0
    assert rest[0] == b"child-00000"
    assert not first.endswith(b"\0\0")
    assert dom0.directory("/many") == names


def test_directory_part_edges(guest: Client) -> None:
    guest.mkdir("data/a")
    generation = guest.request(xs.XS_DIRECTORY_PART, b"data\0000\0").split(b"\0")[0]
    assert guest.request(xs.XS_DIRECTORY_PART, b"data\0000\0") == generation + b"\0a\0\0"
    assert guest.request(xs.XS_DIRECTORY_PART, b"data\0002\0") == generation + b"\0\0"
    assert guest.request(xs.XS_DIRECTORY_PART, b"data\000-1\0") == generation + b"\0\0"
    assert guest.request(xs.XS_DIRECTORY_PART, b"data\000x\0") == generation + b"\0a\0\0"
    guest.mkdir("data/b")
    assert guest.request(xs.XS_DIRECTORY_PART, b"data\0000\0").split(b"\0")[0] != generation
    assert errno(guest, xs.XS_DIRECTORY_PART, b"data\0") == "EINVAL"
    assert errno(guest, xs.XS_DIRECTORY_PART, b"data\0000\0x\0") == "EINVAL"
    assert errno(guest, xs.XS_DIRECTORY_PART, b"/secret\0000\0") == "EACCES"


# GET_PERMS, SET_PERMS


def test_perms_round_trip(guest: Client) -> None:
    guest.write("data/x", "")
    guest.set_perms("data/x", ["b1", "r0", "w1", "n0"])
    assert guest.get_perms("data/x") == ("b1", "r0", "w1", "n0")
    assert errno(guest, xs.XS_GET_PERMS, b"/secret\0") == "EACCES"
    assert errno(guest, xs.XS_GET_PERMS, b"data/none\0") == "ENOENT"
    assert errno(guest, xs.XS_GET_PERMS, b"data/x") == "EINVAL"


def test_perms_decide(guest: Client, dom0: Client) -> None:
    dom0.write("/open", "v")
    dom0.set_perms("/open", ["n0", "r1"])
    assert guest.read("/open") == b"v"
    assert errno(guest, xs.XS_WRITE, b"/open\0w") == "EACCES"
    dom0.set_perms("/open", ["r0", "w1"])
    assert errno(guest, xs.XS_READ, b"/open\0") == "EACCES"
    guest.write("/open", "w")
    dom0.set_perms("/open", ["b0"])
    assert guest.read("/open") == b"w"
    assert errno(guest, xs.XS_SET_PERMS, b"/open\0b1\0") == "EACCES"


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"data\0", "EINVAL"),
        (b"", "EINVAL"),
        (b"data\0x1\0", "EINVAL"),
        (b"data\0n\0", "EINVAL"),
        (b"data\0n1x\0", "EINVAL"),
        (b"data\0n08\0", "EINVAL"),
        (b"data\0n7\0", "ENOENT"),
        (b"data\0n0\0", "EPERM"),
        (b"name\0n1\0", "EACCES"),
        (b"data/none\0n1\0", "ENOENT"),
        (b"data\0n1\0" + b"r0\0" * 5, "ENOSPC"),
        (b"@releaseDomain\0n1\0", "EACCES"),
        (b"@nothing\0n1\0", "EINVAL"),
    ],
)
def test_set_perms_errors(guest: Client, payload: bytes, name: str) -> None:
    assert errno(guest, xs.XS_SET_PERMS, payload) == name


def test_domain_ids_are_read_as_strtol_does(guest: Client) -> None:
    guest.request(xs.XS_SET_PERMS, b"data\0n0x1\0r 01\0r-1\0")
    assert guest.get_perms("data") == ("n1", "r1", "r-1")


def test_changing_the_owner_moves_the_node_to_its_account(dom0: Client) -> None:
    def nodes() -> str:
        return dom0.control("quota", "1").splitlines()[1]

    assert nodes() == "nodes           :        2"
    dom0.write("/given", "")
    dom0.set_perms("/given", ["n1"])
    assert nodes() == "nodes           :        3"
    dom0.rm("/given")
    assert nodes() == "nodes           :        2"


# Domains


def test_introduce_and_release(store: XenStore, dom0: Client) -> None:
    assert not dom0.is_domain_introduced(1)
    dom0.introduce(1, 0x1234, 1)
    assert dom0.is_domain_introduced(1)
    dom0.introduce(1, 0x1234, 2)
    dom0.release(1)
    assert not dom0.is_domain_introduced(1)
    # What the domain owned is gone, what it could only read is not.
    assert dom0.directory("/local/domain/1") == ["name"]
    assert errno(dom0, xs.XS_RELEASE, b"1\0") == "ENOENT"


def test_a_domain_made_later_does_not_get_the_rights_of_an_earlier_one(store: XenStore, dom0: Client) -> None:
    dom0.introduce(1, 0, 1)
    dom0.release(1)
    dom0.write("/elsewhere", "")
    dom0.introduce(1, 0, 1)
    assert errno(store.client(1), xs.XS_READ, b"/local/domain/1/name\0") == "EACCES"


@pytest.mark.parametrize(
    ("msg_type", "payload", "name"),
    [
        (xs.XS_INTRODUCE, b"1\0001\0", "EINVAL"),
        (xs.XS_INTRODUCE, b"1\0001\0000\0", "EINVAL"),
        (xs.XS_INTRODUCE, b"9\0001\0001\0", "ENOENT"),
        (xs.XS_RELEASE, b"0\0", "EINVAL"),
        (xs.XS_RELEASE, b"x\0", "EINVAL"),
        (xs.XS_RELEASE, b"1", "EINVAL"),
        (xs.XS_RELEASE, b"1\0", "ENOENT"),
        (xs.XS_RESUME, b"0\0", "EINVAL"),
        (xs.XS_RESUME, b"9\0", "ENOENT"),
        (xs.XS_SET_TARGET, b"1\0", "EINVAL"),
        (xs.XS_SET_TARGET, b"1\0000\0", "ENOENT"),
        (xs.XS_IS_DOMAIN_INTRODUCED, b"1", "EINVAL"),
        (xs.XS_GET_DOMAIN_PATH, b"", "EINVAL"),
    ],
)
def test_domain_request_errors(dom0: Client, msg_type: int, payload: bytes, name: str) -> None:
    assert errno(dom0, msg_type, payload) == name


def test_set_target_lends_permissions(store: XenStore, dom0: Client) -> None:
    store.add_domain(2)
    guest_connection = store.introduce(1)
    store.introduce(2)
    dom0.write("/theirs", "v")
    dom0.set_perms("/theirs", ["n2"])
    assert store.dispatch(guest_connection, xs.XS_READ, 0, b"/theirs\0") == (xs.XS_ERROR, b"EACCES\0")
    dom0.set_target(1, 2)
    assert store.dispatch(guest_connection, xs.XS_READ, 0, b"/theirs\0") == (xs.XS_READ, b"v")


def test_resume_makes_the_next_shutdown_news(store: XenStore, dom0: Client) -> None:
    store.introduce(1)
    seen: list[str] = []
    dom0.watch("@releaseDomain", "t", lambda path, token: seen.append(path))
    for _ in range(2):
        store.domain_shutdown(1)
    assert len(seen) == 2  # the first one comes with the watch itself
    dom0.resume(1)
    store.domain_shutdown(1)
    assert len(seen) == 3


def test_get_domain_path_and_is_domain_introduced(guest: Client, dom0: Client) -> None:
    assert guest.get_domain_path(1) == "/local/domain/1"
    assert dom0.get_domain_path(4711) == "/local/domain/4711"
    assert guest.request(xs.XS_GET_DOMAIN_PATH, b" -1 \0") == b"/local/domain/4294967295\0"
    assert guest.request(xs.XS_GET_DOMAIN_PATH, b"x\0") == b"/local/domain/0\0"
    assert dom0.is_domain_introduced(0)
    assert dom0.is_domain_introduced(0x7FF0)
    assert not dom0.is_domain_introduced(9)


def test_reset_watches(guest: Client) -> None:
    seen: list[str] = []
    guest.watch("data", "t", lambda path, token: seen.append(path))
    tx_id = int(guest.request(xs.XS_TRANSACTION_START, b"\0")[:-1])
    guest.reset_watches()
    guest.write("data/x", "")
    assert seen == ["data"]
    guest.tx_id = tx_id
    assert errno(guest, xs.XS_READ, b"data\0") == "ENOENT"


# Types and transaction ids


@pytest.mark.parametrize("msg_type", [xs.XS_WATCH_EVENT, xs.XS_ERROR, 20, 23, 0xFFFF, 0xFFFFFFFF])
def test_unknown_types(guest: Client, dom0: Client, msg_type: int) -> None:
    assert errno(guest, msg_type, b"x\0") == "ENOSYS"
    assert errno(dom0, msg_type, b"") == "ENOSYS"


@pytest.mark.parametrize(
    "msg_type",
    [xs.XS_CONTROL, xs.XS_INTRODUCE, xs.XS_RELEASE, xs.XS_IS_DOMAIN_INTRODUCED, xs.XS_RESUME, xs.XS_SET_TARGET],
)
def test_privileged_types(guest: Client, msg_type: int) -> None:
    assert errno(guest, msg_type, b"1\0") == "EACCES"


def test_only_watches_ignore_the_transaction_id(guest: Client) -> None:
    guest.tx_id = 77
    assert errno(guest, xs.XS_READ, b"name\0") == "ENOENT"
    assert errno(guest, xs.XS_TRANSACTION_START, b"\0") == "ENOENT"
    assert errno(guest, xs.XS_CONTROL, b"\0") == "EACCES"
    assert guest.request(xs.XS_WATCH, b"name\0t\0") == b"OK\0"
    assert guest.request(xs.XS_UNWATCH, b"name\0t\0") == b"OK\0"


def test_a_client_does_not_send_more_than_a_payload(dom0: Client) -> None:
    dom0.write("/x", b"v" * (4096 - 3))
    with pytest.raises(XsError, match="E2BIG"):
        dom0.write("/x", b"v" * (4096 - 2))


# CONTROL


def test_control(dom0: Client) -> None:
    assert dom0.control("check") == "OK"
    assert dom0.control("log", "on") == "OK"
    assert dom0.control("print", "words") == "OK"
    assert "transaction-nodes:     1024 Max. number of accessed nodes per transaction\n" in dom0.control("quota")
    assert dom0.control("quota-soft").startswith("Quota settings:\nmemory           :  2097152 Total")
    assert dom0.control("quota-soft", "set", "memory", "1000") == "OK"
    assert dom0.control("help").splitlines()[0] == "check\t"
    assert dom0.control("quota", "1").startswith("Domain 1:\n")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "EINVAL"),
        (("nothing",), "EINVAL"),
        (("check", "x"), "EINVAL"),
        (("log", "maybe"), "EINVAL"),
        (("print",), "EINVAL"),
        (("quota", "9"), "ENOENT"),
        (("quota", "1", "2"), "EINVAL"),
        (("quota", "set", "nodes"), "EINVAL"),
        (("quota", "set", "nodes", "0"), "EINVAL"),
        (("quota", "set", "nothing", "1"), "EINVAL"),
        (("quota-soft", "1"), "EINVAL"),
        (("help", "x"), "EINVAL"),
    ],
)
def test_control_errors(dom0: Client, words: tuple[str, ...], name: str) -> None:
    assert errno(dom0, xs.XS_CONTROL, b"".join(word.encode() + b"\0" for word in words)) == name
