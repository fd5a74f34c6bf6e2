# SPDX-License-Identifier: Apache-2.0
"""tools/evaluate.py with a model that needs no training."""

import csv
import json

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tests import command, toy
from tf_audioset import features
from tf_audioset.data import labels, prepared
from tf_audioset.evaluation import scoring
from tf_audioset.models import tagger
from tf_audioset.serving import export
from tf_audioset.training import losses


def _features(waveform):
  """Loudness of the sound and of its differences, float [3]; NumPy."""
  loud, steep = np.abs(waveform).mean(), np.abs(np.diff(waveform)).mean()
  return np.array([loud - steep, steep - loud, steep])


def _save_model(folder, *, names=toy.NAMES, sample_rate_hz=16000, sign=1):
  """A SavedModel with `export`'s signatures that gives `_features`."""
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([None, None], name="waveform")])
  def score(waveform):
    loud = tf.reduce_mean(tf.abs(waveform), axis=1)
    steps = waveform[:, 1:] - waveform[:, :-1]
    steep = tf.reduce_mean(tf.abs(steps), axis=1)
    scores = sign * tf.stack([loud - steep, steep - loud, steep], axis=1)
    return {"scores": scores[:, : len(names)], "embedding": scores}

  @tf.function(input_signature=[])
  def classes():
    return {
      "mid": tf.constant(names),
      "name": tf.constant(names),
      "sample_rate_hz": tf.constant(sample_rate_hz),
      "min_samples": tf.constant(8000),
      "padding": tf.constant("repeat"),
    }

  tf.saved_model.save(
    module,
    str(folder),
    signatures={"serving_default": score, "classes": classes},
  )
  return folder


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("evaluate")
  (folder / "records").mkdir()
  toy.write_dataset(folder / "records", num_eval=40)
  _save_model(folder / "model")
  return folder


def _truth():
  """Ids, targets and scores of the 40 clips, without the program."""
  clips = [toy.clip(i + 1000, 16000) for i in range(40)]
  targets = np.zeros([40, 3])
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  scores = np.array([_features(samples / 32768) for samples, _ in clips])
  return np.array([f"eval{i}" for i in range(40)]), targets, scores


def _evaluate(folder, *arguments, run=command.succeed):
  return run(
    "tools/evaluate.py",
    f"--data_dir={folder / 'records'}",
    "--num_resamples=50",
    *arguments,
  )


def _write_ontology(path):
  nodes = [("T", "Tones", list(toy.NAMES[:2])), ("N", "Rest", [toy.NAMES[2]])]
  nodes += [(name, name, []) for name in toy.NAMES]
  keys = ("id", "name", "child_ids")
  path.write_text(json.dumps([dict(zip(keys, node)) for node in nodes]))
  return path


def _ap(targets, scores):
  return sklearn.metrics.average_precision_score(targets, scores, average=None)


def test_a_model_and_its_scores_are_judged_alike(folder, tmp_path):
  ids, targets, scores = _truth()
  file = tmp_path / "scores.npz"
  ontology = _write_ontology(tmp_path / "ontology.json")
  out = _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    f"--output_dir={tmp_path / 'of_model'}",
    f"--scores_out={file}",
    f"--ontology={ontology}",
  )
  summary = json.loads((tmp_path / "of_model" / "metrics.json").read_text())
  ap = _ap(targets, scores)
  assert summary["mAP"] == pytest.approx(ap.mean(), abs=1e-6)
  assert summary["branches"]["Tones"]["mAP"] == pytest.approx(
    ap[:2].mean(), abs=1e-6
  )
  low, high = summary["intervals"]["mAP"]
  assert low < summary["mAP"] < high
  assert f"mAP    {ap.mean():.4f}  [{low:.4f}, {high:.4f}]" in out
  assert len(summary["saved_model_sha256"]) == 64

  with np.load(file) as arrays:
    assert sorted(arrays["ids"]) == sorted(ids)
    place = {clip_id: i for i, clip_id in enumerate(ids)}
    order = [place[clip_id] for clip_id in arrays["ids"]]
    np.testing.assert_allclose(arrays["scores"], scores[order], atol=1e-5)

  _evaluate(folder, f"--scores={file}")
  again = json.loads((tmp_path / "evaluation_eval/metrics.json").read_text())
  assert len(again.pop("scores_sha256")) == 64
  assert again.pop("evaluated")["scores"] == "scores.npz"
  assert summary.pop("evaluated")["saved_model"] == "model"
  assert again.pop("branches") == {}
  del summary["saved_model_sha256"], summary["branches"]
  assert again == summary


