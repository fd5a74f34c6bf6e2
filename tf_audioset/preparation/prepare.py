# SPDX-License-Identifier: Apache-2.0
"""A list of clips to the shards of a split, on one machine or on many.

Clips are put in order by a hash of their ids and cut into shards. A shard is
one task: it is described by a plan, .SPLIT.parts/DIGEST.plan.json in the output
folder, whose name is the digest of its content, and `write_shard` leaves
DIGEST.tfrecord and then DIGEST.account.json beside it. Whoever runs the tasks
and in what order, the bytes are the same; a task whose account is there and
whose sources have not changed is not run again. When all are done the shards
get their names, and the split appears in dataset_info.json.
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shlex
import signal
import stat
import threading
import uuid
from collections.abc import Callable, Sequence

import tensorflow as tf
import tqdm

from tf_audioset.data import audio, labels, prepared, records
from tf_audioset.preparation import audit, clip_lists, levels
from tf_audioset.runtime import cli, messages, storage
from tf_audioset.runtime.errors import UserError

# Few clips make few shards, but enough for some processes to share.
_MIN_SHARDS = 16
_MIN_SHARD_CLIPS = 32
_REMOVE_ATTEMPTS = 5
# Requests to a bucket that wait at the same time.
_NUM_THREADS = 32

# In a worker, shared by all: how many clips of each task were seen; at the end,
# whether to stop.
_counts = None


@dataclasses.dataclass(frozen=True)
class Options:
  """How clips are stored.

  Attributes:
    clip_seconds: Longer clips are cut to this.
    codec: One of `audio.CODECS`.
    clips_per_shard: At most.
    drop: Reasons of `audit.DROPPABLE` for which a clip is left out.
  """

  clip_seconds: float = 10.0
  codec: str = "flac"
  clips_per_shard: int = 1024
  drop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Shard:
  clips: Sequence[clip_lists.Clip]
  plan: bytes
  base: str  # Path of the task's files without their endings.
  name: str  # File when published.


@dataclasses.dataclass(frozen=True)
class _Outcome:
  """What became of a clip in its shard."""

  problems: dict[str, str]
  source: list[int] | None  # Bytes and time of change; None: no file.
  record_bytes: int = 0  # 0: not written.
  num_samples: int = 0
  audio_hash: int = 0


# Runs `write_shard` on the files of some plans, and moves a bar of their clips.
Runner = Callable[[Sequence[str], tqdm.tqdm], None]


def prepare(
  classes: labels.ClassList,
  clips: Sequence[clip_lists.Clip],
  output_dir: str,
  split: str,
  options: Options,
  run: Runner,
  source: dict | None = None,
  renewed: Sequence[str] = (),
) -> dict:
  """Writes a split: shards, index, table of clips, audit, dataset_info.json.

  Args:
    classes: The class list, the same for all splits of a folder.
    clips: The rows.
    output_dir: A folder, new or with other splits; may be in a bucket.
    split: Name; letters, digits and _.
    options: How.
    run: From `local_runner` or `beam_runner`.
    source: What the audit says of where the clips come from, see
      `audit.of_source`.
    renewed: Splits that are written anew after this one: what they hold now is
      not compared with it.

  Returns:
    What audit.json says of the split, see `audit.of_rows`.

  Raises:
    UserError: If the folder holds records of another kind, or no clip can be
      read (the audit is written then).
  """
  storage.check_bucket(output_dir)
  known = _known_info(classes, output_dir, options)
  others = {
    name: prepared.ClipTable.read(os.path.join(output_dir, other.clips))
    for name, other in (known.splits if known else {}).items()
    if name not in (split, *renewed) and other.clips
  }
  clips = _marked(clips, others)
  parts = os.path.join(output_dir, f".{split}.parts")
  tf.io.gfile.makedirs(parts)
  shards = _cut(clips, parts, split, options)
  _remove_strangers(parts, shards)
  _parallel(_write_plan, shards)
  accounts = _parallel(lambda s: _find_account(s, output_dir), shards)
  todo = [s for s, account in zip(shards, accounts) if account is None]
  if len(todo) < len(shards):
    print(
      f"{split}: {len(shards) - len(todo)} of {len(shards)} shards were done "
      "by an earlier run"
    )
  num_clips = sum(len(shard.clips) for shard in todo)
  if todo:
    with cli.progress_bar(num_clips, split, " clips") as bar:
      run([f"{shard.base}.plan.json" for shard in todo], bar)
  accounts = _parallel(lambda s: _read_account(s.base), shards)
  outcomes = {
    clip.id: outcome
    for shard, account in zip(shards, accounts)
    for clip, outcome in zip(shard.clips, account)
  }
  rows = [_row(clip, outcomes, options) for clip in clips]
  _mark_duplicate_audio(rows, outcomes, others)
  of_split = {**audit.of_rows(rows, classes, options.drop), **(source or {})}
  if not of_split["written"]:
    _remove(parts)
    message = f"none of the {len(clips)} clips can be written"
    if known and split in known.splits:
      reasons = collections.Counter(
        audit.why_left_out(row.problems, options.drop) for row in rows
      )
      counts = ", ".join(f"{n} {name}" for name, n in reasons.items())
      raise UserError(
        f"{message} ({counts}); the split {split} as it was prepared before "
        "stays, and its audit."
      )
    with storage.taking_turns(output_dir):
      audit.write(output_dir, split, of_split)
    raise UserError(
      f"{message}; see {os.path.join(output_dir, audit.TEXT_FILE)}."
    )
  with storage.taking_turns(output_dir):  # With those of other splits.
    _publish(classes, output_dir, split, options, shards, accounts)
    audit.write(output_dir, split, of_split)
  _remove(parts)
  return of_split


def write_shard(
  plan_file: str, progress: Callable[[], None] | None = None
) -> None:
  """Does one task: decodes a plan's clips, writes their shard and account.

  Each file appears at one stroke, the account last. Runs anywhere where the
  paths in the plan can be reached.

  Args:
    plan_file: Path of the plan.
    progress: Called after each clip.
  """
  base = _base(plan_file)
  plan = json.loads(_read(plan_file))
  outcomes = []
  temporary = f"{base}.tmp-{uuid.uuid4().hex}"
  with tf.io.TFRecordWriter(temporary) as writer:
    for clip in plan["clips"]:
      record, outcome = _make_record(*clip, plan)
      if record:
        writer.write(record)
      outcomes.append(outcome)
      if progress:
        progress()
  tf.io.gfile.rename(temporary, f"{base}.tfrecord", overwrite=True)
  account = {
    "num_bytes": tf.io.gfile.stat(f"{base}.tfrecord").length,
    "clips": [dataclasses.astuple(outcome) for outcome in outcomes],
  }
  storage.write_file(f"{base}.account.json", json.dumps(account).encode())


def local_runner(num_workers: int) -> Runner:
  """Tasks in processes of this machine."""

  def run(plans, bar):
    if min(num_workers, len(plans)) == 1:
      for plan in plans:
        write_shard(plan, bar.update)
      return
    context = multiprocessing.get_context("spawn")  # TensorFlow cannot fork.
    counts = context.RawArray("q", len(plans) + 1)
    pool = concurrent.futures.ProcessPoolExecutor(
      min(num_workers, len(plans)), context, _start_worker, (counts,)
    )
    try:
      with _shown(bar, lambda: sum(counts[:-1]), every_seconds=0.5):
        # Ctrl-C is for this process alone: those begun here inherit that.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        tasks = [pool.submit(_work, *task) for task in enumerate(plans)]
        signal.signal(signal.SIGINT, before)
        for task in concurrent.futures.as_completed(tasks):
          task.result()
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        "a process that decodes was killed, perhaps for want of memory; start "
        "again, with a smaller --num_workers: what is done stays done."
      ) from None
    finally:
      counts[-1] = 1
      pool.shutdown(cancel_futures=True)

  return run


def beam_runner(runner: str, options: str) -> Runner:
  """Tasks in an Apache Beam pipeline.

  Args:
    runner: "DirectRunner", "FlinkRunner" or "DataflowRunner".
    options: Beam's own, as on a command line.

  Raises:
    UserError: If Beam is not installed.
  """
  try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
  except ImportError:
    raise UserError(
      f"--runner={runner} needs Apache Beam, the extra [beam]: "
      "pip install 'apache-beam>=2.77'."
    ) from None

  def run(plans, bar):
    parts = os.path.dirname(plans[0])
    accounts = {f"{_base(plan)}.account.json" for plan in plans}

    def count():
      found = {os.path.join(parts, name) for name in tf.io.gfile.listdir(parts)}
      return bar.total * len(accounts & found) // len(plans)

    with _shown(bar, count, every_seconds=5):
      with beam.Pipeline(
        runner, pipeline_options.PipelineOptions(shlex.split(options))
      ) as pipeline:
        _ = (
          pipeline
          | beam.Create(plans)
          | beam.Reshuffle()  # Else one worker may run them all.
          | beam.Map(write_shard)
        )

  return run


def _start_worker(counts) -> None:
  global _counts
  _counts = counts
  # Without the parent there is none to work for; a new run may have begun.
  parent = multiprocessing.parent_process().sentinel

  def watch():
    multiprocessing.connection.wait([parent])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _work(task: int, plan_file: str) -> None:
  def progress():
    _counts[task] += 1
    if _counts[-1]:
      raise InterruptedError("another task has failed")

  write_shard(plan_file, progress)


@contextlib.contextmanager
def _shown(bar, count: Callable[[], int], every_seconds: float):
  """Moves the bar to `count()`, again and again."""
  done = threading.Event()

  def watch():
    while not done.wait(every_seconds):
      bar.update(count() - bar.n)

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    bar.update(count() - bar.n)


def _make_record(
  clip_id, path, clip_labels, row_seconds, plan
) -> tuple[bytes, _Outcome]:
  source, problems = _source(path)
  if problems:
    return b"", _Outcome(problems, source)
  try:
    decoded = audio.read(
      path,
      sample_rate_hz=records.SAMPLE_RATE_HZ,
      max_seconds=plan["clip_seconds"],
      content=_read(path) if "://" in path else None,
    )
  # A file costs itself, not the others.
  except (audio.AudioError, OSError, MemoryError, *_REFUSED) as e:
    if _source(path)[0] is None:  # Removed meanwhile.
      return b"", _Outcome({"missing": ""}, None)
    return b"", _Outcome({"undecodable": _reason(e, path)}, source)
  samples = audio.to_int16(decoded.waveform)
  problems = audit.sample_problems(samples, records.SAMPLE_RATE_HZ)
  seconds = decoded.seconds
  if seconds is None and len(samples) < round(
    plan["clip_seconds"] * records.SAMPLE_RATE_HZ
  ):
    seconds = len(samples) / records.SAMPLE_RATE_HZ
  if seconds and seconds >= plan["clip_seconds"] + 1:
    problems["shortened"] = f"{seconds:.1f} s"
  problems.update(audit.length_problems(seconds, row_seconds))
  if decoded.remarks:
    problems["remark"] = "; ".join(decoded.remarks)
  if audit.why_left_out(problems, plan["drop"]):
    return b"", _Outcome(problems, source)
  record = records.serialize_encoded(
    clip_id,
    audio.encode(samples, records.SAMPLE_RATE_HZ, plan["codec"]),
    len(samples),
    clip_labels,
    plan["codec"],
  )
  return record, _Outcome(
    problems, source, len(record), len(samples), audio.samples_hash(samples)
  )


def _known_info(classes, output_dir, options) -> prepared.DatasetInfo | None:
  """Returns the folder's description, checked, if it has one."""
  known = prepared.read_dataset_info(output_dir)
  if known and known.classes != classes:
    others = set(known.classes.mids) ^ set(classes.mids)
    what = (
      f"only one has {min(others)!r}" if others else "order or names differ"
    )
    raise UserError(
      f"{output_dir} holds records of other classes ({what}); choose another "
      "--output_dir; or, with --class_dirs, make an empty folder for a class "
      "without clips; or, with --manifest_csv, give "
      f"--labels_map={os.path.join(output_dir, prepared.INFO_FILE)}."
    )
  wanted = (options.clip_seconds, options.codec)
  if known and (known.clip_seconds, known.codec) != wanted:
    raise UserError(
      f"{output_dir} holds records of another clip length or codec; choose "
      "another --output_dir."
    )
  return known


