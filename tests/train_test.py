# SPDX-License-Identifier: Apache-2.0
"""The main job from the command line, and every experiment for a step."""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys

import gin
import numpy as np
import pytest
import sklearn.metrics
import soundfile
import tensorflow as tf

from tests import command, small, toy
from tf_audioset import experiment
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.runtime import distribution, gin_config, storage
from tf_audioset.serving import exported_tagger
from tf_audioset.training import optimizers, run_data, workdir
from tf_audioset.weights import audax

_SMALL = (
  "train.global_batch_size = 8",
  "train.num_epochs = 4",
  "train.steps_per_loop = 2",
  "Pipeline.crop_seconds = 0.5",
  "WarmupCosine.warmup_epochs = 1",
  "ResNet.width = 8",
)


def _arguments(folder, *bindings, gin_file="gin/quickstart.gin"):
  return [
    "-m",
    "tf_audioset.train",
    f"--gin_file={gin_file}",
    f"--data_dir={folder / 'records'}",
    f"--workdir={folder / 'run'}",
    *(f"--gin_bindings={binding}" for binding in (*_SMALL, *bindings)),
  ]


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("trained")
  for name in ("records", "temporary"):
    (folder / name).mkdir()
  toy.write_dataset(folder / "records")
  variables = [("TMPDIR", str(folder / "temporary"))]
  return folder, command.succeed(*_arguments(folder), variables=variables)


def test_no_temporary_file_stays(trained):
  assert not list((trained[0] / "temporary").iterdir())


def test_the_log_and_the_work_directory_are_complete(trained):
  folder, log = trained
  run = folder / "run"
  assert "24 training and 10 validation clips, 3 classes" in log
  assert "from step 0 and random weights\n" in log
  assert "validation: 10 clips of split eval\n" in log
  assert "warning" not in log
  loops = [line for line in log.splitlines() if line.startswith("step ")]
  # 3 steps an epoch, 2 a loop: 2 loops an epoch.
  assert len(loops) == 8
  for part in ("loss", "learning rate", "clips/s", "input wait", "left"):
    assert part in loops[-1]
  assert "step 12/12" in loops[-1]
  assert log.count("mAP") == log.count("mAUC") == log.count("d'") == 4
  epochs = [line for line in log.splitlines() if line.startswith("epoch ")]
  assert all(re.search(r"  loss \d+\.\d{4}$", line) for line in epochs)
  assert "train.num_epochs = 4" in (run / "config.gin").read_text()
  newest = tf.train.latest_checkpoint(str(run / "checkpoints"))
  assert newest.endswith("ckpt-12")
  assert tf.train.latest_checkpoint(str(run / "best"))
  tags = {value.tag for _, value in _summaries(run)}
  assert tags == {
    "loss",
    "learning_rate",
    "gradient_norm",
    "input/clips_per_second",
    "input/wait_share",
    "input/bad_records",
    "augmented",
    *(f"augmented/{i}" for i in range(1, 5)),
    "mAP",
    "mAUC",
    "dprime",
    "AP_by_class",
    "config.gin",
    "_hparams_/session_start_info",
  }
  rows = _metrics(run)
  assert [row["step"] for row in rows if "loss" in row] == [
    2, 3, 5, 6, 8, 9, 11, 12
  ]  # fmt: skip
  validations = [row for row in rows if "epoch" in row]
  assert [(row["epoch"], row["step"]) for row in validations] == [
    (1, 3), (2, 6), (3, 9), (4, 12)
  ]  # fmt: skip
  summary = json.loads((run / "summary.json").read_text())
  assert summary["last_validation"] == validations[-1]
  shown = [
    float(tf.make_ndarray(value.tensor))
    for _, value in _summaries(run / "summaries" / "validation")
    if value.tag == "loss"
  ]
  assert shown == pytest.approx([row["validation_loss"] for row in validations])
  best = max(validations, key=lambda row: row["mAP"])
  assert summary["best_mAP"] == pytest.approx(best["mAP"], abs=1e-6)
  assert summary["best_step"] == best["step"]
  assert summary["step"] == 12
  assert f"ckpt-{best['step']}." in str(list((run / "best").iterdir()))
  assert summary["packages"]["tensorflow"] == tf.__version__
  assert 0 < summary["wall_seconds"] < 600
  assert len(summary["code_version"]) > 4


def _summaries(run):
  """(step, tf.Summary.Value) of all of a run's event files."""
  return [
    (event.step, value)
    for path in sorted(run.rglob("*.v2"))
    for event in map(
      tf.compat.v1.Event.FromString,
      tf.data.TFRecordDataset(str(path)).as_numpy_iterator(),
    )
    for value in event.summary.value
  ]


