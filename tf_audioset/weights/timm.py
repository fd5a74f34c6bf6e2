# SPDX-License-Identifier: Apache-2.0
"""timm's names and layouts of the weights of our backbones.

timm's kernels are [out, in, height, width] of images whose height is the
frequency; ours are [time, frequency, in, out].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tf_audioset.models import convnext, efficientnet, resnet
from tf_audioset.runtime.errors import UserError

# timm's name, our variable, how one becomes the other.
_Pair = tuple[str, tf.Variable, Callable[[np.ndarray], np.ndarray]]

# They count batches, and are of no use.
_IGNORED = ".num_batches_tracked"
# The classifier of the images.
_HEADS = ("fc.", "classifier.", "head.fc.")


def assign(backbone: tf.keras.Model, arrays: Mapping[str, np.ndarray]) -> int:
  """Sets all weights of a built backbone from those of timm's model.

  The first kernel is summed over the three colours, which equals giving the
  spectrogram in each of them. The classifier is not used.

  Args:
    backbone: `ResNet`, `EfficientNet` (with the biases of its squeeze and
      excitation) or `ConvNeXt`, for one input channel.
    arrays: timm's state dict.

  Returns:
    The number of arrays that were used.

  Raises:
    UserError: If an array is missing or left over, has another shape or holds
      numbers that are not finite.
  """
  left = {
    name: value
    for name, value in arrays.items()
    if not name.endswith(_IGNORED) and not name.startswith(_HEADS)
  }
  pairs = list(_pairs(backbone))
  for name, variable, convert in pairs:
    if name not in left:
      raise UserError(f"there is no {name}, which {backbone.name} needs.")
    value = convert(np.asarray(left.pop(name), np.float32))
    if list(value.shape) != variable.shape.as_list():
      raise UserError(
        f"{name} has the shape {list(value.shape)} in our layout; "
        f"{backbone.name} needs {variable.shape.as_list()}."
      )
    if not np.isfinite(value).all():
      raise UserError(f"{name} holds numbers that are not finite.")
    variable.assign(value)
  if left:
    rest = len(left) - 5
    more = f" and {rest} more" if rest > 0 else ""
    names = ", ".join([*left][:5])
    raise UserError(f"{backbone.name} has no place for {names}{more}.")
  unset = len(backbone.variables) - len(pairs)
  if unset:
    raise UserError(f"{unset} variables of {backbone.name} are not in there.")
  return len(pairs)


def _pairs(backbone) -> Iterator[_Pair]:
  families = {
    resnet.ResNet: _of_resnet,
    efficientnet.EfficientNet: _of_efficientnet,
    convnext.ConvNeXt: _of_convnext,
  }
  return families[type(backbone)](backbone)


def _of_resnet(model) -> Iterator[_Pair]:
  yield "conv1.weight", model.stem.conv.kernel, _stem_kernel
  yield from _batch_norm("bn1", model.stem.norm)
  for place, block in _numbered(model.blocks, model.blocks_a_stage, first=1):
    place = f"layer{place}"
    for i, part in enumerate(block.convs, start=1):
      yield f"{place}.conv{i}.weight", part.conv.kernel, _kernel
      yield from _batch_norm(f"{place}.bn{i}", part.norm)
    if block.projection is not None:
      yield (
        f"{place}.downsample.0.weight",
        block.projection.conv.kernel,
        _kernel,
      )
      yield from _batch_norm(f"{place}.downsample.1", block.projection.norm)


def _of_efficientnet(model) -> Iterator[_Pair]:
  yield "conv_stem.weight", model.stem.conv.kernel, _stem_kernel
  yield from _batch_norm("bn1", model.stem.norm)
  for place, block in _numbered(model.blocks, model.blocks_a_stage, first=0):
    place = f"blocks.{place}"
    # Without an expansion the names begin one further.
    names = ["conv_pw", "conv_dw", "conv_pwl"]
    if block.expand is None:
      names = [None, "conv_dw", "conv_pw"]
    else:
      yield f"{place}.conv_pw.weight", block.expand.conv.kernel, _kernel
      yield from _batch_norm(f"{place}.bn1", block.expand.norm)
    number = 1 if block.expand is None else 2
    kernel = block.depthwise.conv.depthwise_kernel
    yield f"{place}.{names[1]}.weight", kernel, _depthwise_kernel
    yield from _batch_norm(f"{place}.bn{number}", block.depthwise.norm)
    for name, conv in (("reduce", block.squeeze), ("expand", block.excite)):
      yield f"{place}.se.conv_{name}.weight", conv.kernel, _kernel
      yield f"{place}.se.conv_{name}.bias", conv.bias, _same
    yield f"{place}.{names[2]}.weight", block.project.conv.kernel, _kernel
    yield from _batch_norm(f"{place}.bn{number + 1}", block.project.norm)
  yield "conv_head.weight", model.head.conv.kernel, _kernel
  yield from _batch_norm("bn2", model.head.norm)


def _of_convnext(model) -> Iterator[_Pair]:
  for stage, (reduction, blocks) in enumerate(model.stages):
    place = f"stages.{stage}.downsample" if stage else "stem"
    for i, part in enumerate(reduction):
      if isinstance(part, tf.keras.layers.LayerNormalization):
        yield from _layer_norm(f"{place}.{i}", part)
      else:
        convert = _kernel if stage else _stem_kernel
        yield f"{place}.{i}.weight", part.kernel, convert
        yield f"{place}.{i}.bias", part.bias, _same
    for i, block in enumerate(blocks):
      place = f"stages.{stage}.blocks.{i}"
      kernel = block.depthwise.depthwise_kernel
      yield f"{place}.conv_dw.weight", kernel, _depthwise_kernel
      yield f"{place}.conv_dw.bias", block.depthwise.bias, _same
      yield from _layer_norm(f"{place}.norm", block.norm)
      for name, dense in (("fc1", block.widen), ("fc2", block.narrow)):
        yield f"{place}.mlp.{name}.weight", dense.kernel, np.transpose
        yield f"{place}.mlp.{name}.bias", dense.bias, _same
      yield f"{place}.gamma", block.scale, _same
  if model.norm is not None:
    yield from _layer_norm("head.norm", model.norm)


def _numbered(blocks, blocks_a_stage, first: int):
  """Yields "stage.block" and the block, stages counted from `first`."""
  blocks = iter(blocks)
  for stage, num_blocks in enumerate(blocks_a_stage, start=first):
    for i in range(num_blocks):
      yield f"{stage}.{i}", next(blocks)


def _batch_norm(name: str, norm) -> Iterator[_Pair]:
  yield f"{name}.weight", norm.gamma, _same
  yield f"{name}.bias", norm.beta, _same
  yield f"{name}.running_mean", norm.moving_mean, _same
  yield f"{name}.running_var", norm.moving_variance, _same


def _layer_norm(name: str, norm) -> Iterator[_Pair]:
  yield f"{name}.weight", norm.gamma, _same
  yield f"{name}.bias", norm.beta, _same


def _same(value: np.ndarray) -> np.ndarray:
  return value


def _kernel(value: np.ndarray) -> np.ndarray:
  return value.transpose(3, 2, 1, 0)


def _stem_kernel(value: np.ndarray) -> np.ndarray:
  return _kernel(value).sum(axis=2, keepdims=True)


def _depthwise_kernel(value: np.ndarray) -> np.ndarray:
  return value.transpose(3, 2, 0, 1)
