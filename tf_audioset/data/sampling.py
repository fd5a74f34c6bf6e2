# SPDX-License-Identifier: Apache-2.0
"""Which clip is drawn at a position of the training stream.

A sampler is a function from positions to clips. It has no state and no buffer,
so that a run resumes at any position, hosts share the positions, and the
stream is the same however it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import gin
import numpy as np
import tensorflow as tf

from tf_audioset.data import prepared
from tf_audioset.runtime import gin_config, randomness
from tf_audioset.runtime.errors import UserError

# Draws after which each class has had its exact share: the rarest of AudioSet's
# classes still get some hundred, so that rounding to whole draws is below 1 %.
CYCLE = 1 << 18
# What the uses of a run's seed are told apart by.
_ARRANGEMENT, _TABLES, _ROUNDS = 1, 2, 3
# Of keyed turns in a permutation, with a fixed permutation between them.
_TURNS = 3
_MOST_NAMES = 5


@gin.register
class BalancedSampler:
  """Draws a class, then one of its clips, so that rare classes come often.

  Class k is drawn with a probability proportional to

    c_k * (c_k + offset) ** -exponent,

  c_k being its number of clips. That is the same as to draw clips by weights
  that are the sums of (c_k + offset) ** -exponent over the clips' classes.

  The draws are stratified. A cycle of 2**18 draws has a fixed number of each
  class, evenly spread, and the draws of a class are one random permutation of
  its clips after another.

  Reference: the weights of PSLA (Gong et al., 2021) are those of the offset
  0.01, of PaSST (Koutini et al., 2022) and EfficientAT (Schmid et al., 2023)
  those of 100; PANNs (Kong et al., 2020) draws the classes in turn.
  """

  def __init__(
    self, offset: float = 100.0, exponent: float = 1.0, share: float = 1.0
  ):
    """Sets the probabilities.

    Args:
      offset: In clips; rare classes are repeated less with a greater one.
      exponent: 1 draws all classes alike but for the offset, 0 draws them by
        their numbers of labels, and 2/3 lies between.
      share: Of the draws; the rest takes every clip in turn, in a random order.

    Raises:
      UserError: If a value is out of its range.
    """
    gin_config.check_not_negative("BalancedSampler.offset", offset)
    gin_config.check_not_negative("BalancedSampler.exponent", exponent)
    if not 0 <= share <= 1:
      raise UserError(
        f"BalancedSampler.share is {share}; allowed is 0 to 1: the share of "
        "the draws that is balanced."
      )
    self._offset = offset
    self._exponent = exponent
    self._share = share
    self._made = None

  @property
  def about(self) -> str:
    """Its settings; a run is not continued with others."""
    return (
      f"BalancedSampler, offset {self._offset:g}, exponent {self._exponent:g}, "
      f"share {self._share:g}"
    )

  def order(
    self, split: prepared.Split, *, seed: int
  ) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from positions to clips.

    Args:
      split: The clips, with their table.
      seed: Of the run.

    Returns:
      int64 [n] positions, at least 0 -> int64 [n] in 0 ... num_clips - 1.

    Raises:
      UserError: If the labels of the clips are not known, or there are none.
    """
    made = self._made
    # For AudioSet it takes seconds, and is asked for again and again.
    if made is None or made[0] is not split or made[1] != seed:
      made = self._made = split, seed, _clip_at(self.draws(split), seed)
    return made[2]

  def remarks(self, split: prepared.Split) -> list[str]:
    """Returns lines on what is drawn seldom or never, for the log of a run.

    Raises:
      UserError: As `order`.
    """
    draws = self.draws(split)
    shares = draws.of_clips()
    lines = [
      "balanced sampling: the clips of the rarest classes come once in "
      f"{1 / shares.max():,.0f} draws, those of the commonest once in "
      f"{1 / shares[shares > 0].min():,.0f}"
    ]
    names = split.classes.names
    counts = np.pad(draws.num_clips[:-1], (0, len(names)))[: len(names)]
    empty = [name for name, count in zip(names, counts) if not count]
    if empty and self._share:
      lines.append(
        f"balanced sampling: {len(empty)} of {len(names)} classes have no "
        f"training clip and are left out: {', '.join(empty[:_MOST_NAMES])}"
        + (", ..." if len(empty) > _MOST_NAMES else "")
      )
    num_never = int(np.count_nonzero(shares == 0))
    if num_never:
      lines.append(
        f"warning: balanced sampling never draws {num_never} training clips, "
        "which have no label: BalancedSampler.share below 1 does"
      )
    return lines

  def draws(self, split: prepared.Split) -> Draws:
    """Returns how often each class and each clip is drawn.

    Raises:
      UserError: As `order`.
    """
    table = split.clips()
    if table is None or split.index is None:
      raise UserError(
        f"{split.files[0]}: BalancedSampler needs the labels of all clips, "
        "which stand in SPLIT.clips.npz; this data has none: prepare it again "
        "with tools/make_tfrecords.py, or leave out Pipeline.sampler."
      )
    if self._share and not len(table.labels):
      raise UserError(
        f"{split.files[0]}: BalancedSampler draws classes, but no clip of this "
        "split has a label: leave out Pipeline.sampler."
      )
    counts = np.bincount(table.labels, minlength=1)
    weights = self._class_weights(counts)
    slots = _apportion(np.append(weights * self._share, 1 - self._share), CYCLE)
    everything = np.arange(len(table), dtype=np.int32)
    clips = np.repeat(everything, np.diff(table.label_ends, prepend=0))
    clips = clips[np.argsort(table.labels, kind="stable")]
    return Draws(
      slots,
      np.append(counts, len(table)),
      np.append(clips, everything),
    )

  def _class_weights(self, counts: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the classes; 0 where there is no clip."""
    weights = np.zeros(len(counts))
    used = counts > 0
    some = counts[used].astype(np.float64)
    weights[used] = some * (some + self._offset) ** -self._exponent
    return weights / max(weights.sum(), np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Draws:
  """How often each class is drawn in a cycle.

  The last class stands for all clips: it is drawn in the share of the draws
  that is not balanced.

  Attributes:
    slots: int64 [num_classes + 1], draws of each class in a cycle.
    num_clips: int64 [num_classes + 1], clips of each class.
    clips: int32 [sum of `num_clips`], those of the first class, of the second,
      and so on.
  """

  slots: np.ndarray
  num_clips: np.ndarray
  clips: np.ndarray

  def of_clips(self) -> np.ndarray:
    """Returns float64 [number of clips], the share of each in the draws."""
    of_class = self.slots / CYCLE / np.maximum(self.num_clips, 1)
    return np.bincount(self.clips, np.repeat(of_class, self.num_clips))

  def of_classes(self, num_classes: int) -> np.ndarray:
    """Returns float64 [num_classes], the share of draws that have each label.

    It is more than a class's own draws: clips have other labels, too.
    """
    counts = self.num_clips[:-1]
    labels = np.repeat(np.arange(len(counts)), counts)
    shares = self.of_clips()[self.clips[: len(labels)]]
    return np.bincount(labels, shares, minlength=num_classes)


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
  """Returns whole numbers in proportion to `shares`, by largest remainders.

  Args:
    shares: float64 [n], at least 0; their sum is 1.
    total: The sum of what is returned, at least n.

  Returns:
    int64 [n], at least 1 where the share is above 0.
  """
  exact = shares * total
  whole = np.maximum(np.floor(exact), shares > 0).astype(np.int64)
  missing = total - whole.sum()
  if missing > 0:
    largest = np.argsort(whole - exact, kind="stable")[:missing]
    whole[largest] += 1
  for _ in range(-missing):  # The least shares were raised to 1.
    whole[np.argmax(whole)] -= 1
  return whole


def _arrangement(slots: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Spreads the draws of each class evenly over a cycle.

  A class that has n draws has one in each n-th of the cycle, at a random place
  of it.

  Args:
    slots: int64 [n], draws of each class in a cycle.
    seed: Of the run.

  Returns:
    int32 [CYCLE], which class is drawn; int32 [CYCLE], how many draws of it
    were before this one in the cycle.
  """
  classes = np.repeat(np.arange(len(slots), dtype=np.int32), slots)
  begins = np.cumsum(slots) - slots
  numbers = np.arange(len(classes)) - begins[classes]
  jitter = randomness.uniform([len(classes)], [seed, _ARRANGEMENT]).numpy()
  times = (numbers + jitter.astype(np.float64)) / slots[classes]
  order = np.argsort(times, kind="stable")
  return classes[order], numbers[order].astype(np.int32)


def _tables(num_clips: np.ndarray, seed: int) -> np.ndarray:
  """Returns a random permutation of the clips of each class.

  Args:
    num_clips: int64 [n], clips of each class.
    seed: Of the run.

  Returns:
    int32 [sum of num_clips], of the first class, of the second, and so on; each
    is a permutation of 0 ... its number of clips - 1.
  """
  classes = np.repeat(np.arange(len(num_clips)), num_clips)
  begins = np.cumsum(num_clips) - num_clips
  keys = randomness.uniform([len(classes)], [seed, _TABLES]).numpy()
  order = np.argsort(classes + keys.astype(np.float64), kind="stable")
  return (order - begins[classes]).astype(np.int32)


def _clip_at(draws: Draws, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns the function of `BalancedSampler.order`.

  A class's clips are permuted by turning, and perhaps reversing, their circle
  three times, with a fixed random permutation between the turns. TensorFlow's
  `RandomIndexShuffle` would take up to 65,536 rounds for a class of few clips:
  240 us a draw with 256 clips.
  """
  classes, numbers = map(tf.constant, _arrangement(draws.slots, seed))
  slots, counts = map(tf.constant, (draws.slots, draws.num_clips))
  begins = tf.constant(np.cumsum(draws.num_clips) - draws.num_clips)
  tables = tf.constant(_tables(draws.num_clips, seed))
  clips = tf.constant(draws.clips)
  key = _hashed(tf.constant(seed, tf.int64), _ROUNDS)

  def clip_at(positions):
    slot = positions % CYCLE
    k = tf.gather(classes, slot)
    begin, count = tf.gather(begins, k), tf.gather(counts, k)
    # How many draws of the class were before this one.
    number = positions // CYCLE * tf.gather(slots, k)
    number += tf.cast(tf.gather(numbers, slot), tf.int64)
    of_round = _hashed(_hashed(key, tf.cast(k, tf.int64)), number // count)
    place = number % count
    for turn in range(_TURNS):
      if turn:
        place = tf.cast(tf.gather(tables, begin + place), tf.int64)
      bits = _hashed(of_round, turn)
      shift = tf.bitwise.bitwise_and(bits, (1 << 62) - 1) % count
      place = tf.where(bits < 0, shift - place, shift + place) % count
    return tf.cast(tf.gather(clips, begin + place), tf.int64)

  return clip_at


def _hashed(key: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
  """Returns int64, a hash of a key and a number: SplitMix64.

  Reference: Steele et al., "Fast Splittable Pseudorandom Number Generators",
  2014.
  """

  def mixed(bits, shift, factor):
    bits = tf.bitwise.bitwise_xor(
      bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
    )
    return bits * tf.constant(factor, tf.uint64)

  bits = tf.bitcast(key + tf.cast(number, tf.int64), tf.uint64)
  bits += tf.constant(0x9E3779B97F4A7C15, tf.uint64)
  bits = mixed(bits, 30, 0xBF58476D1CE4E5B9)
  bits = mixed(bits, 27, 0x94D049BB133111EB)
  return tf.bitcast(mixed(bits, 31, 1), tf.int64)