def _metrics(run):
  lines = (run / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_the_pictures_are_of_augmented_features(trained):
  pictures = {
    (step, value.tag): tf.io.decode_png(tf.make_ndarray(value.tensor)[2])
    for step, value in _summaries(trained[0] / "run")
    if value.tag.startswith("augmented/")
  }
  # At the start and after each epoch of so few, but the last.
  assert set(pictures) == {
    (step, f"augmented/{i}") for step in (0, 3, 6, 9) for i in range(1, 5)
  }
  for picture in pictures.values():
    assert picture.shape == (360, 900, 3)
    assert picture.numpy().std() > 10


def test_the_config_is_shown(trained):
  folder, _ = trained
  (text,) = (
    tf.make_ndarray(value.tensor).item().decode()
    for _, value in _summaries(folder / "run" / "summaries")
    if value.tag == "config.gin"
  )
  assert (folder / "run" / "config.gin").read_text() in text


def test_the_curves_can_be_drawn(trained, tmp_path):
  picture = tmp_path / "curves.png"
  command.succeed(
    "tools/plot_curves.py", f"--output={picture}", trained[0] / "run"
  )
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert "no work directory of a run" in command.fail(
    "tools/plot_curves.py", f"--output={picture}", tmp_path
  )


def test_the_saved_config_is_a_gin_file_of_the_same_run(trained):
  folder, _ = trained
  gin_config.load([str(folder / "run" / "config.gin")])
  assert gin.query_parameter("train.global_batch_size") == 8
  assert gin.query_parameter("ResNet.width") == 8


def test_the_same_command_after_the_end_judges_and_exports_again(trained):
  folder, first = trained
  before = (folder / "run" / "metrics.jsonl").read_bytes()
  # As kill -9 leaves them.
  left = [
    folder / "run" / name
    for name in ("run.json.tmp-12", "thresholds/3.json.tmp-7")
  ]
  for path in left:
    path.write_bytes(b"half")
  log = command.succeed(*_arguments(folder))
  assert "continuing from" in log and "at step 12\n" in log
  assert (folder / "run" / "metrics.jsonl").read_bytes() == before
  assert not any(path.exists() for path in left)
  assert [line for line in first.splitlines() if "epoch 4" in line] == [
    line for line in log.splitlines() if "epoch" in line
  ]


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    (
      "ResNet.width = 4",
      "begun with model ResNet, 177323 parameters, not ResN",
    ),
    ("train.global_batch_size = 4", "begun with global batch size 8, not 4"),
    ("train.seed = 5", "begun with seed 0, not 5"),
    ("train.training_percent = 50", "begun with training clips 24, not "),
    ("train.validation_split = 'train'", "begun with validation data"),
  ],
)
def test_a_run_is_not_continued_as_another(trained, binding, message):
  run = trained[0] / "run"
  before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
  gin_config.load(["gin/quickstart.gin"], [*_SMALL, binding])
  with pytest.raises(ValueError, match=message):
    experiment.Experiment().run(
      distribution.strategy(None), str(trained[0] / "records"), str(run)
    )
  assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_two_runs_do_not_share_a_work_directory(trained):
  folder, _ = trained
  run = str(folder / "run")
  gin_config.load(["gin/quickstart.gin"], _SMALL)
  hold = (
    "import fcntl, sys\n"
    "file = open(sys.argv[1] + '/.lock', 'w')\n"
    "fcntl.lockf(file, fcntl.LOCK_EX)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()"
  )
  other = subprocess.Popen(
    [sys.executable, "-c", hold, run],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert other.stdout.readline() == b"held\n"
  half_written = folder / "run" / "checkpoints" / "ckpt-99_temp"
  half_written.mkdir()
  (folder / "run" / "run.json.tmp-12").touch()
  with pytest.raises(ValueError, match="another run is at work there"):
    experiment.Experiment().run(
      distribution.strategy(None), str(folder / "records"), run
    )
  assert half_written.exists()  # The other's: nothing was mended.
  half_written.rmdir()
  (folder / "run" / "run.json.tmp-12").unlink()
  other.communicate()
  assert storage.lock(run) is not None


def test_without_a_validation_none_is_the_best(trained, tmp_path, monkeypatch):
  records = str(trained[0] / "records")
  # One clip is not both, with a label and without.
  percent = 1 + min(prepared.find_split(records, "train").index.bucket)
  gin_config.load(
    ["gin/quickstart.gin"],
    [*_SMALL, f"train.holdout_percent = {percent}", "train.exported = 'best'"],
  )
  run = tmp_path / "run"
  with pytest.raises(ValueError, match="no checkpoint can be the best"):
    experiment.Experiment().run(distribution.strategy(None), records, str(run))
  assert not run.exists()
  # Of large data without a table of clips, it turns out after an epoch.
  monkeypatch.setattr(run_data, "check_labels", lambda *_, **__: [])
  with pytest.raises(ValueError, match="no checkpoint can be the best"):
    experiment.Experiment().run(distribution.strategy(None), records, str(run))
  assert (run / "checkpoints" / "ckpt-2.index").exists()


def test_other_classes_are_refused_and_other_parameters_shown(
  trained, tmp_path, capsys
):
  folder, _ = trained
  shutil.copytree(folder, tmp_path / "copy")
  folder = tmp_path / "copy"

  def start(*bindings):
    gin_config.load(["gin/quickstart.gin"], [*_SMALL, *bindings])
    experiment.Experiment().run(
      distribution.strategy(None), str(folder / "records"), str(folder / "run")
    )

  (folder / "run" / "saved_model" / "3").mkdir()
  start("Mixup.alpha = 0.7")
  out = capsys.readouterr().out
  assert "run/saved_model/3 is an earlier export" in out
  assert (
    "changed since the last start:\n-Mixup.alpha = 0.2\n+Mixup.alpha = 0.7\n"
  ) in out
  toy.rename_class(folder / "records", toy.NAMES[0], "Hum")
  with pytest.raises(ValueError, match="begun with class list"):
    start()


def _exported_weights(folder):
  reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if name.startswith("model_variables/")
  }


