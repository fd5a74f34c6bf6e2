# SPDX-License-Identifier: Apache-2.0
"""tools/teach.py as it is used, and the runs that its tables teach."""

import dataclasses
import os
import pickle

import numpy as np
import pytest

from tests import command, small, toy
from tf_audioset.data import efficientat, labels, prepared
from tf_audioset.data import teacher as teacher_lib
from tf_audioset.serving import exported_tagger

_TOOL = "tools/teach.py"
_LENGTHS = [16000, 3000, 20000]


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("teach")
  (folder / "records").mkdir()
  toy.write_dataset(folder / "records", num_samples=_LENGTHS)
  toy.export_tagger(folder / "a")
  toy.export_tagger(folder / "b", seed=2)
  return folder


def _arguments(folder, *models):
  return [
    _TOOL,
    f"--data_dir={folder / 'records'}",
    *(f"--saved_model={folder / model}" for model in models),
  ]


def _table(path):
  """The scores of a table, float [num_clips, num_classes]."""
  logits = [np.load(part)["logits"] for part in sorted(path.glob("*.npz"))]
  return 1 / (1 + np.exp(-np.concatenate(logits).astype(np.float64)))


def _expected(folder, *models):
  taggers = [
    exported_tagger.ExportedTagger(str(folder / model)) for model in models
  ]
  split = prepared.find_split(str(folder / "records"), "train")
  scores = []
  for clip_id in teacher_lib.whole_ids(split):
    i = int(clip_id.decode().removeprefix("train"))
    waveform = toy.clip(i, _LENGTHS[i % 3])[0][np.newaxis] / 32768
    scores.append(np.mean([t.score(waveform)[0][0] for t in taggers], axis=0))
  return np.array(scores)


def test_a_table_has_the_mean_scores_of_the_teachers_in_order(folder):
  out = command.succeed(*_arguments(folder, "a", "b"), "--batch_size=5")
  table = folder / "records" / "train.teacher"
  assert f"wrote {table}: scores of 100.00% of 24 clips by {folder}/a," in out
  expected = _expected(folder, "a", "b")
  np.testing.assert_allclose(_table(table), expected, rtol=0.01)
  assert np.ptp(expected, axis=0).min() > 0.01
  # Again: nothing to do. Of other teachers: another place.
  times = [path.stat().st_mtime_ns for path in table.glob("*.npz")]
  command.succeed(*_arguments(folder, "a", "b"), "--batch_size=5")
  assert times == [path.stat().st_mtime_ns for path in table.glob("*.npz")]
  line = command.fail(*_arguments(folder, "a"))
  assert f"{table} holds another table, of {folder}/a, {folder}/b: give" in line


def test_a_run_that_was_killed_goes_on_where_it_was(folder, tmp_path):
  arguments = [*_arguments(folder, "a"), f"--output_dir={tmp_path}"]
  killed = (
    "import os, runpy, sys;"
    "from tf_audioset.data import teacher;"
    "teacher.PART_CLIPS = 7;"
    "write = teacher.write_part;"
    "calls = iter(range(2));"
    "teacher.write_part = lambda *given: "
    "write(*given) if next(calls, None) is not None else os.kill("
    "os.getpid(), 9);"
    "sys.argv[0] = 'teach';"
    f"runpy.run_path({_TOOL!r}, run_name='__main__')"
  )
  assert command.run("-c", killed, *arguments[1:]).returncode == -9
  parts = sorted(tmp_path.glob("*.npz"))
  assert len(parts) == 2 and not (tmp_path / "teacher.json").exists()
  parts[1].write_bytes(parts[1].read_bytes()[:-9])  # As a disk may leave it.
  times = [path.stat().st_mtime_ns for path in parts]
  whole = killed.replace("range(2)", "range(9)")
  command.succeed("-c", whole, *arguments[1:])
  assert len(sorted(tmp_path.glob("*.npz"))) == 4
  assert parts[0].stat().st_mtime_ns == times[0]
  assert parts[1].stat().st_mtime_ns != times[1]
  np.testing.assert_allclose(
    _table(tmp_path), _expected(folder, "a"), rtol=0.01
  )


