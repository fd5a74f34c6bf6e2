# SPDX-License-Identifier: Apache-2.0
"""What follows the front end, and where its statistics are from."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, small, toy
from tests.weights import weight_files_test
from tf_audioset import experiment, features
from tf_audioset.data import labels, prepared
from tf_audioset.models import folding, resnet, tagger
from tf_audioset.preparation import clip_lists, prepare
from tf_audioset.runtime import distribution, gin_config
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger
from tf_audioset.training import losses, run_data
from tf_audioset.weights import timm


def _features(seed=1):
  rng = np.random.default_rng(seed)
  bands = np.linspace(-8, 3, 64)
  return np.float32(rng.normal(size=[5, 40, 64]) * 2 + bands)


def test_a_scalar_norm_is_its_formula():
  x = _features()
  norm = features.ScalarNorm(-4.5, 2.0)
  np.testing.assert_allclose(norm(x), (x + 4.5) / 2, rtol=1e-6)
  assert not norm.trainable_variables and len(norm.variables) == 2
  of_data = features.ScalarNorm()
  np.testing.assert_array_equal(of_data(x), x)
  of_data.set(x.mean(), x.std())
  np.testing.assert_allclose(
    of_data(x), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5
  )


def test_a_band_norm_has_the_statistics_of_bands():
  x = _features()
  norm = features.BandNorm()
  normal = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
  np.testing.assert_allclose(norm(x, training=True), normal, atol=1e-3)
  np.testing.assert_allclose(
    norm.moving_mean, 0.01 * x.mean((0, 1)), rtol=1e-3, atol=1e-6
  )


@pytest.mark.parametrize(
  "arguments", [{"mean": 1.0}, {"sd": 1.0}, {"mean": 1.0, "sd": 0.0}]
)
def test_half_a_scalar_norm_is_refused(arguments):
  with pytest.raises(UserError, match="give both, with an sd above 0"):
    features.ScalarNorm(**arguments)


@pytest.mark.parametrize("make", [features.ScalarNorm, features.BandNorm])
def test_a_model_normalises_what_was_augmented(make):
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=resnet.ResNet(18, width=4),
    loss=losses.MultiLabel(),
    input_norm=make(),
    # All is masked.
    spec_augment=lambda x, seed: tf.zeros_like(x),
  )
  waveform = tf.random.stateless_normal([2, 8000], [1, 1]) / 10
  model(waveform)
  for variable in model.input_norm.variables:
    variable.assign(tf.random.stateless_uniform(variable.shape, [1, 2]) + 0.5)
  log_mel = model.features(waveform)
  normal = model.input_norm(log_mel)
  expected = model.backbone(normal[..., tf.newaxis])
  np.testing.assert_allclose(model.embed(waveform), expected, rtol=1e-5)
  folded = folding.fold_batch_norms(model, waveform)
  np.testing.assert_allclose(
    folded.embed(waveform), expected, rtol=1e-3, atol=1e-4
  )
  seen = []
  call = model.input_norm.call
  model.input_norm.call = lambda x, **options: (
    seen.append(x) or call(x, **options)
  )
  model.train_logits(waveform, tf.zeros([2, 3]), tf.constant([1, 2]))
  np.testing.assert_array_equal(seen[0], tf.zeros_like(log_mel))


@pytest.fixture(name="prepared_folder", scope="module")
def _prepared_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("levels")
  rng = np.random.default_rng(1)
  clips = []
  for i in range(8):
    path = str(folder / f"clip{i}.wav")
    loudness = 10 ** rng.uniform(-3, -0.7)
    samples = loudness * rng.uniform(-1, 1, rng.integers(16000, 40000))
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    clips.append(clip_lists.Clip(f"clip{i}", path, (i % 3,)))
  classes = labels.ClassList.from_names(toy.NAMES)
  for split in ("train", "eval"):
    prepare.prepare(
      classes,
      clips if split == "train" else clips[:3],
      str(folder / "data"),
      split,
      prepare.Options(clips_per_shard=3, clip_seconds=2.0),
      prepare.local_runner(1),
    )
  return folder


def _expected_levels(folder):
  """Mean and sd over all values of all clips, which preparation cuts to 2 s."""
  values = []
  for path in folder.glob("*.wav"):
    samples, _ = soundfile.read(path, dtype="float32", frames=32000)
    values.append(np.ravel(features.LogMel()(samples[np.newaxis])))
  values = np.concatenate(values)
  return values.mean(dtype=np.float64), values.std(dtype=np.float64)


def test_preparation_measures_the_log_mel(prepared_folder):
  split = prepared.find_split(str(prepared_folder / "data"), "train")
  np.testing.assert_allclose(
    split.log_mel, _expected_levels(prepared_folder), atol=1e-3
  )
  assert split.part(0, 100).log_mel == split.log_mel


def test_a_run_takes_them_and_exports_them(prepared_folder):
  """And all else that the experiments of gin/best have, together."""
  folder = prepared_folder
  command.succeed(
    *small.arguments(
      folder / "data",
      folder / "run",
      "Tagger.input_norm = @ScalarNorm()",
      "Tagger.time_roll = @TimeRoll()",
      "Tagger.gain = @Gain()",
      "Gain.high_db = 6.0",
      "train.average_share = 0.5",
      "train.num_epochs = 2",
    )
  )
  expected = np.float32(_expected_levels(folder))
  checkpoint = tf.train.latest_checkpoint(str(folder / "run" / "checkpoints"))
  reader = tf.train.load_checkpoint(checkpoint)
  for root in ("model", "average"):
    for name, value in zip(("mean", "sd"), expected):
      key = f"{root}/input_norm/{name}/.ATTRIBUTES/VARIABLE_VALUE"
      assert reader.get_tensor(key) == pytest.approx(value, abs=1e-3)
  exported = exported_tagger.find(str(folder / "run" / "saved_model"))
  loaded = tf.saved_model.load(exported)
  scalars = [v.numpy() for v in loaded.model_variables if not v.shape.rank]
  np.testing.assert_allclose(scalars[:2], expected, atol=1e-3)
  scores, _ = exported_tagger.ExportedTagger(exported).score(
    np.zeros([1, 8000])
  )
  assert np.isfinite(scores).all()
  log = [json.loads(x) for x in open(folder / "run" / "metrics.jsonl")]
  assert log


def test_a_run_from_a_network_of_images_takes_them_as_well(prepared_folder):
  folder = prepared_folder
  backbone = resnet.ResNet(18, width=2)
  backbone(tf.zeros([1, 64, 64, 1]))
  arrays = {}
  for name, variable, _ in timm._pairs(backbone):
    value = variable.numpy()
    arrays[name] = value.transpose(range(value.ndim)[::-1])
  path = folder / "resnet.safetensors"
  path.write_bytes(weight_files_test.safetensors(arrays))
  gin_config.load(
    ["gin/quickstart.gin"],
    [
      "ResNet.width = 2",
      "Tagger.input_norm = @ScalarNorm()",
      "Pipeline.crop_seconds = 0.5",
      "train.global_batch_size = 2",
      "train.num_epochs = 1",
      "WarmupCosine.warmup_epochs = 0",
      f"train.initial_checkpoint = '{path}'",
    ],
  )
  experiment.Experiment().run(
    distribution.strategy(None), str(folder / "data"), str(folder / "images")
  )
  checkpoint = tf.train.latest_checkpoint(str(folder / "images/checkpoints"))
  reader = tf.train.load_checkpoint(checkpoint)
  for name, value in zip(("mean", "sd"), _expected_levels(folder)):
    key = f"model/input_norm/{name}/.ATTRIBUTES/VARIABLE_VALUE"
    assert reader.get_tensor(key) == pytest.approx(value, abs=1e-3)


def test_crops_that_are_longer_than_the_clips_are_told(prepared_folder):
  data = str(prepared_folder / "data")
  split = prepared.find_split(data, "train")
  with pytest.raises(UserError) as e:
    run_data.check_lengths(split, 160000, data)
  assert str(e.value) == (
    f"{data}: Pipeline.crop_seconds is 10, but the clips were cut to 2 s: "
    "prepare them again with --clip_seconds=10, or set Pipeline.crop_seconds = "
    "2."
  )
  assert run_data.check_lengths(split, 32000, data) == []
  uncut = dataclasses.replace(split, max_seconds=10.0)
  (line,) = run_data.check_lengths(uncut, 160000, data)
  assert line.startswith(
    "warning: Pipeline.crop_seconds is 10, and the longest"
  )
  assert "training clip has 2 s: all are padded" in line


def test_data_that_was_not_measured_is_told(tmp_path):
  toy.write_dataset(tmp_path)
  split = prepared.find_split(str(tmp_path), "train")
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=toy.MeanBackbone(),
    loss=losses.MultiLabel(),
    input_norm=features.ScalarNorm(),
  )
  with pytest.raises(UserError, match="prepare the data again, or give Scalar"):
    run_data.set_levels(model, split, str(tmp_path))
  # An info of an earlier version has no such values, and the same digest.
  info = prepared.read_dataset_info(str(tmp_path))
  of_split = dataclasses.replace(info.splits["train"], log_mel_mean=-4.0)
  changed = dataclasses.replace(info, splits={**info.splits, "train": of_split})
  assert changed.digest() == info.digest()