def _files(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _weights(path):
  reader = tf.train.load_checkpoint(str(path))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if name.startswith("model/") and "OBJECT_GRAPH" not in name
  }


def test_evaluate_equals_scikit_learn(trained):
  folder, _ = trained
  saved_model = folder / "run" / "saved_model"
  out = command.succeed(
    "tools/evaluate.py",
    f"--saved_model={saved_model}",
    f"--data_dir={folder / 'records'}",
    f"--output_dir={folder / 'judged'}",
  )
  tagger = exported_tagger.ExportedTagger(str(saved_model))
  clips = [toy.clip(i + 1000, 16000) for i in range(10)]
  waveform = np.stack([samples for samples, _ in clips]) / 32768
  targets = np.zeros([10, 3])
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  scores = tagger.score(waveform.astype(np.float32))[0]
  ap = sklearn.metrics.average_precision_score(targets, scores, average=None)
  auc = sklearn.metrics.roc_auc_score(targets, scores, average=None)
  summary = json.loads((folder / "judged" / "metrics.json").read_text())
  assert summary["mAP"] == pytest.approx(ap.mean(), abs=1e-6)
  assert summary["mAUC"] == pytest.approx(auc.mean(), abs=1e-6)
  assert summary["num_clips"] == 10
  assert f"{summary['mAP']:.4f}" in out
  with open(folder / "judged" / "per_class.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["name"] for row in rows] == list(toy.NAMES)
  assert [int(row["positives"]) for row in rows] == list(targets.sum(axis=0))
  assert [float(row["ap"]) for row in rows] == pytest.approx(ap, abs=1e-5)


def _export(run, folder, *arguments):
  return [
    "tools/export.py",
    f"--workdir={run}",
    f"--output_dir={folder}",
    *arguments,
  ]


def test_checkpoints_are_exported_as_versions(trained, tmp_path):
  run, folder = trained[0] / "run", tmp_path / "tagger"
  out = command.succeed(*_export(run, folder, "--checkpoint=last"))
  assert "ckpt-12 to" in out
  first = run / "checkpoints" / "ckpt-6"
  command.succeed(*_export(run, folder, f"--checkpoint={first}", "--version=7"))
  command.succeed(*_export(run, folder, "--checkpoint=best"))
  command.succeed(*_export(run, folder, "--checkpoint=last"))
  # Nothing half written is left.
  assert sorted(path.name for path in folder.iterdir()) == ["1", "7", "8", "9"]
  # The same checkpoint makes the same bytes, which a process that did other
  # things before, as training did, numbers differently.
  assert _files(folder / "1") == _files(folder / "9")
  weights, of_training = (
    _exported_weights(path)
    for path in (folder / "1", run / "saved_model" / "1")
  )
  assert len(weights) > 50
  np.testing.assert_equal(weights, of_training)
  assets = folder / "7" / "assets"
  assert (assets / "config.gin").read_text() == (run / "config.gin").read_text()
  validation = json.loads((assets / "tagger.json").read_text())["validation"]
  assert validation == next(
    row for row in _metrics(run) if row["step"] == 6 and "epoch" in row
  )
  waveform = np.stack([toy.clip(i, 9000)[0] for i in range(4)]) / 32768
  last, old = (
    exported_tagger.ExportedTagger(str(path)).score(waveform)[0]
    for path in (folder / "1", folder / "7")
  )
  trained_model = exported_tagger.ExportedTagger(str(run / "saved_model"))
  np.testing.assert_allclose(last, trained_model.score(waveform)[0], atol=1e-6)
  assert abs(last - old).max() > 1e-3
  gin_config.load([str(run / "config.gin")])
  tagger = gin.query_parameter("train.model").scoped_configurable_fn(
    num_classes=3
  )
  tagger(tf.zeros([1, 8000]))
  tf.train.Checkpoint(model=tagger).restore(str(first)).expect_partial()
  np.testing.assert_allclose(old, tf.sigmoid(tagger(waveform)), atol=1e-5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--checkpoint=none"], "no checkpoint none"),
    (["--checkpoint=last", "--version=1"], "has a version 1"),
    (
      ["--checkpoint=last", "--output_dir=/proc/none"],
      "/proc/none: cannot be written to",
    ),
  ],
)
def test_what_cannot_be_exported_is_told(trained, arguments, message):
  run = trained[0] / "run"
  line = command.fail(*_export(run, run / "saved_model", *arguments))
  assert message in line


def test_a_work_directory_is_needed_to_export(trained, tmp_path):
  line = command.fail(*_export(tmp_path, tmp_path, "--checkpoint=last"))
  assert "no work directory" in line
  for name in ("run.json", "config.gin"):
    shutil.copy(trained[0] / "run" / name, tmp_path)
  run = json.loads((tmp_path / "run.json").read_text())
  assert [row["name"] for row in run.pop("classes")] == list(toy.NAMES)
  (tmp_path / "run.json").write_text(json.dumps(run))
  with pytest.raises(ValueError, match="older version: give the training"):
    workdir.read_run(str(tmp_path))


def test_another_models_checkpoint_is_not_exported(trained, tmp_path):
  run = trained[0] / "run"
  other = tf.train.Checkpoint(model=toy.MeanBackbone()).save(
    str(tmp_path / "ckpt")
  )
  line = command.fail(*_export(run, tmp_path, f"--checkpoint={other}"))
  assert "is no checkpoint of this model" in line


