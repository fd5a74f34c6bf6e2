# SPDX-License-Identifier: Apache-2.0
"""Labelled audio files to TFRecord shards: one split in one call.

Takes one of

  AudioSet's form:   --segments_csv --class_labels_csv --audio_dir
  a manifest:        --manifest_csv --labels_map [--labels_delim ,]
  a folder a class:  --class_dirs

and writes SPLIT-?????-of-?????.tfrecord, SPLIT.index.npz, dataset_info.json
and audit.json to --output_dir. Call it again with another --split to add that
one.

wav, flac, ogg and mp3 files of any rate and channel count become mono clips at
16 kHz of at most --clip_seconds. Files are taken as already cut: the start in
a segments CSV only helps to find YTID_START.flac. A clip that cannot be read is
named in audit.json, and never written.
"""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

# No module that imports TensorFlow, here: the workers import this file.
from tf_audioset import audio, cli, labels

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Where the shards go.")
flags.DEFINE_string("split", "train", "Name of the split.")
flags.DEFINE_string(
  "segments_csv", None, 'Lines of `YTID, start, end, "mid,mid"`.'
)
flags.DEFINE_string(
  "class_labels_csv", None, "AudioSet's class_labels_indices.csv."
)
flags.DEFINE_string("audio_dir", None, "Where the segments' files are.")
flags.DEFINE_string(
  "manifest_csv", None, "Columns files,labels; paths relative to the CSV."
)
flags.DEFINE_string("labels_map", None, "JSON: label -> index from 0.")
flags.DEFINE_string("labels_delim", ",", "Between labels in the manifest.")
flags.DEFINE_string("class_dirs", None, "A folder with one folder a class.")
flags.DEFINE_float(
  "clip_seconds", 10.0, "Longer clips are cut to this.", lower_bound=0.1
)
flags.DEFINE_enum("codec", "flac", audio.CODECS, "How samples are stored.")
flags.DEFINE_integer("clips_per_shard", 1024, "At most.", lower_bound=1)
flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Processes that decode.", lower_bound=1
)
flags.DEFINE_float(
  "max_bad_fraction",
  0.01,
  "Share of clips that may be missing or unreadable; above it the exit code "
  "is 1, with everything readable written all the same.",
)

_SAMPLE_RATE_HZ = 16000
# A task's clips: enough to hide its overhead, few enough to see progress.
_CLIPS_A_TASK = 8


@dataclasses.dataclass(frozen=True)
class Clip:
  """One row of the input."""

  id: str
  path: str | None  # None: no file was found.
  labels: tuple[int, ...]
  # Why it cannot be used, if that is known before reading it.
  problem: str = ""


def main() -> int:
  classes, clips = _read_input()
  # Imported late: mistakes in flags and lists are answered at once.
  from tf_audioset import records

  output_dir = pathlib.Path(FLAGS.output_dir)
  output_dir.mkdir(parents=True, exist_ok=True)
  known = records.read_dataset_info(str(output_dir))
  wanted = (FLAGS.clip_seconds, FLAGS.codec, classes)
  if known and (known.clip_seconds, known.codec, known.classes) != wanted:
    raise ValueError(
      f"{output_dir} holds records of another class list, clip length or "
      "codec; choose another --output_dir."
    )
  # By a hash of the id: neighbours in the list end up in different shards.
  clips.sort(key=lambda clip: hashlib.sha1(clip.id.encode()).digest())
  good = [clip for clip in clips if not clip.problem]
  bad = [(clip, clip.problem, "") for clip in clips if clip.problem]
  for stale in output_dir.glob(f".{FLAGS.split}-*.tmp"):
    stale.unlink()  # Of a run that was killed.

  writer = _ShardWriter(output_dir, FLAGS.split, len(good))
  with cli.progress_bar(len(good), FLAGS.split, " clips") as bar:
    for clip, (encoded, num_samples, error) in _decode_all(good):
      writer.next_clip()
      if error:
        bad.append((clip, "undecodable", error))
      else:
        writer.write(clip, encoded, num_samples)
      bar.update()
  if not writer.ids:
    _write_audit(output_dir, clips, writer.ids, bad)
    raise ValueError(
      f"none of the {len(clips)} clips can be read; see "
      f"{output_dir / 'audit.json'}."
    )
  splits = dict(known.splits) if known else {}
  info = records.DatasetInfo(
    sample_rate_hz=_SAMPLE_RATE_HZ,
    clip_seconds=FLAGS.clip_seconds,
    codec=FLAGS.codec,
    classes=classes,
    splits=splits,
  )
  if splits.pop(FLAGS.split, None):
    # While its shards are exchanged, the split is not there at all.
    records.write_dataset_info(str(output_dir), info)
  splits[FLAGS.split] = records.SplitInfo(
    num_clips=len(writer.ids),
    total_seconds=round(writer.num_samples / _SAMPLE_RATE_HZ, 3),
    shards=writer.publish(),
    ids_sha256=hashlib.sha256(
      "\n".join(sorted(writer.ids)).encode()
    ).hexdigest(),
    index=writer.write_index(),
  )
  records.write_dataset_info(str(output_dir), info)
  _write_audit(output_dir, clips, writer.ids, bad)
  return _report(output_dir, clips, writer, bad)


