"""Keyed state in memory: one table per stateful step, in layers that a barrier swaps.

A table looks an entry up in this order: *hot* (touched since the barrier), *sealed* (of the epoch being committed),
*base* (all the rest). All state is in memory now; `Table.miss` is the one seam behind which absent keys would be
loaded from the store. Sealed entries are encoded in slices between batches, or at once when they are touched again,
so what is committed is the state at the barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, count, islice
from typing import Any, Final, Generic, TypeVar

from streamflow.codecs import Codec, JsonCodec, immutable
from streamflow.errors import CorruptStateError, EncodeError, FoundLate
from streamflow.keys import KEY_GROUPS, PLAIN_SUB, Key, canonical, parse
from streamflow.state.bounds import KeyBound
from streamflow.state.deletions import Deletions
from streamflow.state.differences import difference
from streamflow.state.key_check import KeyCheck
from streamflow.state.loading import NO_SUBS, migrated, read_columns
from streamflow.state.row_text import text_of
from streamflow.state.store import Delta, Entry

V = TypeVar("V")

MISSING: Final[Any] = type("Missing", (), {"__repr__": lambda self: "MISSING", "__bool__": lambda self: False})()
"""Stands for an entry that does not exist."""

CHECKED_FIRST: Final = 100
CHECKED_EVERY: Final = 1000
"""A value's round trip through its codec is checked for the first ones of a table, and then for every thousandth."""

RELEASED_MAX: Final = 5_000
"""Entries of an encoded layer that are let go at once: to free a million takes too long for one turn of the loop."""

_Before = tuple[bytes | None, int | None]
"""An entry before a call: its value encoded, None where there was none, and its expiry."""


