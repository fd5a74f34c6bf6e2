# SPDX-License-Identifier: Apache-2.0
"""Weights that a new run starts from: those of a checkpoint or an export."""

from __future__ import annotations

import collections
import json
import os
import re

import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.runtime import gin_config, gin_types, messages
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger

# What TensorFlow puts behind a variable's name in a checkpoint.
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Of the head: its norm, and the weights of an `AttentionHead`'s parts.
_WITHOUT_CLASSES = ("head/norm/", "head/part_weights")
# What does not decide which numbers the network gets and makes of them: it acts
# in training alone, or is another way to the same numbers.
_MAY_DIFFER = re.compile(r"\.(engine|\w*_rate|\w*momentum)$")


def load(
  path: str,
  tagger: tf.keras.Model,
  classes: labels.ClassList,
  *,
  config_gin: str = "",
  allow_other_features: bool = False,
) -> str:
  """Sets a tagger's weights; its head's only if the classes are the same.

  Args:
    path: A checkpoint; a folder of checkpoints; a work directory, of which the
      best checkpoint is taken or, without one, the last; or what
      `export.export` wrote, or a folder of such versions.
    tagger: A built `Tagger`.
    classes: Of its head. Where those of `path` are not known (a checkpoint
      away from its work directory), their numbers are compared.
    config_gin: The operative config of this run. If given, its front end,
      padding and network are compared with those that the weights were trained
      with, as far as known.
    allow_other_features: Whether they may differ.

  Returns:
    What was done, in one or two lines.

  Raises:
    UserError: If there are no weights, they are another model's, or they were
      trained on other features.
  """
  checkpoint, known_classes, known_config = _find(path)
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    shapes = {
      key[: -len(_VALUE)]: shape
      for key, shape in reader.get_variable_to_shape_map().items()
      if key.endswith(_VALUE) and "OPTIMIZER_SLOT" not in key
    }
  except (ValueError, tf.errors.OpError) as e:
    raise UserError(
      f"{checkpoint}: the checkpoint cannot be read: give another one, or copy "
      "all of its files again."
    ) from e
  names = _names(tagger)
  if "model_variables/0" in shapes:  # An export: numbers, in this order.
    keys = [f"model_variables/{i}" for i in range(len(names))]
    there = [key for key in shapes if key.startswith("model_variables/")]
  else:
    # What a run with averaged weights would export are these.
    has_average = any(key.startswith("average/") for key in shapes)
    root = "average" if has_average else "model"
    keys = [f"{root}/{name}" for name in names]
    parts = tuple(
      f"{root}/{part}/"
      for part in ("frontend", "input_norm", "backbone", "head")
    )
    there = [key for key in shapes if key.startswith(parts)]
  num_classes = shapes.get(keys[-1], [0])[-1]
  _check_shapes(path, tagger, names, keys, there, shapes)
  about = _compare_features(
    path, known_config, config_gin, allow_other_features
  )
  is_same = num_classes == len(classes)
  if known_classes is not None:
    is_same = known_classes == classes
  with messages.naming_broken(checkpoint):
    for key, name, variable in zip(keys, names, tagger.variables):
      if is_same or not _has_classes(name):
        variable.assign(reader.get_tensor(key + _VALUE))
  new = "" if is_same else "; the head is new"
  return f"starting from {checkpoint}, of {num_classes} classes{new}{about}"


def _check_shapes(path, tagger, names, keys, there, shapes) -> None:
  """Refuses weights that are not those of the model, but for the classes."""
  what_to_do = (
    "give the .gin file that it was trained with, or its config.gin, as the "
    "first --gin_file."
  )
  num_classes = shapes.get(keys[-1], [0])[-1]
  for key, name, variable in zip(keys, names, tagger.variables):
    shape = variable.shape.as_list()
    if _has_classes(name):
      shape[-1] = num_classes
    if shape != shapes.get(key):
      raise UserError(
        f"{path} does not fit this model: {name} has the shape {shape} in the "
        f"model and {shapes.get(key, 'no counterpart')} there: {what_to_do}"
      )
  for key in sorted(set(there) - set(keys)):
    raise UserError(
      f"{path} does not fit this model, which has no {key}, of the shape "
      f"{shapes[key]} there: {what_to_do}"
    )


