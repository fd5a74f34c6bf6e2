# SPDX-License-Identifier: Apache-2.0
"""tools/inspect_records.py as a user calls it."""

import dataclasses
import io
import shutil

import matplotlib.image
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, toy
from tf_audioset.data import labels, prepared
from tf_audioset.preparation import clip_lists, prepare

_TOOL = "tools/inspect_records.py"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("inspected")
  lengths = [16000, 300, 30000]
  toy.write_dataset(folder, num_samples=lengths, broken="train7")
  return folder


def test_the_tables_count_clips_seconds_and_classes(folder):
  lines = command.succeed(_TOOL, folder).splitlines()
  assert lines[1].split()[:5] == ["split", "clips", "shards", "codec", "hours"]
  (train,) = (line for line in lines if line.startswith("train "))
  clips = [toy.clip(i, 10)[1] for i in range(24)]
  mean = np.mean([16000, 300, 30000]) / 16000
  total = sum(map(len, clips))
  assert (
    train.split()
    == (
      f"train 24 3 flac {24 * mean / 3600:.2f} 0.02 s {mean:.2f} s 1.88 s "
      f"{total / 24:.2f}"
    ).split()
  )
  for i, name in enumerate(toy.NAMES):
    (row,) = (line for line in lines if line.startswith(f"{name} "))
    evals = [toy.clip(1000 + j, 10)[1] for j in range(10)]
    assert row.split()[-2:] == [
      str(sum(i in labels for labels in evals)),
      str(sum(i in labels for labels in clips)),
    ]


def test_a_clip_is_written_as_sound_and_as_a_picture(folder, tmp_path):
  flags = ["--play=train3", "--plot=train3", f"--output_dir={tmp_path}"]
  out = command.succeed(_TOOL, folder, *flags)
  samples, present = toy.clip(3, 16000)
  assert all(toy.NAMES[i] in out for i in present)
  written, rate_hz = soundfile.read(tmp_path / "train3.wav", dtype="int16")
  assert rate_hz == 16000
  np.testing.assert_array_equal(written, samples)
  picture = matplotlib.image.imread(tmp_path / "train3.png")
  assert picture.shape[:2] == (400, 1000)
  # By its number: shards hold every third clip, so 8 is the second's first.
  command.succeed(
    _TOOL, folder, "--split=train", "--play=8", f"--output_dir={tmp_path}"
  )
  assert len(soundfile.read(tmp_path / "train1.wav")[0]) == 300


def test_validation_names_all_that_is_bad(folder, tmp_path):
  done = command.run(_TOOL, folder, "--validate")
  assert done.returncode == 1
  assert "eval: 10 clips, 0 bad" in done.stdout
  assert "train: 24 clips, 1 bad" in done.stdout
  assert "clip train7, the record at byte" in done.stdout
  assert "Format not recognised" in done.stdout
  # Sound and whole, but not what the table says.
  toy.write_dataset(tmp_path)
  path = str(tmp_path / "train.clips.npz")
  table = prepared.ClipTable.read(path)
  table.audio_hash[5] += 1
  table.write(path)
  done = command.run(_TOOL, tmp_path, "--split=train", "--validate")
  assert done.returncode == 1
  assert f"clip {table.id[5].decode()}: its audio or its labels" in done.stdout


def test_a_letter_that_changed_in_a_class_name_is_told(tmp_path):
  toy.write_dataset(tmp_path)
  info = tmp_path / "dataset_info.json"
  text = info.read_text()
  info.write_text(text.replace('"name": "Noise"', '"name": "Moise"'))
  line = command.fail(_TOOL, tmp_path, "--validate")
  assert f"{info}: changed since it was written" in line
  # As older versions wrote it.
  lines = text.splitlines(keepends=True)
  info.write_text("".join(x for x in lines if '"sha256"' not in x))
  done = command.run(_TOOL, tmp_path, "--validate")
  assert done.returncode == 0 and "without a digest" in done.stdout


def test_records_of_audax_are_shown_as_far_as_they_say(tmp_path):
  samples = toy.clip(0, 5000)[0]
  flac = io.BytesIO()
  soundfile.write(flac, samples, 16000, "PCM_16", format="FLAC")
  feature = {
    "audio": tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[flac.getvalue()])
    ),
    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[5, 7])),
  }
  record = tf.train.Example(features=tf.train.Features(feature=feature))
  (tmp_path / "train").mkdir()
  with tf.io.TFRecordWriter(
    str(tmp_path / "train" / "a.tfrec"), "ZLIB"
  ) as writer:
    for _ in range(3):
      writer.write(record.SerializeToString())
  lines = command.succeed(_TOOL, tmp_path).splitlines()
  (train,) = (line for line in lines if line.startswith("train "))
  assert train.split() == ["train", "3", "1", "flac", *"????", "2.00"]
  assert "class 7" in "\n".join(lines)
  command.succeed(_TOOL, tmp_path, "--play=2", f"--output_dir={tmp_path}")
  written, _ = soundfile.read(tmp_path / "train2.wav", dtype="int16")
  np.testing.assert_array_equal(written, samples)


