# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows beside curves, as it would show it."""

import re

import numpy as np
import pytest
import tensorflow as tf
from tensorboard import plugin_util
from tensorboard.plugins.hparams import plugin_data_pb2

from tests import toy
from tf_audioset import features
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.evaluation import metrics
from tf_audioset.models import tagger
from tf_audioset.runtime import gin_config
from tf_audioset.training import augment, dashboard, losses


def _written(folder, write) -> dict[str, tf.compat.v1.Summary.Value]:
  """What `write` leaves in a file of events, by its tag."""
  writer = tf.summary.create_file_writer(str(folder))
  with writer.as_default(3):
    write()
  writer.close()
  (path,) = folder.glob("events*")
  events = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  return {
    value.tag: value
    for event in map(tf.compat.v1.Event.FromString, events)
    for value in event.summary.value
  }


def _cells(value) -> list[list[str]]:
  """The rows of the tables in a text, as the browser would have them."""
  text = tf.make_ndarray(value.tensor).item().decode()
  html = plugin_util.markdown_to_safe_html(text)
  rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
  return [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]


def _measured(num_classes):
  ap = np.random.default_rng(1).permutation(num_classes) / num_classes
  return metrics.Metrics(
    ap, ap, np.arange(num_classes), num_clips=99, top1=0.5
  ), ap


def test_the_best_and_the_worst_classes_are_a_table(tmp_path):
  result, ap = _measured(50)
  ap[7] = np.nan
  names = [f"Class {i}" for i in range(50)]
  before = np.full(50, 0.25)
  values = _written(
    tmp_path, lambda: dashboard.write_classes(result, names, before)
  )
  head, *rows = _cells(values["AP_by_class"])
  assert head == ["AP", "change", "AUC", "positive clips", "class"]
  rows = [row for row in rows if row != head]
  order = [i for i in np.argsort(-ap) if i != 7]
  assert rows == [
    [f"{ap[i]:.4f}", f"{ap[i] - 0.25:+.4f}", f"{ap[i]:.4f}", str(i), names[i]]
    for i in [*order[:10], *order[-10:]]
  ]
  text = tf.make_ndarray(values["AP_by_class"].tensor).item().decode()
  assert text.startswith("49 of 50 classes have an AP.")


def test_few_classes_are_all_shown_with_their_names_as_they_are(tmp_path):
  result, ap = _measured(4)
  names = ["a|b", "*c* <script>", "狗", "`d` & _e_"]
  values = _written(tmp_path, lambda: dashboard.write_classes(result, names))
  _, *rows = _cells(values["AP_by_class"])
  shown = ["a|b", "*c* &lt;script&gt;", "狗", "`d` &amp; _e_"]
  assert [row[-1] for row in rows] == [shown[i] for i in np.argsort(-ap)]


def test_the_config_is_text_and_hyperparameters(tmp_path):
  text = "# of this:\nLogMel.num_mels = 64\ntrain.list = [1, 2]\n" + (
    "Tagger.loss = @MultiLabel()\ntrain.exported = 'last'"
  )
  values = _written(tmp_path, lambda: dashboard.write_config(text))
  html = plugin_util.markdown_to_safe_html(
    tf.make_ndarray(values["config.gin"].tensor).item().decode()
  )
  assert "<code>" in html and "\nLogMel.num_mels = 64\n" in html
  content = values["_hparams_/session_start_info"].metadata.plugin_data.content
  found = plugin_data_pb2.HParamsPluginData.FromString(content)
  hparams = found.session_start_info.hparams
  assert set(hparams) == {"LogMel.num_mels", "Tagger.loss", "train.exported"}
  assert hparams["LogMel.num_mels"].number_value == 64
  assert hparams["Tagger.loss"].string_value == "@MultiLabel()"
  assert gin_config.values(text)["train.list"] == [1, 2]


@pytest.fixture(name="split", scope="module")
def _split(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder)
  return prepared.find_split(str(folder), "train")


def _augmented(split, step, batch_size, mixup=None):
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=toy.MeanBackbone(),
    loss=losses.MultiLabel(),
    mixup=mixup,
  )
  return dashboard.augment(
    model,
    pipeline_lib.Pipeline(crop_seconds=0.5),
    split,
    batch_size=batch_size,
    seed=5,
    step=step,
  )


@pytest.mark.parametrize(("batch_size", "few"), [(8, 4), (6, 2), (9, 1)])
def test_the_clips_are_the_first_of_the_steps_batch(split, batch_size, few):
  pipeline = pipeline_lib.Pipeline(crop_seconds=0.5)
  for step in (0, 4):
    shown = _augmented(split, step, batch_size)
    ids = pipeline.training_ids(split, batch_size=batch_size, seed=5, step=step)
    assert shown.ids == ids[:few]
    waveforms, targets = next(
      pipeline.training(
        split, num_classes=3, batch_size=batch_size, seed=5, first_step=step
      ).as_numpy_iterator()
    )
    # Without augmentation it is the log-mel of the same crops.
    expected = features.LogMel()(
      tf.constant(waveforms[:few] / 32768.0, tf.float32)
    )
    np.testing.assert_allclose(shown.features, expected, atol=1e-4)
    np.testing.assert_array_equal(shown.targets, targets[:few])
    np.testing.assert_array_equal(shown.mixed, targets[:few])


def test_the_pictures_are_large_and_say_whose_they_are(split, tmp_path):
  shown = _augmented(split, 0, 8, augment.Mixup(alpha=0.8))
  assert (shown.mixed != shown.targets).any()
  names = ["Low $tone$", "High | tone", "狗"]
  values = _written(tmp_path, lambda: dashboard.write_pictures(shown, names))
  head, *rows = _cells(values["augmented"])
  assert head == ["picture", "clip", "labels", "as trained on"]
  for i, row in enumerate(rows):
    own = [n for n, target in zip(names, shown.targets[i]) if target]
    assert row[:2] == [str(i + 1), shown.ids[i]]
    assert sorted(row[2].split(", ")) == sorted(own)
    for name, share in zip(names, shown.mixed[i]):
      if 0.005 <= share < 0.995:
        assert f"{name} {share:.2f}" in row[3].split(", ")
    width, height, png = tf.make_ndarray(values[f"augmented/{i + 1}"].tensor)
    assert (int(width), int(height)) == (900, 360)
    picture = tf.io.decode_png(png).numpy()
    # In the caption are dark letters; in the features, all colours.
    assert (picture[:40, :450].min(axis=-1) < 100).sum() > 200
    assert len(np.unique(picture[60:300, 100:700].reshape(-1, 3), axis=0)) > 50