def test_predict_takes_any_rate_and_goes_on_after_a_bad_file(trained, tmp_path):
  folder, _ = trained
  time_s = np.arange(2 * 44100) / 44100
  tone = 0.2 * np.sin(2 * np.pi * 2000 * time_s)
  soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], 1), 44100)
  (tmp_path / "bad.wav").write_bytes(b"?")
  done = command.run(
    command.ROOT / "tools" / "predict.py",
    f"--saved_model={folder / 'run' / 'saved_model'}",
    "--top_k=2",
    "bad.wav",
    "tone.wav",
    cwd=tmp_path,
  )
  assert done.returncode == 1
  assert done.stderr.count("error") == 1 and "bad.wav" in done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  assert all(line.startswith("tone.wav\t") for line in lines)
  scores = [float(line.split("\t")[1]) for line in lines]
  assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir=w", "--data_dir=d"], "--gin_file is required"),
    (["--gin_file=gin/quickstart.gin", "--workdir=w"], "--data_dir is req"),
    (["--gin_fil=gin/quickstart.gin"], "gin_fil"),
    (
      ["--gin_file=gin/none.gin", "--workdir=w", "--data_dir=d"],
      "gin/none.gin",
    ),
    (
      ["--gin_file=gin/quickstart.gin", "--workdir=w", "--data_dir=none"],
      "none: no prepared data",
    ),
  ],
)
def test_a_mistake_in_a_flag_is_one_line(arguments, message):
  assert message in command.fail("-m", "tf_audioset.train", *arguments)


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("train.num_epoch = 3", "num_epoch"),
    ("Tager.dropout_rate = 0.1", "Tager"),
    ("wrong/Tagger.dropout_rate = 0.1", "nothing uses wrong/Tagger"),
    ("UNUSED = 3", "nothing uses UNUSED"),
    ("ConvNeXt.variant = 'tiny'", "nothing uses ConvNeXt.variant"),
    ("train.validation_split = 'test'", "no split 'test'.*holdout_percent = "),
    ("train.holdout_percent = 1", "holds out no clip of the 24 of split train"),
    ("Tagger.backbone = 'ResNet'", r"write Tagger.backbone = @ResNet\(\)"),
    ("train.num_epochs = 0", "num_epochs is 0; it must be .* at least 1"),
    ("train.num_steps = 9", "num_epochs = 4 and train.num_steps = 9 are given"),
    ("train.num_epochs = None", "none of train.num_epochs, train.num_steps, "),
    ("train.learning_rate_scaling = 'log'", "'log': allowed are linear, sqrt"),
    ("WarmupCosine.warmup_steps = 3", "warmup_epochs = 1 and .*steps = 3 are"),
    ("train.epoch_clips = 7", "epoch_clips is 7; it must be .* at least 8"),
    (
      "Pipeline.sampler = @BalancedSampler",
      r"write Pipeline.sampler = @BalancedSampler\(\)",
    ),
    ("train.num_epochs = 1.5", "num_epochs is 1.5; .* whole number"),
    ("train.steps_per_loop = 2.0", "steps_per_loop is 2.0; .* whole number"),
    ("train.clip_norm = 0.0", "clip_norm is 0.0; it must be above 0"),
    ("train.base_learning_rate = -1", "base_learning_rate is -1; allowed is 0"),
    ("adamw.weight_decay = -1", "adamw.weight_decay is -1; allowed is 0"),
    ("SpecAugment.max_time_frames = -5", "max_time_frames is -5; allowed is 0"),
    ("LogMel.num_mels = 0", "num_mels is 0; at least 1"),
    ("Tagger.dropout_rate = 40", "Tagger.dropout_rate is 40; allowed is 0"),
    (
      "train.accumulate_steps = 3",
      "8, does not divide by the 1 replicas times",
    ),
    ("ResNet.depth = 19", "depth is 19"),
    ("LogMel.sample_rate_hz = 32000", "is 32000; records have 16000"),
    ("Mixup.alpha = -1", "alpha is -1"),
    ("Pipeline.padding = 'mirror'", "'mirror'"),
    ("Pipeline.decoder = 'mp3'", "decoder is 'mp3': allowed are miniaudio, so"),
    ("Tagger.loss = @LogMel()", "Tagger.loss is LogMel: a loss is called with"),
    ("train.holdout_percent = 100", "is 100; it must be .*, 0 to 99"),
    ("train.training_percent = 0", "is 0; it must be .*, 1 to 100"),
    ("train.precision = 'float16'", "'float16'.*mixed_bfloat16"),
    ("train.initial_checkpoint = 'none'", "none: no weights to start from"),
    ("MultiLabel.label_smoothing = 2", "label_smoothing is 2"),
  ],
)
def test_a_mistake_in_the_configuration_is_refused(
  trained, tmp_path, binding, message
):
  folder, _ = trained
  with pytest.raises(ValueError, match=message) as error:
    gin_config.load(["gin/quickstart.gin"], [*_SMALL, binding])
    experiment.Experiment().run(
      distribution.strategy(None),
      str(folder / "records"),
      str(tmp_path / "run"),
    )
  assert str(error.value).splitlines()[0]
  assert not (tmp_path / "run").exists()


