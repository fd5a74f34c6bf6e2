# SPDX-License-Identifier: Apache-2.0
"""Shards to batches: order, crop, padding, batch.

The training stream is one long sequence: a permutation of all clips, then
another, and so on, unless a sampler orders it (sampling.py). Which clip is at
position p of it, and the crop taken there, depend on the seed and p alone, so a
run that starts at step s sees what one that never stopped would see, and reads
nothing of what came before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import gin
import tensorflow as tf

from tf_audioset.data import prepared, records, sampling
from tf_audioset.data import teacher as teacher_lib
from tf_audioset.runtime import gin_config, randomness
from tf_audioset.runtime.errors import UserError

PADDINGS = ("repeat", "zero")

# Of compressed shards, read at the same time, which mixes their clips.
_OPEN_SHARDS = 16
# Records on their way at the same time: a bucket answers slowly, but many.
_PARALLEL_READS = 64
# Clips that are decoded in one call: its cost vanishes, their memory is small.
_GROUP = 64
# The end of an endless stream.
_FOREVER = 1 << 62
_TEACHER_WEIGHT = 0.9
# A process of --data_service gets its pipeline, with a teacher's scores in it,
# as one message, of at most 2 GB.
_MAX_SERVICE_BYTES = 1_500_000_000
# Nothing here needs AutoGraph, which would take seconds to rewrite all of it.
_as_written = tf.autograph.experimental.do_not_convert


def pad(waveform: tf.Tensor, min_samples: int, padding: str) -> tf.Tensor:
  """Lengthens short waveforms; used alike in training and in serving.

  Args:
    waveform: [..., num_samples] of any type.
    min_samples: The length that shorter waveforms are brought to.
    padding: "repeat" (the clip again and again, as in the reference's data) or
      "zero" (silence after it). An empty waveform becomes silence.

  Returns:
    [..., max(num_samples, min_samples)].

  Raises:
    UserError: If `padding` is unknown.
  """
  if padding not in PADDINGS:
    raise UserError(f"padding {padding!r}: allowed are {PADDINGS}.")
  num_samples = tf.shape(waveform)[-1]
  rank = waveform.shape.rank
  if padding == "repeat":
    # -(-a // b) is a / b rounded up.
    times = tf.maximum(1, -(-min_samples // tf.maximum(num_samples, 1)))
    wanted = tf.maximum(num_samples, min_samples)
    repeat = [1] * (rank - 1) + [times]
    waveform = tf.tile(waveform, repeat)[..., :wanted]
  missing = tf.maximum(min_samples - tf.shape(waveform)[-1], 0)
  return tf.pad(waveform, [[0, 0]] * (rank - 1) + [[0, missing]])


@gin.register
class Pipeline:
  """Makes the batches of one split, for training and for evaluation."""

  def __init__(
    self,
    crop_seconds: float = 5.0,
    padding: str = "repeat",
    shuffle_clips: int = 2048,
    decoder: str = records.DECODERS[0],
    max_bad_records: int = 0,
    sampler: sampling.BalancedSampler | None = None,
    teacher: str = "",
    teacher_weight: float | None = None,
  ):
    """Sets what is the same for all splits.

    Args:
      crop_seconds: Length of a training example.
      padding: What clips shorter than that are filled with, see `pad`.
      shuffle_clips: Only for compressed shards, which have no index: clips held
        in memory to draw from (215 kB each as FLAC).
      decoder: Of FLAC: "miniaudio", "soundfile" (the same samples, slower) or
        "tfio" (in the graph, slowest).
      max_bad_records: Records that cannot be read or decoded are named, and
        another clip of the batch takes the place; a run goes on with so many in
        an epoch, counting a clip each time it is drawn. With 0 the first is an
        error, as always in evaluation.
      sampler: Chooses the training clips; None: all of them in turn, in a
        random order.
      teacher: Table of scores of the training clips, which tools/teach.py
        makes; empty: none. The targets of training are mixed from labels and
        scores, see `teacher.py`.
      teacher_weight: Share of the scores in the targets; None: 0.9, if there is
        a teacher.

    Raises:
      UserError: If a value is not among those allowed.
    """
    if crop_seconds < 0.1:
      raise UserError(
        f"Pipeline.crop_seconds is {crop_seconds}; at least 0.1 s is needed."
      )
    if padding not in PADDINGS:
      raise UserError(
        f"Pipeline.padding is {padding!r}; allowed are {PADDINGS}."
      )
    if shuffle_clips < 1:
      raise UserError(
        f"Pipeline.shuffle_clips is {shuffle_clips}; it must be 1 (file order) "
        "or more."
      )
    self.crop_samples = round(crop_seconds * records.SAMPLE_RATE_HZ)
    if max_bad_records < 0:
      raise UserError(
        f"Pipeline.max_bad_records is {max_bad_records}; it must be at least 0."
      )
    gin_config.check_choice("Pipeline.decoder", decoder, records.DECODERS)
    self.padding = padding
    self.max_bad_records = max_bad_records
    self._shuffle_clips = shuffle_clips
    self._decoder = decoder
    self.sampler = sampler
    self._teacher_folder = teacher.rstrip("/")
    self._teacher_weight = _checked_weight(teacher, teacher_weight)
    self._loaded_teacher = None

  @_as_written
  def training(
    self,
    split: prepared.Split,
    *,
    num_classes: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
    workers: Sequence[str] = (),
  ) -> tf.data.Dataset:
    """Returns the endless training stream, from `first_step` on.

    Args:
      split: The clips.
      num_classes: Width of the targets.
      batch_size: Global: over all replicas and hosts.
      seed: Of the order and of the crops.
      first_step: Steps already made with this batch size and seed.
      context: Of a host among several, which then takes its share.
      workers: Addresses from `data_service.start`: processes that make the
        batches in turn. The stream is the same.

    Returns:
      Batches (waveform int16 [b, crop_samples], targets float32
      [b, num_classes]); b is batch_size over the number of replicas. If
      `max_bad_records` is not 0 there is a third part, the number of records
      that were replaced, int32 scalar.

    Raises:
      UserError: If the workers cannot read this split, the sampler does not
        know its labels, or the teacher does not know its clips.
    """
    if workers and (split.index is None or self._decoder == "tfio"):
      raise UserError(
        "--data_service is for shards with an index, which compressed ones do "
        "not have, and for decoders other than tfio: leave the flag out."
      )
    order = self._order(split, seed)
    self._check_teacher_fits(workers, split)
    seed = tf.constant(seed, tf.int64)
    first_position = first_step * batch_size
    num_hosts, host, replicas = 1, 0, 1
    if context is not None:
      num_hosts, host = context.num_input_pipelines, context.input_pipeline_id
      replicas = context.num_replicas_in_sync
    batch_size //= replicas

    def place(position):
      return randomness.uniform([], tf.stack([seed, position]))

    def batches(positions):
      clips = _read(split, positions, order, place)
      return self._training_batches(clips, split, num_classes, batch_size)

    if split.index is None:
      clips = self._shuffled_records(split, seed, first_position)
      clips = clips.shard(num_hosts, host).map(lambda p, clip: (place(p), clip))
      return self._training_batches(clips, split, num_classes, batch_size)
    positions = tf.data.Dataset.range(
      first_position + host, _FOREVER, num_hosts
    )
    if not workers:
      return batches(positions)
    of_each = [
      batches(
        positions.batch(batch_size).shard(len(workers), i).unbatch()
      ).apply(
        tf.data.experimental.service.distribute(
          tf.data.experimental.service.ShardingPolicy.OFF,
          worker,
          compression=None,
        )
      )
      for i, worker in enumerate(workers)
    ]
    turns = tf.data.Dataset.range(len(workers)).repeat()
    return prepared.untuned(
      tf.data.Dataset.choose_from_datasets(of_each, turns).prefetch(
        tf.data.AUTOTUNE
      )
    )

  def remarks(self, split: prepared.Split) -> list[str]:
    """Lines on the sampler and the teacher, for the log of a run.

    Raises:
      UserError: As `training`.
    """
    lines = [] if self.sampler is None else self.sampler.remarks(split)
    teacher = self._teacher(split)
    return lines if teacher is None else [*lines, teacher.about]

  def fixed(self, split: prepared.Split) -> dict[str, str]:
    """Returns what must stay the same for a run to be continued, by name.

    Raises:
      UserError: As `training`.
    """
    teacher = self._teacher(split)
    about = "none"
    if teacher is not None:
      about = f"{teacher.digest[:12]}, weight {self._teacher_weight:g}"
    sampler = "none" if self.sampler is None else type(self.sampler).__name__
    return {
      "sampler": getattr(self.sampler, "about", sampler),
      "teacher": about,
    }

  def _teacher(self, split) -> teacher_lib.Teacher | None:
    """Returns the teacher's scores of a split, which are read once."""
    if not self._teacher_folder:
      return None
    digest = split.digest()
    if self._loaded_teacher is None or self._loaded_teacher[0] != digest:
      teacher = teacher_lib.Teacher(self._teacher_folder, split)
      self._loaded_teacher = digest, teacher
    return self._loaded_teacher[1]

  def _check_teacher_fits(self, workers, split) -> None:
    teacher = self._teacher(split)
    if workers and teacher and teacher.num_bytes > _MAX_SERVICE_BYTES:
      raise UserError(
        f"--data_service: the teacher's scores, {teacher.num_bytes / 1e9:.1f} "
        "GB, are too many for its processes: write a table of the best with "
        "tools/teach.py --top_k=20, or leave the flag out."
      )

  def _order(self, split, seed):
    """Returns a function from positions of the training stream to clips."""
    if self.sampler is not None:
      return self.sampler.order(split, seed=seed)
    seed = tf.constant(seed, tf.int64)
    return lambda positions: clip_at(positions, split.num_clips, seed)

  @_as_written
  def training_ids(
    self, split: prepared.Split, *, batch_size: int, seed: int, step: int
  ) -> list[str]:
    """Returns the ids of one step's clips in `training`; empty if unknown."""
    if split.index is None:
      return []
    first = step * batch_size
    clips = _read(
      split,
      tf.data.Dataset.range(first, first + batch_size),
      self._order(split, seed),
    )
    ids = prepared.untuned(
      clips.map(lambda _, clip: records.parse_example(clip["record"])["id"])
    )
    return [clip_id.decode() for clip_id in ids.as_numpy_iterator()]

  @_as_written
  def centre_crops(
    self,
    split: prepared.Split,
    *,
    num_classes: int,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
  ) -> tf.data.Dataset:
    """Yields every clip once, cut to its middle, to evaluate in training.

    Args:
      split: The clips.
      num_classes: Width of the targets.
      batch_size: Global: over all replicas and hosts; the last is filled up.
      context: Of a host among several, which then takes its share.

    Returns:
      Batches (index int64 [b], waveform int16 [b, crop_samples], targets
      float32 [b, num_classes]), b as in `training`. index counts the clips; it
      is -1 in the rows that only fill up the last batch.
    """

    def examples(position, clips):
      _, waveforms, targets, errors = self._decode(clips, split, num_classes)
      is_real = position < split.num_clips
      with tf.control_dependencies(records.refuse(errors)):
        return tf.where(is_real, position, -1), waveforms, targets

    num_positions = -(-split.num_clips // batch_size) * batch_size
    clips, replicas = _numbered(split, num_positions, context)
    return _in_groups(clips, examples, batch_size // replicas)

  def _training_batches(self, clips, split, num_classes, batch_size):
    """Batches of (place, clip)."""
    teacher = self._teacher(split)

    def examples(places, clips):
      _, waveforms, targets, errors = self._decode(
        clips, split, num_classes, places
      )
      if teacher is not None:
        targets = teacher.mixed(targets, clips["number"], self._teacher_weight)
      if not self.max_bad_records:
        with tf.control_dependencies(records.refuse(_with_remedy(errors))):
          return tf.identity(waveforms), targets
      _tell(errors)
      return waveforms, targets, errors != ""

    batches = _in_groups(clips, examples, batch_size)
    return batches.map(_replaced) if self.max_bad_records else batches

  def _shuffled_records(self, split, seed, first_position):
    """Reads, shuffles and skips in shards without an index.

    Returns:
      (position, clip as of `_read`) from `first_position` on.
    """
    num_clips = tf.constant(split.num_clips, tf.int64)
    first_epoch = first_position // split.num_clips
    start = first_position % split.num_clips

    def one_epoch(epoch):
      # Of this function's graph: `shuffle` would mix in the program's seed, and
      # fail if that is 0.
      tf.random.set_seed(None)
      # Hashed, so that neighbouring seeds and epochs share nothing.
      order_seed = tf.cast(
        randomness.bits([2], tf.stack([seed, epoch])), tf.int64
      )
      files = tf.data.Dataset.from_tensor_slices(split.files)
      clips = (
        files.shuffle(len(split.files), seed=order_seed[0])
        .interleave(
          lambda file: _whole_shard(split, file),
          cycle_length=_OPEN_SHARDS,
          num_parallel_calls=tf.data.AUTOTUNE,
          deterministic=True,
        )
        .shuffle(min(self._shuffle_clips, split.num_clips), seed=order_seed[1])
      )
      skipped = tf.where(epoch == first_epoch, tf.constant(start, tf.int64), 0)
      positions = tf.data.Dataset.range(epoch * num_clips + skipped, _FOREVER)
      return tf.data.Dataset.zip((positions, clips.skip(skipped)))

    return tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(one_epoch)

  def _decode(self, clips, split, num_classes, places=None):
    """Decodes crops, filled up."""
    ids, waveforms, lengths, targets, errors = _decode(
      clips,
      split,
      num_classes=num_classes,
      crop_samples=self.crop_samples,
      positions=places,
      decoder=self._decoder,
    )
    if self.padding == "repeat":
      waveforms = _repeat(waveforms, lengths)
    return ids, waveforms, targets, errors


@_as_written
def full_clips(
  split: prepared.Split,
  *,
  num_classes: int,
  batch_size: int,
  min_samples: int,
  padding: str,
) -> tf.data.Dataset:
  """Yields every clip once and whole; a batch holds clips of one length.

  No clip is padded because of its neighbours: its score is what the exported
  model gives for it alone.

  Args:
    split: The clips.
    num_classes: Width of the targets.
    batch_size: The most clips of one length in a batch.
    min_samples: Shorter clips are padded to this, as the exported model does.
    padding: See `pad`.

  Returns:
    Batches (id string [b], waveform int16 [b, num_samples], targets float32
    [b, num_classes]), 1 <= b <= batch_size, in no particular order.
  """

  def example(_, clip):
    one = {name: value[tf.newaxis] for name, value in clip.items()}
    ids, waveforms, _, targets, errors = _decode(
      one, split, num_classes=num_classes
    )
    with tf.control_dependencies(records.refuse(errors)):
      return ids[0], pad(waveforms[0], min_samples, padding), targets[0]

  clips, _ = _numbered(split, split.num_clips)
  return prepared.untuned(
    clips.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    .group_by_window(
      key_func=lambda _, waveform, __: tf.size(waveform, tf.int64),
      reduce_func=lambda _, clips: clips.batch(batch_size),
      window_size=batch_size,
    )
    .prefetch(tf.data.AUTOTUNE)
  )


@_as_written
def whole_clips(
  split: prepared.Split, *, num_classes: int, first: int = 0
) -> tf.data.Dataset:
  """Yields every clip from number `first` on, in file order, bad ones too.

  Args:
    split: The clips.
    num_classes: Width of the targets.
    first: Clips before it are not read, if the split has an index.

  Returns:
    Clips (id string, waveform int16 [num_samples], targets float32
    [num_classes], error string: what is wrong with it, else empty).
  """

  def example(_, clip):
    one = {name: value[tf.newaxis] for name, value in clip.items()}
    ids, waveforms, lengths, targets, errors = _decode(
      one, split, num_classes=num_classes
    )
    expected = clip["id"]
    clip_id = tf.where(expected == "", ids[0], expected)
    return clip_id, waveforms[0, : lengths[0]], targets[0], errors[0]

  if split.index is None:
    clips = _numbered(split, split.num_clips)[0].skip(first)
  else:
    numbers = tf.data.Dataset.range(first, split.num_clips)
    clips = _read(split, numbers, lambda number: number)
  return prepared.untuned(
    clips.map(example, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
      tf.data.AUTOTUNE
    )
  )


def clip_at(positions: tf.Tensor, num_clips: int, seed: tf.Tensor) -> tf.Tensor:
  """Returns the clips at positions of the training stream.

  Args:
    positions: int64 [n], at least 0.
    num_clips: In an epoch.
    seed: Integer.

  Returns:
    int64 [n] in 0 ... num_clips - 1.
  """
  epochs, which = tf.unique(positions // num_clips)

  def in_epoch(epoch):
    # Hashed, so that neighbouring seeds and epochs share nothing.
    pair = tf.stack([tf.cast(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(
      positions % num_clips, randomness.bits([2], pair), num_clips - 1
    )

  # One row for each epoch that these positions lie in: one or two as a rule.
  clips = tf.map_fn(in_epoch, epochs)
  rows = tf.cast(which, tf.int64)
  return tf.gather_nd(
    clips, tf.stack([rows, tf.range(tf.size(rows, tf.int64))], 1)
  )


def _checked_weight(teacher: str, weight: float | None) -> float:
  """Returns the share of a teacher's scores in the targets, checked."""
  if weight is None:
    return _TEACHER_WEIGHT
  if not 0 < weight <= 1:
    raise UserError(
      f"Pipeline.teacher_weight is {weight}; allowed is above 0, to 1."
    )
  if not teacher:
    raise UserError(
      f"Pipeline.teacher_weight is {weight}, but Pipeline.teacher names no "
      "table of scores: bind it to what tools/teach.py wrote, or leave the "
      "weight out (None)."
    )
  return weight


def _repeat(waveforms, lengths):
  """Pads the rows of a batch as `pad` does, each from its own length."""
  width = waveforms.shape[1]

  def repeated():
    # A clip that cannot be used has the length 0.
    periods = tf.maximum(lengths, 1)[:, tf.newaxis]
    places = tf.range(width, dtype=tf.int64) % periods
    return tf.gather(waveforms, places, batch_dims=1)

  return tf.cond(tf.reduce_all(lengths == width), lambda: waveforms, repeated)


def _read(split, positions, number, first=lambda position: position):
  """Reads the records of an indexed split.

  Args:
    split: The clips.
    positions: Dataset of int64 scalars.
    number: int64 [n] positions -> int64 [n], the records there.
    first: What is wanted of a position.

  Returns:
    Dataset of (first(position), clip), a clip being {"record": serialized,
    empty if it cannot be read; "file"; "offset": bytes before it; "id": empty
    if only the record knows it; "number"}.
  """
  locate = split.locator()

  def places(positions):
    numbers = number(positions)
    return positions, dict(locate(numbers), number=numbers)

  def read(position, place):
    record = prepared.read_record(place["file"], place["offset"])
    return first(position), dict(place, record=record)

  # What can be computed for many at once costs a fraction.
  return (
    positions.batch(_GROUP)
    .map(places)
    .unbatch()
    .map(read, num_parallel_calls=_PARALLEL_READS)
  )


def _whole_shard(split, file):
  """Yields clips, as `_read` does, of a shard without an index."""
  # Where they begin is not known; their numbers serve as well to name them.
  return (
    prepared.read_shards(file, split.compression)
    .enumerate()
    .map(
      lambda number, record: {
        "record": record,
        "file": file,
        "offset": number,
        "id": "",
      }
    )
  )


def _decode(
  clips,
  split,
  *,
  num_classes,
  crop_samples=None,
  positions=None,
  decoder=records.DECODERS[0],
):
  """Decodes clips that `_read` gives.

  Returns:
    string [b], ids; int16 [b, crop_samples] and int64 [b], see
    `records.decode_waveforms`; float32 [b, num_classes], targets; string [b],
    which clip of which shard cannot be used, and why; else empty.
  """
  batch = records.parse_examples(clips["record"])
  waveforms, lengths, audio_errors = records.decode_waveforms(
    batch,
    crop_samples=crop_samples,
    positions=positions,
    codec=split.codec,
    decoder=decoder,
  )
  targets, label_errors = records.labels_to_multi_hot(
    batch["labels"], num_classes
  )
  expected, ids = clips["id"], batch["id"]
  reasons = tf.where(audio_errors == "", label_errors, audio_errors)
  reasons = tf.where(
    (expected == "") | (expected == ids),
    reasons,
    tf.strings.join(["another clip is here, ", ids, ": of another dataset?"]),
  )
  reasons = tf.where(
    clips["record"] == "",
    "cannot be read: cut off, its checksum is wrong, or the shard is gone or "
    "does not answer",
    reasons,
  )
  unit = "record" if split.index is None else "the record at byte"
  names = tf.strings.join(
    [
      "clip ",
      tf.where(expected == "", ids, expected),
      f", {unit} ",
      tf.strings.as_string(clips["offset"]),
      " of ",
      clips["file"],
      ": ",
      reasons,
    ]
  )
  return ids, waveforms, lengths, targets, tf.where(reasons == "", "", names)


def _with_remedy(errors):
  """Appends to errors, string [b], how a run goes on."""
  remedy = (
    " (Pipeline.max_bad_records = 1, or more, takes another clip in its place.)"
  )
  return tf.where(errors == "", "", tf.strings.join([errors, remedy]))


def _tell(errors):
  """Prints those of `errors`, string [b], that are not empty."""

  def tell():
    lines = "bad record: " + tf.boolean_mask(errors, errors != "")
    text = tf.strings.reduce_join(lines, separator="\n")
    tf.print(text, output_stream=sys.stderr)
    return 0

  tf.cond(tf.reduce_any(errors != ""), tell, lambda: 0)


def _replaced(waveforms, targets, is_bad):
  """Replaces bad rows of a batch by good ones, and counts them."""
  good = tf.where(~is_bad)[:, 0]
  check = tf.debugging.Assert(
    tf.size(good) > 0,
    [
      "no record of a batch can be used, see above: prepare the data again "
      "(tools/inspect_records.py --validate names all that is bad)"
    ],
  )
  rows = tf.range(tf.size(is_bad, tf.int64))

  def replaced():
    with tf.control_dependencies([check]):
      source = tf.gather(good, rows % tf.size(good, tf.int64))
    source = tf.where(is_bad, source, rows)
    return tf.gather(waveforms, source), tf.gather(targets, source)

  num_bad = tf.math.count_nonzero(is_bad, dtype=tf.int32)
  return (
    *tf.cond(num_bad > 0, replaced, lambda: (waveforms, targets)),
    num_bad,
  )


def _in_groups(clips, decode, batch_size):
  """Batches of what `decode` makes, in parallel, of groups of the clips."""
  group = max(n for n in range(1, _GROUP + 1) if batch_size % n == 0)
  batches = clips.batch(group, drop_remainder=True).map(
    decode, num_parallel_calls=tf.data.AUTOTUNE
  )
  if group < batch_size:
    batches = batches.batch(batch_size // group, drop_remainder=True).map(
      lambda *parts: tuple(
        tf.reshape(part, [batch_size, *part.shape[2:]]) for part in parts
      )
    )
  batches = batches.map(
    lambda *parts: tuple(
      tf.ensure_shape(part, [batch_size, *part.shape[1:]]) for part in parts
    )
  )
  return prepared.untuned(batches.prefetch(tf.data.AUTOTUNE))


def _numbered(split, num_positions, context=None):
  """Yields positions and clips in file order, around again if need be.

  Returns:
    The positions of this host, of 0 ... num_positions - 1; replicas in all.
  """
  positions = tf.data.Dataset.range(num_positions)
  if split.index is None:
    clips = tf.data.Dataset.from_tensor_slices(split.files).flat_map(
      lambda file: _whole_shard(split, file)
    )
    positions = tf.data.Dataset.zip((positions, clips.repeat()))
  num_replicas = 1
  if context is not None:
    positions = positions.shard(
      context.num_input_pipelines, context.input_pipeline_id
    )
    num_replicas = context.num_replicas_in_sync
  if split.index is not None:
    positions = _read(split, positions, lambda p: p % split.num_clips)
  return positions, num_replicas
