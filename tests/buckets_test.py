# SPDX-License-Identifier: Apache-2.0
"""Everything with paths in a bucket, through TensorFlow's own client.

See `storage_emulator`. What runs there is a process of its own.
"""

import hashlib
import json
import os
import random
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from tests import command, small, storage_emulator, toy
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.evaluation import scoring
from tf_audioset.serving import exported_tagger

_RECORD_BYTES = 320 << 10  # What is read at once, see tf_audioset/__init__.py.


@pytest.fixture(name="storage")
def _storage(tmp_path):
  with storage_emulator.Emulator(tmp_path) as storage:
    yield storage


def _python(storage, script, env=None) -> str:
  """Runs a script of Python in the reach of the bucket; see `command.run`."""
  # As with the commands, the package comes before TensorFlow.
  script = f"import tf_audioset\n{script}"
  return command.succeed("-c", script, env=env, variables=storage.variables)


def test_files_and_folders_come_through_every_fault_to_the_byte(storage):
  content = random.Random(0).randbytes(5_000_000)
  storage.write("bucket", "large", content)
  storage.fault_rate = 0.3
  storage.page_size = 2
  out = _python(
    storage,
    """
import hashlib, json, random
import tensorflow as tf
gfile = tf.io.gfile
digests = []
with gfile.GFile("gs://bucket/large", "rb") as file:
  for place in range(40):
    rng = random.Random(place)
    # Some beyond the end, some longer than what the client reads at once.
    file.seek(rng.randrange(5_000_000))
    digests.append(hashlib.sha256(file.read(rng.randrange(900_000))).hexdigest())
with gfile.GFile("gs://bucket/large", "rb") as file:
  content = file.read()
gfile.makedirs("gs://bucket/c/b")
with gfile.GFile("gs://bucket/c/b/copy", "wb") as file:
  file.write(content)
for i in range(5):
  with gfile.GFile(f"gs://bucket/a/{i} %", "w") as file:
    file.write("x" * i)
  with gfile.GFile(f"gs://bucket/a/{i} %", "a") as file:
    file.write("y")
  gfile.rename(f"gs://bucket/a/{i} %", f"gs://bucket/c/{i} %")
gfile.remove("gs://bucket/c/4 %")
gfile.rename("gs://bucket/c/0 %", "gs://bucket/c/3 %", overwrite=True)
print(json.dumps({
  "digests": digests,
  "folders": sorted(set(gfile.listdir("gs://bucket"))),
  "names": sorted(set(gfile.listdir("gs://bucket/c"))),
  "found": gfile.glob("gs://bucket/c/*%"),
  "there": [gfile.exists("gs://bucket/" + x) for x in ("a", "c", "c/1 %")],
  "bytes": gfile.stat("gs://bucket/c/b/copy").length,
}))
gfile.rmtree("gs://bucket/c/b")
""",
  )
  seen = json.loads(out)
  for place, digest in enumerate(seen["digests"]):
    rng = random.Random(place)
    start = rng.randrange(5_000_000)
    part = content[start : start + rng.randrange(900_000)]
    assert digest == hashlib.sha256(part).hexdigest()
  assert seen["folders"] == ["c/", "large"]
  assert seen["names"] == ["1 %", "2 %", "3 %", "b/"]
  assert seen["found"] == [f"gs://bucket/c/{i} %" for i in (1, 2, 3)]
  assert seen["there"] == [False, True, True]
  assert seen["bytes"] == len(content)
  assert storage.objects == {
    ("bucket", "large"): content,
    ("bucket", "c/"): b"",
    ("bucket", "c/1 %"): b"xy",
    ("bucket", "c/2 %"): b"xxy",
    ("bucket", "c/3 %"): b"y",
  }
  # Each fault met reads and writes.
  for fault in storage_emulator.FAULTS:
    assert storage.faults[fault, "GET"]
    assert storage.faults[fault, "PUT"] + storage.faults[fault, "POST"]


def _digest(split) -> str:
  """Of the first batches of the training stream."""
  digest = hashlib.sha256()
  batches = pipeline_lib.Pipeline(crop_seconds=0.5).training(
    split, num_classes=3, batch_size=8, seed=1
  )
  for batch in batches.take(4).as_numpy_iterator():
    for part in batch:
      digest.update(part.tobytes())
  return digest.hexdigest()


