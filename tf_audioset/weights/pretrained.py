# SPDX-License-Identifier: Apache-2.0
"""Weights that a new run starts from: those of a checkpoint or an export."""

from __future__ import annotations

import collections
import json
import os

import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import export

# What TensorFlow puts behind a variable's name in a checkpoint.
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def load(path: str, tagger: tf.keras.Model, classes: labels.ClassList) -> str:
  """Sets a tagger's weights; its head's only if the classes are the same.

  Args:
    path: A checkpoint; a folder of checkpoints; a work directory, of which the
      best checkpoint is taken or, without one, the last; or what
      `export.export` wrote, or a folder of such versions.
    tagger: A built `Tagger`.
    classes: Of its head. Where those of `path` are not known (a checkpoint
      away from its work directory), their numbers are compared.

  Returns:
    What was done, in a line.

  Raises:
    UserError: If there are no weights, or they are another model's.
  """
  checkpoint, known_classes = _find(path)
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    shapes = {
      key[: -len(_VALUE)]: shape
      for key, shape in reader.get_variable_to_shape_map().items()
      if key.endswith(_VALUE) and "OPTIMIZER_SLOT" not in key
    }
  except (ValueError, tf.errors.OpError) as e:
    raise UserError(f"{checkpoint}: the checkpoint cannot be read.") from e
  names = _names(tagger)
  if "model_variables/0" in shapes:  # An export: numbers, in this order.
    keys = [f"model_variables/{i}" for i in range(len(names))]
    there = [key for key in shapes if key.startswith("model_variables/")]
  else:
    keys = [f"model/{name}" for name in names]
    there = [
      key
      for key in shapes
      if key.startswith(("model/backbone/", "model/head/"))
    ]
  num_classes = shapes.get(keys[-1], [0])[-1]
  for key, name, variable in zip(keys, names, tagger.variables):
    shape = variable.shape.as_list()
    if name.startswith("head/"):
      shape[-1] = num_classes
    if shape != shapes.get(key):
      raise UserError(
        f"{path} does not fit this model: {name} has the shape {shape} in the "
        f"model and {shapes.get(key, 'no counterpart')} there."
      )
  for key in sorted(set(there) - set(keys)):
    raise UserError(
      f"{path} does not fit this model, which has no {key}, of the shape "
      f"{shapes[key]} there."
    )
  is_same = num_classes == len(classes)
  if known_classes is not None:
    is_same = known_classes == classes
  with messages.naming_broken(checkpoint):
    for key, name, variable in zip(keys, names, tagger.variables):
      if is_same or not name.startswith("head/"):
        variable.assign(reader.get_tensor(key + _VALUE))
  new = "" if is_same else "; the head is new"
  return f"starting from {checkpoint}, of {num_classes} classes{new}"


def _find(path: str) -> tuple[str, labels.ClassList | None]:
  """The checkpoint that `path` stands for, and its classes if known."""
  path = path.rstrip("/")
  if tf.io.gfile.exists(f"{path}.index"):
    checkpoint = path
  else:
    # latest_checkpoint is None for what is no folder of checkpoints.
    folders = (
      path,
      os.path.join(path, "best"),
      os.path.join(path, "checkpoints"),
    )
    checkpoint = next(
      filter(None, map(tf.train.latest_checkpoint, folders)), None
    )
  if checkpoint is None:
    try:
      exported = export.ExportedTagger(path)
    except ValueError as e:
      raise UserError(
        f"{path}: no weights to start from: neither a checkpoint, nor a folder "
        "of them, a work directory or an exported SavedModel."
      ) from e
    variables = os.path.join(exported.directory, "variables", "variables")
    return variables, exported.classes
  run = os.path.join(os.path.dirname(os.path.dirname(checkpoint)), "run.json")
  if not tf.io.gfile.exists(run):
    return checkpoint, None
  with tf.io.gfile.GFile(run) as file:
    rows = json.load(file).get("classes")
  return checkpoint, labels.ClassList.from_json(rows) if rows else None


def _names(tagger) -> list[str]:
  """Of `tagger.variables`, as a checkpoint has them: "backbone/stem/kernel"."""
  graph = tf.train.TrackableView(tagger)
  found = {id(tagger): ""}
  waiting = collections.deque([tagger])
  while waiting:  # Breadth first: the shortest name is the one that is used.
    parent = waiting.popleft()
    for name, child in graph.children(parent).items():
      if id(child) not in found:
        found[id(child)] = f"{found[id(parent)]}/{name}".lstrip("/")
        waiting.append(child)
  return [found[id(variable)] for variable in tagger.variables]