def test_a_clip_that_cannot_be_read_is_named_and_has_no_scores(
  folder, tmp_path
):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records", broken="train7")
  done = command.run(
    _TOOL, f"--data_dir={tmp_path / 'records'}", f"--saved_model={folder / 'a'}"
  )
  assert done.returncode == 1, done.stderr
  assert "bad record: clip train7, the record at byte" in done.stderr
  assert "not all clips have scores; training needs 99%" in done.stderr
  assert "scores of 95.83% of 24 clips" in done.stdout
  split = prepared.find_split(str(tmp_path / "records"), "train")
  row = teacher_lib.whole_ids(split).tolist().index(b"train7")
  scores = _table(tmp_path / "records" / "train.teacher")
  assert np.flatnonzero(np.isnan(scores).any(axis=1)).tolist() == [row]


def test_a_student_learns_from_a_table_and_resumes_to_the_bit(folder, tmp_path):
  table = tmp_path / "table"
  command.succeed(
    *_arguments(folder, "a"), f"--output_dir={table}", "--top_k=2"
  )

  def run(name, *bindings):
    return small.arguments(
      folder / "records",
      tmp_path / name,
      "train.num_epochs = 2",
      "train.steps_per_loop = 1",
      f"Pipeline.teacher = '{table}'",
      *bindings,
    )

  log = command.succeed(*run("whole"))
  assert f"teacher: {folder}/a; 24 of 24 training clips have scores" in log
  process = command.Started(run("stopped"))
  process.wait_for_line("step 4/6")
  process.terminate()
  assert process.wait().returncode == 75
  # Another weight, or none, would be another run.
  line = command.fail(*run("stopped", "Pipeline.teacher_weight = 0.5"))
  assert "this run was begun with teacher" in line
  assert "this run was begun with teacher" in command.fail(
    *run("stopped", "Pipeline.teacher = ''")
  )
  command.succeed(*run("stopped"))
  rows = [
    (tmp_path / name / "metrics.jsonl").read_text()
    for name in ("whole", "stopped")
  ]
  assert rows[0] == rows[1]
  command.succeed(*run("without", "Pipeline.teacher = ''"))
  assert (tmp_path / "without" / "metrics.jsonl").read_text() != rows[0]


def _audioset(folder, tmp_path):
  """The same records, said to be of AudioSet's classes."""
  records = tmp_path / "records"
  records.symlink_to(folder / "records")
  copy = tmp_path / "copy"
  copy.mkdir()
  for path in records.iterdir():
    if path.name != prepared.INFO_FILE:
      (copy / path.name).symlink_to(path.resolve())
  info = prepared.read_dataset_info(str(records))
  info = dataclasses.replace(info, classes=labels.ClassList.audioset())
  prepared.write_dataset_info(str(copy), info)
  return copy


def test_efficientats_scores_are_converted(folder, tmp_path):
  data = _audioset(folder, tmp_path)
  logits = np.random.default_rng(0).normal(0, 4, [30, 527]).astype(np.float16)
  np.save(tmp_path / "logits.npy", logits)
  index = {f"train{i}.mp3": 29 - i for i in range(24)}
  (tmp_path / "index.pkl").write_bytes(pickle.dumps(index))
  arguments = [
    _TOOL,
    f"--data_dir={data}",
    f"--output_dir={tmp_path / 'table'}",
    f"--efficientat_logits={tmp_path / 'logits.npy'}",
    f"--efficientat_index={tmp_path / 'index.pkl'}",
  ]
  assert "100.00% of 24 clips by logits.npy" in command.succeed(*arguments)
  split = prepared.find_split(str(data), "train")
  rows = [index[f"{x.decode()}.mp3"] for x in teacher_lib.whole_ids(split)]
  expected = 1 / (1 + np.exp(-logits[rows].astype(np.float64)))
  np.testing.assert_allclose(_table(tmp_path / "table"), expected, rtol=0.01)
  # Of other clips: none is found, and the code says so.
  other = {f"other{i}": i for i in range(30)}
  (tmp_path / "index.pkl").write_bytes(pickle.dumps(other))
  arguments[2] = f"--output_dir={tmp_path / 'none'}"
  done = command.run(*arguments)
  assert done.returncode == 1 and "scores of 0.00% of 24" in done.stdout
  arguments[1] = f"--data_dir={folder / 'records'}"
  assert "wanted are AudioSet's 527" in command.fail(*arguments)


