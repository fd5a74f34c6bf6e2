# SPDX-License-Identifier: Apache-2.0
"""Shards by whatever way they are made; restarts; what the audit says."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import hashlib
import json
import os
import pathlib
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tf_audioset.data import audio, labels, prepared
from tf_audioset.preparation import audit, class_folders, clip_lists, prepare
from tf_audioset.runtime import storage

_CLASSES = labels.ClassList.from_names(["a", "b"])


def _noise(seed, seconds=1.0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-0.3, 0.3, round(16000 * seconds))


def _clips(folder: pathlib.Path, count: int) -> list[clip_lists.Clip]:
  folder.mkdir(exist_ok=True)
  clips = []
  for i in range(count):
    path = folder / f"clip{i}.wav"
    soundfile.write(path, _noise(i), 16000)
    clips.append(clip_lists.Clip(f"clip{i}", str(path), (i % 2,)))
  return clips


_here = prepare.local_runner(1)


def _prepare(clips, out, run=_here, split="train", classes=_CLASSES, **options):
  options = {"clips_per_shard": 4, **options}
  return prepare.prepare(
    classes, clips, str(out), split, prepare.Options(**options), run
  )


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_worker_and_three_give_the_same_bytes(tmp_path):
  clips = _clips(tmp_path / "in", 22)
  (tmp_path / "in" / "clip3.wav").write_bytes(b"broken")
  _prepare(clips, tmp_path / "here")
  expected = _contents(tmp_path / "here")
  assert len(expected) == 6 + 5  # 22 clips, at most four a shard, evenly.
  _prepare(clips, tmp_path / "workers", prepare.local_runner(3))
  assert _contents(tmp_path / "workers") == expected


def test_beam_gives_the_same_bytes(tmp_path):
  pytest.importorskip("apache_beam", reason="needs Apache Beam: [beam]")
  clips = _clips(tmp_path / "in", 22)
  _prepare(clips, tmp_path / "here")
  run = prepare.beam_runner("DirectRunner", "--direct_num_workers=2")
  _prepare(clips, tmp_path / "beam", run)
  assert _contents(tmp_path / "beam") == _contents(tmp_path / "here")


def test_without_beam_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(ValueError, match=r"FlinkRunner needs .*\[beam\]"):
    prepare.beam_runner("FlinkRunner", "")


class _Stopped(Exception):
  pass


def _stops_after(count):
  def run(plans, bar):
    _here(plans[:count], bar)
    raise _Stopped

  return run


def test_a_second_run_does_only_what_is_missing(tmp_path, capsys):
  clips = _clips(tmp_path / "in", 22)
  _prepare(clips, tmp_path / "expected")
  done, left = [], []

  def run(plans, bar):
    done.append(len(plans))
    left.extend(out.glob(".train.parts/*.tmp-*"))
    left.extend(out.glob(".train.parts/0000*"))
    _here(plans, bar)

  out = tmp_path / "out"
  with pytest.raises(_Stopped):
    _prepare(clips, out, _stops_after(4))
  with pytest.raises(ValueError, match="no prepared data"):
    prepared.find_split(str(out), "train")
  capsys.readouterr()
  half = min((out / ".train.parts").glob("*.plan.json"))
  (half.parent / f"{half.name[:32]}.tmp-1").touch()
  (half.parent / f"{'0' * 32}.tfrecord").touch()
  _prepare(clips, out, run)
  assert left == []
  assert "4 of 6 shards were done" in capsys.readouterr().out
  assert done == [2]
  assert _contents(out) == _contents(tmp_path / "expected")


@pytest.mark.parametrize(
  ("change", "redone"),
  [
    ("touched", 1),
    ("another length", 1),
    ("gone", 1),
    ("another label", 1),
    ("shard removed", 1),
    ("shard cut", 1),
    ("codec", 6),
    ("drop", 6),
  ],
)
def test_what_has_changed_is_done_again(tmp_path, change, redone):
  clips = _clips(tmp_path / "in", 22)
  out = tmp_path / "out"
  with pytest.raises(_Stopped):
    _prepare(clips, out, _stops_after(6))
  path, options = pathlib.Path(clips[7].path), {}
  if change == "touched":
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
  elif change == "another length":
    before = path.stat()
    soundfile.write(path, _noise(7, 0.5), 16000)
    os.utime(path, ns=(0, before.st_mtime_ns))
  elif change == "gone":
    path.unlink()
  elif change == "another label":
    clips[7] = clip_lists.Clip("clip7", str(path), (0, 1))
  elif change == "codec":
    options["codec"] = "pcm16"
  elif change == "drop":
    options["drop"] = ("short",)
  else:
    shard = min((out / ".train.parts").glob("*.tfrecord"))
    if change == "shard cut":
      shard.write_bytes(shard.read_bytes()[:-1])
    else:
      shard.unlink()
  done = []

  def run(plans, bar):
    done.append(len(plans))
    _here(plans, bar)

  _prepare(clips, out, run, **options)
  assert done == [redone]
  _prepare(clips, tmp_path / "expected", **options)
  assert _contents(out) == _contents(tmp_path / "expected")


def test_a_reader_never_sees_a_mix_and_any_stop_can_be_continued(
  tmp_path, monkeypatch
):
  clips = _clips(tmp_path / "in", 10)
  _prepare(clips, tmp_path / "expected")
  rename, remove = tf.io.gfile.rename, tf.io.gfile.remove
  seen = set()

  def see():
    try:
      split = prepared.find_split(str(out), "train")
      files = [pathlib.Path(file).read_bytes() for file in split.files]
      seen.add(hashlib.sha256(b"".join(files)).hexdigest())
    except ValueError as e:
      assert "there is no split" in str(e)
      seen.add("none")

  for stop in range(100):
    out = tmp_path / f"out{stop}"
    _prepare(clips[:8], out)
    seen.clear()
    see()
    steps = iter(range(stop))

    def step(function, *args, steps=steps, **kwargs):
      if next(steps, None) is None:
        raise _Stopped
      function(*args, **kwargs)
      see()

    with monkeypatch.context() as patch:
      patch.setattr(prepare, "_parallel", lambda f, x: list(map(f, x)))
      patch.setattr(
        tf.io.gfile, "rename", lambda *a, **k: step(rename, *a, **k)
      )
      patch.setattr(tf.io.gfile, "remove", lambda *a: step(remove, *a))
      try:
        _prepare(clips, out)
        break
      except _Stopped:
        pass
    _prepare(clips, out)
    assert _contents(out) == _contents(tmp_path / "expected")
  # Of plans, shards, accounts, names, descriptions ...
  assert stop > 15 and len(seen) == 3


def test_every_row_is_accounted_for(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()

  def clip(name, waveform=None, found=(0,), problems=None):
    path = folder / f"{name}.wav"
    if waveform is not None:
      soundfile.write(path, waveform, 16000)
    return clip_lists.Clip(name, str(path), found, problems or {})

  quiet = 0.9e-3 * np.sign(_noise(0))
  square = np.sign(_noise(1))
  square[200:] *= 0.5  # 200 of 16,000: 1.25 %.
  barely = np.sign(_noise(2))
  barely[150:] *= 0.5
  evals = [clip("both", _noise(3)), clip("other", _noise(4))]
  _prepare(evals, tmp_path / "out", split="eval")
  clips = [
    clip("good", _noise(5)),
    clip("barely_loud", barely),
    clip("barely_audible", 1.1 * quiet),
    clip("one_second", _noise(6)),
    clip("quiet", quiet),
    clip("zero", np.zeros(16000)),
    clip("zero_too", np.zeros(16000)),
    clip("short", _noise(7, 0.99), (0, 1)),
    clip("short_and_quiet", quiet[:100]),
    clip("square", square),
    clip("copy", _noise(5), (1,)),
    clip("both", _noise(8)),
    clip("copy_of_eval", _noise(4)),
    clip("gone"),
    clip("not_listed", _noise(9), (), {"unknown_label": "c"}),
    clip("half_listed", _noise(10), (1,), {"partly_unknown_labels": "c"}),
    clip("good", None, (0,), {"duplicate_id": ""}),
  ]
  cut = clip("cut", _noise(11, 5.0))
  pathlib.Path(cut.path).write_bytes(
    pathlib.Path(cut.path).read_bytes()[:38444]
  )
  clips.append(cut)
  said = _prepare(clips, tmp_path / "out")
  named = {
    reason: {row["id"]: row["detail"] for row in rows}
    for reason, rows in said["clips"].items()
  }
  assert named == {
    "duplicate_id": {"good": ""},
    "unknown_label": {"not_listed": "c"},
    "missing": {"gone": ""},
    "undecodable": {"cut": "only 1.2 of 5.0 s can be decoded"},
    "in_two_splits": {"both": "also in eval"},
    "silent": {
      "quiet": "peak -61 dBFS",
      "zero": "all zero",
      "zero_too": "all zero",
      "short_and_quiet": "peak -61 dBFS",
    },
    "short": {"short": "0.99 s", "short_and_quiet": "0.01 s"},
    "clipped": {"square": "1 % of samples at full scale"},
    "duplicate_audio": {
      "copy": "the same as good",
      "copy_of_eval": "the same as other in eval",
    },
    "partly_unknown_labels": {"half_listed": "c"},
  }
  assert (said["expected"], said["found"], said["written"]) == (18, 16, 14)
  assert said["repeated"] == 1
  assert said["left_out"] == {
    "duplicate_id": 1,
    "unknown_label": 1,
    "missing": 1,
    "undecodable": 1,
  }
  a, b = said["classes"]
  assert (a["expected"], a["found"], a["written"]) == (15, 13, 12)
  assert (b["expected"], b["found"], b["written"]) == (3, 3, 3)
  assert b["short"] == 1 and "clipped" not in b and a["clipped"] == 1
  table = prepared.find_split(str(tmp_path / "out"), "train").clips()
  assert len(table) == 14
  row = table.id.tolist().index(b"short")
  assert table.labels_of(row).tolist() == [0, 1]
  assert table.num_samples[row] == 15840

  text = (tmp_path / "out" / audit.TEXT_FILE).read_text()
  assert (
    "train: 18 rows of 17 clips, 16 files found, 14 clips written (82.35 %)"
    in text
  )
  assert "left out: 1 undecodable" in text and "cut: only 1.2 of" in text
  assert "accounted for: 14 + 1 + 1 + 1 + 1 = 18" in text
  assert "eval: 2 rows" in text

  drop = tuple(audit.DROPPABLE)
  fewer = _prepare(clips, tmp_path / "out", drop=drop)
  assert fewer["left_out"] == {
    **said["left_out"],
    "in_two_splits": 1,
    "silent": 4,
    "short": 1,
    "clipped": 1,
  }
  assert fewer["written"] == 7
  assert {r: len(rows) for r, rows in fewer["clips"].items()} == {
    r: len(rows) for r, rows in said["clips"].items()
  }


def test_what_is_no_file_costs_one_row(tmp_path, monkeypatch):
  """Pipes would wait for ever; other errors would end the run."""
  clips = _clips(tmp_path / "in", 11)
  places = [pathlib.Path(clip.path) for clip in clips]
  for place in places[:5]:
    place.unlink()
  os.mkfifo(places[0])
  places[1].mkdir()
  places[2].symlink_to("/dev/null")
  places[3].symlink_to(places[3])
  long = str(tmp_path / ("x" * 300 + ".wav"))
  clips[4] = clip_lists.Clip("clip4", long, (0,))
  clips[5] = clip_lists.Clip("clip5", f"{places[6]}/x.wav", (0,))
  clips[8] = clip_lists.Clip("clip8", "http://x.invalid/a.wav", (0,))
  clips[9] = clip_lists.Clip("clip9", "gs://no_bucket", (0,))
  read = audio.read

  def answer(path, **kwargs):
    name = os.path.basename(path)
    if name == "clip6.wav":  # Removed while it is read.
      os.remove(path)
    if name == "clip7.wav":  # Root may read everything.
      raise PermissionError(13, "Permission denied", path)
    return read(path, **kwargs)

  monkeypatch.setattr(audio, "read", answer)
  said = _prepare(clips, tmp_path / "out")
  named = {
    reason: {row["id"]: row["detail"] for row in rows}
    for reason, rows in said["clips"].items()
  }
  assert named == {
    "missing": {"clip5": "", "clip6": ""},
    "undecodable": {
      "clip0": "is a pipe, not a file",
      "clip1": "is a folder, not a file",
      "clip2": "is a device or a socket, not a file",
      "clip3": "Too many levels of symbolic links",
      "clip4": "File name too long",
      "clip7": "Permission denied",
      "clip8": "File system scheme 'http' not implemented (file: "
      "'http://x.invalid/a.wav')",
      "clip9": named["undecodable"]["clip9"],
    },
  }
  assert said["written"] == 1


def test_a_fault_of_the_program_is_not_taken_for_the_files(
  tmp_path, monkeypatch
):
  def broken(*_, **__):
    raise KeyError("a bug")

  monkeypatch.setattr(audio, "to_int16", broken)
  with pytest.raises(KeyError, match="a bug"):
    _prepare(_clips(tmp_path / "in", 3), tmp_path / "out")


def test_lengths_are_compared_with_what_the_list_says(tmp_path):
  lengths = {  # (of the file, of the row, what is told)
    "whole": (2.0, 2.0, {}),
    "nearly": (1.81, 2.0, {}),
    "cut": (1.79, 2.0, {"truncated": "1.8 of 2.0 s"}),
    "frame": (1.92, 2.0, {}),
    "tiny": (0.31, 0.4, {}),  # By less than 0.1 s.
    "tiny_cut": (0.29, 0.4, {"truncated": "0.3 of 0.4 s"}),
    "more": (2.19, 2.0, {}),
    "uncut": (2.5, 2.0, {"overlong": "2.5 of 2.0 s"}),
    # Both are beyond what is written.
    "video": (9.0, 4.0, {"overlong": "9.0 of 4.0 s", "shortened": "9.0 s"}),
    "long": (9.0, 10.0, {"shortened": "9.0 s"}),
    "long_cut": (
      8.0,
      10.0,
      {"shortened": "8.0 s", "truncated": "8.0 of 10.0 s"},
    ),
    "unknown": (2.0, None, {}),
  }
  clips = []
  for seed, (name, (seconds, row_seconds, _)) in enumerate(lengths.items()):
    path = tmp_path / f"{name}.flac"
    soundfile.write(path, _noise(seed, seconds), 16000)
    clips.append(clip_lists.Clip(name, str(path), (0,), {}, row_seconds))
  said = _prepare(clips, tmp_path / "out", clip_seconds=3.0)
  for name, (*_, expected) in lengths.items():
    told = {
      reason: row["detail"]
      for reason, rows in said["clips"].items()
      for row in rows
      if row["id"] == name and reason != "short"
    }
    assert told == expected, name
  assert said["written"] == len(lengths) and said["noted"]["truncated"] == 3
  fewer = _prepare(
    clips, tmp_path / "out", clip_seconds=3.0, drop=("truncated", "overlong")
  )
  assert fewer["left_out"] == {"truncated": 3, "overlong": 2}


def test_remarks_of_the_decoder_are_told(tmp_path):
  clips = _clips(tmp_path / "in", 2)
  tone = _noise(0)
  soundfile.write(clips[1].path, np.stack([tone, -tone], 1), 16000)
  said = _prepare(clips, tmp_path / "out")
  (row,) = said["clips"]["remark"]
  assert row["id"] == "clip1" and "cancel out" in row["detail"]
  assert [row["id"] for row in said["clips"]["silent"]] == ["clip1"]


def test_every_file_of_the_folder_is_accounted_for(tmp_path):
  for name in ("cat/1.wav", "dog/2.wav", "dog/3.aiff"):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, _noise(len(name)), 16000)
  for name in ("cat/a.txt", "cat/b.txt", "cow/c.csv", "dog/.x", "loose.wav"):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  os.mkfifo(tmp_path / "in" / "dog" / "live.wav")
  found = class_folders.read(str(tmp_path / "in"))
  said = prepare.prepare(
    found.classes,
    found.clips,
    str(tmp_path / "out"),
    "train",
    prepare.Options(),
    _here,
    audit.of_source(found),
  )
  everything = sum(len(names) for *_, names in os.walk(tmp_path / "in"))
  files = said["files"]
  assert files["seen"] == everything == 9 and files["taken"] == 3
  assert files["passed_over"] == {
    "no audio": {"count": 3, "files": ["cat/a.txt", "cat/b.txt", "cow/c.csv"]},
    "hidden": {"count": 1, "files": ["dog/.x"]},
    "a pipe": {"count": 1, "files": ["dog/live.wav"]},
    class_folders.LOOSE: {"count": 1, "files": ["loose.wav"]},
  }
  text = (tmp_path / "out" / audit.TEXT_FILE).read_text()
  assert (
    "passed over: 2 .txt, 1 .csv, 1 hidden (dog/.x), 1 pipe (dog/live.wav), 1 "
    "beside the folders of the classes (loose.wav)" in text
  )
  assert "every file is accounted for: 3 + 3 + 1 + 1 + 1 = 9" in text
  assert "warning: classes without an audio file: cow" in text
  rows = [line.split() for line in text.splitlines()]
  assert [row for row in rows if row and row[0] in ("cat", "cow", "dog")] == [
    ["cat", "1", "1", "1", "0", "2"],
    ["cow", "0", "0", "0", "0", "1"],
    ["dog", "2", "2", "2", "1", "2"],
  ]
  again = json.loads((tmp_path / "out" / audit.JSON_FILE).read_text())
  assert again["train"]["files"] == files


def test_what_is_left_of_a_longer_file_is_told(tmp_path):
  clips = _clips(tmp_path, 3)
  for clip, seconds in zip(clips, (2.0, 2.9, 3.0)):
    soundfile.write(clip.path, _noise(0, seconds), 16000)
  said = _prepare(clips, tmp_path / "out", clip_seconds=2.0)
  (row,) = said["clips"]["shortened"]
  assert (row["id"], row["detail"]) == ("clip2", "3.0 s")
  table = prepared.find_split(str(tmp_path / "out"), "train").clips()
  assert table.num_samples.tolist() == [32000] * 3


def test_of_equal_clips_the_first_of_the_list_counts(tmp_path):
  clips = _clips(tmp_path / "in", 6)
  for i in (1, 4):
    soundfile.write(clips[i].path, _noise(5), 16000)
  said = _prepare(clips, tmp_path / "out")
  rows = said["clips"]["duplicate_audio"]
  assert [(row["id"], row["detail"]) for row in rows] == [
    ("clip4", "the same as clip1"),
    ("clip5", "the same as clip1"),
  ]


def test_few_clips_make_several_shards_of_at_least_32(tmp_path):
  for count, expected in ((1, 1), (32, 1), (40, 2), (600, 16), (40000, 40)):
    clips = [clip_lists.Clip(str(i), "x.wav", (0,)) for i in range(count)]
    shards = prepare._cut(clips, str(tmp_path), "train", prepare.Options())
    sizes = [len(shard.clips) for shard in shards]
    assert len(sizes) == expected and sum(sizes) == count
    assert max(sizes) <= 1024 and max(sizes) - min(sizes) <= 1


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
  clips = _clips(tmp_path / "in", 3)
  _prepare(clips, tmp_path / "out")
  expected = _contents(tmp_path / "out")
  for name in ("dataset_info.json.tmp-12", "train.clips.npz.tmp-345"):
    (tmp_path / "out" / name).write_bytes(b"half")
  _prepare(clips, tmp_path / "out")
  assert _contents(tmp_path / "out") == expected


def test_nothing_readable_is_an_error_that_is_audited(tmp_path):
  clips = [clip_lists.Clip("a", str(tmp_path / "none.wav"), (0,))]
  with pytest.raises(ValueError, match="none of the 1 clips.*audit.txt"):
    _prepare(clips, tmp_path / "out")
  said = json.loads((tmp_path / "out" / audit.JSON_FILE).read_text())
  assert said["train"]["left_out"] == {"missing": 1}
  assert not list((tmp_path / "out").glob(".*"))


def test_where_nothing_is_readable_a_split_and_its_audit_stay(tmp_path):
  _prepare(_clips(tmp_path / "in", 3), tmp_path / "out")
  before = _contents(tmp_path / "out")
  lost = [clip_lists.Clip(n, str(tmp_path / "none"), (0,)) for n in "ab"]
  with pytest.raises(ValueError, match=r"\(2 missing\).* stays, and its audit"):
    _prepare(lost, tmp_path / "out")
  assert _contents(tmp_path / "out") == before


def test_a_split_that_is_prepared_meanwhile_stays(tmp_path, monkeypatch):
  """Where there are no locks, as in a bucket; else they take turns."""
  nothing = contextlib.nullcontext()
  monkeypatch.setattr(storage, "taking_turns", lambda folder: nothing)
  clips = _clips(tmp_path / "in", 3)
  write = prepared.ClipTable.write

  def write_late(table, path):
    monkeypatch.setattr(prepared.ClipTable, "write", write)
    _prepare(clips[:1], tmp_path / "out", split="eval")
    write(table, path)

  monkeypatch.setattr(prepared.ClipTable, "write", write_late)
  _prepare(clips[1:], tmp_path / "out")
  info = prepared.read_dataset_info(str(tmp_path / "out"))
  assert {n: s.num_clips for n, s in info.splits.items()} == {
    "train": 2,
    "eval": 1,
  }


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"classes": labels.ClassList.from_names(["b", "a"])},
      "order or names differ",
    ),
    ({"classes": labels.ClassList.from_names(["a"])}, "only one has 'b'"),
    ({"codec": "pcm16"}, "another clip length or codec"),
    ({"clip_seconds": 5.0}, "another clip length or codec"),
  ],
)
def test_splits_of_one_folder_are_of_one_kind(tmp_path, change, message):
  clips = _clips(tmp_path / "in", 3)
  _prepare(clips, tmp_path / "out")
  with pytest.raises(ValueError, match=message):
    _prepare(clips, tmp_path / "out", split="eval", **change)
  assert prepared.find_split(str(tmp_path / "out"), "train").num_clips == 3


def test_a_process_that_died_is_told(tmp_path, monkeypatch):
  broken = concurrent.futures.Future()
  broken.set_exception(concurrent.futures.process.BrokenProcessPool())
  monkeypatch.setattr(
    concurrent.futures.ProcessPoolExecutor, "submit", lambda *_: broken
  )
  with pytest.raises(ValueError, match="smaller --num_workers"):
    _prepare(_clips(tmp_path / "in", 8), tmp_path, prepare.local_runner(2))
