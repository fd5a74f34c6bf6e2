# SPDX-License-Identifier: Apache-2.0
"""A .tflite file with its classes, against the SavedModel beside it."""

import csv
import io
import os
import zipfile

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import tf_audioset
from tests import command, toy
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.models import tagger
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import export, exported_tagger, tflite, tflite_file
from tf_audioset.training import losses

# With what tables, and lists of one name a line, have to take care of.
_NAMES = ('Low, "deep"\ntone', "High tone", "Noise")


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """1/, 1.tflite, 1_int8.tflite and recordings."""
  folder = tmp_path_factory.mktemp("tflite")
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=toy.MeanBackbone(),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 8000]))
  export.export(
    model,
    str(folder / "1"),
    classes=labels.ClassList(mids=("/m/l", "/m/h", "/m/n"), names=_NAMES),
    min_samples=8000,
    padding="repeat",
    thresholds={"values": [0.25, None, 0.5]},
  )
  for _ in tflite.write(
    model, str(folder / "1"), min_samples=8000, padding="repeat"
  ):
    pass
  return folder


@pytest.fixture(name="pair", scope="module")
def _pair(folder):
  paths = str(folder / "1"), str(folder / "1.tflite")
  return tuple(map(tflite_file.load, paths))


def test_a_file_knows_what_the_savedmodel_knows(pair):
  theirs, ours = pair
  assert isinstance(ours, tflite_file.TFLiteFile)
  for name in (
    "classes",
    "sample_rate_hz",
    "min_samples",
    "padding",
    "window_samples",
  ):
    assert getattr(ours, name) == getattr(theirs, name)
  np.testing.assert_array_equal(ours.thresholds, theirs.thresholds)


def test_its_labels_can_be_unzipped(folder):
  for name in ("1.tflite", "1_int8.tflite"):
    with zipfile.ZipFile(folder / name) as archive:
      assert archive.testzip() is None
      lines = archive.read("labels.txt").decode().splitlines()
    assert lines == ['Low, "deep" tone', "High tone", "Noise"]
    interpreter = tf.lite.Interpreter(str(folder / name))
    assert interpreter.get_signature_list()


def test_scores_are_those_of_the_savedmodel(pair):
  theirs, ours = pair
  rng = np.random.default_rng(0)
  for num_samples in (3, 8000, 20000, 8000):
    waveform = rng.uniform(-1, 1, [2, num_samples]).astype(np.float32)
    for got, expected in zip(ours.score(waveform), theirs.score(waveform)):
      np.testing.assert_allclose(got, expected, atol=1e-3)
    np.testing.assert_array_equal(
      ours.pad(waveform[0]), theirs.pad(waveform[0])
    )
  for seconds in ((1.0, 0.5), (0.7, 0.9), (9.0, 1.0)):
    waveform = rng.uniform(-1, 1, 40001).astype(np.float32)
    got, expected = (x.timeline(waveform, *seconds) for x in (ours, theirs))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_file_is_loaded_in_python_as_well(folder):
  loaded = tf_audioset.load(folder / "1.tflite")
  assert loaded.classes == list(_NAMES)
  assert loaded.scores(np.zeros(16000, np.float32)).shape == (3,)


def test_files_that_are_no_such_model_are_refused(folder, tmp_path):
  content = (folder / "1.tflite").read_bytes()
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    start = min(info.header_offset for info in archive.infolist())
  path = tmp_path / "x.tflite"
  for changed, message in (
    (
      content[:start],
      "does not hold its classes: it is cut off, of an earlier",
    ),
    (content[:-50], "does not hold its classes"),
    (b"", "is no TFLite model"),
    (b"PK\3\4" + content[4:8][::-1] + content[8:], "is no TFLite model"),
  ):
    path.write_bytes(changed)
    with pytest.raises(UserError, match=f"x.tflite: {message}"):
      tflite_file.load(str(path))
  with pytest.raises(UserError, match="none.tflite: cannot be read"):
    tflite_file.load(str(tmp_path / "none.tflite"))


def test_predict_takes_a_file(folder, tmp_path):
  rng = np.random.default_rng(1)
  for i in range(3):
    noise = rng.uniform(-0.5, 0.5, 16000 + 8000 * i)
    soundfile.write(tmp_path / f"{i}.wav", noise, 16000)
  scores = []
  for model in ("1", "1.tflite"):
    out = command.succeed(
      command.ROOT / "tools" / "predict.py",
      f"--saved_model={folder / model}",
      "--tsv",
      ".",
      cwd=tmp_path,
    )
    rows = csv.DictReader(io.StringIO(out, newline=""), delimiter="\t")
    scores.append({(r["file"], r["mid"]): float(r["score"]) for r in rows})
  assert len(scores[0]) == 9
  assert scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_evaluate_takes_a_file_and_compares_it(folder, tmp_path):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records")
  command.fail(
    "tools/evaluate.py",
    f"--data_dir={tmp_path / 'records'}",
    f"--saved_model={folder / '1.tflite'}",
    "--tpu=local",
  )
  # Of the classes of the records.
  toy.export_tagger(tmp_path / "1")
  exported = exported_tagger.ExportedTagger(str(tmp_path / "1"))
  content = (folder / "1.tflite").read_bytes()
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    start = min(info.header_offset for info in archive.infolist())
  model = tmp_path / "1.tflite"
  model.write_bytes(tflite_file.with_facts(content[:start], exported))
  out = command.succeed(
    "tools/evaluate.py",
    f"--data_dir={tmp_path / 'records'}",
    f"--saved_model={model}",
    f"--compare={tmp_path / '1'}",
    "--num_resamples=20",
  )
  assert f"minus {tmp_path / '1'}, on the same clips" in out
  # Both were made of the same seed.
  assert "mAP   +0.0000" in out or "mAP   -0.0000" in out
  assert os.path.exists(tmp_path / "evaluation_eval" / "metrics.json")
