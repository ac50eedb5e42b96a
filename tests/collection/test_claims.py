"""Claims of motions: one has each, in whatever order things happen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("torch")

from mosaic_collect import CorruptStoreError, InputError, StoreLockedError
from mosaic_collect.collection import motion_queue
from mosaic_collect.collection.motion_queue import Claims, MotionQueue, take_over
from mosaic_collect.collection.motions import Motion
from mosaic_collect.store.blobs import Blobs
from mosaic_collect.store.posix import PosixBlobs
from mosaic_collect.store.ranks import Recording
from tests.collection.rank_worker import toy_motions
from tests.ranks import record_rank

MOTIONS = toy_motions(12)
HASHES = [motion.sha256 for motion in MOTIONS]


@pytest.fixture
def whole(tmp_path: Path) -> Blobs:
    return Recording.make(PosixBlobs(str(tmp_path / "expert"))).blobs


def claims(whole: Blobs, rank: int, world: int = 4, num_envs: int = 2) -> Claims:
    return Claims(whole, rank, world, num_envs)


def queue(whole: Blobs, rank: int, ledger: Any = None, **options: Any) -> MotionQueue:
    return MotionQueue(MOTIONS, 1, ledger, claims(whole, rank, **options))


def test_of_many_who_want_a_motion_one_has_it(whole: Blobs) -> None:
    barrier = threading.Barrier(8)

    def want(rank: int) -> list[str]:
        mine = claims(whole, rank, 8)
        barrier.wait()
        return [motion for motion in HASHES if mine.take(motion)]

    with ThreadPoolExecutor(8) as pool:
        had = list(pool.map(want, range(8)))
    assert sorted(motion for one in had for motion in one) == sorted(HASHES)
    for rank, mine in enumerate(had):
        assert all(claims(whole, 9).owner(motion) == rank for motion in mine)


def test_what_is_given_back_is_anybodys_once(whole: Blobs) -> None:
    first, second, third = (claims(whole, rank) for rank in range(3))
    motion = HASHES[0]
    assert first.take(motion)
    assert not second.take(motion)
    second.give_back(motion)  # not its own
    assert third.owner(motion) == 0
    first.give_back(motion)
    assert third.owner(motion) is None
    assert second.take(motion)
    assert not first.take(motion)
    assert first.owner(motion) == 1
    assert sorted(whole.names("claims")) == [f"{motion}.{n}" for n in range(3)] + ["zarr.json"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 1)), max_size=30))
def test_there_is_one_owner_whatever_was_known_before(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, bool, int]]
) -> None:
    whole = Recording.make(PosixBlobs(str(tmp_path_factory.mktemp("claims") / "expert"))).blobs
    ranks = [claims(whole, rank) for rank in range(3)]
    owner: dict[str, int | None] = dict.fromkeys(HASHES[:2])
    for rank, takes, at in moves:
        motion = HASHES[at]
        if takes:
            assert ranks[rank].take(motion) == (owner[motion] in (None, rank))
            owner[motion] = rank if owner[motion] is None else owner[motion]
        else:
            ranks[rank].give_back(motion)
            owner[motion] = None if owner[motion] == rank else owner[motion]
        assert {claim.owner(motion) for claim in ranks} == {owner[motion]}


@pytest.mark.parametrize("data", [b"", b"[]", b'{"rank": -1}', b'{"rank": "1"}', b'{"rank": true}'])
def test_a_damaged_claim_is_told(whole: Blobs, data: bytes) -> None:
    whole.put({f"claims/{HASHES[0]}.0": data})
    with pytest.raises(CorruptStoreError, match=HASHES[0]):
        claims(whole, 0).take(HASHES[0])


def test_ranks_begin_with_even_shares_and_go_on_with_what_is_left(whole: Blobs) -> None:
    many = queue(whole, 0, num_envs=100)
    first = [many.next() for _ in range(100)]
    assert len({*first} - {-1}) == 3, "twelve motions, four ranks"
    other = queue(whole, 1, num_envs=2)
    assert {other.next(), other.next()}.isdisjoint({*first} - {-1})
    later = [many.next() for _ in range(20)]
    assert len({*later} - {-1}) == 12 - 3 - 2


def test_who_comes_late_takes_what_is_left_of_another_share(whole: Blobs) -> None:
    own = sorted(HASHES)[1::4]
    thief = claims(whole, 0)
    assert all(thief.take(motion) for motion in own)
    late = queue(whole, 1, num_envs=2)
    got = [late.motions[late.next()].sha256 for _ in range(2)]
    assert len(set(got)) == 2
    assert set(got).isdisjoint(own)


def test_more_ranks_than_motions(whole: Blobs) -> None:
    queues = [queue(whole, rank, world=20, num_envs=1) for rank in range(20)]
    assert sum(one.prepare() for one in queues) == 12
    assert sorted(index for one in queues if (index := one.next()) >= 0) == list(range(12))


def test_a_rank_goes_on_with_its_own(whole: Blobs) -> None:
    before = queue(whole, 2, num_envs=3)
    ids = [before.next() for _ in range(3)]
    before.finish(ids[0], completed=True)
    again = queue(whole, 2, before.ledger(), num_envs=2)
    assert {again.next(), again.next()} == {ids[1], ids[2]}


def test_only_what_has_not_ended_is_given_back(whole: Blobs) -> None:
    one = queue(whole, 0, num_envs=3)
    ids = [one.next() for _ in range(3)]
    one.finish(ids[1], completed=False)
    one.give_back()
    owners = [claims(whole, 1).owner(one.motions[index].sha256) for index in ids]
    assert owners == [None, 0, None]


def test_a_motion_that_was_claimed_and_never_handed_out_is_given_back(whole: Blobs) -> None:
    """As where the simulator does not start."""
    one = queue(whole, 0, world=1)
    assert one.prepare()
    one.give_back()
    other = queue(whole, 1, world=1)
    assert sorted(other.next() for _ in range(12)) == list(range(12))


def test_what_is_given_back_is_asked_for_by_ranks_at_work(whole: Blobs) -> None:
    one, other = (queue(whole, rank, world=2, num_envs=1) for rank in range(2))
    mine = [one.next() for _ in range(6)]
    theirs = [other.next() for _ in range(6)]
    assert sorted(mine + theirs) == list(range(12))
    one.finish(mine[0], completed=True)
    assert other.next() == -1
    one.give_back()
    assert sorted(other.next() for _ in range(5)) == sorted(mine[1:])
    assert other.next() == -1


def test_looks_for_what_was_given_back_are_few(whole: Blobs, monkeypatch: Any) -> None:
    """Environments that idle ask at each of their resets; a look lists all claims."""
    busy = queue(whole, 0, world=1)
    assert sorted(busy.next() for _ in range(12)) == list(range(12))
    idle, looks = queue(whole, 1, world=2, num_envs=50), []
    names = PosixBlobs.names
    monkeypatch.setattr(
        PosixBlobs, "names", lambda self, *key: looks.append(key) or names(self, *key)
    )
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    assert {idle.next() for _ in range(500)} == {-1}
    assert 1 <= len(looks) <= 10


def test_a_process_that_lost_its_store_gives_nothing_of_its_successor_back(whole: Blobs) -> None:
    old = queue(whole, 0, world=1, num_envs=3)
    running = [old.next() for _ in range(3)]
    new = queue(whole, 0, world=1, num_envs=3)
    assert {new.next() for _ in range(3)} == set(running)
    old.give_back()
    other = queue(whole, 1, world=1)
    assert set(running).isdisjoint(other.next() for _ in range(12))


def test_what_a_predecessor_gave_back_late_is_claimed_anew_or_left(whole: Blobs) -> None:
    old = queue(whole, 0, world=1, num_envs=2)
    running = [old.next() for _ in range(2)]
    new = queue(whole, 0, world=2, num_envs=9)  # has read the claims, and made none yet
    old.give_back()
    other = queue(whole, 1, world=1, num_envs=9)
    first = other.next()
    assert first in running
    handed = [first, *(new.next() for _ in range(9)), *(other.next() for _ in range(12))]
    assert sorted(index for index in handed if index >= 0) == list(range(12))


def test_exhausted_is_what_others_have(whole: Blobs) -> None:
    one, other = queue(whole, 0, world=1), queue(whole, 1, world=1)
    ids = [one.next() for _ in range(12)]
    assert sorted(ids) == list(range(12))
    assert other.exhausted
    assert not other.prepare()
    assert not one.exhausted
    for index in ids:
        one.finish(index, completed=True)
    assert one.exhausted


def test_without_a_bound_each_goes_round_its_own(whole: Blobs) -> None:
    queues = [MotionQueue(MOTIONS, claims=claims(whole, rank, 2, 3)) for rank in range(2)]
    handed = [[one.next() for _ in range(3)] for one in queues]
    for one, mine in zip(queues, handed, strict=True):
        mine += [one.next() for _ in range(30)]
    assert -1 not in handed[0] + handed[1]
    assert {*handed[0]} | {*handed[1]} == set(range(12))
    assert {*handed[0]}.isdisjoint(handed[1])


def test_a_claim_that_a_power_cut_took_is_made_again(whole: Blobs, tmp_path: Path) -> None:
    one = queue(whole, 0)
    index = one.next()
    one.finish(index, completed=True)
    (tmp_path / "expert" / "claims" / f"{one.motions[index].sha256}.0").unlink()
    queue(whole, 0, one.ledger())
    assert claims(whole, 1).owner(one.motions[index].sha256) == 0


def test_taking_over(whole: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = queue(whole, 1, num_envs=3)
    ids = [dead.next() for _ in range(3)]
    dead.finish(ids[0], completed=True)
    record_rank(whole, 1, 2, 2, metadata=dead.ledger(), complete=False)
    mine = claims(whole, 0)
    release = PosixBlobs(f"{whole.address}/rank-00001").claim(lambda: None)
    monkeypatch.setattr(motion_queue, "_LOCK_SECONDS", 0.001)
    with pytest.raises(StoreLockedError):
        take_over(mine, [1], MOTIONS)
    release()
    assert take_over(mine, [1, 3], MOTIONS) == 2
    assert take_over(mine, [1], MOTIONS) == 0
    owners = [mine.owner(dead.motions[index].sha256) for index in ids]
    assert owners == [1, None, None]
    with pytest.raises(InputError, match="expected other ranks"):
        take_over(mine, [0], MOTIONS)


def test_several_may_take_over_at_once(whole: Blobs) -> None:
    dead = queue(whole, 7, world=1)
    assert sum(dead.next() >= 0 for _ in range(12)) == 12
    barrier = threading.Barrier(4)

    def come(rank: int) -> list[int]:
        barrier.wait()
        mine = claims(whole, rank, 4, 3)
        take_over(mine, [7], MOTIONS)
        one = MotionQueue(MOTIONS, 1, claims=mine)
        return [index for _ in range(12) if (index := one.next()) >= 0]

    with ThreadPoolExecutor(4) as pool:
        had = [index for one in pool.map(come, range(4)) for index in one]
    assert len(had) == len(set(had))


def test_motions_keep_their_rank_in_a_longer_list(whole: Blobs) -> None:
    one = queue(whole, 0, num_envs=2)
    ids = [one.next(), one.next()]
    more = [Motion("/m/new.npz", "f" * 64, 9), *MOTIONS]
    longer = MotionQueue(more, 1, one.ledger(), claims(whole, 0))
    assert [longer.motions[i].sha256 for i in ids] == [one.motions[i].sha256 for i in ids]
    assert longer.next() in ids