def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused(
  trained, tmp_path
):
  gin_config.load(["gin/quickstart.gin"], _SMALL)
  for name in ("run[1]", "run\\1"):
    with pytest.raises(ValueError, match="cannot read checkpoints whose path"):
      experiment.Experiment().run(
        distribution.strategy(None),
        str(trained[0] / "records"),
        str(tmp_path / name),
      )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("train.base_learning_rate = 'two'", "is 'two'; it must be a number"),
    ("Tagger.loss = MultiClass", "write Tagger.loss = @MultiClass()"),
    ("Tagger.loss = @MultiClass()", "clips have several labels (such as train"),
    ("wrong/Tagger.dropout_rate = 0.1", "nothing uses wrong/Tagger"),
    ("train.schedule = @gin.REQUIRED", "gin"),
  ],
)
def test_a_mistake_in_the_configuration_is_one_line(
  trained, tmp_path, binding, message
):
  (tmp_path / "records").symlink_to(trained[0] / "records")
  assert message in command.fail(*_arguments(tmp_path, binding))


def test_an_experiment_without_a_model_is_one_line(trained, tmp_path):
  (tmp_path / "records").symlink_to(trained[0] / "records")
  error = command.fail(
    "-m",
    "tf_audioset.train",
    "--gin_file=gin/base.gin",
    f"--data_dir={tmp_path / 'records'}",
    f"--workdir={tmp_path / 'run'}",
  )
  assert "Required bindings" in error


def test_every_other_choice_of_the_recipe_runs_together(trained, tmp_path):
  (tmp_path / "records").symlink_to(trained[0] / "records")
  bindings = [line for line in _SMALL if not line.startswith("WarmupCosine")]
  bindings += (
    "Tagger.loss = @MultiClass()",
    "MultiClass.label_smoothing = 0.1",
    "MultiClass.several_labels = 'share'",
    "Tagger.frontend = @LogSpectrogram()",
    "LogSpectrogram.fft_samples = 512",
    "train.optimizer = @lamb",
    "lamb.weight_decay = 0.1",
    "lamb.decay_norms_and_biases = False",
    "train.schedule = @WarmupStep",
    "WarmupStep.warmup_epochs = 1",
    "WarmupStep.boundary_epochs = [2, 3]",
    "WarmupStep.decay_rate = 0.1",
    "train.precision = 'mixed_bfloat16'",
    "train.clip_norm = 1.0",
    "train.holdout_percent = 40",
    "train.training_percent = 50",
  )
  log = command.succeed(
    "-m",
    "tf_audioset.train",
    "--gin_file=gin/quickstart.gin",
    f"--data_dir={tmp_path / 'records'}",
    f"--workdir={tmp_path / 'run'}",
    *(f"--gin_bindings={binding}" for binding in bindings),
  )
  ids = tf.constant([f"train{i}" for i in range(24)])
  percent = tf.strings.to_hash_bucket_fast(ids, 100).numpy()
  held_out, used = (percent < 40).sum(), (percent >= 50).sum()
  assert 0 < held_out < 24
  assert f"{used} training and {held_out} validation clips" in log
  assert (
    f"validation: {held_out} clips of split train, held out by a hash of their "
    "ids (train.holdout_percent = 40); split eval is not used\n"
  ) in log
  assert "training clips have several labels (such as train" in log
  # One class a clip: the scores of a clip are shares of 1.
  tagger = exported_tagger.ExportedTagger(str(tmp_path / "run" / "saved_model"))
  scores, _ = tagger.score(np.zeros([2, 8000], np.float32))
  np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)


def test_training_starts_from_a_checkpoint(trained, tmp_path, capsys):
  folder, _ = trained
  start = tf.train.latest_checkpoint(str(folder / "run" / "checkpoints"))
  gin_config.load(
    ["gin/quickstart.gin"],
    [
      *_SMALL,
      "train.num_epochs = 2",
      "train.base_learning_rate = 0.0",
      f"train.initial_checkpoint = '{folder / 'run' / 'checkpoints'}'",
    ],
  )
  experiment.Experiment().run(
    distribution.strategy(None),
    str(folder / "records"),
    str(tmp_path / "run"),
  )
  assert f"starting from {start}, of 3 classes\n" in capsys.readouterr().out
  # At a learning rate of 0 only the running statistics move.
  expected = _weights(start)
  actual = _weights(tmp_path / "run" / "checkpoints" / "ckpt-6")
  for name, value in expected.items():
    if "moving" not in name and "OPTIMIZER_SLOT" not in name:
      np.testing.assert_array_equal(actual[name], value, err_msg=name)


def _tune(trained, tmp_path, *arguments):
  """The training command with `gin/finetune.gin`, on other classes."""
  if not (tmp_path / "records").exists():
    shutil.copytree(trained[0] / "records", tmp_path / "records")
    toy.rename_class(tmp_path / "records", toy.NAMES[0], "Hum")
  return command.succeed(
    "-m",
    "tf_audioset.train",
    f"--gin_file={trained[0] / 'run' / 'config.gin'}",
    "--gin_file=gin/finetune.gin",
    f"--data_dir={tmp_path / 'records'}",
    f"--workdir={tmp_path / 'tuned'}",
    "--gin_bindings=train.global_batch_size = 8",
    "--gin_bindings=train.num_epochs = 2",
    "--gin_bindings=WarmupCosine.warmup_epochs = 1",
    "--gin_bindings=train.steps_per_loop = 2",
    *arguments,
  )