class Table(Generic[V]):
    """State entries of one step.

    GUARANTEE: `seal` and `encode` give exactly the entries touched since the last seal, as they were at the seal.
    An entry's identity is its key, or (key, sub) in a map, list or timer table.

    Args:
        name: Name of the table.
        codec: Encodes values.
        initial: Makes the value of an absent key; None where absence is a value of its own.
        subs: Whether entries are (key, sub).
        ttl_ms: An entry is invisible this long after it was last touched; None is for ever.
        key_type: Type of the keys where annotations tell it; needed to restore Enum keys.
    """

    def __init__(
        self,
        name: str,
        codec: Codec[V],
        initial: Callable[[], V] | None = None,
        *,
        subs: bool = False,
        ttl_ms: int | None = None,
        key_type: Any = None,
    ) -> None:
        self.name = name
        self.codec = codec
        self.subs = subs
        self.ttl_ms = ttl_ms
        self.key_type = key_type
        self.sub_check = KeyCheck(name)
        self.hot: dict[Any, V] = {}
        self.index: dict[Key, dict[Any, None]] = {}
        self.undo: dict[Any, _Before] | None = None
        self.bound: KeyBound | None = None
        self.items_max: int | None = None
        self.hint = "Keep plain values in state: str, int, float, list, dict, dataclasses, msgspec Structs."
        """What to do about a value that cannot be stored."""
        self.indexes = subs
        """Whether ``index`` is kept; a step that knows its sub-keys by itself does without it once it is loaded."""
        self.in_place = False
        """Whether values are replaced by `put` only, not in ``hot``: then a changed one is in the base already."""
        self._initial = initial
        self._absent: V = MISSING
        self._deleted = Deletions()
        self._gone = Deletions()
        self._sealed: dict[Any, V] = {}
        self._early: dict[Any, bytes] = {}
        self._unwritten: Iterator[Any] = iter(())
        self._base: dict[Any, V] = {}
        self._new: set[Any] = set()
        self._new_sealed: set[Any] = set()
        self.expires: dict[Any, int] = {}
        self._expires_hot: dict[Any, int] = {}
        self._expires_sealed: dict[Any, int] = {}
        self._expiring: list[tuple[int, int, Any]] = []
        self._serial = count()
        self._queued: set[Any] = set()
        self._encoded = 0
        self._plain = isinstance(codec, JsonCodec) and ttl_ms is None
        self._stays = immutable(getattr(codec, "kind", None))
        self.checks_all = False

    def __len__(self) -> int:
        return sum(self.peek(key) is not MISSING for key in {**self._base, **self._sealed, **self.hot})

    # -- access -----------------------------------------------------------------------------------

    def miss(self, key: Any) -> V:
        """Moves an entry that is not hot into the hot layer and returns it; MISSING if absent and none is made.

        Loops call it when ``hot.get`` finds nothing.
        """
        value = self._cold(key)
        if value is MISSING and self.bound is not None and not self.subs:
            self.bound.admit(key)
        if self.undo is not None:
            self._remember(key, value)
        if value is MISSING:
            if self._initial is None:
                return value
            value = self._initial()
            if self.in_place:
                self._new.add(key)
            if self._deleted.size:
                self._deleted.discard(key)
        self.hot[key] = value
        if self.indexes:
            self.index.setdefault(key[0], {})[key[1]] = None
        return value

    def _cold(self, key: Any) -> V:
        """Finds an entry in the layers behind the hot one."""
        if self._deleted.size and key in self._deleted:
            return MISSING  # type: ignore[no-any-return]
        value = self._sealed.get(key, self._absent)
        if value is MISSING:
            return self._base_value(key)
        if not self._stays and key not in self._early:
            # it may be changed in place from now on: what is committed is its value at the barrier
            self._early[key] = self._encode_late(key, value)
        return value

    def _base_value(self, key: Any) -> V:
        # what the sealed layer deletes leaves the base when it is encoded, and counts as gone before
        return self._absent if self._gone.size and key in self._gone else self._base.get(key, self._absent)

    def peek(self, key: Any) -> V:
        """Returns an entry without touching it, for reading only; MISSING if absent."""
        value = self.hot.get(key, self._absent)
        if value is not MISSING or (self._deleted.size and key in self._deleted):
            return value
        value = self._sealed.get(key, self._absent)
        return self._base_value(key) if value is MISSING else value

    def get(self, key: Any) -> V:
        """Returns an entry for use and change; MISSING if absent and none is made."""
        value = self.hot.get(key, self._absent)
        if value is MISSING:
            return self.miss(key)
        self._remember(key, value)
        return value

    def put(self, key: Any, value: V) -> None:
        """Sets an entry."""
        if self.indexes and key[0] not in self.index and self.bound is not None:
            self.bound.admit(key[0])
        if key not in self.hot:
            self.miss(key)
        else:
            self._remember(key, self.hot[key])
        if self._deleted.size:
            self._deleted.discard(key)
        self.hot[key] = value
        if self.in_place:
            self._new.add(key)
        if self.indexes:
            self.index.setdefault(key[0], {})[key[1]] = None

    def delete(self, key: Any) -> None:
        """Removes an entry, if it exists."""
        known = key in self._sealed or self._base_value(key) is not MISSING
        if self.undo is not None:
            self._remember(key, self.peek(key))
        self.hot.pop(key, None)
        self.expires.pop(key, None)
        self._expires_hot.pop(key, None)
        if known:
            self._deleted.add(key)
        if self.subs and key[0] in self.index:
            self.index[key[0]].pop(key[1], None)
            if not self.index[key[0]]:
                del self.index[key[0]]
                if self.bound is not None:
                    self.bound.known.discard(key[0])
        elif self.bound is not None:
            self.bound.known.discard(key)

    def forget(self, key: Any) -> None:
        """`delete` of an entry that exists, in a table without index and expiry, outside of calls."""
        self.hot.pop(key, None)
        if key in self._sealed or self._base_value(key) is not MISSING:
            self._deleted.add(key)

    def live(self, key: Any, now_ms: int) -> V:
        """`get` for a table with a ttl: an entry that has expired is absent; a touch renews it."""
        self.renew(key, now_ms)
        return self.get(key)

    def expired(self, key: Any, now_ms: int) -> bool:
        """Whether an entry of a table with a ttl is absent or its time is over."""
        expires = self.expires.get(key)
        return self.peek(key) is MISSING if expires is None else expires <= now_ms

    def renew(self, key: Any, now_ms: int) -> bool:
        """Drops an entry that has expired, gives it its full ttl, and says whether it was there."""
        assert self.ttl_ms is not None
        if self.undo is not None:
            self._remember(key, self.peek(key))
        expires = self.expires.get(key)
        if expires is not None and expires <= now_ms:
            self.delete(key)
            expires = None
        if self.bound is not None and key not in self.bound.known:
            if self.bound.full:
                # what is over counts no more, deleted or not: else it would depend on when others are deleted
                self.expire(now_ms, len(self._expiring))
            self.bound.admit(key)
        self.set_expiry(key, now_ms + self.ttl_ms)
        return expires is not None

    def set_expiry(self, key: Any, expires_ms: int) -> None:
        # a layer of its own: what is encoded later is the expiry at the barrier
        self.expires[key] = self._expires_hot[key] = expires_ms
        if key not in self._queued:
            self._queued.add(key)
            # the serial number stands between: keys need not compare
            heappush(self._expiring, (expires_ms, next(self._serial), key))

    def expire(self, now_ms: int, most: int = 256) -> None:
        """Deletes up to ``most`` entries whose time is over, the oldest first; nobody can see them any more."""
        while most and self._expiring and self._expiring[0][0] <= now_ms:
            most -= 1
            _, _, key = heappop(self._expiring)
            expires = self.expires.get(key)
            if expires is not None and expires > now_ms:
                heappush(self._expiring, (expires, next(self._serial), key))
                continue
            self._queued.discard(key)
            if expires is not None:
                self.delete(key)

    # -- atomic calls -----------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on the value of each entry is kept before it is first touched, until `keep` or `roll_back`."""
        assert self.undo is None, f"call of {self.name} inside a call"
        self.undo = {}

    def keep(self) -> None:
        self.undo = None

    def roll_back(self) -> None:
        """Restores every entry touched since `begin`."""
        undo, self.undo = self.undo, None
        for key, (before, expires) in reversed((undo or {}).items()):
            self.delete(key)
            if before is not None:
                if self.bound is not None:
                    # it was there before, so it is not one more
                    self.bound.known.add(key[0] if self.subs else key)
                self.put(key, self.codec.decode(before))
            if expires is not None:
                self.set_expiry(key, expires)
        if self.subs:
            for owner in {key[0] for key in undo or ()} & self.index.keys():
                # what was put back stands at the end of the index; a list reads it in order
                self.index[owner] = dict.fromkeys(sorted(self.index[owner], key=_ordinal))

    def verify(self) -> None:
        """Encodes what was touched since `begin`.

        Raises:
            EncodeError: A value cannot be stored, so the call that made it must not stand.
        """
        for key in self.undo or ():
            value = self.peek(key)
            if value is not MISSING:
                self.address(key)
                self.encoded(key, value)

    def _remember(self, key: Any, value: V) -> None:
        if self.undo is not None and key not in self.undo:
            before = None if value is MISSING else self.encoded(key, value)
            self.undo[key] = (before, self.expires.get(key))

    # -- epochs -----------------------------------------------------------------------------------

    def seal(self) -> None:
        """Closes the epoch: the hot layer becomes the sealed one; constant time.

        What was encoded before must have been taken by `encode` completely.
        """
        assert not self._sealed and not self._early, f"{self.name}: sealed twice before it was encoded"
        self._sealed, self.hot = self.hot, {}
        self._new_sealed, self._new = self._new, set()
        self._expires_sealed, self._expires_hot = self._expires_hot, {}
        if self._deleted.size:
            self._gone, self._deleted = self._deleted, Deletions()
        sealed = self._sealed
        self._unwritten = chain(sealed, (key for key in self._gone if key not in sealed))

    def encode(self, entries_max: int) -> Delta | None:
        """Encodes up to ``entries_max`` sealed entries; None when the sealed layer is done.

        Where a large layer is let go, deltas without entries come before that.

        Raises:
            FoundLate: A value cannot be encoded; names the table and the key.
        """
        keys = list(islice(self._unwritten, entries_max))
        if not keys and self._release():
            return None
        payload = self._entries_at_once(keys) or b"[" + b",".join([self._entry(key) for key in keys]) + b"]"
        return Delta(self.name, (0, KEY_GROUPS - 1), len(keys), payload)

    def _entries_at_once(self, keys: Sequence[Any]) -> bytes | None:
        """Encodes plain entries by one call, in a fifth of the time; None where one of them needs a closer look."""
        if not keys or not self._plain or self.checks_all or self._encoded < CHECKED_FIRST:
            return None
        sealed = self._sealed
        payload = text_of(keys, sealed, self._early, subs=self.subs)
        if payload is None:
            return None
        there = keys if not self.subs else [key for key in keys if key in sealed]
        if there:
            self._encode_late(there[0], sealed[there[0]])  # looks at it closely now and then
        if not self.in_place:
            self._base.update(zip(there, map(sealed.__getitem__, there), strict=True))
        elif self._new_sealed:
            self._base.update((key, sealed[key]) for key in self._new_sealed.intersection(keys))
        for key in keys if len(there) < len(keys) else ():
            if key not in sealed:
                self._base.pop(key, None)
        return payload

    def _release(self) -> bool:
        """Lets the encoded layer go, a large one in several calls; says whether it is gone."""
        self._unwritten = iter(())
        gone = self._gone.release(RELEASED_MAX)
        layers = self._sealed, self._early, self._expires_sealed, self._new_sealed
        for layer in layers:
            if len(layer) > RELEASED_MAX:
                take = layer.pop if isinstance(layer, set) else layer.popitem
                for _ in range(RELEASED_MAX):
                    take()
            else:
                layer.clear()
        return gone and not any(layers)

    def _entry(self, key: Any) -> bytes:
        try:
            address = self.address(key)
        except EncodeError as error:
            raise FoundLate(error.message, step=self.name, hint=error.hint) from error
        value = self._sealed.get(key, self._absent)
        if value is MISSING:
            self._base.pop(key, None)
            return b"[" + address + b"]"
        early = self._early.get(key)
        encoded = self._encode_late(key, value) if early is None else early
        if not self.in_place or key in self._new_sealed:
            self._base[key] = value
        expires = self._expires_sealed.get(key, self.expires.get(key)) if self.ttl_ms is not None else None
        if expires is None:
            return b"[" + address + b"," + encoded + b",null]"
        return b"[%b,%b,%d]" % (address, encoded, expires)

    def address(self, key: Any) -> bytes:
        try:
            return canonical(key[0]) + b"," + canonical(key[1]) if self.subs else canonical(key) + b"," + PLAIN_SUB
        except ValueError as error:
            raise EncodeError(
                f"state of step {self.name!r} cannot be stored: {key!r:.60} cannot be encoded as a key: {error}",
                step=self.name,
                hint="Give the step keys that are valid text.",
            ) from error

    def _encode_late(self, key: Any, value: V) -> bytes:
        try:
            return self.encoded(key, value)
        except EncodeError as error:
            raise FoundLate(error.message, step=self.name, hint=error.hint) from error

    def encoded(self, key: Any, value: V) -> bytes:
        try:
            encoded = self.codec.encode(value)
            self._encoded += 1
            checked = self._encoded <= CHECKED_FIRST or self._encoded % CHECKED_EVERY == 0 or self.checks_all
            # NaN and infinity are written as null: that would come back as None, or not at all
            if checked or b"null" in encoded:
                self._check(encoded, value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            told = f"state of step {self.name!r} cannot be stored for key {key!r:.60}: {error}"
            raise EncodeError(told, step=self.name, hint=self.hint) from error
        return encoded

    def _check(self, encoded: bytes, value: V) -> None:
        again = self.codec.decode(encoded)
        # equal is enough: an int where a float is declared comes back as one, a set in another order;
        # a class without a comparison of its own is compared by its bytes
        compares = type(value).__eq__ is not object.__eq__
        same = again == value if compares else self.codec.encode(again) == encoded
        if not same or type(again) is not type(value):
            raise ValueError(difference(value, again))

    # -- recovery ---------------------------------------------------------------------------------

    def install(self, entries: Sequence[Entry], migrate: Callable[[Any], V] | None = None) -> None:
        """Takes entries loaded from the store, later ones replacing earlier ones.

        Args:
            entries: As stored.
            migrate: Turns a value of the old type, as plain JSON, into one of the new type; such values are
                written back with the next epoch.

        Raises:
            CorruptStateError: A key or value cannot be read.
            StepError: ``migrate`` raised.
        """
        sub_type = self.sub_check.declared if self.subs else NO_SUBS
        columns = read_columns(entries, self.codec, self.key_type, sub_type) if migrate is None else None
        if columns is not None:
            self._base.update(zip(columns.keys, columns.values, strict=True))
            self.expires.update(columns.expires_ms)
            return
        decode = self.codec.decode
        text = b""
        try:
            for text, sub, raw, expires in entries:
                key: Any = parse(text, self.key_type)
                if self.subs:
                    key = (key, parse(sub, self.sub_check.declared))
                if raw is None:
                    self._base.pop(key, None)
                    self.hot.pop(key, None)
                    self.expires.pop(key, None)
                    self._expires_hot.pop(key, None)
                    continue
                if migrate is not None:
                    self.hot[key] = migrated(self.name, migrate, key, raw)
                    self._new.add(key)
                else:
                    self._base[key] = decode(raw)
                if expires is not None:
                    self.expires[key] = expires
                    if migrate is not None:
                        self._expires_hot[key] = expires
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            key_text = text[:60].decode("utf-8", "replace")
            raise CorruptStateError(
                f"the state of step {self.name!r} for key {key_text} cannot be read: {error}",
                hint="Give the step the type, key type and codec that wrote it, or restore a backup.",
            ) from error

    def installed(self) -> None:
        """Ends loading: builds what is derived from the entries."""
        if self.subs:
            # rows come in the order of their text, in which 10 stands before 9: ordinals of lists need their own
            pairs = [*self._base, *self.hot]
            pairs.sort(key=lambda pair: _ordinal(pair[1]))
            if pairs:
                self.sub_check.check(pairs[0][1])
            for key, sub in pairs:
                self.index.setdefault(key, {})[sub] = None
        self._expiring = [(expires, next(self._serial), key) for key, expires in self.expires.items()]
        heapify(self._expiring)
        self._queued = set(self.expires)
        if self.bound is not None:
            self.bound.known = set(self.index) if self.subs else {*self._base, *self.hot}

    def snapshot(self) -> dict[Any, Any]:
        """Every entry that is there, for tests: by key, or as a dict or list per key where entries have sub-keys."""
        found: dict[Any, Any] = {}
        for key in [*self._base, *self._sealed, *self.hot]:
            value = self.peek(key)
            if value is MISSING:
                continue
            if self.subs:
                found.setdefault(key[0], {})[key[1]] = value
            else:
                found[key] = value
        return found


def _ordinal(sub: Any) -> int:
    """Orders the elements of a list; the items of a map have no order here."""
    return sub if type(sub) is int else 0
