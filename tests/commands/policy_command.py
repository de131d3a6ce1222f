"""`monolith inspect policy`, run in this process, for the tests of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monolith.cli import main


def policy(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What `monolith inspect policy ... --json` prints."""
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "policy", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def only(found: dict[str, Any]) -> dict[str, Any]:
    (setting,) = found["settings"]
    return setting
