"""Seals are signed by both sides: who lies, or signs in another name, seals nothing. And what conversion leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coriolis.agent.manifest_update import RecordingWriter, deployed_path, differing_cells, update_manifest
from coriolis.agent.notary import DiskPass, Notary
from coriolis.agent.tasks.verify_disks import HowMuch, check_head, report
from coriolis.errors import CoriolisError, Corrupt, Denied
from coriolis.rpc.tls import TlsFiles, read_pem
from coriolis.security.attest import Anchors, Signer
from coriolis.transfer.attestation import Proof, Signed, Statement, agreed, read_statement
from coriolis.transfer.cells import Run
from coriolis.transfer.digest_tree import leaf_digests
from coriolis.transfer.manifest import ManifestHead, decode_manifest, encode_manifest
from coriolis.transfer.table import CellTable
from tests.unit.agent.pair import Lab, agent, cells_plan, certificates, content, full_plan

MIB = 1 << 20
MakeLab = Callable[[int], Lab]
DISK = content(9 * MIB + 5, [(0, 3 * MIB), (5 * MIB + 7, 100), (9 * MIB, 5)])


def anchors(lab: Lab) -> Anchors:
    return Anchors(read_pem(lab.tls["sink"].ca))


def kept(lab: Lab) -> tuple[ManifestHead, CellTable, Proof]:
    head, table = decode_manifest(lab.manifest.read_bytes())
    assert head.proof is not None
    return head, table, head.proof


async def test_a_sealed_disk_leaves_what_both_agents_signed(lab: MakeLab) -> None:
    here = lab(len(DISK))
    source = await here.send(DISK, full_plan(DISK))
    _, table, proof = kept(here)
    said = anchors(here).check_proof(proof)
    assert (said.source.signer, said.sink.signer) == (agent("source"), agent("sink"))
    for one in (said.source, said.sink):
        assert (one.transfer_id, one.disk_id, one.pass_number, one.generation) == ("t", "d", 1, 1)
        assert (one.size_bytes, one.snapshot_identity) == (len(DISK), "s1")
        assert (one.data_cells, one.zero_cells) == (5, 5)
    assert source.proof == proof, "the source holds the same"
    found = here.sinks[-1].proof
    assert found is not None
    assert (found.proof, found.leaves) == (proof, tuple(leaf_digests(table)))


async def test_a_later_pass_signs_the_whole_disk_and_what_it_sent(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    first = agreed(kept(here)[2])
    newer = bytearray(DISK)
    newer[4 * MIB] = 1
    await here.send(bytes(newer), cells_plan(4), generation=2, pass_number=2, snapshot="s2")
    said = anchors(here).check_proof(kept(here)[2])
    assert (said.source.data_cells, said.source.zero_cells) == (1, 0)
    assert (said.sink.data_cells, said.sink.zero_cells) == (6, 4)
    assert (said.sink.pass_number, said.sink.generation, said.sink.snapshot_identity) == (2, 2, "s2")
    assert len({first.sink.root, said.sink.root, said.sink.pass_root, first.sink.pass_root}) == 4


class Liar(Notary):
    """A source whose statement is changed by ``lie`` before it signs it."""

    def __init__(self, tls: TlsFiles, peer: str, lie: Callable[[Statement], Statement]) -> None:
        super().__init__(tls, peer)
        self._lie = lie

    async def attest_pass(self, disk: DiskPass, table: CellTable) -> Signed:
        honest = await super().attest_pass(disk, table)
        return Signer(self._tls).sign(self._lie(read_statement(honest)))


LIES: dict[str, dict[str, Any]] = {
    "transfer": {"transfer_id": "u"},
    "disk": {"disk_id": "e"},
    "pass": {"pass_number": 2},
    "generation": {"generation": 3},
    "size": {"size_bytes": 1},
    "snapshot": {"snapshot_identity": "s0"},
    "content": {"pass_root": "0" * 64},
    "role": {"role": "sink"},
    "a root it cannot know": {"root": "0" * 64},
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_source_that_signs_something_else_seals_nothing(lab: MakeLab, lie: str) -> None:
    here = lab(len(DISK))
    here.make_notary = lambda tls, peer: Liar(tls, peer, lambda said: msgspec.structs.replace(said, **LIES[lie]))
    with pytest.raises(Corrupt):
        await here.send(DISK, full_plan(DISK))
    assert_unsealed(here)


def assert_unsealed(here: Lab) -> None:
    assert not here.manifest.exists()
    assert not here.sinks[-1].sealed.is_set()
    assert here.sinks[-1].proof is None


async def test_a_source_that_signs_with_a_strangers_key_seals_nothing(lab: MakeLab) -> None:
    """The stranger is an agent of the mesh; the disk was assigned to another one."""
    here = lab(len(DISK))
    here.make_notary = lambda tls, peer: Notary(here.tls["stranger"], peer)
    with pytest.raises(Denied, match="assigned to"):
        await here.send(DISK, full_plan(DISK))
    assert_unsealed(here)


async def test_the_key_must_be_the_one_shown_in_tls(lab: MakeLab, tmp_path: Path) -> None:
    """The same identity with another key, as a stolen older one would be."""
    from coriolis.security.pki import issue

    here = lab(len(DISK))
    ca_dir = here.tls["source"].ca.parent.parent / "ca"
    other = issue(ca_dir, tmp_path / "other-key", agent("source"), ["127.0.0.1"])
    here.make_notary = lambda tls, peer: Notary(other, peer)
    with pytest.raises(Denied, match="another key"):
        await here.send(DISK, full_plan(DISK))
    assert_unsealed(here)


class Silent(Notary):
    async def attest_pass(self, disk: DiskPass, table: CellTable) -> Signed:
        return Signed("", "", "")


async def test_a_source_that_signs_nothing_seals_nothing(lab: MakeLab) -> None:
    here = lab(len(DISK))
    here.make_notary = Silent
    with pytest.raises(Denied, match="signed no statement"):
        await here.send(DISK, full_plan(DISK))
    assert_unsealed(here)


class ByStranger(Notary):
    """A sink whose word comes from another agent of the mesh."""

    async def countersign(self, *arguments: Any) -> tuple[Proof, list[bytes]]:
        proof, leaves = await super().countersign(*arguments)
        said = read_statement(proof.sink)
        stranger = self._tls.ca.parent.parent / "stranger"
        signer = Signer(TlsFiles.in_directory(stranger))
        signed = signer.sign(msgspec.structs.replace(said, signer=str(signer.identity)))
        return msgspec.structs.replace(proof, sink=signed), leaves


class OfAnotherDisk(Notary):
    """A sink that attests, well signed, a disk that it did not get."""

    async def countersign(self, *arguments: Any) -> tuple[Proof, list[bytes]]:
        proof, leaves = await super().countersign(*arguments)
        said = msgspec.structs.replace(read_statement(proof.sink), root="0" * 64)
        return msgspec.structs.replace(proof, sink=Signer(self._tls).sign(said)), leaves


@pytest.mark.parametrize(("notary", "error"), [(ByStranger, Denied), (OfAnotherDisk, Corrupt)])
async def test_the_source_believes_only_the_sink_it_was_given(
    lab: MakeLab, notary: type[Notary], error: type[CoriolisError], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = lab(len(DISK))
    monkeypatch.setattr("tests.unit.agent.pair.Notary", notary)
    async with here.sink() as (_, port), here.source(port, DISK) as source:
        with pytest.raises(error):
            await source.send(full_plan(DISK))
    assert not source.sealed


# -- after the seal -----------------------------------------------------------------------------------------------


async def converted(here: Lab) -> tuple[Notary, bytes]:
    """Seals, then changes two cells as a conversion does; the sealed file as it was."""
    await here.send(DISK, full_plan(DISK))
    sealed = here.manifest.read_bytes()
    notary = Notary(here.tls["sink"])
    writer = RecordingWriter(here.volume)
    await writer.write_at(4 * MIB, b"grub")
    await writer.write_zeroes(5 * MIB, MIB)
    await update_manifest(here.manifest, writer, notary)
    return notary, sealed


async def test_conversion_leaves_the_sealed_manifest_and_a_second_one(lab: MakeLab) -> None:
    here = lab(len(DISK))
    notary, sealed = await converted(here)
    assert here.manifest.read_bytes() == sealed, "as both agents signed it"
    head, table = decode_manifest(deployed_path(here.manifest).read_bytes())
    assert head.proof is not None
    said = anchors(here).check_proof(head.proof)
    assert said.deployed is not None
    assert said.deployed.sealed_root == said.sink.root
    assert said.deployed.signer == agent("sink")
    assert await differing_cells(table, here.volume) == []
    assert await differing_cells(decode_manifest(sealed)[1], here.volume) == [4, 5]
    await check_head(head, notary, head.proof)


async def test_a_second_attempt_of_the_conversion_keeps_what_the_first_one_changed(lab: MakeLab) -> None:
    here = lab(len(DISK))
    notary, _ = await converted(here)
    again = RecordingWriter(here.volume)
    await again.write_at(7 * MIB, b"x")
    await update_manifest(here.manifest, again, notary)
    _, table = decode_manifest(deployed_path(here.manifest).read_bytes())
    assert await differing_cells(table, here.volume) == []


async def test_a_deployed_manifest_of_an_earlier_seal_is_not_built_upon(lab: MakeLab) -> None:
    here = lab(len(DISK))
    notary, _ = await converted(here)
    await here.send(DISK, full_plan(DISK, compare=True), generation=2, pass_number=2, snapshot="s2")
    await update_manifest(here.manifest, RecordingWriter(here.volume), notary)
    head, table = decode_manifest(deployed_path(here.manifest).read_bytes())
    assert head.proof is not None
    assert agreed(head.proof).sink.pass_number == 2
    assert await differing_cells(table, here.volume) == []


async def test_a_manifest_changed_on_the_agents_disk_is_refused(lab: MakeLab) -> None:
    """Whoever can write there can make its digests fit the damaged volume, but not the signatures."""
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    _, table, proof = kept(here)
    table.set_zero(Run(0, 1))
    with pytest.raises(Corrupt, match="signed"):
        decode_manifest(encode_manifest("t", "d", table, proof))


async def test_an_exchanged_manifest_is_refused_by_what_the_job_has_kept(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    _, _, recorded = kept(here)
    await here.send(bytes(len(DISK)), full_plan(bytes(len(DISK)), compare=True), generation=2, snapshot="s2")
    head, _, _ = kept(here)
    notary = Notary(here.tls["sink"])
    with pytest.raises(Corrupt, match="recorded"):
        await check_head(head, notary, recorded)
    with pytest.raises(Corrupt, match="recorded"):
        await check_head(msgspec.structs.replace(head, proof=None), notary, recorded)
    await check_head(msgspec.structs.replace(head, proof=None), notary, None)


async def test_a_manifest_signed_under_another_ca_is_refused(lab: MakeLab, tmp_path: Path) -> None:
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    head, _, proof = kept(here)
    elsewhere = certificates(tmp_path / "elsewhere", "source", "sink")
    said = agreed(proof)
    forged = Proof(
        Signer(elsewhere["source"]).sign(said.source),
        Signer(elsewhere["sink"]).sign(said.sink),
    )
    with pytest.raises(Denied, match="not issued by the CA"):
        await check_head(msgspec.structs.replace(head, proof=forged), Notary(here.tls["sink"]), None)


# -- samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_a_sample_finds_a_flipped_byte_if_and_only_if_it_reads_its_cell(lab: MakeLab, seed: int) -> None:
    size = 40 * MIB
    disk = content(size, [(0, 10 * MIB)])
    here = lab(size)
    await here.send(disk, full_plan(disk))
    head, table, _ = kept(here)
    here.volume.now[7 * MIB + 4711] ^= 1  # in data
    here.volume.now[33 * MIB + 9] ^= 1  # in zeros
    whole = HowMuch()
    differing = await differing_cells(table, here.volume, whole.cells(table))
    assert differing == [7, 33]
    told = report("d", head, table, whole.cells(table), differing)
    assert (told["checked_cells"], told["checked_bytes"], told["differing_bytes"]) == (40, size, 2 * MIB)
    sample = HowMuch("50%", seed).cells(table)
    found = await differing_cells(table, here.volume, sample)
    assert found == [cell for cell in (7, 33) if cell in sample]
    told = report("d", head, table, sample, found)
    assert (told["checked_cells"], told["cells"], told["differing_cells"]) == (20, 40, found)


def test_some_of_these_seeds_find_it_and_some_do_not() -> None:
    table = CellTable(40 * MIB)
    hits = [7 in HowMuch("50%", seed).cells(table) for seed in range(8)]
    assert any(hits)
    assert not all(hits)