def test_other_systems_scores_are_compared(folder, tmp_path):
  ids, targets, scores = _truth()
  rng = np.random.default_rng(0)
  # As another system has them: in another order, one clip missing, one more.
  order = rng.permutation(40)[1:]
  theirs = scores + rng.normal(scale=scores.std(), size=scores.shape)
  np.savez(
    tmp_path / "theirs.npz",
    ids=[*ids[order], "extra"],
    mids=toy.NAMES,
    scores=[*theirs[order], [0, 0, 0]],
  )
  out = _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    f"--compare={tmp_path / 'theirs.npz'}",
    f"--output_dir={tmp_path}",
    "--min_coverage=0.9",
  )
  summary = json.loads((tmp_path / "metrics.json").read_text())
  mine, others = (_ap(targets[order], x[order]) for x in (scores, theirs))
  assert summary["num_clips"] == 39
  assert summary["mAP"] == pytest.approx(mine.mean(), abs=1e-6)
  difference = (mine - others).mean()
  assert summary["difference"]["mAP"] == pytest.approx(difference, abs=1e-6)
  assert "1 of 40 clips have no scores" in out
  lines = out.split("are too narrow):\n")[1].splitlines()
  moved = np.argsort(-np.abs(mine - others))
  assert [line.split("]  ")[1] for line in lines[:3]] == [
    toy.NAMES[c] for c in moved
  ]
  with open(tmp_path / "per_class.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [float(row["ap_difference"]) for row in rows] == pytest.approx(
    mine - others, abs=1e-5
  )


def test_one_label_a_clip_has_an_accuracy_and_a_confusion_matrix(
  folder, tmp_path
):
  ids, targets, scores = _truth()
  single = targets.sum(axis=1) == 1
  assert 10 < single.sum() < 40
  np.savez(
    tmp_path / "scores.npz",
    ids=ids[single],
    mids=toy.NAMES,
    scores=scores[single],
  )
  out = _evaluate(
    folder, f"--scores={tmp_path / 'scores.npz'}", "--min_coverage=0.1"
  )
  labels_, chosen = (
    targets[single].argmax(axis=1),
    scores[single].argmax(axis=1),
  )
  accuracy = sklearn.metrics.accuracy_score(labels_, chosen)
  recall = sklearn.metrics.balanced_accuracy_score(labels_, chosen)
  assert f"acc.   {accuracy:.4f}" in out and f"own: {recall:.4f}" in out
  expected = sklearn.metrics.confusion_matrix(labels_, chosen)
  with open(tmp_path / "evaluation_eval" / "confusion.csv") as file:
    header, *rows = csv.reader(file)
  assert header == ["label", *toy.NAMES]
  assert [row[0] for row in rows] == list(toy.NAMES)
  np.testing.assert_array_equal(
    np.array([row[1:] for row in rows], int), expected
  )
  wrong = expected - np.diag(expected.diagonal())
  i, j = np.unravel_index(wrong.argmax(), wrong.shape)
  first = out.split("most often confused:\n")[1].splitlines()[0].split()
  assert first[:3] == [str(wrong[i, j]), "of", str(expected[i].sum())]
  assert f"{toy.NAMES[i]} is taken for {toy.NAMES[j]}" in out
  summary = json.loads(
    (tmp_path / "evaluation_eval" / "metrics.json").read_text()
  )
  assert summary["recall"] == pytest.approx(recall)