_DIGEST = """
from tests import buckets_test
from tf_audioset.data import prepared
print(buckets_test._digest(prepared.find_split("gs://bucket/data", "train")))
"""


def _write_as_audax(folder, codec_folder) -> None:
  (folder / "train").mkdir()
  split = prepared.find_split(str(codec_folder), "train")
  for i, file in enumerate(split.files):
    path = str(folder / "train" / f"{i}.tfrec")
    with tf.io.TFRecordWriter(path, "ZLIB") as writer:
      for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        writer.write(record)
  (folder / "class_labels_indices.csv").write_text(
    "index,mid,display_name\n0,a,a\n1,b,b\n2,c,c\n"
  )


@pytest.mark.parametrize("kind", ["flac", "audax"])
def test_the_training_stream_is_that_from_a_disk(tmp_path, storage, kind):
  folder = tmp_path / "data"
  folder.mkdir()
  toy.write_dataset(folder)
  if kind == "audax":
    (tmp_path / "audax").mkdir()
    _write_as_audax(tmp_path / "audax", folder)
    folder = tmp_path / "audax"
  storage.put(folder, "gs://bucket/data")
  storage.fault_rate = 0.25
  expected = _digest(prepared.find_split(str(folder), "train"))
  assert _python(storage, _DIGEST).strip() == expected


def test_gin_files_class_lists_and_ontologies_are_read(storage):
  for name, text in {
    "run/config.gin": "include 'gin/base.gin'\ntrain.seed = 3\n",
    "classes.csv": 'index,mid,display_name\n0,a,"A, é"\n',
    "ontology.json": '[{"id": "a", "name": "É", "child_ids": []}]',
  }.items():
    storage.write("bucket", name, text.encode())
  out = _python(
    storage,
    """
import gin
from tf_audioset.runtime import gin_config
from tf_audioset.data import labels
from tf_audioset import experiment
gin_config.load(["gs://bucket/run/config.gin"])
assert gin.query_parameter("train.seed") == 3
assert gin.query_parameter("train.steps_per_loop") == 50
classes = labels.ClassList.from_csv("gs://bucket/classes.csv")
assert classes.names == ("A, \\u00e9",)
branches = labels.branches("gs://bucket/ontology.json", classes)
assert branches == {"\\u00c9": [0]}, branches
try:
  gin_config.load(["gs://bucket/none.gin"])
except ValueError as e:
  print(e)
""",
  )
  assert "gin file 'gs://bucket/none.gin' not found here" in out


def test_a_clip_is_one_request_of_what_a_clip_may_need(tmp_path, storage):
  folder = tmp_path / "data"
  folder.mkdir()
  toy.write_dataset(folder, num_samples=160000, num_train=32, codec="pcm16")
  storage.put(folder, "gs://bucket/data")
  _python(
    storage,
    """
from tf_audioset.data import pipeline as pipeline_lib, prepared
split = prepared.find_split("gs://bucket/data", "train")
ids = pipeline_lib.Pipeline().training_ids(split, batch_size=32, seed=1, step=0)
assert len(set(ids)) == 32
""",
  )
  reads = [
    num_bytes
    for method, path, num_bytes in storage.requests
    if method == "GET" and path.startswith("/bucket/data%2Ftrain-")
  ]
  assert len(reads) == 32
  assert 320_000 < min(reads) and max(reads) <= _RECORD_BYTES


