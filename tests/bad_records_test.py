# SPDX-License-Identifier: Apache-2.0
"""A training run over data with bad records."""

import json

import pytest

from tests import command, small, toy
from tf_audioset import experiment
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.runtime import distribution, gin_config
from tf_audioset.training import reporting


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bad")
  (folder / "records").mkdir()
  toy.write_dataset(folder / "records", broken="train7")
  return folder


def _arguments(folder, name, *bindings, flags=()):
  arguments = small.arguments(
    folder / "records",
    folder / name,
    "train.num_epochs = 2",
    "train.steps_per_loop = 3",
    *bindings,
  )
  return [*arguments, *flags]


def _place(folder, clip_id):
  """The shard of a clip and the byte where its record begins."""
  split = prepared.find_split(str(folder / "records"), "train")
  row = split.clips().id.tolist().index(clip_id)
  return split.files[split.index.shard[row]], int(split.index.offset[row])


def test_the_first_stops_the_run(folder):
  shard, offset = _place(folder, b"train7")
  assert command.fail(*_arguments(folder, "strict")) == (
    f"train: error: clip train7, the record at byte {offset} of {shard}: "
    "cannot be decoded: Format not recognised. (Pipeline.max_bad_records = 1, "
    "or more, takes another clip in its place.)"
  )


def test_allowed_ones_are_named_and_counted_with_processes_or_without(folder):
  lenient = ("Pipeline.max_bad_records = 1",)
  done = command.run(*_arguments(folder, "lenient", *lenient))
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("bad record: clip train7, the record at byte") >= 2
  rows = (folder / "lenient" / "metrics.jsonl").read_text()
  loops = [row for row in map(json.loads, rows.splitlines()) if "loss" in row]
  # Two epochs of one loop each.
  assert [row["bad_records"] for row in loops] == [1, 1]

  flags = ["--data_service=2"]
  done = command.run(*_arguments(folder, "served", *lenient, flags=flags))
  assert done.returncode == 0, done.stderr
  assert "bad record: clip train7" in done.stderr
  assert (folder / "served" / "metrics.jsonl").read_text() == rows


def _damage(folder, clip_id):
  """Flips a bit in a clip's record."""
  shard, offset = _place(folder, clip_id)
  with open(shard, "r+b") as file:
    file.seek(offset + 100)
    byte = file.read(1)
    file.seek(offset + 100)
    file.write(bytes([byte[0] ^ 4]))


def test_one_too_many_stops_the_run(folder, tmp_path):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records", broken="train7")
  _damage(tmp_path, b"train3")
  error = command.fail(
    *_arguments(tmp_path, "run", "Pipeline.max_bad_records = 1")
  )
  assert error == (
    "train: error: 2 records of this epoch are bad, named above; "
    "Pipeline.max_bad_records is 1: raise it, or prepare the data again "
    "(tools/inspect_records.py --validate names all that is bad)."
  )


def test_after_a_stop_those_before_it_count_as_well(tmp_path, monkeypatch):
  """One bad record in the first step of each epoch, another in the last."""
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records")
  split = prepared.find_split(str(tmp_path / "records"), "train")
  pipeline = pipeline_lib.Pipeline()
  for step in (0, 2):
    ids = pipeline.training_ids(split, batch_size=8, seed=0, step=step)
    _damage(tmp_path, ids[-1].encode())

  def train(limit):
    gin_config.load(
      ["gin/quickstart.gin"],
      [
        *small.BINDINGS,
        "train.num_epochs = 2",
        "train.steps_per_loop = 1",
        "train.checkpoint_steps = 1",
        f"Pipeline.max_bad_records = {limit}",
      ],
    )
    experiment.Experiment().run(
      distribution.strategy(None),
      str(tmp_path / "records"),
      str(tmp_path / "run"),
    )

  class Killed(BaseException):
    pass

  def die(_):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(reporting.Report, "saved", die)  # After the first step.
    with pytest.raises(Killed):
      train(1)
  with pytest.raises(ValueError, match="2 records of this epoch are bad"):
    train(1)
  rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["bad_records"] for row in rows] == [1, 0]
  train(2)  # Each epoch begins to count anew.