def _marked(clips, others) -> list[clip_lists.Clip]:
  """Marks the clips that another split has."""
  marked = list(clips)
  for name, table in others.items():
    ids = set(table.id.tolist())
    for i, clip in enumerate(marked):
      if clip.id.encode() in ids:
        problems = {**clip.problems, "in_two_splits": f"also in {name}"}
        marked[i] = dataclasses.replace(clip, problems=problems)
  return marked


def _cut(clips, parts, split, options) -> list[_Shard]:
  """Divides clips into shards, whose sizes differ by one clip at most."""
  members = [
    clip
    for clip in clips
    if not audit.why_left_out(clip.problems, options.drop)
  ]
  # By a hash of the id: neighbours in the list end up in different shards.
  members.sort(key=lambda clip: hashlib.sha1(clip.id.encode()).digest())
  size = max(_MIN_SHARD_CLIPS, -(-len(members) // _MIN_SHARDS))
  num_shards = -(-len(members) // min(size, options.clips_per_shard))
  shards = []
  for number in range(num_shards):
    begin, end = (len(members) * i // num_shards for i in (number, number + 1))
    of_shard = members[begin:end]
    plan = json.dumps(
      {
        "clip_seconds": options.clip_seconds,
        "codec": options.codec,
        "drop": options.drop,
        "clips": [
          [clip.id, _absolute(clip.path), clip.labels, clip.seconds]
          for clip in of_shard
        ],
      }
    ).encode()
    base = os.path.join(_absolute(parts), hashlib.sha256(plan).hexdigest()[:32])
    name = f"{split}-{number:05}-of-{num_shards:05}.tfrecord"
    shards.append(_Shard(of_shard, plan, base, name))
  return shards


def _remove_strangers(parts: str, shards: Sequence[_Shard]) -> None:
  """Removes what other plans, and runs that were killed, have left."""
  digests = {os.path.basename(shard.base) for shard in shards}
  for name in tf.io.gfile.listdir(parts):
    if name.split(".")[0] not in digests or ".tmp-" in name:
      tf.io.gfile.remove(os.path.join(parts, name))


def _write_plan(shard: _Shard) -> None:
  storage.write_file(f"{shard.base}.plan.json", shard.plan)


def _find_account(shard: _Shard, output_dir: str) -> list[_Outcome] | None:
  """Returns the account of a task that would be done again the same."""
  if not tf.io.gfile.exists(f"{shard.base}.account.json"):
    return None
  num_bytes = json.loads(_read(f"{shard.base}.account.json"))["num_bytes"]
  # A run may have been killed after it had given some shards their names.
  places = (f"{shard.base}.tfrecord", os.path.join(output_dir, shard.name))
  place = next(filter(tf.io.gfile.exists, places), None)
  if place is None or tf.io.gfile.stat(place).length != num_bytes:
    return None
  outcomes = _read_account(shard.base)
  sources = [_source(_absolute(clip.path))[0] for clip in shard.clips]
  same = sources == [outcome.source for outcome in outcomes]
  return outcomes if same else None


def _read_account(base: str) -> list[_Outcome]:
  account = json.loads(_read(f"{base}.account.json"))
  return [_Outcome(*outcome) for outcome in account["clips"]]


def _row(clip, outcomes, options) -> audit.Row:
  if audit.why_left_out(clip.problems, options.drop):
    return audit.Row(clip, clip.problems, is_written=False)
  outcome = outcomes[clip.id]
  return audit.Row(
    clip,
    {**clip.problems, **outcome.problems},
    is_written=outcome.record_bytes > 0,
  )


def _mark_duplicate_audio(rows, outcomes, others) -> None:
  """Marks all but the first of rows with the same samples, silence excepted."""
  judged = [
    row for row in rows if row.is_written and "silent" not in row.problems
  ]
  first = {}  # Hash -> a name of the first clip with it.
  hashes = {outcomes[row.clip.id].audio_hash for row in judged}
  for name, table in others.items():
    for clip_id, audio_hash in zip(table.id, table.audio_hash.tolist()):
      if audio_hash in hashes:
        first.setdefault(audio_hash, f"{clip_id.decode()} in {name}")
  for row in judged:
    audio_hash = outcomes[row.clip.id].audio_hash
    same = first.setdefault(audio_hash, row.clip.id)
    if same != row.clip.id:
      row.problems["duplicate_audio"] = f"the same as {same}"


def _publish(classes, output_dir, split, options, shards, accounts) -> None:
  """Gives the shards their names and puts the split into the description."""
  # While its shards are exchanged, the split is not there at all.
  _describe(classes, output_dir, split, options, None)
  names = {shard.name for shard in shards}
  for name in tf.io.gfile.listdir(output_dir):
    is_shard = re.fullmatch(rf"{split}-\d+-of-\d+\.tfrecord", name)
    if is_shard and name not in names:
      tf.io.gfile.remove(os.path.join(output_dir, name))

  def move(shard):
    place = os.path.join(output_dir, shard.name)
    if tf.io.gfile.exists(f"{shard.base}.tfrecord"):
      tf.io.gfile.rename(f"{shard.base}.tfrecord", place, overwrite=True)
    return tf.io.gfile.stat(place).length

  lengths = _parallel(move, shards)
  index, table = prepared.IndexBuilder(), prepared.ClipTableBuilder()
  described, ids, num_samples = [], [], 0
  for shard, account, num_bytes in zip(shards, accounts, lengths):
    index.next_shard()
    first = len(ids)
    for clip, outcome in zip(shard.clips, account):
      if outcome.record_bytes:
        index.add(outcome.record_bytes, clip.id)
        table.add(clip.id, outcome.num_samples, clip.labels, outcome.audio_hash)
        ids.append(clip.id)
        num_samples += outcome.num_samples
    described.append(
      {
        "file": shard.name,
        "num_clips": len(ids) - first,
        "num_bytes": num_bytes,
      }
    )
  files = {"index": f"{split}.index.npz", "clips": f"{split}.clips.npz"}
  index = index.build()
  index.write(os.path.join(output_dir, files["index"]))
  table.build().write(os.path.join(output_dir, files["clips"]))
  of_split = prepared.SplitInfo(
    num_clips=len(ids),
    total_seconds=round(num_samples / records.SAMPLE_RATE_HZ, 3),
    shards=described,
    ids_sha256=hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
    **files,
    **levels.measure(
      [os.path.join(output_dir, shard.name) for shard in shards], index
    ),
  )
  _describe(classes, output_dir, split, options, of_split)


def _describe(classes, output_dir, split, options, of_split) -> None:
  """Puts a split into dataset_info.json, or takes it out if that is None."""
  # Read anew: others may have been prepared meanwhile.
  known = _known_info(classes, output_dir, options)
  splits = dict(known.splits) if known else {}
  if splits.pop(split, None) is None and of_split is None:
    return
  if of_split:
    splits[split] = of_split
  prepared.write_dataset_info(
    output_dir,
    prepared.DatasetInfo(
      sample_rate_hz=records.SAMPLE_RATE_HZ,
      clip_seconds=options.clip_seconds,
      codec=options.codec,
      classes=classes,
      splits=splits,
    ),
  )


def _parallel(function, items) -> list:
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return list(pool.map(function, items))


def _remove(folder: str) -> None:
  """Deletes a folder, in a bucket too.

  There a file that is deleted although the answer is lost is deleted again and
  then not found, which is an error.
  """
  for attempt in range(_REMOVE_ATTEMPTS):
    try:
      tf.io.gfile.rmtree(folder)
    except tf.errors.OpError:
      if attempt == _REMOVE_ATTEMPTS - 1:
        raise
    if not tf.io.gfile.exists(folder):
      return


# Of a bucket; other errors are the bucket's, not the file's. The last two are
# of a path that no file system here can have.
_REFUSED = (
  tf.errors.NotFoundError,
  tf.errors.PermissionDeniedError,
  tf.errors.FailedPreconditionError,
  tf.errors.UnimplementedError,
  tf.errors.InvalidArgumentError,
)


def _source(path: str) -> tuple[list[int] | None, dict[str, str]]:
  """Tells bytes and time of change of a file, or why it cannot be read."""
  try:
    if "://" in path:
      found = tf.io.gfile.stat(path)
      return [found.length, found.mtime_nsec], {}
    found = os.stat(path)  # TensorFlow's has whole seconds.
  except (FileNotFoundError, NotADirectoryError, tf.errors.NotFoundError):
    return None, {"missing": ""}
  except (OSError, ValueError, *_REFUSED) as e:
    return None, {"undecodable": _reason(e, path)}
  if not stat.S_ISREG(found.st_mode):
    what = "a device or a socket"
    if stat.S_ISDIR(found.st_mode):
      what = "a folder"
    elif stat.S_ISFIFO(found.st_mode):
      what = "a pipe"
    return None, {"undecodable": f"is {what}, not a file"}
  return [found.st_size, found.st_mtime_ns], {}


def _reason(error: Exception, path: str) -> str:
  """Returns an error's message without the path."""
  text = getattr(error, "strerror", None) or messages.first_line(str(error))
  return text.removeprefix(f"{path}: ") or type(error).__name__


def _read(path: str) -> bytes:
  with tf.io.gfile.GFile(path, "rb") as file:
    return file.read()


def _base(plan_file: str) -> str:
  return plan_file.removesuffix(".plan.json")


def _absolute(path: str) -> str:
  """Returns absolute paths, for workers that run elsewhere."""
  return path if "://" in path else os.path.abspath(path)