def test_a_teachers_table_is_written_to_and_read_from_a_bucket(
  tmp_path, storage
):
  folder = tmp_path / "data"
  folder.mkdir()
  toy.write_dataset(folder, num_samples=4000)
  storage.put(folder, "gs://bucket/data")
  toy.export_tagger(tmp_path / "model")
  arguments = [
    "tools/teach.py",
    "--data_dir=gs://bucket/data",
    f"--saved_model={tmp_path / 'model'}",
  ]
  out = command.succeed(*arguments, variables=storage.variables)
  assert "wrote gs://bucket/data/train.teacher: scores of 100.00%" in out
  out = _python(
    storage,
    """
from tf_audioset.data import pipeline as pipeline_lib, prepared
split = prepared.find_split("gs://bucket/data", "train")
batches = pipeline_lib.Pipeline(
  crop_seconds=0.2, teacher="gs://bucket/data/train.teacher", teacher_weight=0.5
).training(split, num_classes=3, batch_size=24, seed=1)
for _, targets, *_ in batches.take(1).as_numpy_iterator():
  print(((0.5 < targets) | (targets < 0.5)).all(), targets.min() > 0)
""",
  )
  assert out.split() == ["True", "True"]


def test_what_is_missing_forbidden_or_down_is_told_in_one_line(storage):
  storage.buckets |= {"forbidden", "down"}
  storage.status = {"forbidden": 403, "down": 503}
  info = {
    "format_version": 2,
    "sample_rate_hz": 16000,
    "clip_seconds": 10.0,
    "codec": "flac",
    "classes": [{"index": 0, "mid": "a", "name": "a"}],
    "splits": {
      "train": {
        "num_clips": 1,
        "total_seconds": 1.0,
        "shards": [{"file": "gone", "num_clips": 1, "num_bytes": 1}],
        "ids_sha256": "",
        "index": "",
      }
    },
  }
  storage.write("bucket", "data/dataset_info.json", json.dumps(info).encode())
  out = _python(
    storage,
    """
import tensorflow as tf
from tf_audioset.training import checkpoints
from tf_audioset.serving import exported_tagger, export
from tf_audioset.runtime import messages, storage
from tf_audioset.data import prepared
saved = tf.train.Checkpoint()
for use in (
  lambda: prepared.find_split("gs://bucket/data", "train"),
  lambda: prepared.find_split("gs://bucket/other", "train"),
  lambda: prepared.find_split("gs://none/data", "train"),
  lambda: prepared.find_split("gs://forbidden/data", "train"),
  lambda: prepared.find_split("gs://down/data", "train"),
  lambda: storage.check_bucket("gs://none/run"),
  lambda: storage.check_bucket("gs://down/run"),
  lambda: storage.check_bucket("gs://forbidden/run"),  # Who knows.
  lambda: storage.write_file("gs://down/file", b"x"),
  lambda: exported_tagger.ExportedTagger("gs://forbidden/model"),
  # Not: there is none, begin from scratch.
  lambda: checkpoints.Checkpoints(saved, "gs://down/c", 1, True),
):
  try:
    use()
  except (ValueError, tf.errors.OpError) as e:
    print(messages.first_line(str(e)))
""",
    env={**os.environ, "GCS_RETRY_CONFIG_MAX_RETRIES": "2"},
  )
  down = "the bucket answers 503 (Service Unavailable), also after 2 more tries"
  expected = (
    "gs://bucket/data/gone: this shard is listed in dataset_info.json, but ",
    "gs://bucket/other: no prepared data",
    "gs://none/data/train: the bucket answers 404 (Not Found)",
    "gs://forbidden/data/dataset_info.json: the bucket answers 403 (Forbidden)",
    f"gs://down/data/dataset_info.json: {down}",
    "gs://none/run: there is no bucket gs://none: make it first.",
    f"gs://down: {down}",
    "gs://down/file.tmp-",
    "gs://forbidden/model/saved_model.pb",
    f"gs://down/c: {down}",
  )
  lines = out.splitlines()
  assert len(lines) == len(expected), out
  for line, words in zip(lines, expected):
    assert line.startswith(words), line


def _arguments(data_dir, workdir):
  return small.arguments(
    data_dir, workdir, "train.num_epochs = 3", "train.steps_per_loop = 1"
  )


def _train_until(storage, line, act) -> tuple[int, str]:
  """Trains in the bucket, calls `act` at a line; exit code and errors."""
  process = command.Started(
    [
      "-c",
      "import runpy, sys\n"
      "from tf_audioset.training import checkpoints\n"
      "checkpoints._RETRY_SECONDS = (0.1,)\n"
      "sys.argv[0] = 'train'\n"
      "runpy.run_module('tests.small', run_name='__main__')",
      *_arguments("gs://bucket/data", "gs://bucket/run")[2:],
    ],
    variables=storage.variables,
  )
  process.wait_for_line(line)
  act(process)
  done = process.wait()
  return done.returncode, done.stderr


