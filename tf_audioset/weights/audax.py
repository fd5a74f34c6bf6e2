# SPDX-License-Identifier: Apache-2.0
"""audax's checkpoints, as flax wrote them, into our models.

A file is a msgpack map with, among others, the trees `params`,
`frozen_params` and `batch_stats`. Its arrays are known here by their path,
"params/encoder/ResNetBlock_0/Conv_0/kernel"; each family below says which
variable of ours holds which. How audax's models differ from the standard
architectures is in `gin/audax/`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_audioset.runtime.errors import UserError
from tf_audioset.weights import weight_files


def gin_file(model: str) -> str:
  """Returns the experiment of a model, one of `MODELS`."""
  return f"gin/audax/{model}.gin"


def read_checkpoint(path: str) -> dict[str, np.ndarray]:
  """Reads the model's arrays; the optimizer's state is left out.

  Args:
    path: Local or remote.

  Returns:
    Arrays by path; those of `frozen_params` are under "params/" as well.

  Raises:
    UserError: If it is no checkpoint of flax, or not the whole of one.
  """
  arrays = {
    # An encoder that was not trained is elsewhere.
    name.replace("frozen_params/", "params/", 1): array
    for name, array in weight_files.read(path).items()
    if name.startswith(("params/", "frozen_params/", "batch_stats/"))
  }
  if not arrays:
    raise UserError(f"{path}: no checkpoint of flax: it holds no params.")
  return arrays


def num_classes(arrays: dict[str, np.ndarray]) -> int:
  """Returns the width of the head.

  Raises:
    UserError: If there is no head.
  """
  if "params/fc/bias" not in arrays:
    raise UserError("no params/fc/bias: not the checkpoint of a tagger.")
  return len(arrays["params/fc/bias"])


def assign(
  arrays: dict[str, np.ndarray], tagger: tf.keras.Model, model: str
) -> None:
  """Sets every variable of `tagger` to its array.

  Args:
    arrays: From `read_checkpoint`.
    tagger: A built `Tagger`, made with `gin/audax/{model}.gin`.
    model: "resnet18", "efficientnet_b0" or "convnext_tiny".

  Raises:
    UserError: If an array is left over, a variable is left unset, or their
      shapes differ; naming them.
  """
  variables = {**_FAMILIES[model](tagger.backbone), **_dense("fc", tagger.head)}
  problems = [
    f"{what} {_some(names)}"
    for what, names in (
      ("without", sorted(variables.keys() - arrays.keys())),
      ("with", sorted(arrays.keys() - variables.keys())),
    )
    if names
  ]
  if not problems:
    values = {path: _to_keras(arrays[path], variables[path]) for path in arrays}
    problems = [
      f"with {path} of shape {value.shape}, not {tuple(variables[path].shape)}"
      for path, value in values.items()
      if value.shape != tuple(variables[path].shape)
    ][:1]
  if problems:
    raise UserError(f"not the checkpoint of a {model}: {', '.join(problems)}.")
  assert len(variables) == len(tagger.variables)  # Or a family forgot one.
  for path, variable in variables.items():
    variable.assign(values[path])


def _to_keras(array, variable):
  # flax: [height, width, 1, channels]; Keras: [height, width, channels, 1].
  if "depthwise_kernel" in variable.name and array.ndim == 4:
    array = array.transpose(0, 1, 3, 2)
  return array.astype(np.float32)


def _some(names: list[str]) -> str:
  rest = len(names) - 5
  return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")


def _resnet(backbone) -> dict[str, tf.Variable]:
  variables = {
    **_conv("encoder/conv_init", backbone.stem.conv),
    **_batch_norm("encoder/bn_init", backbone.stem.norm),
  }
  for i, block in enumerate(backbone.blocks):
    path = f"encoder/ResNetBlock_{i}"
    for j, part in enumerate(block.convs):
      variables |= _conv(f"{path}/Conv_{j}", part.conv)
      variables |= _batch_norm(f"{path}/BatchNorm_{j}", part.norm)
    if block.projection is not None:
      variables |= _conv(f"{path}/conv_proj", block.projection.conv)
      variables |= _batch_norm(f"{path}/norm_proj", block.projection.norm)
  return variables


def _efficientnet(backbone) -> dict[str, tf.Variable]:
  def conv_norm(path, part):
    return {
      **_conv(f"{path}/Conv_0", part.conv),
      **_batch_norm(f"{path}/BatchNorm_0", part.norm),
    }

  variables = {
    **conv_norm("encoder/ConvNormActivation_0", backbone.stem),
    **conv_norm("encoder/ConvNormActivation_1", backbone.head),
  }
  for i, block in enumerate(backbone.blocks):
    path = f"encoder/MBConv_{i}"
    parts = [block.depthwise, block.project]
    if block.expand is not None:
      parts.insert(0, block.expand)
    for j, part in enumerate(parts):
      variables |= conv_norm(f"{path}/ConvNormActivation_{j}", part)
    gate = f"{path}/SqueezeAndExcitation_0"
    variables |= _conv(f"{gate}/reduce", block.squeeze)
    variables |= _conv(f"{gate}/expand", block.excite)
  return variables


def _convnext(backbone) -> dict[str, tf.Variable]:
  variables = {}
  for s, (reduction, blocks) in enumerate(backbone.stages):
    stage = f"encoder/ConvNeXtStage_{s}"
    # The stem is outside of the first stage.
    path = stage if s else "encoder"
    conv, norm = reversed(reduction) if s else reduction
    variables |= _conv(f"{path}/Conv_0", conv)
    variables |= _layer_norm(f"{path}/LayerNorm_0", norm)
    for b, block in enumerate(blocks):
      path = f"{stage}/ConvNeXtBlock_{b}"
      variables |= _conv(f"{path}/Conv_0", block.depthwise)
      variables |= _layer_norm(f"{path}/LayerNorm_0", block.norm)
      variables |= _dense(f"{path}/Mlp_0/Dense_0", block.widen)
      variables |= _dense(f"{path}/Mlp_0/Dense_1", block.narrow)
      variables[f"params/{path}/gamma"] = block.scale
  return variables


_FAMILIES = {
  "resnet18": _resnet,
  "efficientnet_b0": _efficientnet,
  "convnext_tiny": _convnext,
}
MODELS = tuple(_FAMILIES)


def _conv(path, layer):
  kernel, *bias = layer.trainable_variables
  variables = {f"params/{path}/kernel": kernel}
  if bias:
    variables[f"params/{path}/bias"] = bias[0]
  return variables


_dense = _conv


def _layer_norm(path, layer):
  return {
    f"params/{path}/scale": layer.gamma,
    f"params/{path}/bias": layer.beta,
  }


def _batch_norm(path, layer):
  return {
    **_layer_norm(path, layer),
    f"batch_stats/{path}/mean": layer.moving_mean,
    f"batch_stats/{path}/var": layer.moving_variance,
  }
