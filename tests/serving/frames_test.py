# SPDX-License-Identifier: Apache-2.0
"""Scores of frames along a recording against those of it as one clip."""

import csv
import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, toy
from tf_audioset import features
from tf_audioset.data import audio, labels
from tf_audioset.models import heads, tagger
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import export, exported_tagger, frames
from tf_audioset.training import losses

_FRAME = 3200  # Samples: 20 frames of the features.


class _LocalBackbone(tf.keras.Model):
  """A frame is the mean of its 20 frames of features, and sees no others."""

  frame_stride = 20

  def call(self, features, training=False, pool=None):
    means = tf.nn.avg_pool2d(features, [20, 1], [20, 1], "VALID")
    return pool(tf.transpose(means, [0, 1, 3, 2]) / 10)


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    len(toy.NAMES),
    frontend=features.LogMel(),
    backbone=_LocalBackbone(),
    loss=losses.MultiLabel(),
    head=heads.AttentionHead(),
  )
  model(tf.zeros([1, 16000]))
  folder = str(tmp_path_factory.mktemp("frames") / "1")
  export.export(
    model,
    folder,
    classes=labels.ClassList.from_names(toy.NAMES),
    min_samples=16000,
    padding="repeat",
  )
  return folder


@pytest.fixture(name="loaded", scope="module")
def _loaded(model):
  return exported_tagger.ExportedTagger(model)


def _write(path, num_samples):
  rng = np.random.default_rng(num_samples)
  loudness = 0.3 * np.sin(np.arange(num_samples) / 3000) ** 2
  soundfile.write(path, rng.normal(size=num_samples) * loudness, 16000)
  return str(path)


@pytest.mark.parametrize(
  ("num_samples", "window", "hop"),
  [
    (30 * 16000 + 77, 2.0, 1.0),  # Blocks are shorter than the file.
    (70000, 2.0, 1.0),
    (70000, 1.7, 0.5),
    (64000, 2.0, 2.0),
    (64001, 1.0, 0.01),
    (16000, 1.0, 0.5),
    (16001, 1.0, 0.5),
    (5000, 1.0, 0.5),
    (1, 1.0, 0.5),
  ],
)
def test_frames_are_those_of_the_whole(
  loaded, tmp_path, num_samples, window, hop
):
  path = _write(tmp_path / "a.wav", num_samples)
  waveform = audio.read_audio(path, sample_rate_hz=16000)
  parts = list(
    frames.score_frames(loaded, path, window_seconds=window, hop_seconds=hop)
  )
  num_frames = -(-num_samples // _FRAME)
  begins = np.concatenate([part.begin_seconds for part in parts])
  np.testing.assert_allclose(begins, 0.2 * np.arange(num_frames))
  ends = np.concatenate([part.end_seconds for part in parts])
  np.testing.assert_allclose(ends, [*begins[1:], num_samples / 16000])
  np.testing.assert_array_equal(
    np.concatenate([part.waveform for part in parts]), waveform
  )
  scores = np.concatenate([part.scores for part in parts])
  whole = loaded.frames(waveform)
  # The end of a window is reflected, and so is in its last frame of features;
  # without an overlap that is all. The last frame of a recording may be padded.
  limit = 0.05 if hop == window else 1e-5
  np.testing.assert_allclose(scores[: len(whole) - 1], whole[:-1], atol=limit)
  assert np.isfinite(scores).all() and len(scores) == num_frames
  assert num_samples < 60000 or np.ptp(whole, axis=0).max() > 0.1


def test_windows_that_leave_gaps_are_refused(loaded, tmp_path):
  path = _write(tmp_path / "a.wav", 16000)
  with pytest.raises(UserError, match="hop_seconds=2 is more than"):
    list(frames.score_frames(loaded, path, window_seconds=1.0, hop_seconds=2.0))


def test_the_command_prints_frames_and_their_events(model, loaded, tmp_path):
  path = _write(tmp_path / "a.wav", 50000)
  flags = [f"--saved_model={model}", "--timeline", "--frames", path]
  out = command.succeed(
    command.ROOT / "tools" / "predict.py",
    *flags,
    "--events=tsv",
    "--events_dir=events",
    "--png_dir=png",
    "--threshold=0.5",
    "--csv",
    "--top_k=3",
    cwd=tmp_path,
  )
  rows = list(csv.DictReader(io.StringIO(out)))
  scores = loaded.frames(audio.read_audio(path, sample_rate_hz=16000))
  assert len(rows) == 16 * 3
  for row in rows[: 15 * 3]:
    frame = round(float(row["begin_seconds"]) / 0.2)
    expected = scores[frame, toy.NAMES.index(row["name"])]
    assert float(row["score"]) == pytest.approx(expected, abs=1e-5)
  (table,) = (tmp_path / "events").iterdir()
  events = table.read_text().splitlines()[1:]
  onsets = {float(line.split("\t")[0]) for line in events}
  first = np.flatnonzero((scores >= 0.5).any(axis=1))[0]
  assert min(onsets) == pytest.approx(0.2 * first)
  (picture,) = (tmp_path / "png").iterdir()
  assert picture.stat().st_size


def test_a_model_without_frames_is_told(tmp_path):
  toy.export_tagger(tmp_path / "1")
  message = command.fail(
    command.ROOT / "tools" / "predict.py",
    f"--saved_model={tmp_path / '1'}",
    "--timeline",
    "--frames",
    _write(tmp_path / "a.wav", 16000),
  )
  assert "has no scores of frames, which come from a SavedModel" in message