def test_a_tpu_scores_the_clips_of_its_length(tmp_path):
  """One CPU, compiled by XLA, in the place of a TPU."""
  (tmp_path / "records").mkdir()
  lengths = [16000, 16000, 9000]
  toy.write_dataset(tmp_path / "records", num_train=10, num_samples=lengths)
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=toy.MeanBackbone(),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 8000]))
  export.export(
    model,
    str(tmp_path / "1"),
    classes=labels.ClassList.from_names(toy.NAMES),
    min_samples=8000,
    padding="repeat",
    batch_shape=(4, 16000),
  )
  as_if = (
    "import functools, runpy, sys, tensorflow as tf;"
    "from tf_audioset.runtime import distribution;"
    "from tf_audioset.serving import exported_tagger, export;"
    "distribution.strategy = lambda tpu: tf.distribute.OneDeviceStrategy(tpu);"
    "exported_tagger.ReplicatedTagger = functools.partial("
    "  exported_tagger.ReplicatedTagger, jit_compile=True);"
    "sys.argv[0] = 'evaluate';"
    "runpy.run_path('tools/evaluate.py', run_name='__main__')"
  )
  arguments = [
    f"--data_dir={tmp_path / 'records'}",
    f"--saved_model={tmp_path / '1'}",
    "--split=train",
    "--num_resamples=2",
  ]
  scores = []
  for i, command_line in enumerate(
    (
      ["tools/evaluate.py", *arguments],
      ["-c", as_if, *arguments, "--tpu=/cpu:0"],
    )
  ):
    path = tmp_path / f"{i}.npz"
    out = command.succeed(*command_line, f"--scores_out={path}")
    scores.append(scoring.Scores.read(str(path)))
  # The third, sixth and ninth of ten clips are shorter.
  assert (
    "7 clips scored on 1 replica on CPU, 3 of other lengths than 16000 samples"
  ) in out
  np.testing.assert_array_equal(scores[0].ids, scores[1].ids)
  np.testing.assert_allclose(scores[0].scores, scores[1].scores, atol=1e-5)


def test_a_threshold_is_written_in_full(folder, tmp_path):
  ids, targets, _ = _truth()
  scores = np.where(targets, 0.1234567890123, 0.1234567)
  np.savez(tmp_path / "s.npz", ids=ids, mids=toy.NAMES, scores=scores)
  _evaluate(folder, f"--scores={tmp_path / 's.npz'}")
  with open(tmp_path / "evaluation_eval/per_class.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [float(row["threshold"]) for row in rows] == [0.1234567890123] * 3
  assert [row["f1"] for row in rows] == ["1.0"] * 3


def _report_data(path):
  """The JSON within a page of --report."""
  text = path.read_text().split('id="data">')[1]
  return json.loads(text.split("</script>")[0])


def test_a_report_is_written(folder, tmp_path):
  ids, targets, scores = _truth()
  np.savez(tmp_path / "s.npz", ids=ids, mids=toy.NAMES, scores=scores)
  page = tmp_path / "new_folder/report.html"
  arguments = (f"--scores={tmp_path / 's.npz'}", f"--report={page}")
  assert f"wrote {page}" in _evaluate(folder, *arguments)
  data = _report_data(page)
  labels_of_train = [toy.clip(i, 16000)[1] for i in range(24)]
  assert [(x["name"], x["training"]) for x in data["classes"]] == [
    (name, sum(c in present for present in labels_of_train))
    for c, name in enumerate(toy.NAMES)
  ]
  ap = _ap(targets, scores)
  assert [x["ap"] for x in data["classes"]] == pytest.approx(ap)

  _evaluate(folder, *arguments, "--train_split=other")
  assert "training" not in _report_data(page)["classes"][0]
  assert "there is no split &#x27;other&#x27;" in page.read_text()


def test_two_models_are_compared(folder, tmp_path):
  _save_model(tmp_path / "other", sign=-1)
  _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    f"--compare={tmp_path / 'other'}",
    f"--output_dir={tmp_path}",
  )
  _, targets, scores = _truth()
  expected = (_ap(targets, scores) - _ap(targets, -scores)).mean()
  summary = json.loads((tmp_path / "metrics.json").read_text())
  assert summary["difference"]["mAP"] == pytest.approx(expected, abs=1e-6)
  difference_sha256 = summary["difference"]["sha256"]
  assert difference_sha256 != summary["saved_model_sha256"]


