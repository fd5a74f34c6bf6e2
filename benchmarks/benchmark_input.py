# SPDX-License-Identifier: Apache-2.0
r"""Throughput of training batches, compared with the reference's pipeline.

  python benchmarks/benchmark_input.py

Clips of 10 s become int16 crops of 5 s with 527 targets, in batches of 64:
from FLAC in one process and in two (--data_service=2), from PCM16, and by the
reference's way (tfio's decode_flac, on ZLIB TFRecords of the same clips). The
ways take turns, on one core and on two, and the best turn of each counts. Other
load on the machine distorts wall times; the column of CPU seconds (of the
measuring process alone) is less affected.

The clips are noise whose FLAC is as large as AudioSet's, about 215 kB, or the
first of --data_dir.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Take the clips from this dataset.")
flags.DEFINE_string("split", "train", "Which part of --data_dir.")
flags.DEFINE_integer("num_clips", 256, "Clips in the dataset.", lower_bound=64)
flags.DEFINE_integer("rounds", 5, "Turns of each way.", lower_bound=1)
flags.DEFINE_float(
  "seconds",
  1.5,
  "Timed per turn, after a warm-up of the same length.",
  lower_bound=0.1,
)
flags.DEFINE_string("serve", None, "Internal: a prepared folder.")
flags.DEFINE_list("cores", None, "Internal: run on these cores.")

_BATCH = 64
_CROP_SECONDS = 5.0
_NUM_CLASSES = 527
_WAYS = ("reference", "flac, soundfile", "flac", "flac, 2 processes", "pcm16")
_MEMORY_CLIPS = (2000, 12000)


def main() -> None:
  if FLAGS.serve:
    os.sched_setaffinity(0, map(int, FLAGS.cores))
    _serve(pathlib.Path(FLAGS.serve))
    return
  cores = sorted(os.sched_getaffinity(0))[:2]
  with tempfile.TemporaryDirectory() as folder:
    _write(pathlib.Path(folder))
    # One on the first core, one on both: they are asked in turn, so that other
    # load meets them alike.
    servers = [_Server(folder, cores[:n]) for n in range(1, len(cores) + 1)]
    rates = {way: [] for way in _WAYS}
    num_turns = FLAGS.rounds * len(_WAYS)
    with cli.progress_bar(num_turns, "measuring", " turns") as bar:
      for _ in range(FLAGS.rounds):
        for way in _WAYS:
          rates[way].append([server.ask(way) for server in servers])
          bar.update()
    _print(rates, servers[0].ask("decoding"))
    for way in ("flac", "pcm16"):
      before, after = servers[-1].ask(f"memory of {way}")
      print(
        f"memory, {way}: {before:.0f} MB after {_MEMORY_CLIPS[0]} clips, "
        f"{after:.0f} MB after {_MEMORY_CLIPS[1]}"
      )
    for server in servers:
      server.stop()


class _Server:
  """A process of its own that measures on some cores what it is asked to."""

  def __init__(self, folder, cores):
    self._process = subprocess.Popen(
      [
        sys.executable,
        __file__,
        f"--serve={folder}",
        f"--cores={','.join(map(str, cores))}",
        f"--seconds={FLAGS.seconds}",
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def ask(self, what):
    print(what, file=self._process.stdin, flush=True)
    answer = self._process.stdout.readline()
    if not answer:
      raise UserError("the process that measures has failed, see above.")
    return json.loads(answer)

  def stop(self):
    self._process.stdin.close()
    self._process.wait()


def _print(rates, decoding):
  """Rates: way -> [[(clips/s, clips/CPU s) on one core, on two] a round]."""

  def best(way, which, unit):
    return max(turn[which][unit] for turn in rates[way])

  print(f"{'':17} {'clips/s':>8} {'ratio':>7} {'clips/CPU s':>12} {'ratio':>7}")
  for way in rates:
    rate, cpu_rate = best(way, 0, 0), best(way, 0, 1)
    print(
      f"{way:17} {rate:8.0f} {rate / best('reference', 0, 0):7.1f} "
      f"{cpu_rate:12.0f} {cpu_rate / best('reference', 0, 1):7.1f}"
    )
  for decoder, rate in decoding["rates"].items():
    print(f"decoding FLAC alone, {decoder}: {rate:.0f} clips/s")
  held = decoding["lock_us"]
  print(
    f"FLAC holds the interpreter's lock for {held:.0f} us a clip: at most "
    f"{1e6 / held:.0f} clips/s in one process"
  )
  for way, turns in rates.items():
    if len(turns[0]) == 2:
      each = sorted(two[0] / one[0] for one, two in turns)
      print(
        f"1 -> 2 cores, {way}: best turns x {best(way, 1, 0):.0f} / "
        f"{best(way, 0, 0):.0f} = {best(way, 1, 0) / best(way, 0, 0):.2f}; "
        f"turn by turn {each[0]:.2f} to {each[-1]:.2f}, median "
        f"{each[len(each) // 2]:.2f}"
      )


def _clips():
  """Pairs of int16 samples and labels."""
  import numpy as np
  from scipy import signal

  if not FLAGS.data_dir:
    for i in range(FLAGS.num_clips):
      rng = np.random.default_rng(i % 64)
      noise = signal.lfilter([1], [1, -0.7], rng.normal(0, 400, 160000))
      yield noise.astype(np.int16), [i % _NUM_CLASSES, 7 * i % _NUM_CLASSES]
    return
  from tf_audioset.data import pipeline as pipeline_lib
  from tf_audioset.data import prepared

  clips = pipeline_lib.full_clips(
    prepared.find_split(FLAGS.data_dir, FLAGS.split),
    num_classes=_NUM_CLASSES,
    batch_size=1,
    min_samples=1,
    padding="zero",
  )
  for _, waveforms, targets in clips.take(FLAGS.num_clips).as_numpy_iterator():
    yield waveforms[0], np.flatnonzero(targets[0]).tolist()


def _write(folder: pathlib.Path) -> None:
  """The clips as FLAC, as PCM16, and as audax's records."""
  import tensorflow as tf

  from tf_audioset.data import audio, labels, prepared, records

  writers, indices = {}, {}
  for codec in audio.CODECS:
    (folder / codec).mkdir()
    path = folder / codec / "train-00000-of-00001.tfrecord"
    writers[codec] = tf.io.TFRecordWriter(str(path))
    indices[codec] = prepared.IndexBuilder()
    indices[codec].next_shard()
  writers["zlib"] = tf.io.TFRecordWriter(str(folder / "zlib"), "ZLIB")
  num_clips = num_bytes = 0
  for samples, present in _clips():
    for codec in audio.CODECS:
      clip_id = f"clip{num_clips}"
      record = records.serialize_example(clip_id, samples, present, codec)
      writers[codec].write(record)
      indices[codec].add(len(record), clip_id)
    flac = audio.encode(samples, records.SAMPLE_RATE_HZ, "flac")
    feature = {
      "audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[flac])),
      "label": tf.train.Feature(int64_list=tf.train.Int64List(value=present)),
    }
    features = tf.train.Features(feature=feature)
    example = tf.train.Example(features=features)
    writers["zlib"].write(example.SerializeToString())
    num_clips += 1
    num_bytes += len(flac)
  for writer in writers.values():
    writer.close()
  for codec, index in indices.items():
    index.build().write(str(folder / codec / "train.index.npz"))
    shard = "train-00000-of-00001.tfrecord"
    shard = {
      "file": shard,
      "num_clips": num_clips,
      "num_bytes": (folder / codec / shard).stat().st_size,
    }
    split = prepared.SplitInfo(num_clips, 0.0, [shard], "", "train.index.npz")
    names = [f"class {i}" for i in range(_NUM_CLASSES)]
    classes = labels.ClassList.from_names(names)
    prepared.write_dataset_info(
      str(folder / codec),
      prepared.DatasetInfo(
        records.SAMPLE_RATE_HZ, 10.0, codec, classes, {"train": split}
      ),
    )
  print(f"{num_clips} clips, {num_bytes / num_clips / 1000:.0f} kB as FLAC")


