# SPDX-License-Identifier: Apache-2.0
"""The clips that a run trains on and those that validate it.

Which they are, and whether a run can learn and measure anything with them, is
decided and told before the first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tf_audioset.data import prepared, records
from tf_audioset.runtime.errors import UserError

# Read of a split without a table of clips, to see what labels it has: reading
# all of it would take as long as an epoch.
_NUM_SAMPLED = 128


@dataclasses.dataclass(frozen=True)
class RunData:
  """The two parts of the data.

  Attributes:
    training: What is trained on.
    validation: What is scored after each epoch.
    about: Which clips validate, in a line.
  """

  training: prepared.Split
  validation: prepared.Split
  about: str


def choose(
  data_dir: str,
  *,
  training_split: str,
  validation_split: str,
  holdout_percent: int,
  training_percent: int,
) -> RunData:
  """Finds the clips of a run; the arguments are as in `training.train`.

  Raises:
    UserError: If a split is missing, or one of the parts has no clip.
  """
  training = prepared.find_split(data_dir, training_split)
  _refuse_empty(data_dir, training_split, training)
  if holdout_percent:
    _check_share(training, training_split, holdout_percent, training_percent)
    validation = training.part(0, holdout_percent)
    about = (
      f"{validation.num_clips} clips of split {training_split}, held out by a "
      f"hash of their ids (train.holdout_percent = {holdout_percent})"
    )
    unused = {validation_split} & set(prepared.split_names(data_dir))
    if unused - {training_split}:
      about += f"; split {validation_split} is not used"
  else:
    validation = _validation_split(data_dir, validation_split, training_split)
    _refuse_empty(data_dir, validation_split, validation)
    about = f"{validation.num_clips} clips of split {validation_split}"
    if validation_split == training_split:
      about += ", which is trained on"
  first = max(holdout_percent, 100 - training_percent)
  if first:
    _check_share(training, training_split, holdout_percent, training_percent)
    training = training.part(first, 100)
  return RunData(training, validation, about)


def check_labels(
  data: RunData, loss: object, *, needs_metrics: bool
) -> list[str]:
  """Looks at the labels of both parts, in their tables of clips.

  Where there is no table (audax's records, older preparations) the first clips
  stand for all.

  Args:
    data: The clips, whose class list is known.
    loss: `Tagger.loss`; with a true `needs_one_label` it is refused clips with
      several labels.
    needs_metrics: Whether a validation without a single class that can be
      scored is an error.

  Returns:
    Lines that tell what is likely to be a mistake; none if nothing is.

  Raises:
    UserError: If nothing can be learnt from the training clips, the loss does
      not fit the labels, or a label is not in the class list.
  """
  classes = data.training.classes
  trained = _labels_of(data.training, len(classes))
  judged = _labels_of(data.validation, len(classes))
  is_single = hasattr(loss, "needs_one_label")
  lines = []
  for what, labels in (("training", trained), ("validation", judged)):
    if is_single:
      lines += _check_one_label(what, labels, classes, loss)
  counted = trained.num_labelled if is_single else trained.num_clips
  if trained.is_complete and not trained.can_be_told_apart(counted):
    raise UserError(_nothing_to_learn(trained, classes))
  missing = np.flatnonzero(trained.positives == 0)
  if trained.is_complete and len(missing):
    lines.append(
      f"warning: {len(missing)} of {len(classes)} classes have no training "
      f"clip: {_some([classes.names[i] for i in missing])}"
    )
  if judged.is_complete and not judged.can_be_told_apart(judged.num_clips):
    message = (
      "no class has positive and negative clips among the "
      f"{judged.num_clips} validation clips"
    )
    what_to_do = (
      "validate on more clips, of several classes (train.validation_split, "
      "train.holdout_percent)"
    )
    if needs_metrics:
      raise UserError(
        "train.exported = 'best': no checkpoint can be the best, as "
        f"{message}: {what_to_do}, or export the last."
      )
    lines.append(f"warning: mAP will be nan: {message}: {what_to_do}")
  return lines


def set_levels(tagger, split: prepared.Split, data_dir: str) -> None:
  """Gives a new tagger's `ScalarNorm` the mean and deviation of the data.

  Raises:
    UserError: If it needs them and the data does not have them.
  """
  norm = tagger.input_norm
  if not getattr(norm, "is_of_data", False):
    return
  if split.log_mel is None:
    raise UserError(
      f"{data_dir}: mean and standard deviation of the log-mel, which "
      "Tagger.input_norm = @ScalarNorm() needs, are not known: prepare the "
      "data again, or give ScalarNorm.mean and ScalarNorm.sd."
    )
  norm.set(*split.log_mel)


def check_lengths(
  split: prepared.Split, crop_samples: int, data_dir: str
) -> list[str]:
  """Compares the lengths of crops and clips.

  Returns:
    A line if all clips are shorter than a crop, so that all are padded.

  Raises:
    UserError: If that is so because preparation has cut them.
  """
  crop_seconds = crop_samples / records.SAMPLE_RATE_HZ
  if split.max_seconds is not None and split.max_seconds < crop_seconds:
    raise UserError(
      f"{data_dir}: Pipeline.crop_seconds is {crop_seconds:g}, but the clips "
      f"were cut to {split.max_seconds:g} s: prepare them again with "
      f"--clip_seconds={crop_seconds:g}, or set Pipeline.crop_seconds = "
      f"{split.max_seconds:g}."
    )
  clips = split.clips()
  if clips is None or clips.num_samples.max() >= crop_samples:
    return []
  longest = clips.num_samples.max() / records.SAMPLE_RATE_HZ
  return [
    f"warning: Pipeline.crop_seconds is {crop_seconds:g}, and the longest "
    f"training clip has {longest:g} s: all are padded (Pipeline.padding)"
  ]


@dataclasses.dataclass(frozen=True)
class _Labels:
  """What is known of the labels of some clips."""

  ids: np.ndarray  # bytes [n]
  num_labels: np.ndarray  # int64 [n], distinct ones.
  labels: list[np.ndarray]  # Of the first clip with several, if there is one.
  positives: np.ndarray  # int64 [num_classes]
  is_complete: bool  # Else the first clips of more.

  @property
  def num_clips(self) -> int:
    return len(self.num_labels)

  @property
  def num_labelled(self) -> int:
    return int(np.count_nonzero(self.num_labels))

  def can_be_told_apart(self, num_clips: int) -> bool:
    """Returns whether a class has clips with it and clips without it."""
    return bool(((0 < self.positives) & (self.positives < num_clips)).any())


def _labels_of(split: prepared.Split, num_classes: int) -> _Labels:
  table = split.clips()
  is_complete = table is not None
  if table is None:
    table = _first_clips(split)
    is_complete = len(table) == split.num_clips
  highest = table.labels.max(initial=-1)
  if highest >= num_classes:
    raise UserError(
      f"{split.files[0]}: a clip of this split has the label {highest}, where "
      f"the class list has {num_classes}, counted from 0: the list is of other "
      "records. Put theirs beside them, or prepare the data again."
    )
  num_labels = np.diff(table.label_ends, prepend=0)
  several = np.flatnonzero(num_labels > 1)[:1]
  return _Labels(
    table.id,
    num_labels,
    [table.labels_of(row) for row in several],
    table.count_positives(num_classes),
    is_complete,
  )


def _first_clips(split: prepared.Split) -> prepared.ClipTable:
  """Returns a table of as many clips as are read quickly."""
  builder = prepared.ClipTableBuilder()
  dataset = prepared.read_shards(split.files, split.compression)
  for batch in dataset.take(_NUM_SAMPLED).batch(16).map(records.parse_examples):
    for clip_id, labels in zip(batch["id"].numpy(), batch["labels"].to_list()):
      builder.add(clip_id.decode(), -1, sorted(set(labels)), 0)
  return builder.build()


def _check_one_label(what, labels, classes, loss) -> list[str]:
  """Refuses several labels a clip, or counts them, for losses of one."""
  lines, name = [], type(loss).__name__
  several = np.flatnonzero(labels.num_labels > 1)
  of = "" if labels.is_complete else "first "
  if len(several):
    names = ", ".join(classes.names[i] for i in labels.labels[0])
    found = (
      f"{len(several)} of the {of}{labels.num_clips} {what} clips have several "
      f"labels (such as {labels.ids[several[0]].decode() or 'one'}: {names})"
    )
    if loss.needs_one_label:
      raise UserError(
        f"Tagger.loss = @{name}() is for one label a clip, but {found}: give "
        f"Tagger.loss = @MultiLabel(); or {name}.several_labels = 'share', "
        "with which a clip is each of its labels in equal shares."
      )
    lines.append(f"{found}: with {name} each counts as an equal share")
  unlabelled = labels.num_clips - labels.num_labelled
  if unlabelled and what == "training":
    lines.append(
      f"warning: {unlabelled} of the {of}{labels.num_clips} {what} clips have "
      f"no label: with {name} nothing is learnt from them"
    )
  return lines


def _nothing_to_learn(labels, classes) -> str:
  names = [classes.names[i] for i in np.flatnonzero(labels.positives)]
  have = f"have the same labels ({_some(names)})" if names else "have no label"
  return (
    f"there is nothing to learn: all {labels.num_clips} training clips {have}. "
    "At least one class needs clips with it and clips without it: add clips of "
    "other sounds."
  )


def _validation_split(data_dir, name, training_split) -> prepared.Split:
  try:
    return prepared.find_split(data_dir, name)
  except ValueError:
    names = prepared.split_names(data_dir)
    if name in names:
      raise
  raise UserError(
    f"{data_dir}: there is no split {name!r} to validate on; there are "
    f"{names}. Prepare it (tools/make_tfrecords.py --split={name}), name "
    "another with train.validation_split, or hold out clips of "
    f"{training_split!r}: --gin_bindings='train.holdout_percent = 10'."
  )


def _refuse_empty(data_dir, name, split) -> None:
  if not split.num_clips:
    raise UserError(
      f"{data_dir}: the split {name!r} has no clips: prepare it again."
    )


def _check_share(split, name, holdout_percent, training_percent) -> None:
  """Refuses percentages that leave no clip for one of the two uses."""
  if split.index is None or split.index.bucket is None:
    return  # `part` tells it.
  lowest, highest = int(split.index.bucket.min()), int(split.index.bucket.max())
  if 0 < holdout_percent <= lowest:
    setting, what = f"train.holdout_percent = {holdout_percent}", "holds out no"
    what_to_do = f"the least that holds out one is {lowest + 1}"
  elif holdout_percent > highest:
    setting, what = f"train.holdout_percent = {holdout_percent}", "leaves no"
    what_to_do = f"the most that leaves one to train on is {highest}"
  elif 100 - training_percent > highest:
    setting, what = f"train.training_percent = {training_percent}", "takes no"
    what_to_do = f"the least that takes one is {100 - highest}"
  else:
    return
  raise UserError(
    f"{setting} {what} clip of the {split.num_clips} of split {name}: which "
    f"are taken follows from a hash of their ids. Here {what_to_do}."
  )


def _some(names: Sequence[str]) -> str:
  """Names the first few of many."""
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
