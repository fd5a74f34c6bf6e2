# SPDX-License-Identifier: Apache-2.0
"""CED's checkpoints, as Hugging Face hosts them, into our model.

CED (Dinkel et al., "CED: Consistent Ensemble Distillation for Audio Tagging",
ICASSP 2024) is a family of vision transformers for 16 kHz and 64 mel bands. Its
weights are under the Apache licence 2.0; none are shipped here. The files are
PyTorch's, as safetensors or `torch.save` wrote them; beside one there may be a
config.json, whose values are compared with what our model computes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.runtime.errors import UserError
from tf_audioset.weights import weight_files

# Width by the name of the model.
_WIDTHS = {"ced_tiny": 192, "ced_mini": 256, "ced_small": 384, "ced_base": 768}
MODELS = tuple(_WIDTHS)

# They count batches, and nothing is computed with them.
_IGNORED = ".num_batches_tracked"
# What gin/ced/*.gin is, in the terms of config.json.
_CONFIG = {
  "depth": 12,
  "mlp_ratio": 4.0,
  "qkv_bias": True,
  "patch_size": 16,
  "patch_stride": 16,
  "target_length": 1012,
  "pad_last": True,
  "pooling": "mean",
  "eval_avg": "mean",
  "n_mels": 64,
  "n_fft": 512,
  "win_size": 512,
  "hop_size": 160,
  "f_min": 0,
  "f_max": 8000,
  "center": True,
}

# CED's name, our variable, and how an array of the one becomes the other.
_Pair = tuple[str, tf.Variable, Callable[[np.ndarray], np.ndarray]]


def gin_file(model: str) -> str:
  """Returns the experiment of a model, one of `MODELS`."""
  return f"gin/ced/{model[len('ced_') :]}.gin"


def read_checkpoint(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of a checkpoint.

  Args:
    path: A file in any form that `weight_files` reads.

  Returns:
    Arrays by CED's names.

  Raises:
    UserError: If the file cannot be read.
  """
  arrays = weight_files.read(path)
  return {k: v for k, v in arrays.items() if not k.endswith(_IGNORED)}


def check_config(path: str, model: str, classes: labels.ClassList) -> None:
  """Compares the config.json beside a checkpoint, if there is one.

  Args:
    path: The checkpoint.
    model: One of `MODELS`.
    classes: Those that the outputs are taken for.

  Raises:
    UserError: If it is of another family, of another model or has other
      classes.
  """
  path = os.path.join(os.path.dirname(path), "config.json")
  if not tf.io.gfile.exists(path):
    return
  try:
    with tf.io.gfile.GFile(path) as file:
      config = json.load(file)
    kind, names = config.get("model_type"), dict(config.get("id2label") or {})
  except (AttributeError, TypeError, ValueError, tf.errors.OpError) as e:
    raise UserError(f"{path} cannot be read: {e}") from e
  if kind != "ced":
    raise UserError(f"{path} is of a model of the type {kind!r}, not 'ced'.")
  width = _WIDTHS[model]
  wanted = {
    **_CONFIG,
    "embed_dim": width,
    "num_heads": width // 64,
    "outputdim": len(classes),
  }
  for name, value in wanted.items():
    if config.get(name, value) != value:
      raise UserError(
        f"{path}: {name} is {config[name]!r}; that of a {model} of "
        f"{len(classes)} classes is {value!r}."
      )
  for i, name in enumerate(classes.names):
    given = names.get(str(i), name)
    # CED's own cuts names at their first comma; LABEL_0 stands for none.
    if given not in (name, name.split(",")[0], f"LABEL_{i}"):
      raise UserError(
        f"{path}: class {i} is {given!r}, but {name!r} in the class list."
      )


def num_classes(arrays: Mapping[str, np.ndarray]) -> int:
  """Returns the number of classes.

  Raises:
    UserError: If there is no output layer.
  """
  bias = arrays.get("outputlayer.1.bias")
  if bias is None:
    raise UserError("no outputlayer.1.bias: not the checkpoint of a CED.")
  return len(bias)


