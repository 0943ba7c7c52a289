"""Scripts drawn from seeds: any mixture, or one that dwells on something."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from federation.model import Foreign, Mode, Side
from tests.simulation.feed import SLACK_SECONDS
from tests.simulation.script import AWKWARD, KEYS, PROCESSES, Act, Rates, Script

_USER_KINDS = (
    ("put", 30),
    ("delete", 12),
    ("metadata", 8),
    ("large", 6),
    ("rename", 4),
    ("copy", 3),
    ("equal", 3),
    ("again", 3),
    ("empty", 2),
    ("file", 8),
    ("file_grow", 4),
    ("file_delete", 4),
    ("file_rename", 2),
    ("file_touch", 2),
)
_FILE_SIDE = "file"
_FAULT_KINDS = (
    ("crash", 10),
    ("pause", 5),
    ("jump", 2),
    ("state_away", 4),
    ("side_away", 4),
    ("tail_lost", 2),
    ("flush", 1),
    ("container_gone", 1),
    ("emptied", 1),
    ("retention", 2),
    ("replay", 4),
    ("graceful", 3),
)


OPTIONED_FROM = 2_000_001
"""From here on settings and users' habits are drawn too that were not before."""
FED_FROM = 3_000_001
"""From here on half of the worlds have a change feed."""
MOST_TOLD_OFF = 2
"""Up to so many times put back a stubborn writer's key is soon parked."""
THEMED_FROM = 4001
"""Seeds below keep the scripts they had when they found something."""


def draw(seed: int) -> Script:
    """The script of *seed*: any mixture, or (of most seeds above 4,000) one that dwells on something."""
    script = _themed(seed)
    if seed < OPTIONED_FROM:
        return script
    rng = Random(f"options {seed}")
    script = _with_options(script, seed, rng)
    if seed < FED_FROM:
        return script
    return _harsher(_fed(script, rng) if rng.random() < 0.5 else script, Random(f"harsher {seed}"))


def _with_options(script: Script, seed: int, rng: Random) -> Script:
    if seed % 8 == 0:
        return _events_alone(script, rng)
    if seed % 8 == 4:
        return _contests(script, rng)
    if seed % 16 == 2:
        return _riches(script, rng)
    return rng.choice((_plain, _optioned, _optioned, _zone))(script, rng)


def _themed(seed: int) -> Script:
    script = _mixture(seed)
    rng = Random(f"theme {seed}")
    if seed >= THEMED_FROM and seed % 10 == 0:
        return _uploads_again(script, rng)
    if seed < THEMED_FROM or rng.random() < 0.4:
        return script
    return rng.choice((_duel, _deaths, _stale_workers, _failovers, _deletes, _files))(script, rng)


def _dense(rng: Random, kinds: tuple[str, ...], span: float) -> tuple[Act, ...]:
    acts = (
        Act(rng.uniform(0, span), rng.choice(kinds), rng.choice(list(Side)), rng.choice(KEYS[:2]), KEYS[2], number=number)
        for number in range(rng.randint(8, 30))
    )
    return tuple(sorted(acts, key=lambda act: act.at))


def _times(rng: Random, kind: str, count: int, span: float, most: float) -> tuple[Act, ...]:
    acts = (Act(rng.uniform(0, span), kind, other=rng.choice(PROCESSES), amount=rng.uniform(0.01, most)) for _ in range(count))
    return tuple(sorted(acts, key=lambda act: act.at))


def _duel(script: Script, rng: Random) -> Script:
    """Both sides' users at one or two keys, content and metadata."""
    users = _dense(rng, ("put", "metadata", "metadata", "equal", "large", "delete"), rng.choice([3.0, 15.0]))
    return replace(script, users=users, mode=Mode.TWO_WAY)


def _deaths(script: Script, rng: Random) -> Script:
    """Killed again and again in the middle of copies."""
    users = _dense(rng, ("put", "put", "large", "delete"), 20.0)
    rates = replace(script.rates, call_after=0.2, latency_seconds=0.3)
    return replace(
        script, users=users, faults=_times(rng, "crash", rng.randint(2, 6), 20.0, 0.01), rates=rates, mode=Mode.TWO_WAY
    )