class _Code:
  """A pickle that runs code."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (str(self._path),)


def test_published_scores_that_cannot_be_read_are_refused(tmp_path):
  np.save(tmp_path / "logits.npy", np.zeros([3, 5], np.float32))
  whole = (tmp_path / "logits.npy").read_bytes()
  index = pickle.dumps({"a": 0, "b": 2})

  def refused(message, npy=whole, pkl=index):
    (tmp_path / "x.npy").write_bytes(npy)
    (tmp_path / "x.pkl").write_bytes(pkl)
    with pytest.raises(ValueError, match=message) as error:
      efficientat.Logits(str(tmp_path / "x.npy"), str(tmp_path / "x.pkl"))
    assert len(str(error.value).splitlines()) == 1

  refused("x.npy: not a whole array", npy=whole[:-5])
  refused("x.npy: not a whole array", npy=b"")
  np.save(tmp_path / "flat.npy", np.zeros(7))
  refused("wanted are logits", npy=(tmp_path / "flat.npy").read_bytes())
  refused("x.pkl: not a whole pickle", pkl=index[:-3])
  refused("'a' has the row 3, but .*x.npy has 3", pkl=pickle.dumps({"a": 3}))
  refused("not a dictionary from ids", pkl=pickle.dumps([1, 2]))
  refused("'a' has two rows", pkl=pickle.dumps({"a": 0, "a.mp3": 1}))
  code = pickle.dumps({"a": _Code(tmp_path / "made")})
  refused("it asks for posix.mkdir", pkl=code)
  assert not (tmp_path / "made").exists()
  with pytest.raises(ValueError, match="none.pkl: not a whole pickle"):
    efficientat.Logits(str(tmp_path / "logits.npy"), "none.pkl")


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("Y-0abcdefghi.wav", "-0abcdefghi"),
    ("-0abcdefghi", "-0abcdefghi"),
    ("audio/Yabcdefghij.mp3", "Yabcdefghij"),  # The Y is the id's own.
    ("YYabcdefghij.mp3", "Yabcdefghij"),
    ("some name.with.dots", "some name.with.dots"),
  ],
)
def test_ids_are_compared_without_prefix_and_ending(name, expected):
  assert efficientat.plain_id(name) == expected


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "one of --saved_model and --efficientat_logits is required"),
    (["--saved_model={}/a", "--saved_model={}/a"], "is given twice"),
    (["--efficientat_logits=x"], "belong together: give both"),
    (["--saved_model={}/a", "--split=test"], "no split 'test'"),
    (["--saved_model={}/none"], "none: no SavedModel there"),
    (["--saved_model={}/a", "--top_k=3"], "--top_k=3: the data has 3 classes"),
    (["--saved_model={}/a", "--output_dir=/proc/x"], "cannot be written to"),
  ],
)
def test_mistakes_are_one_line(folder, arguments, message):
  given = [argument.replace("{}", str(folder)) for argument in arguments]
  assert message in command.fail(*_arguments(folder), *given)


def test_a_teacher_of_other_classes_is_refused(folder, tmp_path):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records", num_samples=1000)
  toy.rename_class(tmp_path / "records", "Noise", "Rain")
  line = command.fail(
    _TOOL, f"--data_dir={tmp_path / 'records'}", f"--saved_model={folder / 'a'}"
  )
  assert f"the classes of {folder}/a (3) are not those of" in line