def _steps(folder, tag) -> set[int]:
  """Steps at which TensorBoard has a value."""
  files = [str(path) for path in folder.iterdir()]
  return {
    event.step
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator()
    for event in [tf.compat.v1.Event.FromString(record)]
    for value in event.summary.value
    if value.tag == tag
  }


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory):
  """A dataset, `data`, and a run of it, `run`, on the disk."""
  folder = tmp_path_factory.mktemp("local")
  (folder / "data").mkdir()
  toy.write_dataset(folder / "data")
  command.succeed(*_arguments(folder / "data", folder / "run"))
  return folder


def test_training_in_a_bucket_ends_as_on_a_disk(tmp_path, local, storage):
  """Faults all the time, a SIGTERM, and a bucket that is gone for a while."""
  storage.put(local / "data", "gs://bucket/data")
  storage.fault_rate = 0.2
  code, err = _train_until(
    storage, "step 1/9", lambda process: process.terminate()
  )
  assert code == 75, err
  assert "which is saved" in err
  code, err = _train_until(
    storage, "step 5/9", lambda _: storage.status.update(bucket=503)
  )
  assert code == 2, err
  (error,) = (line for line in err.splitlines() if "error: " in line)
  # Whichever needs it first: a log, a checkpoint, the next batch.
  told = ("the bucket answers 503", "does not answer", "cannot be read")
  assert any(words in error for words in told)
  storage.status.clear()
  out = command.succeed(
    *_arguments("gs://bucket/data", "gs://bucket/run"),
    variables=storage.variables,
  )
  assert "continuing from gs://bucket/run/checkpoints/ckpt-" in out

  out = command.succeed(
    "tools/diff_checkpoints.py",
    "gs://bucket/run/checkpoints",
    local / "run" / "checkpoints",
    variables=storage.variables,
  )
  assert "all the same" in out
  copy = tmp_path / "copy"
  storage.get("gs://bucket/run", copy)
  for name in ("config.gin", "metrics.jsonl", "run.json"):
    expected = (local / "run" / name).read_bytes()
    assert (copy / name).read_bytes() == expected
  names = {p.name for p in (local / "run").iterdir()} - {".lock"}
  # What a write leaves when the bucket has gone is no harm.
  assert {p.name for p in copy.iterdir() if ".tmp-" not in p.name} == names
  assert _steps(copy / "summaries" / "train", "loss") == set(range(1, 10))
  assert _steps(copy / "summaries" / "validation", "mAP") == {3, 6, 9}
  assert tf.saved_model.contains_saved_model(str(copy / "saved_model" / "1"))


def test_a_work_directory_in_a_bucket_is_locked(local, storage):
  storage.put(local / "data", "gs://bucket/data")
  storage.put(local / "run", "gs://bucket/run")
  lock = ("bucket", "run/.lock")
  storage.objects[lock] = json.dumps(
    {"token": "x", "host": "elsewhere", "process": 7, "time": 0}
  ).encode()
  arguments = _arguments("gs://bucket/data", "gs://bucket/run")
  error = command.fail(*arguments, variables=storage.variables)
  assert "gs://bucket/run: is locked by another run, process 7 on" in error
  command.succeed(*arguments, "--take_over", variables=storage.variables)
  assert lock not in storage.objects


