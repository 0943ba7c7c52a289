"""Each refusal that parks a key, from the service's code to the way back: what held it ends, and the key is in step again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from federation.errors import Park
from federation.model import Side
from federation.rules.parking import REASONS
from federation.stores import faults
from federation.sync.outcome import ToPark, ending
from tests.unit.world import World


@dataclass(frozen=True)
class Hold:
    """What a service answers while something holds an object. ``call``: of the store, on ``side``."""

    reason: str
    side: Side
    status: int
    code: str
    call: str

    def fault(self) -> Exception:
        """As the store raises it."""
        return faults.fault(self.side, faults.Refusal(self.status, self.code), operation=self.call, key="a")


BLOB, VAST = Side.BLOB, Side.VAST
HOLDS = [
    Hold("archived", BLOB, 409, "BlobArchived", "open"),
    Hold("archived", BLOB, 409, "BlobArchived", "put"),
    Hold("archived", VAST, 403, "InvalidObjectState", "open"),
    Hold("rehydrating", BLOB, 409, "BlobBeingRehydrated", "put"),
    Hold("immutable", BLOB, 409, "BlobImmutableDueToPolicy", "put"),
    Hold("immutable", BLOB, 409, "BlobImmutableDueToPolicy", "delete"),
    Hold("legal_hold", BLOB, 409, "BlobImmutableDueToLegalHold", "delete"),
    Hold("legal_hold", VAST, 403, "ObjectOnLegalHold", "put"),
    Hold("worm", VAST, 403, "ObjectLocked", "put"),
    Hold("worm", VAST, 403, "ObjectLocked", "delete"),
    Hold("leased", BLOB, 412, "LeaseIdMissing", "put"),
    Hold("leased", BLOB, 412, "LeaseIdMissing", "delete"),
    Hold("snapshots_present", BLOB, 409, "SnapshotsPresent", "delete"),
    Hold("not_a_block_blob", BLOB, 409, "InvalidBlobType", "put"),
    Hold("customer_key", BLOB, 409, "BlobUsesCustomerSpecifiedEncryption", "open"),
    Hold("encryption_key", BLOB, 403, "KeyVaultEncryptionKeyNotFound", "open"),
    Hold("encryption_key", BLOB, 400, "EncryptionScopeDisabled", "put"),
    Hold("quota_full", VAST, 507, "", "put"),
    Hold("quota_full", BLOB, 409, "AccountQuotaExceeded", "put"),
    Hold("too_large", VAST, 400, "EntityTooLarge", "put"),
    Hold("name_refused", BLOB, 400, "InvalidResourceName", "put"),
    Hold("name_refused", VAST, 400, "KeyTooLongError", "put"),
    Hold("name_clash", VAST, 409, "ObjectParentIsFile", "put"),
    Hold("metadata_refused", VAST, 400, "MetadataTooLarge", "put"),
    Hold("tags_refused", BLOB, 400, "InvalidTag", "put"),
    Hold("tier_refused", BLOB, 400, "InvalidBlobTier", "put"),
    Hold("not_supported", VAST, 501, "NotImplemented", "put"),
    Hold("refused", VAST, 418, "NeverHeardOf", "put"),
    Hold("request_refused", BLOB, 400, "InvalidHeaderValue", "put"),
]


async def _refused(world: World, hold: Hold) -> None:
    """One pass over the key while it is held: parked as the worker does it, with its own reason."""
    world.raw[hold.side].fail_next(hold.call, hold.fault())  # type: ignore[arg-type]
    with pytest.raises(Park) as error:
        await world.step()
    what = ending(error.value, attempts=0, max_attempts=9, now_us=world.clock.us)
    assert isinstance(what, ToPark)
    assert what.reason == hold.reason
    hint, _, _, _ = await world.state.explain("a")
    assert hint is not None
    assert world.lease is not None
    await world.state.park(world.lease, "a", hint.generation, reason=what.reason, detail=what.detail, now_us=world.clock.us)
    world.later(3600)
    assert await world.step() == []


async def _come_back(world: World, way: str) -> None:
    if way == "scan":
        await world.look("a")
    else:
        assert await world.state.unpark(["a"], now_us=world.clock.us) == 1


async def _held(hold: Hold) -> World:
    """A key in step is changed so that the engine makes the call that is refused; it is parked."""
    world = World()
    await world.write(Side.BLOB, "a", "old")
    await world.step()
    world.later(60)
    if hold.call == "delete":
        await world.remove(hold.side.other, "a")
    else:
        await world.write(hold.side if hold.call == "open" else hold.side.other, "a", "new")
        world.later(10)
    await _refused(world, hold)
    return world


@pytest.mark.parametrize("way", ["scan", "operator"])
@pytest.mark.parametrize("hold", HOLDS, ids=lambda hold: f"{hold.side}-{hold.call}-{hold.code or hold.status}")
async def test_what_held_it_ends_and_the_key_is_in_step(hold: Hold, way: str) -> None:
    """Parked under its own reason, tried again while still held and parked again with nothing lost; then it arrives."""
    world = await _held(hold)
    held = await world.both("a")
    await _come_back(world, way)
    await _refused(world, hold)
    assert await world.both("a") == held
    await _come_back(world, way)
    await world.step()
    assert await world.both("a") == ((None, None) if hold.call == "delete" else ("new", "new"))
    assert await world.state.parked() == []
    assert await world.state.conflicts() == []


def test_each_has_a_way_back_of_its_own() -> None:
    """No two reasons give the same advice; only what ends without a person says that it comes back by itself."""
    reasons = {hold.reason for hold in HOLDS}
    assert len({REASONS[reason].way_back for reason in reasons}) == len(reasons)
    assert {reason for reason in reasons if REASONS[reason].by_itself} == {"rehydrating"}