def test_what_does_not_belong_together_is_refused(folder, tmp_path):
  def error(*arguments):
    return _evaluate(folder, *arguments, run=command.fail)

  assert "one of --saved_model and --scores" in error()
  model = _save_model(tmp_path / "two", names=toy.NAMES[:2])
  assert "(2) are not those of" in error(f"--saved_model={model}")
  model = _save_model(tmp_path / "fast", sample_rate_hz=32000)
  assert "for 32000 Hz" in error(f"--saved_model={model}")
  ids, _, scores = _truth()
  file = tmp_path / "scores.npz"
  np.savez(file, ids=ids, mids=toy.NAMES[::-1], scores=scores)
  assert "or their order differs" in error(f"--scores={file}")
  np.savez(file, ids=ids[:39], mids=toy.NAMES, scores=scores[:39])
  assert "39 of 40 clips are in" in error(f"--scores={file}")
  np.savez(file, ids=ids, mids=toy.NAMES, scores=scores.astype(str))
  assert "not real numbers" in error(f"--scores={file}")
  np.savez(file, ids=ids, mids=toy.NAMES, scores=scores)
  for flag in ("tpu=local", "holdout_percent=10"):
    assert f"--{flag.split('=')[0]} " in error(f"--scores={file}", f"--{flag}")
  assert f"--report={tmp_path}: a folder" in error(
    f"--scores={file}", f"--report={tmp_path}"
  )


def test_only_what_training_held_out_is_judged(folder, tmp_path):
  held_out = prepared.find_split(str(folder / "records"), "train").part(0, 40)
  out = _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    f"--output_dir={tmp_path}",
    "--split=train",
    "--holdout_percent=40",
  )
  assert 3 < held_out.num_clips < 21
  assert f", {held_out.num_clips} clips\n" in out
  summary = json.loads((tmp_path / "metrics.json").read_text())
  assert summary["holdout_percent"] == 40
  error = _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    "--holdout_percent=40",
    run=command.fail,
  )
  assert "--split=eval is not the split that was trained on" in error


def test_a_model_given_as_here_is_left_as_it_is(folder, tmp_path):
  model = _save_model(tmp_path / "model")
  before = sorted(model.rglob("*"))
  _evaluate(
    folder,
    "--saved_model=.",
    run=lambda tool, *arguments: command.succeed(
      command.ROOT / tool, *arguments, cwd=model
    ),
  )
  assert sorted(model.rglob("*")) == before
  assert (tmp_path / "evaluation_eval" / "metrics.json").exists()


def test_a_path_that_is_not_there_is_not_made(folder, tmp_path):
  for flag in ("saved_model", "scores"):
    path = tmp_path / "misspelt" / flag
    error = _evaluate(folder, f"--{flag}={path}", run=command.fail)
    assert str(path) in error
  assert not list(tmp_path.iterdir())


def test_a_split_in_which_no_class_can_be_scored_is_refused(tmp_path):
  toy.write_dataset(tmp_path, num_eval=1)
  file = tmp_path / "scores.npz"
  np.savez(file, ids=["eval0"], mids=toy.NAMES, scores=np.zeros([1, 3]))
  error = command.fail(
    "tools/evaluate.py", f"--data_dir={tmp_path}", f"--scores={file}"
  )
  assert "none of the 3 classes has a clip with it and one without" in error


def test_an_empty_split_is_refused(tmp_path):
  empty = prepared.SplitInfo(
    num_clips=0, total_seconds=0.0, shards=[], ids_sha256="", index="i.npz"
  )
  prepared.IndexBuilder().build().write(str(tmp_path / "i.npz"))
  prepared.write_dataset_info(
    str(tmp_path),
    prepared.DatasetInfo(
      sample_rate_hz=16000,
      clip_seconds=10.0,
      codec="flac",
      classes=labels.ClassList.from_names(toy.NAMES),
      splits={"eval": empty},
    ),
  )
  error = command.fail(
    "tools/evaluate.py", f"--data_dir={tmp_path}", "--scores=scores.npz"
  )
  assert "the split 'eval' is empty" in error


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("output_dir=/proc/none", "/proc/none: cannot be written to (No such file"),
    ("report=/proc/none/r.html", "another place with --report"),
    ("scores_out=/proc/s.npz", "another place with --scores_out"),
    ("scores_out=/dev/null", "that is no file"),
    (f"report={'x' * 300}", "the name has more than 255 bytes"),
  ],
)
def test_a_place_that_takes_no_file_is_told_before_the_work(
  folder, tmp_path, flag, message
):
  done = _evaluate(
    folder,
    f"--saved_model={folder / 'model'}",
    f"--output_dir={tmp_path}",
    f"--{flag}",
    run=command.run,
  )
  assert done.returncode == 2
  assert message in done.stderr
  assert "mAP" not in done.stdout


