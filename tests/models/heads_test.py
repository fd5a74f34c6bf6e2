# SPDX-License-Identifier: Apache-2.0
"""The heads against a NumPy transcription of their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.models import (
  convnext,
  efficientnet,
  heads,
  resnet,
  stochastic,
  tagger,
)
from tf_audioset.models import vit as vit_lib
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import export, exported_tagger
from tf_audioset.training import losses
from tf_audioset.weights import pretrained

_CLASSES = labels.ClassList.from_names(toy.NAMES)
_BACKBONES = {
  "resnet": lambda: resnet.ResNet(18, width=4),
  "convnext": lambda: convnext.ConvNeXt("tiny"),
}


def _tagger(head, backbone=None, num_classes=3, **options):
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    num_classes,
    frontend=features.LogMel(),
    backbone=backbone or resnet.ResNet(18, width=4),
    loss=losses.MultiLabel(),
    head=head,
    **options,
  )
  model(tf.zeros([1, 8000]))
  return model


def _waveform(num_samples, batch=2):
  rng = np.random.default_rng(num_samples)
  loudness = np.linspace(1e-3, 0.3, num_samples)
  return np.float32(rng.normal(size=[batch, num_samples]) * loudness)


def _feature_map(model, waveform):
  """What the backbone has before it pools, [batch, time, bands, channels]."""
  log_mel = model.features(waveform)[..., tf.newaxis]
  return np.float64(model.backbone(log_mel, pool=lambda x: x))


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _attention(frames, weights, num_heads):
  """Computes sum_h w_h sum_t(a c) / sum_t(a), and sum_h w_h c."""
  weights = [np.float64(w) for w in weights]
  shares = weights.pop(0) if num_heads > 1 else [1.0]
  pairs = list(zip(weights[::2], weights[1::2]))
  clip_logits, frame_logits = 0, 0
  for h, share in enumerate(shares):
    (wa, ba), (wc, bc) = pairs[h], pairs[num_heads + h]
    a = np.clip(_sigmoid(frames @ wa + ba), 1e-7, 1 - 1e-7)
    c = frames @ wc + bc
    clip_logits += share * (a * c).sum(axis=1) / a.sum(axis=1)
    frame_logits += share * c
  return clip_logits, frame_logits


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("num_samples", [400, 8000, 51234])
def test_attention_is_the_formula_at_any_length(num_heads, num_samples):
  model = _tagger(heads.AttentionHead(num_heads))
  rng = np.random.default_rng(num_heads)
  model.head.set_weights(
    [rng.normal(scale=0.5, size=w.shape) for w in model.head.get_weights()]
  )
  waveform = _waveform(num_samples)
  frames = _feature_map(model, waveform).mean(axis=2)
  expected, of_frames = _attention(frames, model.head.get_weights(), num_heads)
  np.testing.assert_allclose(model(waveform), expected, rtol=1e-4, atol=1e-4)
  encoded = model.encode(waveform)
  np.testing.assert_allclose(
    model.frame_logits(encoded), of_frames, rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    model.embed(waveform), frames.mean(axis=1), rtol=1e-4, atol=1e-5
  )


def test_attention_that_is_almost_0_is_kept_off_0():
  head = heads.AttentionHead()
  head.units = 1
  head(tf.zeros([1, 4, 2]))
  kernel = np.float32([[1], [0]])
  bias = np.float32([0])
  head.set_weights([kernel, bias, kernel[::-1], bias])
  # By its sigmoid, exp(-300), the first frame would be 0 / 0 alone.
  logits = head(np.float32([[[-300, 5], [-300, 7]], [[300, 5], [-300, 7]]]))
  np.testing.assert_allclose(logits, [[6.0], [5.0]], rtol=1e-5)


@pytest.mark.parametrize(
  ("num_heads", "expected"),
  # Of EfficientNet-B0 and 527 classes: 2 H (C + 1) K, and the H weights.
  [(1, 1_350_174), (4, 5_400_700)],
)
def test_the_sizes_are_those_of_psla(num_heads, expected):
  head = heads.AttentionHead(num_heads)
  head.units = 527
  head(tf.zeros([1, 2, 1280]))
  assert head.count_params() == expected
  kernel = head.attentions[-1].kernel.numpy()
  limit = np.sqrt((6 if num_heads == 1 else 1) / 1280)
  assert 0.99 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("num_samples", [400, 8000, 51234])
def test_mean_and_maximum_over_time(num_samples):
  model = _tagger(heads.MeanMaxHead())
  waveform = _waveform(num_samples)
  frames = _feature_map(model, waveform).mean(axis=2)
  embedding = frames.mean(axis=1) + frames.max(axis=1)
  np.testing.assert_allclose(
    model.embed(waveform), embedding, rtol=1e-4, atol=1e-5
  )
  kernel, bias = model.head.get_weights()
  np.testing.assert_allclose(
    model(waveform), embedding @ kernel + bias, rtol=1e-4, atol=1e-4
  )


def test_the_linear_head_is_the_default_to_the_bit():
  default, linear = _tagger(None), _tagger(heads.LinearHead())
  for a, b in zip(default.variables, linear.variables, strict=True):
    np.testing.assert_array_equal(a, b)
  waveform = _waveform(8000)
  np.testing.assert_array_equal(default(waveform), linear(waveform))
  assert pretrained._names(default) == pretrained._names(linear)
  assert pretrained._names(default)[-2:] == ["head/kernel", "head/bias"]


@pytest.mark.parametrize("head", [heads.MeanMaxHead, heads.AttentionHead])
@pytest.mark.parametrize("name", _BACKBONES)
def test_every_weight_is_trained(head, name):
  with toy.precision("mixed_bfloat16"):
    model = _tagger(head(), _BACKBONES[name](), dropout_rate=0.2)
  targets = tf.constant([[1.0, 0, 0], [0, 1, 0]])
  with tf.GradientTape() as tape:
    logits, mixed = model.train_logits(
      tf.constant(_waveform(8000)), targets, tf.constant([1, 2])
    )
    loss = tf.reduce_mean(model.loss_function(mixed, logits))
  assert logits.dtype == tf.float32
  # A norm of the backbone's that the head went past would have none.
  for gradient in tape.gradient(loss, model.trained_variables):
    assert gradient is not None and np.isfinite(gradient).all()


def test_the_frames_of_a_clip_lose_the_same_channels():
  x = stochastic.dropout(tf.ones([5, 7, 400]), 0.25, tf.constant([1, 2]))
  np.testing.assert_array_equal(x, np.broadcast_to(x[:, :1], x.shape))
  assert set(np.unique(x)) == {0, np.float32(1 / 0.75)}
  assert (x[:, 0].numpy() == 0).mean() == pytest.approx(0.25, abs=0.05)
  assert (x[0, 0].numpy() != x[1, 0].numpy()).any()


@pytest.mark.parametrize("head", [heads.MeanMaxHead, heads.AttentionHead])
@pytest.mark.parametrize(
  "backbone",
  [
    lambda: tf.keras.Sequential([tf.keras.layers.GlobalAveragePooling2D()]),
    lambda: vit_lib.ViT("tiny", depth=1),
  ],
)
def test_a_backbone_of_pooled_features_is_refused(head, backbone):
  with pytest.raises(UserError, match="gives pooled embeddings only") as e:
    _tagger(head(), backbone())
  assert "\n" not in str(e.value)
  _tagger(
    heads.LinearHead(),
    tf.keras.Sequential([tf.keras.layers.GlobalAveragePooling2D()]),
  )


def test_a_head_without_parts_is_refused():
  with pytest.raises(UserError, match="AttentionHead.num_heads is 0"):
    heads.AttentionHead(0)


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory):
  model = _tagger(heads.AttentionHead(2))
  folder = str(tmp_path_factory.mktemp("attention") / "1")
  export.export(
    model, folder, classes=_CLASSES, min_samples=8000, padding="repeat"
  )
  return model, folder


@pytest.mark.parametrize(
  ("num_samples", "num_frames"), [(8000, 2), (51234, 11), (3000, 1), (1, 1)]
)
def test_an_export_has_the_frames_of_the_model(
  exported, num_samples, num_frames
):
  model, folder = exported
  loaded = exported_tagger.ExportedTagger(folder)
  waveform = _waveform(num_samples, batch=1)
  padded = loaded.pad(waveform[0])[np.newaxis]
  scores, embedding = loaded.score(waveform)
  np.testing.assert_allclose(scores, tf.sigmoid(model(padded)), atol=1e-5)
  np.testing.assert_allclose(embedding, model.embed(padded), atol=1e-4)
  frames = loaded.frames(waveform[0])
  expected = tf.sigmoid(model.frame_logits(model.encode(padded)))
  assert len(frames) == num_frames
  np.testing.assert_allclose(frames, expected[0, :num_frames], atol=1e-5)
  served = tf.saved_model.load(folder).signatures["frames"]
  result = served(waveform=tf.constant(waveform))
  assert result["scores"].shape == (1, num_frames, 3)
  # 32 frames of 10 ms are one.
  np.testing.assert_allclose(
    result["times_seconds"], 0.32 * np.arange(num_frames), rtol=1e-6
  )


def test_an_export_starts_another_run(exported):
  model, folder = exported
  same = _tagger(heads.AttentionHead(2))
  more = _tagger(heads.AttentionHead(2), num_classes=5)
  kernel = more.head.classifiers[0].kernel.numpy()
  for variable in (*same.variables, *more.backbone.variables):
    variable.assign(tf.ones_like(variable))
  pretrained.load(folder, same, _CLASSES)
  others = labels.ClassList.from_names(["a", "b", "c", "d", "e"])
  about = pretrained.load(folder, more, others)
  assert "the head is new" in about
  for a, b in zip(same.variables, model.variables, strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(
    more.backbone.variables, model.backbone.variables, strict=True
  ):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(more.head.classifiers[0].kernel, kernel)
  with pytest.raises(UserError, match="does not fit this model: head/"):
    pretrained.load(folder, _tagger(heads.MeanMaxHead()), _CLASSES)


@pytest.mark.parametrize("head", [heads.LinearHead, heads.MeanMaxHead])
def test_without_frames_there_is_no_such_signature(head, tmp_path):
  folder = str(tmp_path / "1")
  export.export(
    _tagger(head()),
    folder,
    classes=_CLASSES,
    min_samples=8000,
    padding="repeat",
  )
  loaded = exported_tagger.ExportedTagger(folder)
  assert "frames" not in tf.saved_model.load(folder).signatures
  with pytest.raises(UserError, match="has no scores of frames"):
    loaded.frames(np.zeros(8000, np.float32))


@pytest.mark.parametrize(
  "backbone",
  [
    lambda: resnet.ResNet(18, width=4),
    lambda: efficientnet.EfficientNet("b0"),
    lambda: convnext.ConvNeXt("tiny"),
  ],
)
def test_a_frame_is_as_long_as_the_backbone_says(backbone):
  backbone = backbone()
  stride = backbone.frame_stride
  for num_frames in (stride, 4 * stride, 13 * stride):
    frames = backbone(
      tf.zeros([1, num_frames, 64, 1]), pool=lambda x: tf.reduce_mean(x, axis=2)
    )
    assert frames.shape == (
      1,
      num_frames // stride,
      backbone.embedding_size,
    )
