"""The laws of a store's ledger: what is remembered of targets and sources."""

from __future__ import annotations

from pathlib import Path

from mergebuild.store import PackedKeys, Record, SourceRow, Store
from mergebuild.system.filestate import Identity
from mergebuild.testing.stored import ONE, StoreTests

__all__ = ["LedgerTests"]

_IDENTITY = Identity(1, 2, 3, 4, 5)
_SOURCE = SourceRow(_IDENTITY, b"c" * 32, b"d" * 16, None)


class LedgerTests(StoreTests):
    """The laws of a `Ledger`; a subclass provides `open_store`."""

    def test_a_record_is_what_was_put(self, store: Store, path: Path) -> None:
        ledger = store.ledger
        assert ledger.record("mix") is None
        record = Record("mix", b"a" * 16, path, "manifest", b"f" * 16, b"h" * 16, 3, ("one thing", "another"))
        ledger.put_record(record)
        assert ledger.record("mix") == record
        ledger.put_record(record._replace(artifact=b"b" * 16, output=None))
        assert ledger.record("mix") == record._replace(artifact=b"b" * 16, output=None)
        assert ledger.record("another") is None

    def test_keys_come_and_go_with_their_record(self, store: Store) -> None:
        """Targets may share inputs: forgetting or rebuilding one target takes no keys from another."""
        ledger = store.ledger
        shared = [PackedKeys(b"lines of a", b"inputs"), PackedKeys(b"lines of b", b"inputs")]
        for name, keys in zip("ab", shared, strict=True):
            ledger.put_record(Record(name, b"a" * 16, None, ""), keys)
        ledger.put_record(Record("c", b"a" * 16, None, ""))
        assert [ledger.keys(name) for name in "abcd"] == [*shared, None, None]
        ledger.put_record(Record("a", b"a" * 16, None, ""), PackedKeys(b"lines of a", b"other inputs"))
        assert [ledger.keys(name) for name in "ab"] == [PackedKeys(b"lines of a", b"other inputs"), shared[1]]
        ledger.forget_record("b")
        assert ledger.keys("b") is None

    def test_a_record_that_is_forgotten_is_none(self, store: Store) -> None:
        store.ledger.put_record(Record("mix", b"a" * 16, None, ""))
        store.ledger.forget_record("mix")
        store.ledger.forget_record("never built")
        assert store.ledger.record("mix") is None
        assert store.ledger.records() == []

    def test_records_come_by_name_without_manifests(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            store.ledger.put_record(Record(name, name.encode() * 16, None, "a long manifest"))
        assert store.ledger.records() == [Record(name, name.encode() * 16, None, "") for name in "abc"]

    def test_published_are_targets_whose_output_is_on_record_as_they_say(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        record = Record("mix", ONE.fresh.digest, path, "manifest", b"f" * 16, ONE.fresh.header, 2)
        differ = {
            "other artifact": record._replace(artifact=b"a" * 16),
            "other metadata": record._replace(header=b"h" * 16),
            "other place": record._replace(output=path.with_name("none.safetensors")),
            "no fingerprint": record._replace(fingerprint=None),
            "no output": record._replace(output=None),
        }
        store.ledger.put_record(record)
        for name, each in differ.items():
            store.ledger.put_record(each._replace(target=name))
        ((found, there),) = store.ledger.published(["mix", *differ, "never built"])
        assert found == record._replace(manifest="")
        assert (there.id, there.path) == (row.id, path)
        assert store.ledger.published(["another"]) == []

    def test_a_source_is_remembered_by_its_exact_state(self, store: Store) -> None:
        ledger = store.ledger
        assert ledger.source(_IDENTITY, "now") is None
        ledger.remember_source(_SOURCE)
        assert ledger.source(_IDENTITY, "now") == _SOURCE
        for field in _IDENTITY._fields:
            assert ledger.source(_IDENTITY._replace(**{field: 99}), "now") is None

    def test_what_is_learnt_of_a_source_adds_up(self, store: Store) -> None:
        store.ledger.remember_source(_SOURCE)
        store.ledger.remember_source(SourceRow(_IDENTITY, None, None, "5" * 64))
        assert store.ledger.source(_IDENTITY, "now") == _SOURCE._replace(sha256="5" * 64)

    def test_what_holds_in_one_epoch_is_believed_in_no_other(self, store: Store) -> None:
        bound = _SOURCE._replace(epoch="first")
        store.ledger.remember_source(bound)
        assert store.ledger.source(_IDENTITY, "first") == bound
        assert store.ledger.source(_IDENTITY, "second") is None
        store.ledger.remember_source(SourceRow(_IDENTITY, None, None, "5" * 64, epoch="second"))
        found = store.ledger.source(_IDENTITY, "second")
        assert found is not None
        assert found.checksums is None

    def test_findings_are_kept_by_what_they_follow_from(self, store: Store) -> None:
        assert store.ledger.findings() == {}
        store.ledger.keep_findings({b"one": "1", b"two": "2"})
        store.ledger.keep_findings({b"two": "3"})
        assert store.ledger.findings() == {b"one": "1", b"two": "3"}
