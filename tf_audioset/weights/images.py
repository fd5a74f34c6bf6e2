# SPDX-License-Identifier: Apache-2.0
"""Weights of networks that were trained on images, as starting points.

  timm               ResNet, tf_efficientnet and ConvNeXt
  torchvision        ResNet, whose names are timm's, and ConvNeXt
  keras.applications EfficientNet and ConvNeXt, `*_notop.h5`

The names and layouts of the others are turned into timm's, of which `timm.py`
makes ours: an image's height is the frequency.
"""

from __future__ import annotations

import json
import os
import re

import numpy as np
import tensorflow as tf

from tf_audioset.models import convnext, efficientnet, layers, resnet
from tf_audioset.runtime.errors import UserError
from tf_audioset.weights import timm, weight_files

_EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
_CONVNEXTS = tuple(
  f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")
)
# By the format; torchvision's ResNets and ConvNeXts are read as timm's.
MODELS = {
  "timm": (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *_EFFICIENTNETS,
    *_CONVNEXTS,
  ),
  "keras": (*_EFFICIENTNETS, *_CONVNEXTS),
}

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".h5")
# With other arguments our networks would make other features of the weights.
_ARGUMENTS = {
  resnet.ResNet: {"batch_norm_epsilon": 1e-5},
  efficientnet.EfficientNet: {"batch_norm_epsilon": 1e-3, "se_bias": True},
  convnext.ConvNeXt: {"final_norm": True, "approximate_gelu": False},
}

# Of the parts of torchvision's ConvNeXt blocks, timm's names.
_TORCHVISION_BLOCK = {
  "layer_scale": "gamma",
  "block.0": "conv_dw",
  "block.2": "norm",
  "block.3": "mlp.fc1",
  "block.5": "mlp.fc2",
}
# Of the layers of keras.applications, timm's names.
_KERAS_EFFICIENTNET = {
  "stem_conv": "conv_stem",
  "stem_bn": "bn1",
  "top_conv": "conv_head",
  "top_bn": "bn2",
}
_KERAS_EFFICIENTNET_BLOCK = {
  "expand_conv": "conv_pw",
  "expand_bn": "bn1",
  "dwconv": "conv_dw",
  "bn": "bn2",
  "se_reduce": "se.conv_reduce",
  "se_expand": "se.conv_expand",
  "project_conv": "conv_pwl",
  "project_bn": "bn3",
}
# Those of the first stage, which does not expand.
_KERAS_EFFICIENTNET_FIRST = _KERAS_EFFICIENTNET_BLOCK | {
  "bn": "bn1",
  "project_conv": "conv_pw",
  "project_bn": "bn2",
}
_KERAS_CONVNEXT_BLOCK = {
  "depthwise_conv": "conv_dw",
  "layernorm": "norm",
  "pointwise_conv_1": "mlp.fc1",
  "pointwise_conv_2": "mlp.fc2",
}
_KERAS_WEIGHTS = {
  "kernel": "weight",
  "depthwise_kernel": "weight",
  "bias": "bias",
  "gamma": "weight",
  "beta": "bias",
  "moving_mean": "running_mean",
  "moving_variance": "running_var",
}


def gin_file(model: str) -> str:
  """Returns the experiment of a model, one of those in `MODELS`."""
  in_sizes = model not in ("resnet18", "efficientnet_b0", "convnext_tiny")
  return f"gin/{'sizes/' if in_sizes else ''}{model}.gin"


def bindings(model: str) -> list[str]:
  """Returns what its weights need beside `gin_file`."""
  if model in _EFFICIENTNETS:
    return ["EfficientNet.batch_norm_epsilon = 1e-3"]
  return []


def is_file(path: str) -> bool:
  """Returns whether a path ends as a file of weights does."""
  return os.path.splitext(path.removesuffix(".gz"))[1] in _ENDINGS


def load(
  path: str, backbone: layers.Backbone, source: str | None = None
) -> int:
  """Sets all weights of a built backbone.

  The first kernel is summed over the colours, which equals giving the features
  as a grey image. The classifier is not used.

  Args:
    path: A file that `weight_files.read` takes. If a config.json of timm's is
      beside it, the architecture that it names must be the backbone's.
    backbone: `ResNet`, `EfficientNet` or `ConvNeXt`.
    source: "timm" or "keras", if the file must be of that format.

  Returns:
    The number of arrays that were used.

  Raises:
    UserError: If the file cannot be read, the backbone is another or has other
      arguments than these networks, an array is missing, left over or of
      another shape, or a number is not finite.
  """
  kind = type(backbone)
  if kind not in _ARGUMENTS:
    raise UserError(
      f"{path}: weights of images are for ResNet, EfficientNet and ConvNeXt, "
      f"not for {kind.__name__}; tools/import_weights.py makes a "
      "SavedModel of CED's and audax's files, which --init_from takes."
    )
  arguments = backbone.get_config()
  for name, wanted in _ARGUMENTS[kind].items():
    if arguments[name] != wanted:
      raise UserError(
        f"{path}: networks of images have {kind.__name__}.{name} = {wanted!r}, "
        f"and it is {arguments[name]!r} here: bind it to {wanted!r}."
      )
  _check_architecture(path, kind, arguments)
  arrays = weight_files.read(path)
  found = "keras" if _is_keras(arrays) else "timm"
  if source not in (None, found):
    raise UserError(f"{path} has the names of {found}'s weights: give that.")
  try:
    return timm.assign(backbone, _as_timm(arrays))
  except UserError as e:
    raise UserError(
      f"{path} does not fit this model: {e} All arrays of it must be of the "
      "same network and size."
    ) from e


