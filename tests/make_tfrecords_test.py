# SPDX-License-Identifier: Apache-2.0
"""Preparation as a user runs it: three forms, bad files, kill -9."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, reference
from tf_audioset.data import prepared, records
from tf_audioset.preparation import audit, class_folders, prepare

_TOOL = command.ROOT / "tools" / "make_tfrecords.py"


def _tone(seconds=1.0, rate_hz=16000, hz=440.0):
  time_s = np.arange(round(seconds * rate_hz)) / rate_hz
  return 0.5 * np.sin(2 * np.pi * hz * time_s)


def _read(folder, split):
  """{id: (int16 samples, labels)} of a prepared split."""
  found = prepared.find_split(str(folder), split)
  clips = {}
  for serialized in tf.data.TFRecordDataset(found.files, found.compression):
    record = records.parse_example(serialized)
    waveform = records.decode_waveform(record, crop_samples=None, position=None)
    clips[record["id"].numpy().decode()] = (
      waveform.numpy(),
      record["labels"].numpy().tolist(),
    )
  assert len(clips) == found.num_clips
  return clips


_CLASSES = 'index,mid,display_name\n0,/m/a,"A, first"\n1,/m/b,B\n2,/m/c,"C"\n'


@pytest.fixture(name="audioset")
def _audioset(tmp_path):
  """AudioSet's form, with one of everything that can be wrong."""
  audio = tmp_path / "audio"
  (audio / "deeper").mkdir(parents=True)
  soundfile.write(audio / "-dash_start.wav", _tone(), 16000)
  soundfile.write(audio / "Ywith_prefix.flac", _tone(12, 44100), 44100)
  soundfile.write(audio / "deeper" / "ms_30000.ogg", _tone(rate_hz=8000), 8000)
  soundfile.write(
    audio / "stereo_10.000_20.000.wav",
    np.stack([_tone(2, 22050), 0 * _tone(2, 22050)], 1),
    22050,
  )
  soundfile.write(audio / "plain.mp3", _tone(3, 48000), 48000)
  soundfile.write(audio / "unlabelled.wav", _tone(), 16000)
  (audio / "broken.wav").write_bytes(b"not audio")
  soundfile.write(audio / "empty.wav", np.zeros(0), 16000)
  (tmp_path / "classes.csv").write_text(_CLASSES)
  (tmp_path / "segments.csv").write_text(
    "# Segments csv created by a test\n"
    "# num_ytids=9\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
    '-dash_start, 0.000, 10.000, "/m/a"\n'
    'with_prefix, 0.000, 10.000, "/m/b,/m/a"\n'
    'ms, 30.000, 40.000, "/m/c"\n'
    'stereo, 10.000, 20.000, "/m/c"\n'
    'plain, 0.000, 10.000, "/m/b"\n'
    'plain, 0.000, 10.000, "/m/b"\n'
    'unlabelled, 0.000, 10.000, "/m/unknown"\n'
    'broken, 0.000, 10.000, "/m/a"\n'
    'empty, 0.000, 10.000, "/m/a"\n'
    'nowhere, 0.000, 10.000, "/m/a"\n'
  )
  return [
    f"--segments_csv={tmp_path / 'segments.csv'}",
    f"--class_labels_csv={tmp_path / 'classes.csv'}",
    f"--audio_dir={audio}",
    f"--output_dir={tmp_path / 'out'}",
  ]


