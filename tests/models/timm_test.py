# SPDX-License-Identifier: Apache-2.0
"""timm's weights give timm's features."""

import gzip
import json

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tf_audioset.models import convnext, efficientnet, resnet

_SIZES = ((101, 64), (501, 64), (513, 65), (1001, 64))


class _Weights:
  """Arrays of a safetensors file; each is set once.

  PyTorch's images are [frequency, time] and ours [time, frequency].
  """

  def __init__(self, name):
    packed = reference.golden(f"{name}.safetensors.gz").read_bytes()
    content = gzip.decompress(packed)
    start = 8 + int.from_bytes(content[:8], "little")
    self.left = {}
    for name, facts in json.loads(content[8:start]).items():
      # The heads are for other classes, and the counts are of no use.
      if name.startswith(("fc.", "classifier.", "head.fc.")):
        continue
      if name.endswith("num_batches_tracked"):
        continue
      assert facts["dtype"] == "F32"
      begin, end = facts["data_offsets"]
      values = np.frombuffer(content[start + begin : start + end], "<f4")
      self.left[name] = values.reshape(facts["shape"])

  def set(self, variable, name):
    array = self.left.pop(name)
    if array.ndim == 4:
      is_depthwise = "depthwise" in variable.name
      array = array.transpose((3, 2, 0, 1) if is_depthwise else (3, 2, 1, 0))
    elif array.ndim == 2:
      array = array.T
    if array.ndim == 4 and variable.shape[2] == 1 and array.shape[2] == 3:
      array = array.sum(
        axis=2, keepdims=True
      )  # One channel is red, green, blue.
    assert variable.shape == array.shape, name
    variable.assign(array)

  def set_layer(self, layer, name):
    """A convolution, a dense layer or a layer norm."""
    kernel, *bias = layer.trainable_variables
    self.set(kernel, f"{name}.weight")
    if bias:
      self.set(bias[0], f"{name}.bias")

  def set_batch_norm(self, norm, name):
    self.set_layer(norm, name)
    self.set(norm.moving_mean, f"{name}.running_mean")
    self.set(norm.moving_variance, f"{name}.running_var")


def _resnet18(weights):
  model = resnet.ResNet(18)
  model(tf.zeros([1, 32, 32, 1]))
  weights.set_layer(model.stem, "conv1")
  weights.set_batch_norm(model.stem_norm, "bn1")
  for i, block in enumerate(model.blocks):
    path = f"layer{i // 2 + 1}.{i % 2}"
    for j, (conv, norm) in enumerate(zip(block.convs, block.norms), 1):
      weights.set_layer(conv, f"{path}.conv{j}")
      weights.set_batch_norm(norm, f"{path}.bn{j}")
    if block.projection is not None:
      weights.set_layer(block.projection, f"{path}.downsample.0")
      weights.set_batch_norm(block.projection_norm, f"{path}.downsample.1")
  return model


def _efficientnet_b0(weights):
  model = efficientnet.EfficientNet("b0", batch_norm_epsilon=1e-3)
  model(tf.zeros([1, 32, 32, 1]))
  weights.set_layer(model.stem, "conv_stem")
  weights.set_batch_norm(model.stem_norm, "bn1")
  weights.set_layer(model.head, "conv_head")
  weights.set_batch_norm(model.head_norm, "bn2")
  blocks = iter(model.blocks)
  for stage, num_blocks in enumerate((1, 2, 2, 3, 3, 4, 1)):
    for i in range(num_blocks):
      block, path = next(blocks), f"blocks.{stage}.{i}"
      parts = [(block.depthwise, "conv_dw", block.depthwise_norm)]
      if block.expand is None:
        parts.append((block.project, "conv_pw", block.project_norm))
      else:
        parts.insert(0, (block.expand, "conv_pw", block.expand_norm))
        parts.append((block.project, "conv_pwl", block.project_norm))
      for j, (conv, name, norm) in enumerate(parts, 1):
        weights.set_layer(conv, f"{path}.{name}")
        weights.set_batch_norm(norm, f"{path}.bn{j}")
      weights.set_layer(block.squeeze, f"{path}.se.conv_reduce")
      weights.set_layer(block.excite, f"{path}.se.conv_expand")
  return model


def _convnext_tiny(weights):
  model = convnext.ConvNeXt("tiny")
  model(tf.zeros([1, 32, 32, 1]))
  for s, (reduction, blocks) in enumerate(model.stages):
    for i, layer in enumerate(reduction):
      path = f"stages.{s}.downsample" if s else "stem"
      weights.set_layer(layer, f"{path}.{i}")
    for b, block in enumerate(blocks):
      path = f"stages.{s}.blocks.{b}"
      weights.set_layer(block.depthwise, f"{path}.conv_dw")
      weights.set_layer(block.norm, f"{path}.norm")
      weights.set_layer(block.widen, f"{path}.mlp.fc1")
      weights.set_layer(block.narrow, f"{path}.mlp.fc2")
      weights.set(block.scale, f"{path}.gamma")
  weights.set_layer(model.norm, "head.norm")
  return model


@pytest.mark.parametrize(
  ("name", "make", "at_sizes"),
  [
    # PyTorch pads each side alike, which is "same" only where sizes are odd.
    ("timm_resnet18", _resnet18, [(513, 65)]),
    ("timm_tf_efficientnet_b0", _efficientnet_b0, _SIZES),
    ("timm_convnext_tiny", _convnext_tiny, _SIZES),
  ],
)
def test_the_features_are_timms(name, make, at_sizes):
  weights = _Weights(name)
  model = make(weights)
  assert not weights.left
  with np.load(reference.golden("timm_expected.npz")) as file:
    expected = dict(file)
  for num_frames, num_bands in at_sizes:
    size = f"{num_frames}x{num_bands}"
    features = expected[f"x_{size}"].astype(np.float32).transpose(0, 3, 2, 1)
    embedding = expected[f"{name}_embedding_{size}"]
    np.testing.assert_allclose(
      model(features), embedding, atol=1e-4 * embedding.std(), err_msg=size
    )