def test_the_tools_read_from_and_write_to_a_bucket(tmp_path, local, storage):
  storage.put(local / "data", "gs://bucket/data")
  storage.put(local / "run", "gs://bucket/run")
  storage.fault_rate = 0.2
  out = command.succeed(
    "-c",
    "import runpy, sys\n"
    "from tests import small\n"  # The backbone.
    "sys.argv[0] = 'export'\n"
    "runpy.run_path('tools/export.py', run_name='__main__')",
    "--workdir=gs://bucket/run",
    "--checkpoint=best",
    variables=storage.variables,
  )
  assert "to gs://bucket/run/saved_model/2" in out
  command.succeed(
    "tools/evaluate.py",
    "--saved_model=gs://bucket/run/saved_model",
    "--data_dir=gs://bucket/data",
    "--output_dir=gs://bucket/evaluation",
    "--scores_out=gs://bucket/scores/scores.npz",
    "--report=gs://bucket/reports/report.html",
    "--num_resamples=10",
    variables=storage.variables,
  )
  command.succeed(
    "tools/plot_curves.py",
    "--output=gs://bucket/curves.png",
    "gs://bucket/run",
    variables=storage.variables,
  )
  sound = tmp_path / "a.wav"
  samples = toy.clip(0, 16000)[0]
  soundfile.write(sound, samples, 16000, "PCM_16")
  out = command.succeed(
    "tools/predict.py",
    "--saved_model=gs://bucket/run/saved_model",
    "--top_k=1",
    sound,
    variables=storage.variables,
  )
  storage.get("gs://bucket/run/saved_model", tmp_path / "model")
  storage.get("gs://bucket/scores", tmp_path / "scores")
  tagger = exported_tagger.ExportedTagger(str(tmp_path / "model"))
  assert tagger.directory.endswith("2")
  expected = tagger.score(samples[np.newaxis] / 32768)[0].max()
  assert f"{expected:.4f}" in out
  scores = scoring.Scores.read(str(tmp_path / "scores" / "scores.npz"))
  split = prepared.find_split(str(local / "data"), "eval")
  for clip_ids, waveforms, _ in pipeline_lib.full_clips(
    split,
    num_classes=3,
    batch_size=5,
    min_samples=tagger.min_samples,
    padding=tagger.padding,
  ):
    expected, _ = tagger.score(waveforms.numpy() / 32768)
    for clip_id, row in zip(clip_ids.numpy(), expected):
      (place,) = np.flatnonzero(scores.ids == clip_id.decode())
      np.testing.assert_allclose(scores.scores[place], row, rtol=1e-4)
  content = storage.objects
  assert json.loads(content["bucket", "evaluation/metrics.json"])["mAP"] > 0
  assert content["bucket", "evaluation/per_class.csv"].count(b"\n") == 4
  assert b"<html" in content["bucket", "reports/report.html"][:200]
  assert content["bucket", "curves.png"].startswith(b"\x89PNG")


def test_preparation_from_and_to_a_bucket_is_that_on_a_disk(tmp_path, storage):
  for i in range(9):
    path = tmp_path / "sounds" / f"{i % 3}" / f"{i}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, toy.clip(i, 16000)[0], 16000, "PCM_16")
  shutil.copy(path, path.with_name("sound.dat"))  # Known by its content.
  for name in ("0/notes.txt", "1/._x.wav", "1/README", "loose.wav"):
    (tmp_path / "sounds" / name).write_text("text")
  storage.put(tmp_path / "sounds", "gs://bucket/sounds")
  storage.fault_rate = 0.2
  storage.page_size = 2

  def prepare(place, **kwargs):
    command.succeed(
      "tools/make_tfrecords.py",
      f"--class_dirs={place}/sounds",
      f"--output_dir={place}/records",
      "--split=train",
      **kwargs,
    )

  prepare(tmp_path)
  prepare("gs://bucket", variables=storage.variables)
  storage.get("gs://bucket/records", tmp_path / "copy")
  expected = {
    path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()
  }
  assert any(name.endswith(".tfrecord") for name in expected)
  for name, content in expected.items():
    if not name.startswith("audit"):  # Names the files.
      assert (tmp_path / "copy" / name).read_bytes() == content, name
  files = []
  for folder in ("records", "copy"):
    said = json.loads((tmp_path / folder / "audit.json").read_text())["train"]
    assert said["files"].pop("folder").endswith("/sounds")
    files.append(said["files"])
  assert files[0] == files[1] and files[0]["seen"] == 10 + 4
  assert files[0]["summary"] == (
    "passed over: 1 .txt, 1 without an ending, 1 hidden (1/._x.wav), 1 beside "
    "the folders of the classes (loose.wav)"
  )