def test_audiosets_form_with_bad_files(audioset, tmp_path):
  error = command.fail(_TOOL, *audioset, code=2)
  # Of "/m/b,/m/a" one by one, and one of them twice.
  assert "1 of 11 labels (9.09 %) are not in the class list, such as" in error
  assert "'/m/unknown'; that has '/m/a', '/m/b', '/m/c' and so on" in error
  assert not (tmp_path / "out").exists()
  error = command.fail(_TOOL, *audioset, "--max_unknown_labels=0.1", code=1)
  assert "5 of 9 clips are written, less than --min_coverage=0.99" in error
  out = tmp_path / "out"
  clips = _read(out, "train")
  assert {name: found for name, (_, found) in clips.items()} == {
    "-dash_start": [0],
    "with_prefix": [1, 0],
    "ms": [2],
    "stereo": [2],
    "plain": [1],
  }
  assert len(clips["with_prefix"][0]) == 160000  # Cut to 10 s.
  assert len(clips["stereo"][0]) == 32000
  # A tone in one of two channels: half the amplitude.
  assert np.abs(clips["stereo"][0]).max() == pytest.approx(8192, rel=0.02)
  assert np.abs(clips["ms"][0]).max() == pytest.approx(16384, rel=0.05)

  said = json.loads((out / "audit.json").read_text())["train"]
  assert (said["expected"], said["found"], said["written"]) == (10, 8, 5)
  assert said["repeated"] == 1
  named = {
    reason: {row["id"] for row in rows}
    for reason, rows in said["clips"].items()
  }
  assert named == {
    "missing": {"nowhere"},
    "undecodable": {"broken", "empty"},
    "unknown_label": {"unlabelled"},
    "duplicate_id": {"plain"},
    "shortened": {"with_prefix"},
    "overlong": {"with_prefix"},
    "truncated": {"-dash_start", "ms", "stereo", "plain"},
  }
  info = json.loads((out / "dataset_info.json").read_text())
  assert info["classes"][0] == {"index": 0, "mid": "/m/a", "name": "A, first"}
  assert info["splits"]["train"]["num_clips"] == 5
  joined = "\n".join(sorted(clips)).encode()
  expected_hash = hashlib.sha256(joined).hexdigest()
  assert info["splits"]["train"]["ids_sha256"] == expected_hash
  split = prepared.find_split(str(out), "train")
  places = split.locator()(tf.range(5))
  serialized = [
    prepared.read_record(*place)
    for place in zip(places["file"], places["offset"])
  ]
  ids = [records.parse_example(record)["id"] for record in serialized]
  assert [clip_id.numpy().decode() for clip_id in ids] == list(clips)
  percent = tf.strings.to_hash_bucket_fast(list(clips), 100).numpy()
  np.testing.assert_array_equal(split.index.bucket, percent)


def test_a_manifest_in_audaxs_form_from_another_folder(tmp_path):
  soundfile.write(tmp_path / "one.wav", _tone(), 16000)
  soundfile.write(tmp_path / "two.flac", _tone(), 16000)
  (tmp_path / "manifest.csv").write_text(
    "files,labels\none.wav,dog\ntwo.flac,dog;cat\n"
  )
  (tmp_path / "map.json").write_text('{"cat": 0, "dog": 1}')
  command.succeed(
    _TOOL,
    "--manifest_csv=manifest.csv",
    "--labels_map=map.json",
    "--labels_delim=;",
    "--output_dir=out",
    "--split=eval",
    "--codec=pcm16",
    "--clips_per_shard=1",
    "--num_workers=1",
    cwd=tmp_path,
  )
  clips = _read(tmp_path / "out", "eval")
  assert {name: found for name, (_, found) in clips.items()} == {
    "one.wav": [1],
    "two.flac": [1, 0],
  }
  expected = np.rint(_tone() * 32768)
  assert np.abs(clips["one.wav"][0] - expected).max() <= 1
  assert len(list((tmp_path / "out").glob("eval-*-of-00002.tfrecord"))) == 2


def test_a_folder_a_class_and_a_second_split(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / "in" / name).mkdir(parents=True)
    for i in range(3):
      soundfile.write(tmp_path / "in" / name / f"{i}.wav", _tone(), 16000)
  common = [_TOOL, f"--output_dir={tmp_path / 'out'}"]
  (tmp_path / "in" / "notes.txt").touch()
  for split in ("train", "eval"):
    said = command.succeed(
      *common, f"--class_dirs={tmp_path / 'in'}", f"--split={split}"
    )
    assert said.startswith("2 classes: cat 3, dog 3\n")
    assert "passed over: 1 .txt\n  every file is accounted for: 6 + 1" in said
  info = prepared.read_dataset_info(str(tmp_path / "out"))
  assert info.classes.names == ("cat", "dog")
  assert set(info.splits) == {"train", "eval"}
  clips = _read(tmp_path / "out", "train")
  assert clips["dog/2.wav"][1] == [1]