def _stale_workers(script: Script, rng: Random) -> Script:
    """Calls and pauses longer than a lease, two processes."""
    users = tuple(_on_vast(act) for act in _dense(rng, ("put", "equal", "delete", "file", "large"), 40.0))
    rates = replace(script.rates, slow=0.25, call_before=0.0)
    return replace(script, users=users, faults=_times(rng, "pause", rng.randint(1, 4), 40.0, 25.0), rates=rates, processes=2)


def _failovers(script: Script, rng: Random) -> Script:
    """The state goes back a little, while nothing else is wrong."""
    users = tuple(_on_vast(act) for act in _dense(rng, ("put", "metadata", "file", "delete", "large"), 10.0))
    return replace(
        script, users=users, faults=_times(rng, "tail_lost", rng.randint(1, 3), 8.0, 3.0), scan_seconds=30.0
    ).without_noise()


def _deletes(script: Script, rng: Random) -> Script:
    """More deletes than the budget grants, at many keys."""
    users = tuple(Act(index * 0.2, "put", Side.BLOB, key, number=index) for index, key in enumerate(KEYS))
    gone = tuple(Act(10.0 + rng.uniform(0, 10), "delete", rng.choice(list(Side)), key, number=20) for key in KEYS)
    return replace(script, users=users + gone, delete_budget=2, mode=Mode.TWO_WAY)


def _uploads_again(script: Script, rng: Random) -> Script:
    """What was deleted on VAST is uploaded to Blob once more, the same bytes, again and again."""
    users = [Act(0.0, "put", Side.BLOB, key, number=index) for index, key in enumerate(KEYS[:2])]
    for number in range(10, 10 + rng.randint(2, 8)):
        key, at = rng.choice(KEYS[:2]), rng.uniform(8.0, 40.0)
        users.append(Act(at, rng.choice(("delete", "file_delete")), Side.VAST, key))
        users.append(Act(at + rng.uniform(0.05, 4.0), "again", Side.BLOB, key, number=number))
    return replace(script, users=tuple(sorted(users, key=lambda act: act.at)), mode=Mode.TWO_WAY, faults=())


def _files(script: Script, rng: Random) -> Script:
    """NFS and S3 at the same objects: overwrites, touches, renames, deletes."""
    users = _dense(rng, ("put", "put", "file", "file_touch", "file_touch", "delete", "file_rename", "metadata"), 30.0)
    rates = replace(script.rates, latency_seconds=0.02)
    return replace(script, users=tuple(_on_vast(act) for act in users), rates=rates, mode=Mode.TWO_WAY)


def _plain(script: Script, rng: Random) -> Script:
    del rng
    return script


def _optioned(script: Script, rng: Random) -> Script:
    """Whatever an operator may set, and what users may do about names, metadata and uploads."""
    if rng.random() < 0.3:
        script = replace(script, delete_budget=2, rejects=True)
    if rng.random() < 0.3:
        script = _spelled(script)
    users = tuple(_slowly(act, rng) if act.kind == "large" else act for act in script.users)
    ignored = tuple(side for side in Side if rng.random() < 0.2)
    cut = rng.choice([0.0, 0.3])
    return replace(
        script,
        users=users,
        deletes_ignored=ignored,
        rich=rng.random() < 0.4,
        versioned=rng.random() < 0.5,
        new_settings=rng.random() < 0.3,
        rates=replace(script.rates, listing_cut=cut),
    )


def _zone(script: Script, rng: Random) -> Script:
    """A read-only zone, its stubborn users, and what may be set for it."""
    mode = rng.choice((Mode.BLOB_MASTER, Mode.VAST_MASTER))
    foreign = rng.choice(list(Foreign))
    return replace(_optioned(script, rng), mode=mode, foreign=foreign, revert_limit=rng.choice([1, 2, 1000]))


