from __future__ import annotations

import pytest

from coriolis.convert.linux.modules import closure, module_name, parse_builtin, parse_dep
from coriolis.errors import Corrupt

DEP = parse_dep("k/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko\nk/virtio.ko:\nk/virtio_ring.ko: k/virtio.ko\n")


@pytest.mark.parametrize("path", ["a/virtio-rng.ko", "virtio_rng.ko.xz", "b/virtio-rng.ko.zst"])
def test_names(path: str) -> None:
    assert module_name(path) == "virtio_rng"


def test_the_closure_follows_dependencies_once() -> None:
    found = closure(DEP, frozenset(), ["virtio_blk", "virtio"])
    assert found.paths == ("k/virtio_blk.ko", "k/virtio.ko", "k/virtio_ring.ko")
    assert found.absent == ()


def test_built_in_modules_need_no_file_and_absent_ones_are_named() -> None:
    builtin = parse_builtin("kernel/virtio.ko\nkernel/virtio_ring.ko\n")
    found = closure(DEP, builtin, ["virtio_blk", "nvme"])
    assert found.paths == ("k/virtio_blk.ko",)
    assert found.absent == ("nvme",)


def test_a_cycle_ends() -> None:
    loop = parse_dep("a.ko: b.ko\nb.ko: a.ko\n")
    assert closure(loop, frozenset(), ["a"]).paths == ("a.ko", "b.ko")


@pytest.mark.parametrize("path", ["../../etc/shadow", "/etc/shadow", "a/../b.ko", "a b\x1b.ko"])
def test_paths_that_leave_the_tree_are_refused(path: str) -> None:
    with pytest.raises(Corrupt):
        parse_dep(f"{path}:\n") if " " not in path else parse_dep(f"x.ko: {path}\n")


def test_an_endless_closure_is_refused() -> None:
    chain = parse_dep("".join(f"m{i}.ko: m{i + 1}.ko\n" for i in range(300)))
    with pytest.raises(Corrupt, match="more than 200"):
        closure(chain, frozenset(), ["m0"])