def assign(
  arrays: Mapping[str, np.ndarray], tagger: tf.keras.Model, model: str
) -> None:
  """Sets every variable of `tagger` to its array.

  Args:
    arrays: From `read_checkpoint`.
    tagger: A built `Tagger`, made with `gin_file(model)`.
    model: One of `MODELS`.

  Raises:
    UserError: If an array is left over, a variable is left unset, a shape is
      wrong or a number is not finite; naming them.
  """
  pairs = list(_pairs(tagger))
  names = {name for name, _, _ in pairs}
  problems = [
    f"{what} {_some(sorted(some))}"
    for what, some in (
      ("without", names - arrays.keys()),
      ("with", arrays.keys() - names),
    )
    if some
  ]
  if problems:
    raise UserError(f"not the checkpoint of a {model}: {', '.join(problems)}.")
  values = []
  for name, variable, convert in pairs:
    value = convert(np.asarray(arrays[name], np.float32))
    if value.shape != tuple(variable.shape):
      raise UserError(
        f"not the checkpoint of a {model}: {name} has the shape "
        f"{arrays[name].shape}{_other_model(arrays, model)}."
      )
    if not np.isfinite(value).all():
      raise UserError(f"{name} holds numbers that are not finite.")
    values.append(value)
  # An assertion: it would be a mistake in `_pairs`.
  assert len(pairs) == len(tagger.variables)
  for (_, variable, _), value in zip(pairs, values):
    variable.assign(value)


def _other_model(arrays, model) -> str:
  """Tells which model the arrays may be of, if of another."""
  width = arrays["encoder.patch_embed.proj.weight"].shape[0]
  others = [m for m, w in _WIDTHS.items() if w == width and m != model]
  return f", as if of a {others[0]}: give --model={others[0]}" if others else ""


def _some(names: list[str]) -> str:
  rest = len(names) - 5
  return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")


def _pairs(tagger) -> Iterator[_Pair]:
  frontend, backbone, head = tagger.frontend, tagger.backbone, tagger.head
  yield from _norm("encoder.init_bn", frontend.norm)
  yield "encoder.init_bn.running_mean", frontend.norm.moving_mean, _same
  yield "encoder.init_bn.running_var", frontend.norm.moving_variance, _same
  patches = backbone.patches
  # The image of CED has the frequency as its height; ours has the time.
  yield "encoder.patch_embed.proj.weight", patches.kernel, np.transpose
  yield "encoder.patch_embed.proj.bias", patches.bias, _same
  # [1, width, frequencies, times] to [times, frequencies, width].
  for name, table in (
    ("time", backbone.positions.time_table),
    ("freq", backbone.positions.frequency_table),
  ):
    yield f"encoder.{name}_pos_embed", table, lambda x: x[0].transpose()
  for i, branch in enumerate(backbone.branches):
    block, is_mlp = divmod(i, 2)
    block = f"encoder.blocks.{block}"
    if is_mlp:
      yield from _norm(f"{block}.norm2", branch.norm)
      yield from _dense(f"{block}.mlp.fc1", branch.widen)
      yield from _dense(f"{block}.mlp.fc2", branch.narrow)
    else:
      yield from _norm(f"{block}.norm1", branch.norm)
      yield from _dense(f"{block}.attn.qkv", branch.qkv)
      yield from _dense(f"{block}.attn.proj", branch.project)
  yield from _norm("encoder.norm", backbone.norm)
  yield from _norm("outputlayer.0", head.norm)
  yield from _dense("outputlayer.1", head.dense)


def _norm(name: str, layer) -> Iterator[_Pair]:
  yield f"{name}.weight", layer.gamma, _same
  yield f"{name}.bias", layer.beta, _same


def _dense(name: str, layer) -> Iterator[_Pair]:
  yield f"{name}.weight", layer.kernel, np.transpose
  yield f"{name}.bias", layer.bias, _same


def _same(array: np.ndarray) -> np.ndarray:
  return array