class _ShardWriter:
  """Writes shards under hidden names until `publish`."""

  def __init__(self, folder: pathlib.Path, split: str, num_clips: int):
    from tf_audioset import records

    self._records = records
    self._folder = folder
    self._split = split
    self._num_shards = max(1, -(-num_clips // FLAGS.clips_per_shard))
    # Rounded up: the shards' sizes differ by one clip at most.
    self._shard_size = -(-num_clips // self._num_shards)
    self._num_seen = 0
    self._shards = []
    self._file = None
    self._index = records.IndexBuilder()
    self.ids = []
    self.num_samples = 0

  def next_clip(self) -> None:
    """Counts a clip, readable or not; its shard's first opens the shard."""
    if self._num_seen % self._shard_size == 0:
      import tensorflow as tf

      if self._file:
        self._file.close()
      name = (
        f"{self._split}-{len(self._shards):05}-of-{self._num_shards:05}"
        ".tfrecord"
      )
      self._shards.append({"file": name, "num_clips": 0})
      self._file = tf.io.TFRecordWriter(str(self._folder / f".{name}.tmp"))
      self._index.next_shard()
    self._num_seen += 1

  def write(self, clip: Clip, encoded: bytes, num_samples: int) -> None:
    record = self._records.serialize_encoded(
      clip.id, encoded, num_samples, clip.labels, FLAGS.codec
    )
    self._file.write(record)
    self._index.add(len(record), clip.id)
    self._shards[-1]["num_clips"] += 1
    self.ids.append(clip.id)
    self.num_samples += num_samples

  def publish(self) -> list[dict[str, int | str]]:
    """Gives the shards their names and removes those of an earlier run."""
    self._file.close()
    for old in self._folder.glob(f"{self._split}-*-of-*.tfrecord"):
      old.unlink()
    for shard in self._shards:
      path = self._folder / shard["file"]
      (self._folder / f".{path.name}.tmp").rename(path)
      shard["num_bytes"] = path.stat().st_size
    return self._shards

  def write_index(self) -> str:
    """Writes the index of the shards; returns its file's name."""
    name = f"{self._split}.index.npz"
    self._index.build().write(str(self._folder / name))
    return name


def _decode_all(clips):
  """(clip, (bytes, num_samples, error)) of each clip, in order."""
  tasks = [
    clips[i : i + _CLIPS_A_TASK] for i in range(0, len(clips), _CLIPS_A_TASK)
  ]
  # Spawned, not forked: TensorFlow's threads do not survive a fork.
  with concurrent.futures.ProcessPoolExecutor(
    FLAGS.num_workers, multiprocessing.get_context("spawn")
  ) as pool:
    waiting = collections.deque()
    # Bounded, so that memory is.
    ahead = 4 * FLAGS.num_workers
    for i in range(len(tasks) + ahead):
      if i < len(tasks):
        paths = [clip.path for clip in tasks[i]]
        waiting.append(
          pool.submit(_decode, paths, FLAGS.clip_seconds, FLAGS.codec)
        )
      if i >= ahead and waiting:
        yield from zip(tasks[i - ahead], waiting.popleft().result())


def _decode(paths, clip_seconds, codec):
  """Runs in a worker: (bytes, num_samples, error) of each file."""
  results = []
  for path in paths:
    try:
      samples = audio.to_int16(
        audio.read_audio(
          path, sample_rate_hz=_SAMPLE_RATE_HZ, max_seconds=clip_seconds
        )
      )
      encoded = audio.encode(samples, _SAMPLE_RATE_HZ, codec)
      results.append((encoded, len(samples), ""))
    except audio.AudioError as e:
      results.append((b"", 0, str(e)))
  return results


def _write_audit(folder, clips, ids, bad) -> None:
  """Adds the split to audit.json: every row is written or named there."""
  path = folder / "audit.json"
  content = json.loads(path.read_text()) if path.exists() else {}
  by_reason = {}
  for clip, reason, detail in bad:
    by_reason.setdefault(reason, []).append(
      {"id": clip.id, "file": clip.path, "detail": detail}
    )
  content[FLAGS.split] = {
    "expected": len(clips),
    "written": len(ids),
    "bad_counts": {reason: len(rows) for reason, rows in by_reason.items()},
    "bad": by_reason,
  }
  temporary = folder / ".audit.json.tmp"
  temporary.write_text(json.dumps(content, indent=1) + "\n")
  temporary.rename(path)


def _report(output_dir, clips, writer, bad) -> int:
  print(
    f"{FLAGS.split}: {len(writer.ids)} of {len(clips)} clips written to "
    f"{output_dir}, {writer.num_samples / _SAMPLE_RATE_HZ / 60:.1f} minutes"
  )
  for reason, count in collections.Counter(row[1] for row in bad).items():
    print(f"  {reason}: {count}, named in {output_dir / 'audit.json'}")
  if len(bad) > FLAGS.max_bad_fraction * len(clips):
    print(
      f"make_tfrecords: error: {len(bad)} of {len(clips)} clips are not "
      f"usable, more than --max_bad_fraction={FLAGS.max_bad_fraction}",
      file=sys.stderr,
    )
    return 1
  return 0


def _read_input() -> tuple[labels.ClassList, list[Clip]]:
  """The class list and the clips, from whichever form was given."""
  forms = {
    "segments_csv": _from_segments,
    "manifest_csv": _from_manifest,
    "class_dirs": _from_class_dirs,
  }
  given = [name for name in forms if FLAGS[name].value]
  if len(given) != 1:
    raise ValueError(
      "give exactly one of --segments_csv, --manifest_csv and --class_dirs."
    )
  if not FLAGS.split.replace("_", "").isalnum():
    raise ValueError(f"--split={FLAGS.split}: letters, digits and _ only.")
  classes, clips = forms[given[0]]()
  if not clips:
    raise ValueError(f"{FLAGS[given[0]].value}: names no clip.")
  seen = set()
  for i, clip in enumerate(clips):
    if clip.id in seen:
      clips[i] = dataclasses.replace(clip, problem="duplicate id")
    seen.add(clip.id)
  return classes, clips


def _needed(flag: str, form: str) -> str:
  value = FLAGS[flag].value
  if not value:
    raise ValueError(f"--{form} needs --{flag}.")
  if not os.path.exists(value):
    raise ValueError(f"--{flag}={value}: no such file or folder.")
  return value


def _read_csv(flag: str, **kwargs) -> list[list[str]]:
  path = _needed(flag, flag)
  try:
    with open(path, newline="", encoding="utf-8") as file:
      return [row for row in csv.reader(file, **kwargs) if row]
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise ValueError(f"--{flag}={path}: cannot be read: {e}") from e


def _from_segments():
  classes = labels.ClassList.from_csv(
    _needed("class_labels_csv", "segments_csv")
  )
  files = _index_audio_files(_needed("audio_dir", "segments_csv"))
  index = classes.index()
  rows = _read_csv("segments_csv", skipinitialspace=True)
  clips = []
  for number, row in enumerate(rows, start=1):
    if row[0].startswith("#"):
      continue
    if len(row) != 4:
      raise ValueError(
        f'{FLAGS.segments_csv}, row {number}: expected YTID, start, end, "mids"'
        f", found {', '.join(row)}."
      )
    clip_id, start, end, mids = row
    path = next(
      filter(None, map(files.get, _file_stems(clip_id, start, end))), None
    )
    known = tuple(index[mid] for mid in mids.split(",") if mid in index)
    problem = "" if path else "missing"
    if len(known) < len(mids.split(",")):
      problem = "unknown label"
    clips.append(Clip(clip_id, path, known, problem))
  return classes, clips


def _index_audio_files(folder: str) -> dict[str, str]:
  """Path by name without extension, subfolders included."""
  return {
    path.stem: str(path)
    for path in sorted(pathlib.Path(folder).rglob("*"))
    if path.suffix.lower() in audio.EXTENSIONS
  }


def _file_stems(clip_id: str, start: str, end: str):
  """The names under which downloaders store a segment."""
  try:
    times = [float(start), float(end)]
  except ValueError:
    raise ValueError(
      f"{FLAGS.segments_csv}: {clip_id}: start {start!r} and end {end!r} must "
      "be seconds."
    ) from None
  suffixes = [""]
  for written in ("{:g}".format, "{:.3f}".format, lambda t: f"{t * 1000:.0f}"):
    begin, finish = map(written, times)
    suffixes += [f"_{begin}", f"_{begin}_{finish}"]
  for prefix in ("", "Y"):
    for suffix in suffixes:
      yield f"{prefix}{clip_id}{suffix}"


def _from_manifest():
  rows = _read_csv("manifest_csv")
  path = _needed("labels_map", "manifest_csv")
  try:
    index = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    names = sorted(index, key=index.get)
    if [index[name] for name in names] != list(range(len(names))):
      raise ValueError("the indices must be 0, 1, 2 ..., each once")
  except (ValueError, TypeError, AttributeError) as e:
    raise ValueError(f"--labels_map={path}: not label -> index: {e}") from e
  if not rows or not {"files", "labels"} <= set(rows[0]):
    raise ValueError(
      f"{FLAGS.manifest_csv}: the first line must name the columns "
      "files,labels."
    )
  file_column, label_column = rows[0].index("files"), rows[0].index("labels")
  folder = pathlib.Path(FLAGS.manifest_csv).parent
  clips = []
  for number, row in enumerate(rows[1:], start=2):
    if len(row) != len(rows[0]):
      raise ValueError(
        f"{FLAGS.manifest_csv}, row {number}: {len(row)} cells, not "
        f"{len(rows[0])}; labels with commas need quotes."
      )
    given = row[label_column].split(FLAGS.labels_delim)
    known = tuple(index[label] for label in given if label in index)
    file = folder / row[file_column]
    problem = "" if file.is_file() else "missing"
    if len(known) < len(given):
      problem = "unknown label"
    clips.append(Clip(row[file_column], str(file), known, problem))
  return labels.ClassList.from_names(names), clips


def _from_class_dirs():
  root = pathlib.Path(_needed("class_dirs", "class_dirs"))
  folders = sorted(path for path in root.iterdir() if path.is_dir())
  if not folders:
    raise ValueError(f"--class_dirs={root}: holds no folder.")
  classes = labels.ClassList.from_names([folder.name for folder in folders])
  clips = [
    Clip(str(path.relative_to(root)), str(path), (i,))
    for i, folder in enumerate(folders)
    for path in sorted(folder.rglob("*"))
    if path.suffix.lower() in audio.EXTENSIONS
  ]
  return classes, clips


if __name__ == "__main__":
  cli.run(main, prog="make_tfrecords", required=["output_dir"])