def _contests(script: Script, rng: Random) -> Script:
    """What both sides hold is edited on one and deleted on the other, a few seconds apart; most events come."""
    users = []
    for index, key in enumerate(KEYS[:3]):
        side, at = rng.choice(list(Side)), rng.uniform(20.0, 30.0)
        users.append(Act(index * 0.5, "put", rng.choice(list(Side)), key, number=3 * index))
        users.append(Act(at, rng.choice(("put", "put", "metadata")), side, key, number=3 * index + 1))
        users.append(Act(at + rng.uniform(-9.0, 12.0), "delete", side.other, key, number=3 * index + 2))
    rates = replace(script.rates, event_lost=rng.choice([0.0, 0.2]), slow=rng.choice([0.0, 0.1]))
    users.sort(key=lambda act: act.at)
    script = replace(script, users=tuple(users), rates=rates, mode=Mode.TWO_WAY, delete_budget=rng.choice([1000, 1]))
    return replace(script, patience_seconds=rng.choice([0.0, 45.0]))


def _riches(script: Script, rng: Random) -> Script:
    """Metadata that VAST has no room for, and changes of the rest of it on either side."""
    users = _dense(rng, ("put", "put", "metadata", "metadata", "file", "delete"), rng.choice([15.0, 60.0]))
    users = tuple(replace(_on_vast(act), number=act.number | 1) for act in users)
    return replace(script, users=users, rich=True)


def _spelled(script: Script) -> Script:
    users = tuple(
        replace(act, key=AWKWARD.get(act.key, act.key), other=AWKWARD.get(act.other, act.other)) for act in script.users
    )
    return replace(script, users=users)


def _slowly(act: Act, rng: Random) -> Act:
    return replace(act, kind="upload", amount=rng.uniform(0.1, 15.0)) if rng.random() < 0.5 else act


_TOLD_KINDS = ("put", "put", "put", "large", "equal", "again", "empty", "delete", "delete", "rename", "copy")
_FAULTS_OF_EVENTS = frozenset({"crash", "pause", "state_away", "side_away", "replay", "graceful"})


def _events_alone(script: Script, rng: Random) -> Script:
    """No scan, and no event is lost: late, twice, in any order. Users do only what events tell of: no files."""
    users = _dense(rng, _TOLD_KINDS, rng.choice([3.0, 15.0, 60.0]))
    if rng.random() < 0.3:
        users = _spelled(replace(script, users=users)).users
    faults = tuple(act for act in script.faults if act.kind in _FAULTS_OF_EVENTS)
    rates = replace(script.rates, event_lost=0.0)
    return replace(script, users=users, faults=faults, rates=rates, scans=False)


def _fed(script: Script, rng: Random) -> Script:
    """With a change feed, which tells of metadata too: no event of Blob is needed. Hours of it end between the acts."""
    alone = not script.scans
    if not alone and rng.random() < 0.3:
        script, alone = replace(_events_alone(_unoptioned(script), rng), scan_at_start=True), True
    # The hours are sixty times shorter than they are; so is what a clock may be off by, or records would be of long ago.
    skew_us = {**script.skew_us, Side.BLOB: int(script.skew_us[Side.BLOB] / 30 * SLACK_SECONDS / 2)}
    script = replace(
        script, feed_lag_seconds=rng.choice([1.0, 10.0, 60.0]), grid_lost=rng.choice([0.0, 0.5, 1.0]), skew_us=skew_us
    )
    stretch = rng.choice([1.0, 2.0, 5.0])
    users = tuple(replace(act, at=act.at * stretch) for act in script.users)
    if alone:
        acts = (
            Act(rng.uniform(0, script.end), "metadata", key=rng.choice(KEYS[:2]), number=60 + n) for n in range(rng.randint(0, 5))
        )
        users = tuple(sorted((*users, *acts), key=lambda act: act.at))
    faults = script.faults
    if script.scans or script.scan_at_start:
        taken = (
            Act(40.0 + rng.choice([60.0, 120.0]) + rng.uniform(-5, 20), "retention") for _ in range(rng.choice([0, 1, 1, 2]))
        )
        faults = tuple(sorted((*faults, *taken), key=lambda act: act.at))
    return replace(script, users=users, faults=faults)


def _harsher(script: Script, rng: Random) -> Script:
    """Slow ways to the state and the brokers, versions on one side only, conditions ignored singly."""

    def now_and_then(most: float) -> float:
        return rng.choice([0.0, 0.0, 0.0, rng.uniform(0, most)])

    single = ("conditional_put", "conditional_delete", "conditional_complete")
    return replace(
        script,
        rates=replace(script.rates, slow_state=now_and_then(0.02), slow_broker=now_and_then(0.1)),
        versioned_not=rng.choice([None, None, *Side]),
        ignored=tuple(one for one in single if rng.random() < 0.1) if script.conditions else (),
        retries=rng.random() < (0.8 if script.revert_limit <= MOST_TOLD_OFF else 0.2),
    )


