"""The head of a store, byte by byte, and heads that older builds wrote."""

from __future__ import annotations

from pathlib import Path

from monolith.serving import ledger
from monolith.serving.content import Content
from monolith.serving.ledger import Head, Version

GOLDEN = Path(__file__).parents[1] / "golden" / "store_head.hex"
VERSION = Version(
    generation=2, sequence=7, lineage="run.0a1b2c3d", image="owner-5", step=70, watermark_ms=7000, published_ms=9000
)
HEAD = Head(
    generation=2,
    owner="owner",
    tables={"user": 3},
    version=VERSION,
    digest="00112233445566778899aabbccddeeff",
    contents={"user": Content(rows=5, checksum=12_345_678_901)},
)


def test_head_is_written_as_the_golden_file_has_it():
    assert ledger.seal_json(HEAD).hex() == GOLDEN.read_text().strip()


def test_golden_head_is_read_back():
    assert ledger.unseal_head(bytes.fromhex(GOLDEN.read_text()), "the golden file") == HEAD


def test_head_of_a_build_without_digest_and_contents_proves_nothing_and_finds_no_fault():
    older = b'{"format":1,"generation":3,"owner":"o","tables":{"user":3},"version":{"sequence":4,"lineage":"run"}}'
    head = ledger.unseal_head(ledger.seal(older), "an older store")
    assert (head.version.sequence, head.digest, head.contents) == (4, "", None)
    assert ledger.fault_of({"user": 0}, head, "an older store") is None
