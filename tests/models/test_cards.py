"""Cards: as JSON and back, and malformed ones."""

import json
import re

import pytest

from freqrob.models.cards import Card, CheckpointError
from tests.support.networks import CARD


def test_cards_round_trip_and_ignore_what_is_new():
    assert Card.from_json(CARD.to_json()) == CARD
    newer = json.dumps({**json.loads(CARD.to_json()), "since_next_year": 1})
    assert Card.from_json(newer) == CARD
    assert Card.from_json('{"name": "a", "architecture": "rn20"}') == Card("a", "rn20")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "not usable JSON"),
        ("[]", "Expected `object`, got `array`"),
        ('{"name": "a"}', "missing required field `architecture`"),
        ('{"name": "a", "architecture": "rn20", "num_classes": "10"}', "`int`, got `str` - at `$.num_classes`"),
        ('{"name": 1, "architecture": "rn20"}', "Expected `str`, got `int` - at `$.name`"),
    ],
)
def test_malformed_cards(tmp_path, text, complaint):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"a.json: .*{re.escape(complaint)}.*; replace or remove it"):
        Card.read(path)


def test_a_card_that_is_not_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"a.json: not usable JSON"):
        Card.read(tmp_path / "a.json")