def test_fine_tuning_of_a_head_goes_on_as_if_it_had_not_stopped(
  trained, tmp_path
):
  start = tf.train.latest_checkpoint(str(trained[0] / "run" / "best"))
  arguments = (
    f"--init_from={trained[0] / 'run'}",
    "--gin_bindings=Tagger.freeze_backbone = True",
    "--gin_bindings=Tagger.loss = @MultiClass()",
    "--gin_bindings=MultiClass.several_labels = 'share'",
  )
  log = _tune(trained, tmp_path, *arguments)
  assert f"starting from {start}, of 3 classes; the head is new\n" in log
  last = tmp_path / "tuned" / "checkpoints" / "ckpt-6"
  weights, before = _weights(last), _weights(start)
  changed = {k for k in before if np.any(weights[k] != before[k])}
  assert changed == {
    f"model/head/{name}/.ATTRIBUTES/VARIABLE_VALUE"
    for name in ("kernel", "bias")
  }
  # Stopped after the first epoch: the start weights are not taken again.
  metrics = (tmp_path / "tuned" / "metrics.jsonl").read_bytes()
  for path in (tmp_path / "tuned" / "checkpoints").iterdir():
    if "ckpt-3." not in path.name:
      path.unlink()
  log = _tune(trained, tmp_path, *arguments)
  assert "starting from" not in log and "at step 3\n" in log
  np.testing.assert_equal(_weights(last), weights)
  assert (tmp_path / "tuned" / "metrics.jsonl").read_bytes() == metrics


# What gin/finetune.gin leaves as the base has it, and why is written there.
_LEFT = {
  "train.average_share",
  "train.model",
  "train.optimizer",
  "train.pipeline",
  "train.precision",
  "train.seed",
  "train.checkpoints_to_keep",
  "Pipeline.crop_seconds",
  "Pipeline.decoder",
  "Pipeline.padding",
  "Pipeline.shuffle_clips",
  "Tagger.backbone",
  "Tagger.dropout_rate",
  "Tagger.frontend",
  "Tagger.gain",
  "Tagger.head",
  "Tagger.input_norm",
  "Tagger.mixup",
  "Tagger.spec_augment",
  "Tagger.time_roll",
}


def test_fine_tuning_resets_what_was_about_the_bases_data(trained, tmp_path):
  """And every value is either reset or left on purpose."""
  path = trained[0] / "run" / "config.gin"
  names = {
    key
    for key in gin_config.values(path.read_text())
    if key.startswith(("train.", "Pipeline.", "Tagger."))
  }
  # Of other experiments than the fixture's, which are replaced whole.
  misled = {
    "train.holdout_percent": 20,
    "train.training_percent": 50,
    "train.training_split": "theirs",
    "train.validation_split": "test",
    "train.exported": "best",
    "train.checkpoint_steps": 100_000,
    "train.accumulate_steps": 8,
    "train.clip_norm": 0.1,
    "train.initial_checkpoint": "gone",
    "train.allow_other_features": True,
    "Pipeline.max_bad_records": 99,
    "Pipeline.teacher": "theirs",
    "Pipeline.teacher_weight": 0.5,
    "train.global_batch_size": 2048,
    "train.num_epochs": 500,
    "train.num_steps": 50_000,
    "train.num_draws": 10_000_000,
    "train.epoch_clips": 200_000,
    "train.learning_rate_scaling": "sqrt",
    "WarmupCosine.warmup_steps": 1000,
    "WarmupCosine.floor": 0.01,
    "train.steps_per_loop": 500,
    "train.base_learning_rate": 1e-6,
    "Tagger.freeze_backbone": True,
  }
  base = tmp_path / "config.gin"
  lines = [f"{key} = {value!r}\n" for key, value in misled.items()]
  lines += ["train.schedule = @WarmupStep\n", "Tagger.loss = @MultiClass()\n"]
  lines.append("Pipeline.sampler = @BalancedSampler()\n")
  base.write_text(path.read_text() + "".join(lines))
  gin_config.load([str(base), "gin/finetune.gin"])
  for key, value in misled.items():
    assert gin.query_parameter(key) != value, key
  assert str(gin.query_parameter("train.schedule")) == "@WarmupCosine"
  assert str(gin.query_parameter("Tagger.loss")) == "@MultiLabel()"
  assert gin.query_parameter("Pipeline.sampler") is None
  reset = {*misled, "train.schedule", "Tagger.loss", "Pipeline.sampler"}
  reset -= {key for key in misled if key.startswith("WarmupCosine")}
  # The command line gives these.
  given = {"train.profile_steps", "train.data_workers"}
  assert names - given == reset | _LEFT
  assert not reset & _LEFT


def test_fine_tuning_needs_weights_that_fit(trained, tmp_path):
  run = trained[0] / "run"
  for bindings, message in (
    (
      ["Tagger.freeze_backbone = True"],
      "the weights are random: give those to start from with --init_from",
    ),
    (
      [
        "ResNet.width = 4",
        f"train.initial_checkpoint = '{run / 'saved_model'}'",
      ],
      r"stem/conv/kernel has the shape \[7, 7, 1, 4\] in the model",
    ),
  ):
    gin_config.load([str(run / "config.gin"), "gin/finetune.gin"], bindings)
    with pytest.raises(ValueError, match=message):
      experiment.Experiment().run(
        distribution.strategy(None),
        str(trained[0] / "records"),
        str(tmp_path / "run"),
      )
  assert not (tmp_path / "run").exists()


