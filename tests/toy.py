# SPDX-License-Identifier: Apache-2.0
"""Small data and models for the tests, made in a moment."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tf_audioset import features
from tf_audioset.data import audio, labels, prepared, records
from tf_audioset.models import tagger
from tf_audioset.serving import export
from tf_audioset.training import losses

NAMES = ("Low tone", "High tone", "Noise")


@functools.cache
def two_replicas() -> tf.distribute.MirroredStrategy:
  """The only one of a process: collectives of two are taken for each other."""
  return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


@contextlib.contextmanager
def precision(policy: str):
  """Keras's policy for the layers that are made within."""
  tf.keras.mixed_precision.set_global_policy(policy)
  try:
    yield
  finally:
    tf.keras.mixed_precision.set_global_policy("float32")


def clip(index: int, num_samples: int) -> tuple[np.ndarray, list[int]]:
  """int16 samples and labels: each class is a sound that can be heard."""
  rng = np.random.default_rng(index)
  time = np.arange(num_samples) / 16000
  present = [c for c in range(3) if rng.uniform() < 0.5] or [index % 3]
  waveform = 1e-3 * rng.normal(size=num_samples)
  for c in present:
    if c == 2:
      waveform += 0.1 * rng.normal(size=num_samples)
    else:
      hz = (300, 2000)[c] * rng.uniform(0.9, 1.1)
      waveform += 0.2 * np.sin(2 * np.pi * hz * time)
  return (waveform.clip(-1, 1) * 32767).astype(np.int16), present


def write_dataset(
  folder,
  *,
  num_train=24,
  num_eval=10,
  num_samples=16000,
  num_shards=3,
  broken="",
  codec="flac",
) -> None:
  """Writes records as tools/make_tfrecords.py would.

  `broken` is the id of a training clip whose audio is no FLAC file;
  num_samples may be a list, of each training clip.
  """
  splits = {}
  for split, num_clips in (("train", num_train), ("eval", num_eval)):
    shards = []
    index = prepared.IndexBuilder()
    table = prepared.ClipTableBuilder()
    total_samples = 0
    for shard in range(num_shards):
      name = f"{split}-{shard:05}-of-{num_shards:05}.tfrecord"
      members = range(shard, num_clips, num_shards)
      index.next_shard()
      with tf.io.TFRecordWriter(str(folder / name)) as writer:
        for i in members:
          length = num_samples
          if not isinstance(length, int):
            length = num_samples[i % len(num_samples)]
          samples, present = clip(i + 1000 * (split == "eval"), length)
          total_samples += length
          clip_id = f"{split}{i}"
          record = records.serialize_example(clip_id, samples, present, codec)
          if clip_id == broken:
            record = records.serialize_encoded(clip_id, b"?", 1, [0], "flac")
          writer.write(record)
          index.add(len(record), clip_id)
          table.add(clip_id, length, present, audio.samples_hash(samples))
      shards.append(
        {
          "file": name,
          "num_clips": len(members),
          "num_bytes": (folder / name).stat().st_size,
        }
      )
    index.build().write(str(folder / f"{split}.index.npz"))
    table.build().write(str(folder / f"{split}.clips.npz"))
    splits[split] = prepared.SplitInfo(
      num_clips=num_clips,
      total_seconds=total_samples / 16000,
      shards=shards,
      ids_sha256="",
      index=f"{split}.index.npz",
      clips=f"{split}.clips.npz",
    )
  prepared.write_dataset_info(
    str(folder),
    prepared.DatasetInfo(
      sample_rate_hz=16000,
      clip_seconds=10.0,
      codec=codec,
      classes=labels.ClassList.from_names(NAMES),
      splits=splits,
    ),
  )


def rename_class(folder, name: str, new: str) -> None:
  """Makes a dataset, by its description, one of other classes."""
  info = prepared.read_dataset_info(str(folder))
  names = [new if x == name else x for x in info.classes.names]
  info = dataclasses.replace(info, classes=labels.ClassList.from_names(names))
  prepared.write_dataset_info(str(folder), info)


def nodes(graph) -> list:
  """Those of a GraphDef and of its functions."""
  functions = (function.node_def for function in graph.library.function)
  return [*graph.node, *(node for nodes in functions for node in nodes)]


class MeanBackbone(tf.keras.Model):
  """Linear on the features' mean over time: enough for `clip`."""

  embedding_size = 8

  def __init__(self):
    super().__init__()
    self._dense = tf.keras.layers.Dense(self.embedding_size)

  def call(self, features, training=False, seed=None):
    return self._dense(tf.reduce_mean(features, axis=[1, 3]) / 10)


def export_tagger(folder, seed=1) -> None:
  """Exports an untrained tagger of `NAMES`, for clips from half a second on."""
  tf.keras.utils.set_random_seed(seed)
  model = tagger.Tagger(
    len(NAMES),
    frontend=features.LogMel(),
    backbone=MeanBackbone(),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 8000]))
  export.export(
    model,
    str(folder),
    classes=labels.ClassList.from_names(NAMES),
    min_samples=8000,
    padding="repeat",
    thresholds={"values": [2.0, 0.0, None]},
  )
