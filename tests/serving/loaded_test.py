# SPDX-License-Identifier: Apache-2.0
"""`tf_audioset.load` against the graph it loads; docs/python.md as it is."""

import re

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

import tf_audioset
from tests import command, toy
from tf_audioset.runtime import errors
from tf_audioset.serving import exported_tagger


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
  """A work directory with an export, and a stereo file at 44.1 kHz."""
  folder = tmp_path_factory.mktemp("python")
  toy.export_tagger(folder / "quickstart" / "run" / "saved_model" / "1")
  rng = np.random.default_rng(0)
  sound = 0.1 * rng.normal(size=[3 * 44100, 2])
  soundfile.write(folder / "dog.wav", sound, 44100, "FLOAT")
  return folder, sound.astype(np.float32)


@pytest.fixture(name="tagger", scope="module")
def _tagger(run):
  return tf_audioset.load(run[0] / "quickstart" / "run")


@pytest.fixture(name="expected", scope="module")
def _expected(run):
  """Scores and embedding of the file, by the exported graph."""
  mono = soxr.resample(run[1].mean(axis=1), 44100, 16000, quality="HQ")
  saved = run[0] / "quickstart" / "run" / "saved_model" / "1"
  model = tf.saved_model.load(str(saved))
  result = model.signatures["serving_default"](waveform=tf.constant([mono]))
  return result["scores"][0].numpy(), result["embedding"][0].numpy()


def test_scores_and_embedding_are_those_of_the_graph(run, tagger, expected):
  scores, embedding = expected
  np.testing.assert_allclose(tagger.scores(run[1], 44100), scores, atol=1e-5)
  actual = tagger.embed(run[1], 44100)
  np.testing.assert_allclose(actual, embedding, atol=1e-4)


def test_tags_of_a_file_are_its_highest_scores(run, tagger, expected):
  tags = tagger.tag(run[0] / "dog.wav", top_k=2)
  order = np.argsort(-expected[0])[:2]
  assert [tag.name for tag in tags] == [tagger.classes[i] for i in order]
  assert [tag.mid for tag in tags] == [tagger.mids[i] for i in order]
  np.testing.assert_allclose(
    [tag.score for tag in tags], expected[0][order], atol=1e-5
  )


def test_int16_is_the_float_of_full_scale_one(tagger):
  samples = np.arange(-8000, 8000, dtype=np.int16)
  np.testing.assert_array_equal(
    tagger.scores(samples), tagger.scores(samples / 32768)
  )


def test_windows_are_those_of_the_timeline(run, tagger):
  windows = list(
    tagger.windows(run[0] / "dog.wav", window_seconds=1.0, hop_seconds=0.75)
  )
  begins = [window.begin_seconds for window in windows]
  np.testing.assert_allclose(begins, [0, 0.75, 1.5, 2.0])
  exported = exported_tagger.ExportedTagger(
    str(run[0] / "quickstart/run/saved_model")
  )
  waveform = tagger.read(run[0] / "dog.wav")
  np.testing.assert_allclose(
    [window.scores for window in windows],
    exported.timeline(waveform, 1.0, 0.75),
    atol=1e-5,
  )


@pytest.mark.parametrize(
  ("waveform", "message"),
  [
    (np.zeros(100, np.int32), "the waveform is int32"),
    (np.zeros(0), r"the shape \[0\]"),
    (np.zeros([2, 2, 2]), r"the shape \[2, 2, 2\]"),
  ],
)
def test_what_is_no_waveform_is_refused(tagger, waveform, message):
  with pytest.raises(errors.UserError, match=message):
    tagger.scores(waveform)


def test_a_saved_model_is_a_function_of_waveforms(run, expected):
  path = str(run[0] / "quickstart" / "run" / "saved_model" / "1")
  mono = soxr.resample(run[1].mean(axis=1), 44100, 16000, quality="HQ")
  scores = tf.saved_model.load(path)(mono[np.newaxis])
  np.testing.assert_allclose(scores[0], expected[0], atol=1e-5)


def test_a_head_is_trained_on_a_frozen_layer_of_hub(run):
  hub = pytest.importorskip("tensorflow_hub")
  path = str(run[0] / "quickstart" / "run" / "saved_model" / "1")
  model = tf.keras.Sequential(
    [
      tf.keras.layers.InputLayer([8000]),
      hub.KerasLayer(path, trainable=False),
      tf.keras.layers.Dense(2),
    ]
  )
  before = [v.numpy() for v in model.trainable_variables]
  assert len(before) == 2  # The head's alone.
  model.compile("sgd", "mse")
  waveforms = np.random.default_rng(0).normal(0, 0.1, [4, 8000])
  model.fit(waveforms.astype(np.float32), np.ones([4, 2]), verbose=0)
  for variable, value in zip(model.trainable_variables, before):
    assert not np.array_equal(variable, value)


def test_what_is_no_model_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match="nothing"):
    tf_audioset.load(tmp_path / "nothing")


def test_the_page_runs_as_it_stands(run, monkeypatch, capsys):
  page = (command.ROOT / "docs" / "python.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  assert len(blocks) == 6
  monkeypatch.chdir(run[0])
  names = {}
  for block in blocks:
    exec(block, names)
  out = capsys.readouterr().out
  assert "3 classes" in out and "2.00 s" in out