def test_a_public_list_is_prepared_as_it_is(tmp_path):
  """As UrbanSound8K's, some of whose files were cut."""
  for i, seconds in ((1, 1.0), (2, 1.0), (3, 3.0)):
    path = tmp_path / "audio" / f"fold{i}" / f"10000{i}-3-0-0.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, _tone(seconds, hz=100 * i), 16000)
  (tmp_path / "meta.csv").write_text(
    "slice_file_name;fsID;start;end;classID;class\r\n"
    "100001-3-0-0.wav;100001;0.0;1.0;3;dog_bark\r\n"
    "100002-3-0-0.wav;100002;0.0;1.0;3;dog_bark\r\n"
    "100002-3-0-0.wav;100002;0.0;1.0;3; siren\r\n"
  )
  said = command.succeed(
    _TOOL,
    f"--manifest_csv={tmp_path / 'meta.csv'}",
    f"--audio_dir={tmp_path / 'audio'}",
    f"--output_dir={tmp_path / 'out'}",
  )
  assert (
    said
    == f"""\
{tmp_path}/meta.csv: semicolon-separated, files in column 'slice_file_name', \
labels in column 'class'
2 classes: dog_bark 2, siren 1
train: 3 rows of 2 clips, 2 files found, 2 clips written (100.00 %)
  repeated: 1 merged_rows: its labels were added to an earlier row of the same \
clip
    100002-3-0-0.wav: line 4 adds siren to line 3
  every row is accounted for: 2 + 1 = 3
  passed over: 1 that match no row (fold3/100003-3-0-0.wav)
  every file is accounted for: 2 + 1 = 3
class     train clips
dog_bark            2
siren               1
see {tmp_path}/out/audit.txt
"""
  )
  clips = _read(tmp_path / "out", "train")
  assert {name: found for name, (_, found) in clips.items()} == {
    "100001-3-0-0.wav": [0],
    "100002-3-0-0.wav": [0, 1],
  }


def test_what_was_cut_off_is_told_and_dropped(tmp_path):
  (tmp_path / "audio").mkdir()
  lines = ""
  for i, seconds in enumerate((10.0, 1.2, 2.2, 3.0)):
    name = tmp_path / "audio" / f"AAAAAAAAAA{i}_30.0-40.0.wav"
    soundfile.write(name, _tone(seconds, hz=100 * (i + 1)), 16000)
    lines += f'AAAAAAAAAA{i}, 30.000, 40.000, "/m/09x0r"\n'
  (tmp_path / "segments.csv").write_text(lines)
  done = command.run(
    _TOOL,
    f"--segments_csv={tmp_path / 'segments.csv'}",
    f"--audio_dir={tmp_path / 'audio'}",
    f"--output_dir={tmp_path / 'out'}",
    "--drop=truncated",
  )
  assert done.returncode == 1 and "1 of 4 clips are written" in done.stderr
  assert (
    "left out: 3 truncated: shorter than the list says by more than 10 %\n"
    "    AAAAAAAAAA1: 1.2 of 10.0 s\n    AAAAAAAAAA2: 2.2 of 10.0 s\n"
    "    AAAAAAAAAA3: 3.0 of 10.0 s\n"
  ) in done.stdout
  info = prepared.read_dataset_info(str(tmp_path / "out"))
  assert info.classes.is_audioset