def test_an_export_has_the_thresholds_of_its_validation(trained):
  run = trained[0] / "run"
  tagger = exported_tagger.ExportedTagger(str(run / "saved_model"))
  clips = [toy.clip(i + 1000, 16000) for i in range(10)]
  middles = np.stack([samples[4000:12000] for samples, _ in clips])
  scores = tagger.score(np.float32(middles / 32768))[0]
  for c, threshold in enumerate(tagger.thresholds):
    targets = [c in present for _, present in clips]
    reached, *others = (
      sklearn.metrics.f1_score(targets, scores[:, c] >= value)
      for value in (threshold, *scores[:, c])
    )
    assert reached == pytest.approx(max(others))
  about = json.loads(
    (run / "saved_model" / "1" / "assets" / "tagger.json").read_text()
  )
  assert about["thresholds"]["step"] == about["validation"]["step"] == 12
  assert about["thresholds"]["num_clips"] == 10


def test_tflite_models_are_written_and_compared(trained, tmp_path):
  out = command.succeed(
    *_export(
      trained[0] / "run", tmp_path / "tagger", "--checkpoint=last", "--tflite"
    )
  )
  assert sorted(path.name for path in (tmp_path / "tagger").iterdir()) == [
    "1",
    "1.tflite",
    "1_int8.tflite",
  ]
  found = re.findall(
    r"wrote (\S+): (\S+) MB; scores differ .* most (\S+), on average by (\S+);"
    r" \d+ times real time",
    out,
  )
  for (path, size, most, mean), limit in zip(found, (1e-3, 0.1)):
    assert float(size) == pytest.approx(
      pathlib.Path(path).stat().st_size / 1e6, abs=0.01
    )
    assert 0 < float(mean) <= float(most) < limit
  assert float(found[1][1]) < float(found[0][1]) / 2


def test_a_batch_that_the_replicas_cannot_share_is_refused(trained, tmp_path):
  gin_config.load(
    ["gin/quickstart.gin"], [*_SMALL, "train.global_batch_size = 9"]
  )
  with pytest.raises(ValueError, match="9, does not divide by the 2 repl"):
    experiment.Experiment().run(
      toy.two_replicas(),
      str(trained[0] / "records"),
      str(tmp_path / "run"),
    )


def test_a_loss_that_is_not_finite_names_the_clips(trained, tmp_path):
  """A learning rate of 1e30 breaks the second update."""
  gin_config.load(
    ["gin/quickstart.gin"],
    [
      *small.BINDINGS,
      "train.base_learning_rate = 1e30",
      "train.steps_per_loop = 2",
      "train.checkpoint_steps = 1",
    ],
  )
  with pytest.raises(ValueError) as error:
    experiment.Experiment().run(
      distribution.strategy(None),
      str(trained[0] / "records"),
      str(tmp_path / "run"),
    )
  message = str(error.value).splitlines()[0]  # gin adds a second.
  found = re.search(
    r"not finite in step (\d+), counted from 0, learning rate (\S+); the "
    r"newest checkpoint is (\S+)\. Lower train.base_learning_rate, .* clips "
    r"of the step: (.*)$",
    message,
  )
  step = int(found[1])
  # Of a warm-up of one epoch, three steps, to 1e30 times 8 / 256.
  assert float(found[2]) == pytest.approx(step / 3 * 1e30 * 8 / 256, rel=1e-2)
  split = prepared.find_split(str(trained[0] / "records"), "train")
  ids = pipeline_lib.Pipeline().training_ids(
    split, batch_size=8, seed=0, step=step
  )
  assert found[4].split(", ") == ids and len(set(ids)) == 8
  rows = _metrics(tmp_path / "run")
  newest = tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints"))
  last_good = [row["step"] for row in rows if "loss" in row][-1:]
  assert last_good == ([] if newest is None else [int(newest.split("-")[-1])])
  assert found[3] == (newest or "none")


def test_weights_that_are_not_finite_are_not_saved(trained, tmp_path):
  """A learning rate above float32's breaks the first update, after its loss."""
  gin_config.load(
    ["gin/quickstart.gin"],
    [
      *small.BINDINGS,
      "train.base_learning_rate = 1e41",
      "train.steps_per_loop = 1",
      "train.checkpoint_steps = 1",
    ],
  )
  with pytest.raises(
    ValueError,
    match="made of the model is not finite in step 0, .* checkpoint is none. "
    "Lower .* clips of the step: train",
  ):
    experiment.Experiment().run(
      distribution.strategy(None),
      str(trained[0] / "records"),
      str(tmp_path / "run"),
    )
  assert not list((tmp_path / "run").glob("checkpoints/*"))
  assert [row["step"] for row in _metrics(tmp_path / "run")] == [1]


def test_a_tpu_of_other_machines_needs_buckets(trained, tmp_path, monkeypatch):
  monkeypatch.setattr(distribution, "is_remote", lambda _: True)
  gin_config.load(["gin/quickstart.gin"], _SMALL)
  records_dir = str(trained[0] / "records")
  for data_dir, message in (
    (records_dir, f"--data_dir={records_dir}: the hosts of this TPU"),
    ("gs://bucket/records", f"--workdir={tmp_path}/run: the hosts"),
  ):
    with pytest.raises(ValueError, match=message):
      experiment.Experiment().run(
        distribution.strategy(None), data_dir, str(tmp_path / "run")
      )