def _unoptioned(script: Script) -> Script:
    """Nothing that is left for a later scan to do."""
    return replace(script, mode=Mode.TWO_WAY, deletes_ignored=(), foreign=Foreign.KEEP, delete_budget=1000, rejects=False)


def _on_vast(act: Act) -> Act:
    return replace(act, side=Side.VAST) if act.kind.startswith(_FILE_SIDE) else act


def _mixture(seed: int) -> Script:
    rng = Random(seed)
    long = rng.random() < 0.03
    span = rng.choice([5.0, 20.0, 40.0]) * (4 if long else 1)
    users = sorted((_user(rng, span, number) for number in range(rng.randint(4, 30))), key=lambda act: act.at)
    faults = sorted((_fault(rng, span) for _ in range(rng.choice([0, 0, 1, 2, 3, 5]))), key=lambda act: act.at)
    return Script(
        seed=seed,
        mode=rng.choices(list(Mode), [8, 1, 1])[0],
        tie_winner=rng.choice(list(Side)),
        processes=rng.choice([1, 1, 2]),
        shards=rng.choice([1, 2]),
        skew_us={side: int(rng.choice([0, 0, rng.uniform(-30, 30)]) * 1_000_000) for side in Side},
        drift_ppm={side: rng.choice([0, 0, rng.randint(-200, 200)]) for side in Side},
        conditions=rng.random() < 0.85,
        stamps=rng.random() < 0.9,
        page=rng.choice([1, 2, 1000]),
        delete_budget=rng.choice([1000, 1000, 1000, 2]),
        scan_seconds=rng.choice([10.0, 30.0]),
        rates=_rates(rng, long=long),
        users=tuple(users),
        faults=tuple(faults),
        mixed_settings=rng.random() < 0.1,
    )


def _rates(rng: Random, *, long: bool) -> Rates:
    def maybe(most: float) -> float:
        return rng.choice([0.0, 0.0, rng.uniform(0, most)])

    return Rates(
        call_before=maybe(0.15),
        call_after=maybe(0.15),
        slow=maybe(0.05),
        state_before=maybe(0.05),
        state_after=maybe(0.05),
        broker=maybe(0.1),
        event_lost=maybe(0.5),
        event_twice=maybe(0.5),
        event_late=maybe(0.3),
        late_seconds=rng.choice([20.0, 60.0, 7200.0 if long else 60.0]),
        latency_seconds=rng.choice([0.0, 0.02, 0.3]),
    )


def _user(rng: Random, span: float, number: int) -> Act:
    kinds, weights = zip(*_USER_KINDS, strict=True)
    kind = rng.choices(kinds, weights)[0]
    side = Side.VAST if kind.startswith(_FILE_SIDE) else rng.choice(list(Side))
    keys = KEYS[: rng.choice([1, 3, 6])]
    # Bursts collide; a whole second is a moment when precision matters.
    at = rng.choice([rng.uniform(0, span), rng.uniform(0, min(span, 3.0)), float(int(rng.uniform(0, span)))])
    amount = rng.uniform(0.2, 4.0) if kind == "file_grow" else 0.0
    return Act(at, kind, side, rng.choice(keys), rng.choice(KEYS) if "rename" in kind or kind == "copy" else "", amount, number)


def _fault(rng: Random, span: float) -> Act:
    kinds, weights = zip(*_FAULT_KINDS, strict=True)
    kind = rng.choices(kinds, weights)[0]
    amount = {
        "pause": rng.uniform(1, 25),
        "jump": rng.uniform(-60, 60),
        "state_away": rng.uniform(0.5, 20),
        "side_away": rng.uniform(0.5, 20),
        "tail_lost": rng.uniform(0.01, 5),
        "container_gone": rng.uniform(0.5, 10),
        "replay": float(rng.randint(1, 10)),
    }.get(kind, 0.0)
    return Act(rng.uniform(0, span), kind, rng.choice(list(Side)), other=rng.choice(PROCESSES), amount=amount)