def _check_architecture(path, kind, arguments) -> None:
  """Refuses the file of another network, by a config.json of timm's.

  The arrays do not tell `efficientnet_b0`, which pads otherwise, from ours.
  """
  path = os.path.join(os.path.dirname(path), "config.json")
  if not tf.io.gfile.exists(path):
    return
  try:
    with tf.io.gfile.GFile(path) as file:
      name = json.load(file).get("architecture")
  except (AttributeError, ValueError, tf.errors.OpError) as e:
    raise UserError(f"{path} cannot be read: {e}") from e
  wanted = {
    resnet.ResNet: "resnet{depth}",
    efficientnet.EfficientNet: "tf_efficientnet_{variant}",
    convnext.ConvNeXt: "convnext_{variant}",
  }[kind].format(**arguments)
  # Older names go on with the data, as in tf_efficientnet_b0_ns.
  if name is not None and not re.match(rf"{wanted}([._]|$)", str(name)):
    raise UserError(f"{path}: the weights are of {name!r}, not of a {wanted}.")


def _is_keras(arrays: dict[str, np.ndarray]) -> bool:
  return any(name.endswith(":0") for name in arrays)


def _as_timm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays under timm's names, in its layouts."""
  if _is_keras(arrays):
    named = map(_from_keras, arrays.items())
    return dict(pair for pair in named if pair is not None)
  if any(name.startswith("features.") for name in arrays):
    return dict(map(_from_torchvision, arrays.items()))
  return arrays


def _from_torchvision(item):
  """Renames an array of torchvision's ConvNeXt."""
  name, value = item
  name = re.sub(r"^classifier\.0\.", "head.norm.", name)
  name = re.sub(r"^classifier\.2\.", "head.fc.", name)
  name = re.sub(r"^features\.0\.", "stem.", name)
  # Stages are in the odd places, with what reduces before them.
  found = re.fullmatch(r"features\.(\d+)\.(\d+)\.(.*)", name)
  if found:
    place, number, rest = int(found[1]), found[2], found[3]
    if place % 2:
      part, _, weight = rest.rpartition(".")
      part = part or rest
      weight = "" if part == rest else f".{weight}"
      part = _TORCHVISION_BLOCK.get(part, part)
      name = f"stages.{place // 2}.blocks.{number}.{part}{weight}"
    else:
      name = f"stages.{place // 2}.downsample.{number}.{rest}"
  if name.endswith(".gamma"):
    value = np.reshape(value, [-1])
  return name, value


def _from_keras(item):
  """Renames and transposes an array of keras.applications; or None.

  What normalises the image is left out.
  """
  name, value = item
  *_, layer, weight = name.removesuffix(":0").split("/")
  if re.fullmatch(r"normalization(_\d+)?", layer) or "prestem" in layer:
    return None
  if value.ndim == 2:
    value = value.T
  elif weight == "depthwise_kernel":  # [height, width, channels, 1]
    value = value.transpose(2, 3, 0, 1)
  elif value.ndim == 4:
    value = value.transpose(3, 2, 0, 1)
  return _timm_name(layer, weight), value


def _timm_name(layer: str, weight: str) -> str:
  """Returns timm's name of a weight of a layer of keras.applications."""
  end = _KERAS_WEIGHTS.get(weight, weight)
  block = re.fullmatch(r"block(\d)([a-z])_(\w+)", layer)
  if block:
    first = block[1] == "1"
    parts = _KERAS_EFFICIENTNET_FIRST if first else _KERAS_EFFICIENTNET_BLOCK
    place = f"blocks.{int(block[1]) - 1}.{ord(block[2]) - ord('a')}"
    return f"{place}.{parts.get(block[3], block[3])}.{end}"
  if layer in _KERAS_EFFICIENTNET:
    return f"{_KERAS_EFFICIENTNET[layer]}.{end}"
  block = re.search(r"stage_(\d)_block_(\d+)_(\w+)", layer)
  if block:
    place = f"stages.{block[1]}.blocks.{block[2]}"
    if block[3] == "layer_scale":
      return f"{place}.gamma"
    return f"{place}.{_KERAS_CONVNEXT_BLOCK.get(block[3], block[3])}.{end}"
  reduction = re.search(r"downsampling_(layernorm|conv)_(\d)", layer)
  if reduction:
    number = ("layernorm", "conv").index(reduction[1])
    return f"stages.{int(reduction[2]) + 1}.downsample.{number}.{end}"
  stem = re.search(r"stem_(conv|layernorm)$", layer)
  if stem:
    return f"stem.{('conv', 'layernorm').index(stem[1])}.{end}"
  if re.fullmatch(r"(layer_normalization(_\d+)?|\w+_head_layernorm)", layer):
    return f"head.norm.{end}"
  return f"{layer}.{end}"
