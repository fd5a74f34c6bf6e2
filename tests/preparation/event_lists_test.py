# SPDX-License-Identifier: Apache-2.0
"""Tables of events as programs write them."""

import pytest

from tf_audioset.preparation import event_lists
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import event_text, events


def _write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return str(path)


def _found(path, **kwargs):
  return [event[2:] for event in event_lists.read(str(path), **kwargs)]


_EVENTS = [("rec", 0.5, 2.25, "Dog"), ("rec", 4.0, 5.0, "Cat, wild")]


@pytest.mark.parametrize("form", ["tsv", "csv", "audacity", "raven"])
def test_what_predict_writes_is_read(tmp_path, form):
  writer = event_text.Writer(form, ["Cat, wild", "Dog"], ["c", "d"], 16000)
  table = writer.table(
    [events.Event(0.5, 2.25, 1, 0.5), events.Event(4.0, 5.0, 0, 0.75)]
  )
  _write(tmp_path / f"rec{event_text.ENDINGS[form]}", table)
  assert _found(tmp_path) == _EVENTS


@pytest.mark.parametrize(
  "text",
  [
    "filename\tonset\toffset\tevent_label\n"
    "rec\t0.5\t2.25\tDog\nrec\t4.0\t5.0\tCat, wild\n",
    'File,Start,End,Class\nrec,0.5,2.25,Dog\nrec,4,5,"Cat, wild"\n',
    "0,5\t2,25\tDog\n\\\t100,0\t200,0\n4,0\t5,0\tCat, wild\n",
    # Raven has a row for each view.
    "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tSpecies\n"
    "1\tWaveform 1\t0.5\t2.25\trec\tDog\n"
    "1\tSpectrogram 1\t0.5\t2.25\trec\tDog\n"
    "2\tSpectrogram 1\t4.0\t5.0\trec\tCat, wild\n",
  ],
)
def test_tables_of_other_programs(tmp_path, text):
  path = _write(tmp_path / "rec.txt", text)
  assert _found(path) == _EVENTS


def test_a_column_can_be_named(tmp_path):
  path = _write(tmp_path / "x.csv", "begin,end,label,what\n0,1,a,b\n")
  assert _found(path, label_column="What") == [("x", 0.0, 1.0, "b")]


def test_a_recording_may_have_no_event(tmp_path):
  _write(tmp_path / "a" / "quiet.txt", "")
  _write(tmp_path / "b.tsv", "filename\tonset\toffset\tlabel\nx.wav\t\t\t\n")
  _write(tmp_path / "c.tsv", "onset\toffset\tlabel\n")
  names = [event[0] for event in _found(tmp_path)]
  assert sorted(names) == ["a/quiet", "c", "x.wav"]
  assert all(event[1:] == (0.0, 0.0, "") for event in _found(tmp_path))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("onset,offset\n1,2\n", "has no column label; its first line has onset"),
    ("onset,offset,label\n2,1,a\n", "line 2: an event has an onset .*'2', '1'"),
    ("onset,offset,label\nx,1,a\n", "found 'x', '1', 'a'"),
    ("onset,offset,label\n-1,1,a\n", "found '-1'"),
    ("onset,offset,label\n0,nan,a\n", "found '0', 'nan'"),
    ("onset,offset,label\n0,1,\n", "found '0', '1', ''"),
    ("0.0\t1.0\t\n", "line 1: the label has no text"),
  ],
)
def test_rows_without_sense_are_refused(tmp_path, text, message):
  with pytest.raises(UserError, match=message):
    _found(_write(tmp_path / "x.csv", text))


def test_a_folder_without_tables_is_refused(tmp_path):
  with pytest.raises(UserError, match="holds no table"):
    _found(tmp_path)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("a/rec.wav", ["a/rec.wav"]),
    ("a/rec", ["a/rec.wav"]),
    ("one", ["b/one.flac"]),
    ("/elsewhere/b/one.flac", ["b/one.flac"]),
    ("b\\one.flac", ["b/one.flac"]),
    ("rec", ["rec.wav"]),
    ("rec2.wav", ["a/rec2.wav", "b/rec2.wav"]),
    ("none", []),
  ],
)
def test_recordings_are_found_by_path_or_name(name, expected):
  paths = "a/rec.wav a/rec2.wav b/one.flac b/rec2.wav rec.wav".split()
  found = event_lists.find_recording(
    name, "/root", [f"/root/{path}" for path in paths]
  )
  assert found == [f"/root/{path}" for path in expected]
