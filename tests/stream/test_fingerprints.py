"""What a run is made of is kept with it, and compared when it is resumed."""

from pathlib import Path

import pytest

from kc.errors import RunError
from kc.stream.resume import FINGERPRINTS, accepted_changes, check_unchanged


def test_what_changed_is_refused_or_recorded(tmp_path: Path) -> None:
    check_unchanged(tmp_path, {"versions": {"numpy": "2.0"}}, False, {})
    check_unchanged(tmp_path, {"versions": {"numpy": "2.0"}}, False, {})
    with pytest.raises(RunError, match=r"numpy: 2\.0 is now 2\.1"):
        check_unchanged(tmp_path, {"versions": {"numpy": "2.1"}}, False, {})
    assert accepted_changes(tmp_path) == []
    check_unchanged(tmp_path, {"versions": {"numpy": "2.1"}}, True, {})
    assert accepted_changes(tmp_path) == ["numpy: 2.0 is now 2.1"]


@pytest.mark.parametrize("text", ["[1, 2]", "versions: 3", "just text", "a: [1", ""])
def test_a_damaged_record_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / FINGERPRINTS).write_text(text)
    with pytest.raises(RunError, match=FINGERPRINTS):
        check_unchanged(tmp_path, {"versions": {"numpy": "2.1"}}, False, {})
    with pytest.raises(RunError, match=FINGERPRINTS):
        accepted_changes(tmp_path)