def test_an_id_may_be_a_number_or_long(tmp_path):
  # As a path below --class_dirs it may be longer than a file's name.
  long = f"a/{'b' * 150}/{'c' * 150}.wav"
  levels = {"7": 0.1, "1": 0.2, "64760": 0.3, long: 0.4}
  clips = []
  for clip_id, level in levels.items():
    path = tmp_path / f"in{len(clips)}.wav"
    soundfile.write(path, np.full(16000, level), 16000)
    clips.append(clip_lists.Clip(clip_id, str(path), (0,)))
  for split, part in (("eval", clips[:1]), ("train", clips[1:])):
    prepare.prepare(
      labels.ClassList.from_names(["a"]),
      part,
      str(tmp_path / "out"),
      split,
      prepare.Options(),
      prepare.local_runner(1),
    )
  for wanted, written in (
    ("64760", "64760"),
    ("1", "1"),
    ("0", "7"),  # No id: the place, in the first split.
    (long, long.replace("/", "_")[-200:]),
  ):
    command.succeed(
      _TOOL, tmp_path / "out", f"--play={wanted}", f"--output_dir={tmp_path}"
    )
    samples, _ = soundfile.read(tmp_path / f"{written}.wav")
    level = levels["7" if wanted == "0" else wanted]
    np.testing.assert_allclose(samples, level, atol=1e-4)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "at least one DIR"),
    (["/nowhere"], "/nowhere: no prepared data"),
    (["{}", "{}"], "one folder at a time"),
    (["{}", "--play=none"], "none: no clip of this id in eval, train"),
    (["{}", "--split=eval", "--play=10"], "10: eval has 10 clips, from 0"),
    (["{}", "--split=test"], "no split 'test'"),
    (["{}", "--split=train", "--play=train7"], "clip train7, the record"),
    (["{}", "--play=train3", "--output_dir=/proc"], "/proc/train3.wav"),
    (["{}", "--sampling"], "--sampling needs the experiment"),
    (["{}", "--gin_file=gin/resnet18.gin"], "are for --sampling"),
    (
      ["{}", "--sampling", "--gin_file=gin/resnet18.gin", "--play=1"],
      "leave out --split, --play",
    ),
    (
      ["{}", "--sampling", "--gin_file=gin/resnet18.gin"],
      "this experiment draws every clip alike",
    ),
  ],
)
def test_mistakes_are_one_line(folder, arguments, message):
  arguments = [a.replace("{}", str(folder)) for a in arguments]
  assert message in command.fail(_TOOL, *arguments)


def test_drawn_frequencies_are_printed_and_drawn(folder, tmp_path):
  experiment = tmp_path / "balanced.gin"
  experiment.write_text(
    "include 'gin/resnet18.gin'\n"
    "Pipeline.sampler = @BalancedSampler()\n"
    "BalancedSampler.offset = 0\n"
    "train.global_batch_size = 8\n"
    "train.epoch_clips = 1200\n"
  )
  arguments = [folder, "--sampling", f"--gin_file={experiment}"]
  out = command.succeed(_TOOL, *arguments, f"--output_dir={tmp_path}")
  assert "24 clips, 1,200 draws an epoch" in out
  clips = [toy.clip(i, 10)[1] for i in range(24)]
  counts = np.bincount(np.concatenate(clips), minlength=3)
  # All classes alike: a clip comes for each of its classes.
  shares = np.array(
    [sum(1 / counts[k] for k in labels) / 3 for labels in clips]
  )
  for k, name in enumerate(toy.NAMES):
    (row,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
    drawn = sum(share for share, labels in zip(shares, clips) if k in labels)
    number, *rest = row[len(name) :].split()
    assert int(number) == counts[k]
    np.testing.assert_allclose(
      [float(x) for x in rest],
      [100 * counts[k] / 24, 100 * drawn, 1200 * drawn / counts[k]],
      atol=0.006,
    )
  picture = matplotlib.image.imread(tmp_path / "sampling.png")
  assert picture.shape[:2] == (500, 1000)
  # The settings can be changed, and the part that is trained on.
  bindings = ["BalancedSampler.share = 0", "train.holdout_percent = 50"]
  out = command.succeed(
    _TOOL,
    *arguments,
    f"--output_dir={tmp_path}",
    *(f"--gin_bindings={binding}" for binding in bindings),
  )
  (row,) = (line for line in out.splitlines() if line.startswith("Noise "))
  _, natural, drawn, _ = row.split()[1:]
  assert natural == drawn
  part = prepared.find_split(str(folder), "train").part(50, 100)
  assert f"{part.num_clips} clips, 1,200 draws an epoch" in out


@pytest.mark.parametrize("flags", [[], ["--validate"]])
def test_a_folder_without_a_split_is_told(folder, tmp_path, flags):
  info = prepared.read_dataset_info(str(folder))
  prepared.write_dataset_info(
    str(tmp_path), dataclasses.replace(info, splits={})
  )
  line = command.fail(_TOOL, tmp_path, *flags)
  assert f"{tmp_path}: dataset_info.json names no split" in line


def test_a_sound_for_which_there_is_no_room_is_told(folder, tmp_path):
  """`ulimit -f` stands for the full disk: no file above 10 kB."""
  limited = (
    "import resource, sys, runpy;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, -1));"
    "sys.argv[0] = 'inspect_records';"
    f"runpy.run_path({_TOOL!r}, run_name='__main__')"
  )
  flags = ["--play=train3", f"--output_dir={tmp_path}"]
  line = command.fail("-c", limited, folder, *flags)
  assert f"{tmp_path}/train3.wav" in line


def test_names_with_dollars_are_no_formulas(folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  info = prepared.read_dataset_info(str(folder))
  names = [name.replace("o", "$_$") for name in toy.NAMES]
  info = dataclasses.replace(info, classes=labels.ClassList.from_names(names))
  prepared.write_dataset_info(str(tmp_path), info)
  flags = ["--play=train3", "--plot=train3", f"--output_dir={tmp_path}"]
  # In the title, too.
  assert "$_$" in command.succeed(_TOOL, tmp_path, *flags)
  picture = matplotlib.image.imread(tmp_path / "train3.png")
  assert picture.shape[:2] == (400, 1000)
