# SPDX-License-Identifier: Apache-2.0
"""Tables of events, read back by the rules of those who read them."""

import csv
import io
import json

import pytest

from tf_audioset.serving import event_text, events

_NAMES = ["Dog", 'A "loud"\tbang, twice']
_EVENTS = [
  events.Event(4.0, 5.0, 1, 0.75),
  events.Event(0.5, 2.25, 0, 0.5),
]


def _writer(form, **kwargs):
  return event_text.Writer(form, _NAMES, ["/m/1", "/m/2"], 16000, **kwargs)


@pytest.mark.parametrize(("form", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_tables_have_a_row_an_event_in_their_order(form, delimiter):
  table = _writer(form).table(_EVENTS)
  head, *rows = csv.reader(io.StringIO(table), delimiter=delimiter)
  assert head == ["onset", "offset", "label", "score"]
  assert rows == [
    ["0.500000", "2.250000", "Dog", "0.5000"],
    ["4.000000", "5.000000", _NAMES[1], "0.7500"],
  ]
  table = _writer(form, has_files=True).table(_EVENTS, "a\tb.wav")
  head, row, _ = csv.reader(io.StringIO(table), delimiter=delimiter)
  assert head[:2] == ["filename", "onset"]
  assert row[:2] == ["a\tb.wav", "0.500000"]


def test_json_has_an_object_a_line():
  lines = _writer("json", has_files=True).table(_EVENTS, "x").splitlines()
  assert json.loads(lines[1]) == {
    "file": "x",
    "onset": 4,
    "offset": 5,
    "label": _NAMES[1],
    "mid": "/m/2",
    "score": 0.75,
  }


def test_audacity_has_begin_end_and_name_between_tabs():
  assert _writer("audacity").table(_EVENTS) == (
    '0.500000\t2.250000\tDog\n4.000000\t5.000000\tA "loud" bang, twice\n'
  )


def test_raven_has_its_columns_and_numbers_selections_from_1():
  table = io.StringIO(_writer("raven").table(_EVENTS))
  first, second = csv.DictReader(table, delimiter="\t")
  assert first == {
    "Selection": "1",
    "View": "Spectrogram 1",
    "Channel": "1",
    "Begin Time (s)": "0.500000",
    "End Time (s)": "2.250000",
    "Low Freq (Hz)": "0",
    "High Freq (Hz)": "8000",
    "Species": "Dog",
    "Score": "0.5000",
  }
  assert second["Selection"] == "2"