def _reference(path: str):
  """The reference's way: everything in the graph, whole clips decoded."""
  import tensorflow as tf
  import tensorflow_io as tfio

  crop_samples = round(_CROP_SECONDS * 16000)

  def example(serialized):
    parsed = tf.io.parse_single_example(
      serialized,
      {
        "audio": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.VarLenFeature(tf.int64),
      },
    )
    samples = tfio.audio.decode_flac(parsed["audio"], dtype=tf.int16)[:, 0]
    crop = tf.image.random_crop(samples, [crop_samples])
    hot = tf.one_hot(parsed["label"].values, _NUM_CLASSES)
    return crop, tf.reduce_max(hot, axis=0)

  return (
    tf.data.TFRecordDataset(path, "ZLIB", num_parallel_reads=tf.data.AUTOTUNE)
    .repeat()
    .map(example, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(_BATCH, drop_remainder=True)
    .prefetch(tf.data.AUTOTUNE)
  )


def _serve(folder: pathlib.Path) -> None:
  """Answers each line of stdin, a way or "decoding", with rates as JSON."""
  from tf_audioset.data import pipeline as pipeline_lib
  from tf_audioset.data import prepared
  from tf_audioset.data import service as data_service

  def ours(codec, workers=(), **options):
    split = prepared.find_split(str(folder / codec), "train")
    return pipeline_lib.Pipeline(
      crop_seconds=_CROP_SECONDS, **options
    ).training(
      split,
      num_classes=_NUM_CLASSES,
      batch_size=_BATCH,
      seed=0,
      workers=workers,
    )

  ways = dict(
    zip(
      _WAYS,
      (
        _reference(str(folder / "zlib")),
        ours("flac", decoder="soundfile"),
        ours("flac"),
        ours("flac", workers=data_service.start(2)),
        ours("pcm16"),
      ),
    )
  )
  for line in sys.stdin:
    what = line.strip()
    if what == "decoding":
      answer = _decoding(folder)
    elif what.startswith("memory of "):
      answer = _memory_mb(ways[what.removeprefix("memory of ")])
    else:
      # A new one each turn: the buffers of others would be filled meanwhile.
      iterator = iter(ways[what])
      _rates(iterator.get_next)
      answer = _rates(iterator.get_next)
      del iterator
    print(json.dumps(answer), flush=True)


def _memory_mb(pipeline) -> list[float]:
  """Of this process, after some clips and after many more."""
  sizes = []
  batches = iter(pipeline)
  for i in range(_MEMORY_CLIPS[-1] // _BATCH + 1):
    batches.get_next()
    if (i + 1) * _BATCH >= _MEMORY_CLIPS[len(sizes)]:
      status = pathlib.Path("/proc/self/status").read_text()
      sizes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
  return sizes


def _rates(make_a_batch):
  """Clips a second and clips a CPU second, of one turn."""
  start, cpu_start, num_batches = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() - start < FLAGS.seconds:
    make_a_batch()
    num_batches += 1
  num_clips = num_batches * _BATCH
  return (
    num_clips / (time.perf_counter() - start),
    num_clips / (time.process_time() - cpu_start),
  )


def _decoding(folder: pathlib.Path) -> dict:
  """Crops of FLAC files in memory, and how long Python is needed for it."""
  import numpy as np
  import tensorflow as tf

  from tf_audioset.data import flac, records

  serialized = tf.data.TFRecordDataset(
    str(folder / "flac" / "train-00000-of-00001.tfrecord")
  )
  batch = records.parse_examples(next(iter(serialized.batch(_BATCH))))
  parts = [batch[name].numpy() for name in ("audio", "num_samples")]
  positions = np.arange(_BATCH, dtype=np.float32) / _BATCH

  def decode(decoder):
    crop_samples = round(_CROP_SECONDS * records.SAMPLE_RATE_HZ)
    records._decode_flac(*parts, positions, crop_samples, decoder.encode())

  rates = {
    decoder: max(_rates(lambda d=decoder: decode(d))[0] for _ in range(4))
    for decoder in flac.DECODERS
  }

  # All of Python's time, less that of dr_flac's functions, which release the
  # lock; and the strings' way from TensorFlow to Python, which needs it, too.
  unlocked = 0.0

  def timed(function):
    def call(*arguments):
      nonlocal unlocked
      start = time.perf_counter()
      result = function(*arguments)
      unlocked += time.perf_counter() - start
      return result

    return call

  flac._open, flac._read, flac._close = map(
    timed, (flac._open, flac._read, flac._close)
  )
  pass_strings = tf.function(
    lambda: tf.numpy_function(lambda _: 0, [batch["audio"]], tf.int64)
  )
  pass_strings()
  held = []
  for _ in range(20):
    unlocked = 0.0
    start = time.perf_counter()
    pass_strings()
    decode("miniaudio")
    held.append(time.perf_counter() - start - unlocked)
  return {"rates": rates, "lock_us": 1e6 * min(held) / _BATCH}


if __name__ == "__main__":
  cli.run(main, prog="benchmark_input")