def test_results_are_printed_even_if_they_cannot_be_written(
  folder, tmp_path, tmp_path_factory
):
  """`ulimit -f` stands for the full disk: no file above 2000 bytes."""
  limited = (
    "import resource, runpy, sys;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1));"
    "sys.argv[0] = 'evaluate';"
    "runpy.run_path('tools/evaluate.py', run_name='__main__')"
  )
  # So that metrics.json is longer than what is printed.
  ontology = _write_ontology(tmp_path_factory.mktemp("o") / "ontology.json")
  done = command.run(
    "-c",
    limited,
    f"--ontology={ontology}",
    f"--data_dir={folder / 'records'}",
    f"--saved_model={folder / 'model'}",
    "--num_resamples=50",
    f"--output_dir={tmp_path}",
    f"--scores_out={tmp_path / 's.npz'}",
    f"--report={tmp_path / 'r.html'}",
  )
  assert done.returncode == 2
  _, targets, scores = _truth()
  assert f"mAP    {_ap(targets, scores).mean():.4f}" in done.stdout
  assert f"wrote {tmp_path}/per_class.csv\n" in done.stdout
  *_, error = done.stderr.splitlines()
  assert error == (
    "evaluate: error: could not be written: "
    + ", ".join(
      f"{tmp_path}/{name} (File too large)"
      for name in ("s.npz", "metrics.json", "r.html")
    )
  )
  assert [path.name for path in tmp_path.iterdir()] == ["per_class.csv"]


def test_each_version_of_an_export_has_its_own_folder(folder, tmp_path):
  run = tmp_path / "run"
  for version, sign in ((1, 1), (2, -1)):
    _save_model(run / "saved_model" / str(version), sign=sign)
    _evaluate(folder, f"--saved_model={run / 'saved_model'}")
  evaluated = {
    path.name: json.loads((path / "metrics.json").read_text())["evaluated"]
    for path in run.iterdir()
    if path.name != "saved_model"
  }
  assert {k: x["saved_model"] for k, x in evaluated.items()} == {
    "evaluation_eval": "saved_model/1",
    "evaluation_eval_2": "saved_model/2",
  }
  out = _evaluate(folder, f"--saved_model={run / 'saved_model' / '2'}")
  assert f"wrote {run}/saved_model/evaluation_eval_2/metrics.json" in out


def test_another_evaluation_is_not_overwritten(folder, tmp_path):
  for name in ("a", "b"):
    _save_model(tmp_path / name)
  ids, _, scores = _truth()
  np.savez(tmp_path / "s.npz", ids=ids, mids=toy.NAMES, scores=scores)
  first = f"--saved_model={tmp_path / 'a'}"
  _evaluate(folder, first)
  _evaluate(folder, first)  # The same again.
  there = tmp_path / "evaluation_eval"
  before = (there / "metrics.json").read_text()
  other_data = tmp_path / "other"
  other_data.mkdir()
  toy.write_dataset(other_data, num_eval=12)
  for arguments, what in (
    ([f"--saved_model={tmp_path / 'b'}"], "saved_model a"),
    ([f"--scores={tmp_path / 's.npz'}"], "saved_model a"),
    ([first, f"--data_dir={other_data}"], "other data"),
  ):
    error = _evaluate(folder, *arguments, run=command.fail)
    assert f"{there} holds the evaluation of {what}: give --output_dir" in error
    assert (there / "metrics.json").read_text() == before
  _evaluate(folder, f"--saved_model={tmp_path / 'b'}", f"--output_dir={there}")
  assert (there / "metrics.json").read_text() != before


def test_what_is_no_folder_of_a_saved_model_is_told(folder, tmp_path):
  for name, content, message in (
    ("2.tflite", b"?", "is no TFLite model"),
    ("s.npz", b"?", "a file; wanted is the folder of a SavedModel"),
    ("saved_model.pb", b"?", "give the folder that it is in"),
  ):
    path = tmp_path / name
    path.write_bytes(content)
    assert f"{path}: {message}" in _evaluate(
      folder, f"--saved_model={path}", run=command.fail
    )
    path.unlink()
  error = _evaluate(folder, f"--scores={folder / 'model'}", run=command.fail)
  assert "a folder; scores are in a file" in error
  assert not list(tmp_path.iterdir())
