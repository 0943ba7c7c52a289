"""What holds of every decision, whatever is observed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from federation.model import (
    Absent,
    Base,
    Foreign,
    Mode,
    Observation,
    OriginStamp,
    Present,
    Side,
    Stamp,
    StampOrigin,
    Unknown,
    Version,
)
from federation.rules.decide import decide
from federation.rules.decision import Action, Decision, Reason, Rules
from federation.rules.precedence import logical_stamp, precedence
from federation.rules.proof import content_as_agreed, copy_of, same_content

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND

stamps = st.builds(
    Stamp,
    st.integers(T0 - 4 * SECOND, T0 + 4 * SECOND),
    st.sampled_from([1, 1000, SECOND]),
    st.sampled_from(StampOrigin),
)
rulesets = st.builds(
    Rules,
    mode=st.sampled_from(Mode),
    tie_winner=st.sampled_from(Side),
    deletes_to_blob=st.booleans(),
    deletes_to_vast=st.booleans(),
    clock_uncertainty_us=st.sampled_from([0, SECOND // 2]),
    vast_ahead_us=st.sampled_from([0, 0, 3 * SECOND, -3 * SECOND]),
    skew_uncertainty_us=st.sampled_from([0, 0, SECOND]),
    foreign=st.sampled_from(Foreign),
    rebuilding=st.booleans(),
)
hashes = st.sampled_from(["m1", "m2", None])
digests = st.sampled_from([b"p", b"q"])
etags = st.sampled_from(["e1", "e2", "e3"])


@st.composite
def present(draw: st.DrawFn, side: Side) -> Present:
    """Any object: few enough values that ETags, hashes and stamps often fit each other."""
    origin = st.builds(OriginStamp, st.just(side.other), etags, stamps, hashes, st.just(""))
    size = draw(st.sampled_from([0, 3, 3, 3, 7]))
    version = Version(draw(etags), size, draw(stamps), md5=draw(hashes))
    return Present(
        version,
        origin=draw(st.none() | origin),
        metadata_digest=draw(digests),
        written=draw(st.none() | stamps),
    )


def observation(side: Side) -> st.SearchStrategy[Observation]:
    """Present, absent with or without a time, or unreadable."""
    return st.one_of(present(side), present(side), st.builds(Absent, st.none() | stamps), st.builds(Unknown, st.just("503")))


live_bases = st.builds(
    Base,
    blob_etag=st.sampled_from(["e1", "e1", "e2", ""]),
    vast_etag=st.sampled_from(["e1", "e1", "e2", ""]),
    md5=hashes,
    metadata_digest=digests,
    written=stamps,
    size_bytes=st.sampled_from([0, 3, 3]),
    lossy=st.booleans(),
)
tombstones = st.builds(Base, written=stamps, deleted=st.just(True))
bases = st.one_of(st.none(), tombstones, live_bases, live_bases, live_bases)
cases = st.tuples(observation(Side.BLOB), observation(Side.VAST), bases, rulesets)
Case = tuple[Observation, Observation, Base | None, Rules]


def of(case: Case, side: Side) -> Observation:
    """What *side* holds."""
    return case[0] if side is Side.BLOB else case[1]


@given(cases)
def test_every_case_has_a_well_formed_decision(case: Case) -> None:
    """Total, repeatable, and what it names is there: sources hold what is copied, destinations what is deleted or kept."""
    decided = decide(*case)
    event(decided.action)
    assert decided == decide(*case)
    if decided.action in (Action.COPY, Action.METADATA, Action.KEEP):
        assert decided.source is not None
        assert isinstance(of(case, decided.source), Present)
    if decided.action is Action.METADATA:
        assert isinstance(of(case, decided.destination), Present)
    if decided.action is Action.DELETE:
        assert decided.source is not None
        assert isinstance(of(case, decided.source), Absent)
        assert isinstance(of(case, decided.destination), Present)
    if decided.preserve is not None:
        assert decided.preserve is decided.destination
        assert isinstance(of(case, decided.preserve), Present)
    assert bool(decided.sides) == (decided.action is Action.HASH)


@given(cases)
def test_unknown_only_ever_waits(case: Case) -> None:
    """What could not be read leads to WAIT, and nothing else does (rule 3)."""
    unread = isinstance(case[0], Unknown) or isinstance(case[1], Unknown)
    assert (decide(*case).action is Action.WAIT) == unread


@given(observation(Side.BLOB), observation(Side.VAST), st.none() | tombstones, rulesets)
def test_no_agreement_no_delete(blob: Observation, vast: Observation, base: Base | None, rules: Rules) -> None:
    """Without a record that both sides held it, a missing object is never deleted on the other side (rule 4).

    Save what a read-only zone alone holds, where that is to be removed: kept first, and never while the base is being rebuilt.
    """
    decided = decide(blob, vast, base, rules)
    if decided.action is Action.DELETE:
        assert decided.reason is Reason.FOREIGN_IN_ZONE
        assert decided.preserve is decided.destination
        assert not rules.mode.writable(decided.destination)
        assert (rules.foreign, rules.rebuilding) == (Foreign.PRESERVE_AND_REMOVE, False)


@given(cases)
def test_a_delete_has_a_base_that_names_the_absent_side(case: Case) -> None:
    """A delete removes only what was agreed on by both, or our own copy; and only where rules and modes let deletes go."""
    decided, base = decide(*case), case[2]
    if decided.action is not Action.DELETE or decided.reason is Reason.FOREIGN_IN_ZONE:
        return
    there = of(case, decided.destination)
    assert base is not None
    assert base.live
    assert base.etag(decided.destination.other)
    assert isinstance(there, Present)
    assert base.etag(decided.destination) or copy_of(there, decided.destination.other)
    assert case[3].deletes_to(decided.destination)
    assert case[3].mode.writable(decided.destination.other)


@given(cases)
def test_what_is_overwritten_is_agreed_preserved_or_our_own(case: Case) -> None:
    """A present destination that is not as agreed is kept first, unless it is proved to be our own copy (rule 1)."""
    decided, base = decide(*case), case[2]
    if decided.action not in (Action.COPY, Action.DELETE, Action.METADATA):
        return
    target = of(case, decided.destination)
    if not isinstance(target, Present) or decided.preserve is not None:
        return
    side = decided.destination
    etag = base.etag(side) if base is not None else ""
    agreed = base is not None and base.live and bool(etag) and (target.version.etag == etag or content_as_agreed(target, base))
    assert agreed or copy_of(target, side.other)


@given(cases)
def test_equal_objects_move_nothing(case: Case) -> None:
    """Proved equal content and equal metadata are adopted, whatever was agreed before; equal content never moves bytes."""
    blob, vast, base, rules = case
    if not isinstance(blob, Present) or not isinstance(vast, Present) or not same_content(blob, vast):
        return
    same = replace(vast, metadata_digest=blob.metadata_digest)
    assert decide(blob, same, base, rules).action in (Action.ADOPT, Action.NOTHING)
    assert decide(blob, vast, None, rules).action in (Action.ADOPT, Action.METADATA)


def _swapped(now: Observation) -> Observation:
    if not isinstance(now, Present) or now.origin is None:
        return now
    return replace(now, origin=replace(now.origin, side=now.origin.side.other))


def _one_etag_one_metadata(now: Observation) -> Observation:
    # Only VAST keeps an ETag over a metadata change; leave that out, and nothing tells the sides apart.
    if not isinstance(now, Present):
        return now
    return replace(now, metadata_digest=b"p" if now.version.etag == "e1" else b"q")


@given(cases)
def test_the_decision_is_mirrored_under_swapping_the_sides(case: Case) -> None:
    """No side is preferred but by the rules: swap sides, modes and winner, and the decision is swapped."""
    blob, vast, base, rules = case
    blob, vast = _one_etag_one_metadata(blob), _one_etag_one_metadata(vast)
    if base is not None:
        base = replace(base, metadata_digest=b"p", blob_etag=base.blob_etag and "e1", vast_etag=base.vast_etag and "e1")
    rules = replace(rules, vast_ahead_us=0)
    modes = {Mode.BLOB_MASTER: Mode.VAST_MASTER, Mode.VAST_MASTER: Mode.BLOB_MASTER}
    mirrored_rules = replace(
        rules,
        mode=modes.get(rules.mode, rules.mode),
        tie_winner=rules.tie_winner.other,
        deletes_to_blob=rules.deletes_to_vast,
        deletes_to_vast=rules.deletes_to_blob,
    )
    mirrored_base = replace(base, blob_etag=base.vast_etag, vast_etag=base.blob_etag) if base is not None else None
    one = decide(blob, vast, base, rules)
    two = decide(_swapped(vast), _swapped(blob), mirrored_base, mirrored_rules)
    back = Decision(
        two.action,
        two.reason,
        source=two.source.other if two.source else None,
        preserve=two.preserve.other if two.preserve else None,
        sides=tuple(side for side in Side if side.other in two.sides),
    )
    assert one == back


@given(present(Side.BLOB), present(Side.VAST), rulesets)
@settings(max_examples=200)
def test_last_writer_wins_where_both_wrote(blob: Present, vast: Present, rules: Rules) -> None:
    """With both sides writable and no agreement, the winner is precedence's and its loser is kept."""
    rules = replace(rules, mode=Mode.TWO_WAY)
    blob, vast = replace(blob, origin=None), replace(vast, origin=None)
    if same_content(blob, vast) is not False:
        return
    winner, reason = precedence(logical_stamp(blob, Side.BLOB, rules), logical_stamp(vast, Side.VAST, rules), rules)
    assert decide(blob, vast, None, rules) == Decision(Action.COPY, reason, source=winner, preserve=winner.other)


@given(cases)
@settings(max_examples=500)
def test_a_master_is_never_written_whatever_is_seen(case: Case) -> None:
    """In a mode with a master, every write goes to its read-only zone."""
    decided, mode = decide(*case), case[3].mode
    if mode is not Mode.TWO_WAY and decided.action in (Action.COPY, Action.METADATA, Action.DELETE):
        assert mode.writable(decided.destination.other)
        assert not mode.writable(decided.destination)