def test_a_killed_run_is_continued(tmp_path):
  (tmp_path / "in" / "tone").mkdir(parents=True)
  for i in range(60):
    soundfile.write(
      tmp_path / "in" / "tone" / f"{i}.wav", _tone(10, 44100, i), 44100
    )
  arguments = [
    _TOOL,
    f"--class_dirs={tmp_path / 'in'}",
    "--clips_per_shard=10",
  ]
  out = tmp_path / "out"
  process = subprocess.Popen(
    [
      sys.executable,
      *map(str, arguments),
      f"--output_dir={out}",
      "--num_workers=2",
    ],
    stderr=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 300
  while not list(out.glob(".train.parts/*.account.json")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.02)
  # The parent alone: its workers must end by themselves.
  tasks = pathlib.Path(f"/proc/{process.pid}/task")
  children = [
    pid for file in tasks.glob("*/children") for pid in file.read_text().split()
  ]
  assert len(children) >= 2
  process.kill()
  process.wait()
  assert [path.name for path in out.iterdir()] == [".train.parts"]
  with pytest.raises(ValueError, match="no prepared data"):
    prepared.find_split(str(out), "train")
  while any(map(_runs, children)):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  done = len(list(out.glob(".train.parts/*.account.json")))
  assert done < 6
  said = command.succeed(*arguments, f"--output_dir={out}", "--num_workers=1")
  assert f"{done} of 6 shards were done by an earlier run" in said
  whole = tmp_path / "whole"
  found = class_folders.read(str(tmp_path / "in"))
  prepare.prepare(
    found.classes,
    found.clips,
    str(whole),
    "train",
    prepare.Options(clips_per_shard=10),
    prepare.local_runner(1),
    audit.of_source(found),
  )
  names = {path.name for path in whole.iterdir()}
  assert {path.name for path in out.iterdir()} == names
  for name in names:
    assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def _runs(pid: str) -> bool:
  try:
    status = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return False
  return status.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--class_dirs=x"], "--output_dir is required"),
    (["--output_dir=out"], "exactly one of"),
    (["--output_dir=out", "--class_dirs=none"], "--class_dirs=none: no such"),
    (
      ["--output_dir=out", "--segments_csv=s.csv"],
      "--segments_csv needs --audio_dir",
    ),
    (["--output_dir=out", "--class_dir=x"], "class_dir"),
    (
      ["--output_dir=out", "--class_dirs=.", "--labels_map=x"],
      "--labels_map does not go with --class_dirs",
    ),
    (
      [
        "--output_dir=out",
        "--segments_csv=x",
        "--audio_dir=.",
        "--separator=;",
      ],
      "--segments_csv=x: no such",
    ),
    (
      ["--output_dir=out", f"--manifest_csv={__file__}", "--separator=tabs"],
      "--separator=tabs: give comma, tab",
    ),
    (
      ["--output_dir=out", "--class_dirs=."],
      "=out is in --class_dirs=., where",
    ),
    (["--output_dir=.", "--class_dirs=."], "=. is in --class_dirs=., where"),
    (["--output_dir=out", "--class_dirs=empty"], "empty: holds no folder"),
    (["--output_dir=out", f"--class_dirs={__file__}"], "is no folder"),
    (["--output_dir=out", "--class_dirs=.", "extra"], "'extra'"),
    (["--output_dir=out", "--clips_per_shard=0", "--class_dirs=."], "shard"),
    (["--output_dir=out", "--clip_seconds=inf", "--class_dirs=."], "600"),
    (
      ["--output_dir=out", "--class_dirs=.", "--drop=short,missing"],
      "--drop=short,missing: 'missing' is none of in_two_splits,silent,short",
    ),
    (
      ["--output_dir=out", "--class_dirs=.", "--beam_options=--x"],
      "--beam_options needs --runner",
    ),
    (
      ["--output_dir=out", "--class_dirs=.", "--split=a-b"],
      "--split=a-b: letters",
    ),
  ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
  (tmp_path / "empty").mkdir()
  assert message in command.fail(_TOOL, *arguments, cwd=tmp_path)
  assert not (tmp_path / "out").exists()


def test_real_recordings_with_damage(tmp_path):
  folder = reference.recordings()
  lines = (folder / "segments_eval.csv").read_text().splitlines()
  ids = [line.split(", ")[0] for line in lines[3:]]
  seconds = {
    line.split(", ")[0]: float(line.split(", ")[2]) - float(line.split(", ")[1])
    for line in lines[3:]
  }
  shuffled = np.random.default_rng(0).permutation(ids).tolist()
  deleted, truncated, silent, copied, originals = (
    shuffled[begin:end]
    for begin, end in ((0, 30), (30, 40), (40, 45), (45, 50), (50, 55))
  )
  audio = tmp_path / "audio"
  shutil.copytree(folder / "audio", audio)
  for clip_id in deleted:
    (audio / f"Y{clip_id}.flac").unlink()
  for clip_id in truncated:
    path = audio / f"Y{clip_id}.flac"
    os.truncate(path, path.stat().st_size * 2 // 3)
  for clip_id in silent:
    path = audio / f"Y{clip_id}.flac"
    samples, rate_hz = soundfile.read(path, dtype="int16")
    soundfile.write(path, 0 * samples, rate_hz)
  in_list = dict(seconds)
  for clip_id, original in zip(copied, originals):
    shutil.copy(audio / f"Y{original}.flac", audio / f"Y{clip_id}.flac")
    seconds[clip_id] = seconds[original]
  error = command.fail(
    _TOOL,
    f"--segments_csv={folder / 'segments_eval.csv'}",
    f"--class_labels_csv={folder / 'class_labels_indices.csv'}",
    f"--audio_dir={audio}",
    f"--output_dir={tmp_path / 'out'}",
    "--split=eval",
    "--num_workers=1",
    code=1,
  )
  assert "84 of 124 clips are written" in error
  said = json.loads((tmp_path / "out" / "audit.json").read_text())["eval"]
  named = {
    reason: {row["id"]: row["detail"] for row in rows}
    for reason, rows in said["clips"].items()
  }
  assert set(named["missing"]) == set(deleted)
  assert set(named["undecodable"]) == set(truncated)
  for clip_id, detail in named["undecodable"].items():
    assert f" of {seconds[clip_id]:.1f} s can be decoded" in detail
  assert set(named["silent"]) == set(silent)
  # The first in the list is taken for the original.
  pairs = {frozenset(pair) for pair in zip(copied, originals)}
  assert pairs == {
    frozenset([clip_id, detail.removeprefix("the same as ")])
    for clip_id, detail in named["duplicate_audio"].items()
  }
  clips = _read(tmp_path / "out", "eval")
  assert set(clips) == set(ids) - set(deleted) - set(truncated)
  for clip_id, (samples, _) in clips.items():
    assert len(samples) == pytest.approx(16000 * seconds[clip_id], abs=20)
  short = {name for name in clips if len(clips[name][0]) < 16000}
  assert set(named["short"]) == short
  # Of the copies, the lengths are not those of their rows.
  excess = {name: seconds[name] - in_list[name] for name in copied}
  assert set(named["truncated"]) == {
    name for name, x in excess.items() if -x > max(0.1 * in_list[name], 0.1)
  }
  assert set(named["overlong"]) == {
    name for name, x in excess.items() if x > max(0.1 * in_list[name], 0.1)
  }
  assert set(named) <= {
    "truncated",
    "overlong",
    "missing",
    "undecodable",
    "silent",
    "duplicate_audio",
    "short",
    "clipped",
  }


def _labelled_recordings(folder):
  """Six recordings of 12 s, whose events are tones, with label tracks."""
  for i in range(6):
    wave = 1e-3 * np.random.default_rng(i).normal(size=12 * 16000)
    track = []
    for k, (begin, end, name) in enumerate(
      [(1, 2.5, "low"), (4, 4.4, "high"), (8, 9, "low")][: 2 + i % 2]
    ):
      tone = _tone(end - begin, hz=300 if name == "low" else 3000)
      wave[begin * 16000 : begin * 16000 + len(tone)] += tone / (k + 2)
      track.append(f"{begin:.6f}\t{end:.6f}\t{name}\n")
    name = f"site{i // 2}/rec{i}"
    for top in ("audio", "labels"):
      (folder / top / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "audio" / f"{name}.wav", wave, 16000)
    (folder / "labels" / f"{name}.txt").write_text("".join(track))


def test_recordings_and_label_tracks_become_two_splits(tmp_path):
  _labelled_recordings(tmp_path)
  arguments = [
    _TOOL,
    f"--events_tsv={tmp_path}/labels",
    f"--audio_dir={tmp_path}/audio",
    "--unlabelled_class=none",
    "--holdout_percent=34",
    "--num_workers=1",
  ]
  out = command.succeed(
    *arguments,
    f"--output_dir={tmp_path}/records",
    f"--clips_dir={tmp_path}/clips",
    "--group_by=folder",
  )
  assert "15 events in 6 recordings: 36 clips" in out
  assert "held out: 12 of 36 clips (33.3 %), 1 of 3 groups" in out
  train, held = (_read(tmp_path / "records", x) for x in ("train", "eval"))
  assert len(train) == 24 and len(held) == 12
  sites = [{clip_id[:5] for clip_id in part} for part in (train, held)]
  assert not sites[0] & sites[1]
  names = ["high", "low", "none"]
  for clip_id, (samples, labels) in {**train, **held}.items():
    path, _, times = clip_id.rpartition("@")
    begin, end = (round(float(x) * 16000) for x in times.split("-"))
    wave, _ = soundfile.read(tmp_path / "audio" / path, dtype="int16")
    np.testing.assert_array_equal(samples, wave[begin:end])
    peak_hz = np.abs(np.fft.rfft(samples / 32768)).argmax() / len(samples)
    expected = {"low": 300, "high": 3000}.get(names[labels[0]])
    if expected:
      assert peak_hz * 16000 == pytest.approx(expected, abs=5)
    else:
      assert np.abs(samples / 32768).max() < 0.01
  table = [line.split() for line in out.splitlines()[-5:-1]]
  assert table == [
    ["class", "train", "clips", "eval", "clips"],
    ["high", "4", "2"],
    ["low", "6", "3"],
    ["none", "14", "7"],
  ]
  assert sorted(os.listdir(tmp_path / "clips")) == names
  # Without --clips_dir no clip file stays; the records are the same.
  command.succeed(
    *arguments, f"--output_dir={tmp_path}/again", "--group_by=^site[0-9]"
  )
  again = _read(tmp_path / "again", "eval")
  assert {i: x[0].tobytes() for i, x in again.items()} == {
    i: x[0].tobytes() for i, x in held.items()
  }
  assert not [x for x in os.listdir(tmp_path / "again") if x.startswith(".")]
  line = command.fail(
    *arguments, f"--output_dir={tmp_path}/again", "--group_by=^site"
  )
  assert "all 36 clips are one group, 'site'" in line


def test_any_list_can_be_divided_and_its_classes_are_told(tmp_path):
  for name, num_clips in (("cow", 20), ("dog", 10)):
    (tmp_path / "sounds" / name).mkdir(parents=True)
    for i in range(num_clips):
      # Two excerpts of each recording.
      soundfile.write(
        tmp_path / "sounds" / name / f"{i // 2}_{i % 2}.wav",
        _tone(hz=300 + 10 * i + 1000 * (name == "dog")),
        16000,
      )
  out = command.succeed(
    _TOOL,
    f"--class_dirs={tmp_path}/sounds",
    f"--output_dir={tmp_path}/records",
    "--holdout_percent=20",
    "--holdout_split=test",
    r"--group_by=(.*)_\d\.wav",
    "--num_workers=1",
  )
  table = [line.split() for line in out.splitlines()[-4:-1]]
  assert table == [
    ["class", "train", "clips", "test", "clips"],
    ["cow", "16", "4"],
    ["dog", "8", "2"],
  ]
  # Another division is not compared with the one that it replaces.
  again = command.succeed(
    _TOOL,
    f"--class_dirs={tmp_path}/sounds",
    f"--output_dir={tmp_path}/records",
    "--holdout_percent=40",
    "--holdout_split=test",
    r"--group_by=(.*)_\d\.wav",
    "--num_workers=1",
  )
  assert "held out: 12 of 30 clips" in again
  assert "two_splits" not in again and "duplicate_audio" not in again
  parts = (
    {clip_id.rpartition("_")[0] for clip_id in _read(tmp_path / "records", x)}
    for x in ("train", "test")
  )
  assert not set.intersection(*parts)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--events_tsv=e"], "--events_tsv needs --audio_dir"),
    (["--class_dirs=c", "--unlabelled_class=x"], "does not go with"),
    (["--class_dirs=c", "--group_by=folder"], "which needs --holdout_percent"),
    (
      ["--class_dirs=c", "--holdout_percent=9", "--split=eval"],
      "--holdout_split=eval is --split itself",
    ),
    (["--class_dirs=c", "--holdout_split=a b"], "letters, digits and _ only"),
  ],
)
def test_mistakes_in_flags_of_recordings_and_hold_out(arguments, message):
  line = command.fail(_TOOL, "--output_dir=none", *arguments)
  assert message in line