def _compare_features(path, known, here, is_allowed) -> str:
  """Refuses weights of another front end; what else is to be said of it."""
  if not here:
    return ""
  if not known:
    return (
      "\nwarning: which front end these weights were trained with is not known "
      f"(no config.gin belongs to {path}): this run's must be the same"
    )
  there, here = _feature_values(known), _feature_values(here)
  in_both = _owners(there) & _owners(here)
  differences = [
    f"{key} is {_value(there, key)} there and {_value(here, key)} here"
    for key in sorted({*there, *here})
    if _owner(key) in in_both and _value(there, key) != _value(here, key)
  ]
  if not differences:
    return ""
  if is_allowed:
    return f"\nwarning: trained on other features: {'; '.join(differences)}"
  raise UserError(
    f"{path} was trained on other features than this run's: "
    f"{'; '.join(differences)}. Give its config.gin as the first --gin_file, "
    "or insist with --allow_other_features."
  )


def _feature_values(text: str) -> dict[str, object]:
  """What decides, in an operative config, what the embedding is made of.

  The values of the front end and the backbone and of what they are made of in
  turn, and the padding, by their keys without scopes.
  """
  bound = gin_config.values(text)
  found, owners = {}, []
  for part in ("frontend", "input_norm", "backbone"):
    value = bound.get(f"Tagger.{part}", "")
    if value in ("", "None") and part == "input_norm":
      continue
    found[f"Tagger.{part}"] = value
    owners.append(value)
  if "Pipeline.padding" in bound:
    found["Pipeline.padding"] = bound["Pipeline.padding"]
  while owners:
    owner = re.fullmatch(r"@([\w./]+)(\(\))?", str(owners.pop()))
    for key, value in bound.items() if owner else ():
      if key.rpartition(".")[0] == owner[1] and not _MAY_DIFFER.search(key):
        found[key.rpartition("/")[2]] = value
        owners.append(value)
  return found


def _owner(key: str) -> str:
  return key.rpartition(".")[0]


def _owners(values) -> set[str]:
  return {*map(_owner, values)}


def _value(values, key):
  """A value, or where it is not named the default.

  What a config does not name came into the program after it was written, with a
  default that changed nothing.
  """
  if key in values:
    return values[key]
  parameter = gin_types.parameter(key)
  return "unknown" if parameter is None else parameter.default


def _find(path: str) -> tuple[str, labels.ClassList | None, str]:
  """The checkpoint that `path` stands for; its classes, its config if known."""
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
      exported = exported_tagger.ExportedTagger(path)
    except ValueError as e:
      raise UserError(
        f"{path}: no weights to start from: neither a checkpoint, nor a folder "
        "of them, a work directory or an exported SavedModel."
      ) from e
    variables = os.path.join(exported.directory, "variables", "variables")
    assets = os.path.join(exported.directory, "assets")
    return variables, exported.classes, _read(assets, "config.gin")
  folder = os.path.dirname(checkpoint)
  parent = os.path.dirname(folder)
  run = _read(parent, "run.json")
  rows = json.loads(run).get("classes") if run else None
  return (
    checkpoint,
    labels.ClassList.from_json(rows) if rows else None,
    # tools/import_weights.py writes it beside the checkpoint.
    _read(folder, "config.gin") or _read(parent, "config.gin"),
  )


def _read(folder: str, name: str) -> str:
  """The text of a file; empty if there is none."""
  path = os.path.join(folder, name)
  if not tf.io.gfile.exists(path):
    return ""
  with tf.io.gfile.GFile(path) as file:
    return file.read()


def _has_classes(name: str) -> bool:
  """Whether a variable has numbers for each class: most of the head's do."""
  return name.startswith("head/") and not name.startswith(_WITHOUT_CLASSES)


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