def test_a_tpu_of_other_machines_needs_pcm16(trained, tmp_path, monkeypatch):
  monkeypatch.setattr(distribution, "is_remote", lambda _: True)
  split = prepared.find_split(str(trained[0] / "records"), "train")
  monkeypatch.setattr(prepared, "find_split", lambda *_: split)
  monkeypatch.setattr(storage, "check_bucket", lambda _: None)
  gin_config.load(["gin/quickstart.gin"], _SMALL)
  strategy = distribution.strategy(None)
  with pytest.raises(ValueError, match="gs://b/r: FLAC .*--codec=pcm16"):
    experiment.Experiment().run(strategy, "gs://b/r", "gs://b/run")


def test_a_profile_of_some_steps(trained, tmp_path):
  arguments = small.arguments(
    trained[0] / "records",
    tmp_path / "run",
    "train.num_epochs = 2",
    "train.steps_per_loop = 2",
  )
  command.succeed(*arguments, "--profile_steps=3,4")
  traces = list(tmp_path.glob("run/summaries/plugins/profile/*/*.xplane.pb"))
  assert len(traces) == 1 and traces[0].stat().st_size > 1000
  assert "expected two steps" in command.fail(*arguments, "--profile_steps=4")


_AUDAX = [f"gin/audax/{model}.gin" for model in audax.MODELS]


# Of gin/sizes, models_test counts the parameters.
@pytest.mark.parametrize("gin_file", gin_config.shipped_gin_files() + _AUDAX)
def test_every_experiment_takes_a_step(tmp_path, gin_file):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records", num_train=2, num_eval=2, num_shards=1)
  gin_config.load(
    [gin_file],
    [
      "train.global_batch_size = 2",
      "train.num_epochs = 1",
      "WarmupCosine.warmup_epochs = 0",
      "Pipeline.crop_seconds = 0.5",
    ],
  )
  experiment.Experiment().run(
    distribution.strategy(None),
    str(tmp_path / "records"),
    str(tmp_path / "run"),
  )
  tagger = exported_tagger.ExportedTagger(str(tmp_path / "run" / "saved_model"))
  scores, _ = tagger.score(np.zeros([1, 8000], np.float32))
  assert scores.shape == (1, 3)
  assert np.isfinite(scores).all()


_BEST = [
  f"gin/best/{path.name}"
  for path in sorted((command.ROOT / "gin" / "best").glob("*.gin"))
  if path.name not in ("recipe.gin", "distilled.gin")
]
# The rest of the table: steps, peak learning rate for 2048 clips, and of Mixup,
# dropout and a teacher.
_VALUES = {
  "resnet18": (20_000, 2e-3, 0.3, 0.4, False),
  "resnet18_distilled": (20_000, 4e-3, 0.3, 0.2, True),
  "efficientnet_b0": (20_000, 2e-3, 0.8, 0.4, False),
  "efficientnet_b0_distilled": (20_000, 4e-3, 0.3, 0.2, True),
  "convnext_tiny": (10_000, 1e-3, 0.8, 0.4, False),
  "convnext_tiny_distilled": (20_000, 2e-3, 0.3, 0.2, True),
}


@pytest.mark.parametrize("gin_file", _BEST)
def test_every_best_experiment_has_the_values_of_its_recipe(gin_file):
  name = pathlib.Path(gin_file).stem
  num_steps, peak, alpha, dropout, is_distilled = _VALUES[name]
  gin_config.load([gin_file], ["Pipeline.teacher = 'unread'"] * is_distilled)
  whole = experiment.Experiment()
  assert whole.total_steps(whole.steps_per_epoch(1_786_000)) == num_steps
  assert whole.steps_per_epoch(1_786_000) == 100
  rate = optimizers.scaled_learning_rate(
    whole.base_learning_rate, whole.global_batch_size, "sqrt"
  )
  assert rate == pytest.approx(peak, rel=1e-3)
  assert gin.query_parameter("Mixup.alpha") == alpha
  assert gin.query_parameter("Tagger.dropout_rate") == dropout
  has_masks = gin.query_parameter("Tagger.spec_augment") is not None
  assert has_masks != is_distilled


# xla_test has the step of the others.
def test_a_best_experiment_takes_a_step_and_is_exported(tmp_path):
  (tmp_path / "records").mkdir()
  toy.write_dataset(tmp_path / "records", num_train=2, num_eval=2, num_shards=1)
  gin_config.load(
    ["gin/best/resnet18.gin"],
    [
      "train.global_batch_size = 2",
      "train.num_steps = 1",
      "train.epoch_clips = 2",
      "WarmupCosine.warmup_steps = 0",
      "Pipeline.crop_seconds = 0.5",
      "ScalarNorm.mean = -5.0",
      "ScalarNorm.sd = 4.0",
    ],
  )
  experiment.Experiment().run(
    distribution.strategy(None),
    str(tmp_path / "records"),
    str(tmp_path / "run"),
  )
  tagger = exported_tagger.ExportedTagger(str(tmp_path / "run" / "saved_model"))
  scores, _ = tagger.score(np.zeros([1, 8000], np.float32))
  assert scores.shape == (1, 3) and np.isfinite(scores).all()


def test_a_distilled_experiment_needs_its_teacher():
  gin_config.load(["gin/best/resnet18_distilled.gin"])
  with pytest.raises(ValueError, match="Pipeline.teacher names no table of sc"):
    experiment.Experiment()
