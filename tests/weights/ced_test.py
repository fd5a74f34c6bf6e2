# SPDX-License-Identifier: Apache-2.0
"""CED's checkpoints give CED's scores, or are refused."""

import gzip
import json
import os
import pathlib

import gin
import numpy as np
import pytest
import tensorflow as tf

from tests import command, numpy_ced, reference, toy
from tests.weights import weight_files_test
from tf_audioset import experiment  # noqa: F401
from tf_audioset.commands import import_weights
from tf_audioset.data import labels, records  # noqa: F401
from tf_audioset.models import tagger  # noqa: F401
from tf_audioset.runtime import gin_config  # noqa: F401
from tf_audioset.serving import export, exported_tagger, tflite  # noqa: F401
from tf_audioset.weights import audax, ced, images, pretrained  # noqa: F401

# Two blocks of the mini model.
_MODEL, _WIDTH, _NUM_HEADS, _DEPTH = "ced_mini", 256, 4, 2
_CLASSES = labels.ClassList.from_names(toy.NAMES)


def _tagger(model=_MODEL, depth=_DEPTH, num_classes=3):
  gin_config.load([ced.gin_file(model)], [f"ViT.depth = {depth}"])
  built = gin.get_configurable(tagger.Tagger)(num_classes=num_classes)
  built(tf.zeros([1, 16000]))
  return built


@pytest.fixture(name="arrays", scope="module")
def _arrays():
  return numpy_ced.random_arrays(_WIDTH, _DEPTH, 3)


@pytest.fixture(name="model", scope="module")
def _model(arrays):
  model = _tagger()
  ced.assign(arrays, model, _MODEL)
  return model


@pytest.fixture(name="exported", scope="module")
def _exported(model, tmp_path_factory):
  """The folder of an export as the importer makes it."""
  folder = tmp_path_factory.mktemp("exported") / "1"
  export.export(
    model,
    str(folder),
    classes=_CLASSES,
    min_samples=2400,
    padding="zero",
    batch_shape=(2, 16000),
    window_samples=160000,
  )
  return folder


@pytest.fixture(name="loaded", scope="module")
def _loaded(exported):
  return exported_tagger.ExportedTagger(str(exported))


def _sound(num_samples, seed=0):
  """Noise whose loudness changes, float32."""
  rng = np.random.default_rng(seed)
  loudness = np.sin(np.arange(num_samples) / 5000) ** 2
  return (0.1 * loudness * rng.normal(size=num_samples)).astype(np.float32)


def _expected(arrays, waveform, num_heads=_NUM_HEADS):
  return numpy_ced.forward(arrays, numpy_ced.log_mel(waveform), num_heads)


# One patch, part of a second one, and the frames that are taken whole; one
# frame more, which is a second chunk; two chunks and a half.
@pytest.mark.parametrize(
  "num_samples", [2400, 4900, 16000, 1011 * 160, 1012 * 160, 2500 * 160]
)
def test_the_export_is_numpys_at_any_length(arrays, loaded, num_samples):
  waveform = _sound(num_samples)
  scores, embedding = loaded.score(waveform[np.newaxis])
  wanted_scores, wanted_embedding = _expected(arrays, waveform)
  np.testing.assert_allclose(scores[0], wanted_scores, atol=2e-5)
  limit = 1e-4 * wanted_embedding.std()
  np.testing.assert_allclose(embedding[0], wanted_embedding, atol=limit)


def test_only_what_is_shorter_than_a_patch_is_padded(arrays, loaded):
  assert (loaded.min_samples, loaded.padding) == (2400, "zero")
  assert loaded.window_samples == 160000
  waveform = _sound(1000)
  expected, _ = _expected(arrays, np.pad(waveform, (0, 1400)))
  actual = loaded.score(waveform[np.newaxis])[0][0]
  np.testing.assert_allclose(actual, expected, atol=2e-5)
  # In a batch, each clip is scored as by itself.
  pair = np.stack([_sound(16000), 0.01 * _sound(16000, 1)])
  together = loaded.score(pair)[0]
  alone = [loaded.score(clip[np.newaxis])[0][0] for clip in pair]
  np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_signature_for_xla_is_numpys(arrays, exported):
  strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
  batched = exported_tagger.ReplicatedTagger(
    str(exported), strategy, jit_compile=True
  )
  clips = np.stack([_sound(16000, seed) for seed in range(2)])
  expected = [_expected(arrays, clip)[0] for clip in clips]
  np.testing.assert_allclose(batched.score(clips), expected, atol=1e-4)


@pytest.fixture(name="imported", scope="module")
def _imported(tmp_path_factory):
  """The folder in which the tool imported the golden checkpoint."""
  packed = reference.golden("ced_tiny.safetensors.gz")
  folder = tmp_path_factory.mktemp("imported")
  out = command.succeed(
    "tools/import_weights.py",
    "--format=ced",
    f"--checkpoint={packed}",
    "--model=ced_tiny",
    f"--saved_model={folder / 'model'}",
    f"--checkpoint_out={folder / 'start'}",
  )
  # 12 blocks of 12 arrays, 14 others; without the counter of batches.
  assert "158 arrays" in out
  return folder


def test_the_imported_model_gives_ceds_scores(imported):
  loaded = exported_tagger.ExportedTagger(str(imported / "model"))
  assert loaded.classes == labels.ClassList.audioset()
  assert loaded.sample_rate_hz == records.SAMPLE_RATE_HZ
  assert loaded.min_samples == 2400
  with np.load(reference.golden("frontend.npz")) as file:
    clips = file["waveform_5s"].astype(np.float32) / 32768
  waveforms = {
    "1s": clips[:, 20000:36000],
    "5s": clips,
    "10s": 0.5 * np.concatenate([clips, np.roll(clips, -1, 0)], 1),
    "12s": np.concatenate([clips, np.roll(clips, -2, 0), clips[:, :32000]], 1),
  }
  with np.load(reference.golden("ced_tiny_expected.npz")) as file:
    golden = dict(file)
  for name, waveform in waveforms.items():
    scores, embedding = loaded.score(waveform)
    wanted = golden[f"embedding_{name}"]
    np.testing.assert_allclose(embedding, wanted, atol=1e-3 * wanted.std())
    # The first clip of 1 s is one pure tone: its other bands, 110 dB below it,
    # hold what PyTorch's transform in float32 rounds off. There PyTorch itself
    # differs by 1.1e-4 from these values with another instruction set.
    limits = np.full([4, 1], 1e-4)
    limits[0] = 2e-4 if name == "1s" else 1e-4
    error = np.abs(scores - golden[f"scores_{name}"])
    assert (error < limits).all(), (name, error.max(axis=1))


def _golden_arrays():
  return ced.read_checkpoint(str(reference.golden("ced_tiny.safetensors.gz")))


def test_golden_log_mels_give_golden_scores():
  """From there on, nothing is lost to the transform's rounding."""
  arrays = _golden_arrays()
  with np.load(reference.golden("ced_tiny_expected.npz")) as file:
    golden = dict(file)
  model = _tagger("ced_tiny", 12, 527)
  ced.assign(arrays, model, "ced_tiny")
  for name in ("1s", "5s"):
    levels = np.transpose(golden[f"logmel_db_{name}"], [0, 2, 1])
    features = model.frontend.norm(levels)[..., tf.newaxis]
    scores = tf.sigmoid(model.head(model.backbone(features)))
    np.testing.assert_allclose(scores, golden[f"scores_{name}"], atol=2e-6)
  # And so is the transcription that other sizes are compared with.
  levels = golden["logmel_db_1s"][1]
  scores, embedding = numpy_ced.forward(arrays, levels, num_heads=3)
  np.testing.assert_allclose(scores, golden["scores_1s"][1], atol=2e-6)
  np.testing.assert_allclose(embedding, golden["embedding_1s"][1], atol=1e-5)


@pytest.mark.parametrize("place", ["model", "start"])
def test_imports_are_starting_points_for_any_classes(imported, place):
  model = _tagger("ced_tiny", 12)
  classes = labels.ClassList.from_names("abc")
  pretrained.load(str(imported / place), model, classes)
  arrays = _golden_arrays()
  for name, variable, convert in ced._pairs(model):
    if not name.startswith("outputlayer.1."):
      np.testing.assert_array_equal(variable, convert(arrays[name]))
  folder = imported / place
  text = next(folder.rglob("config.gin")).read_text()
  assert "ViT.variant = 'tiny'" in text and "DecibelMel.top_db = 120" in text


def test_fine_tuning_trains_all_of_it(exported, arrays, tmp_path):
  data_dir, workdir = tmp_path / "data", tmp_path / "run"
  data_dir.mkdir()
  toy.write_dataset(data_dir)
  command.succeed(
    "-m",
    "tf_audioset.train",
    f"--gin_file={ced.gin_file(_MODEL)}",
    "--gin_file=gin/ced/finetune.gin",
    f"--data_dir={data_dir}",
    f"--workdir={workdir}",
    f"--init_from={exported}",
    *(
      f"--gin_bindings={binding}"
      for binding in (
        f"ViT.depth = {_DEPTH}",
        "Pipeline.crop_seconds = 0.5",
        "train.global_batch_size = 8",
        "train.num_epochs = 1",
        "WarmupCosine.warmup_epochs = 0",
      )
    ),
  )
  loaded = exported_tagger.ExportedTagger(str(workdir / "saved_model"))
  assert loaded.classes == _CLASSES and loaded.min_samples == 8000
  trained = _tagger()
  pretrained.load(str(workdir), trained, _CLASSES)
  for name, variable, convert in ced._pairs(trained):
    value, before = variable.numpy(), convert(arrays[name])
    assert not np.array_equal(value, before), name
    # A few steps at a small rate: the start is still to be seen.
    assert np.abs(value - before).max() < 0.5 * np.ptp(before) + 0.01, name


def test_other_checkpoints_are_refused(arrays, model):
  def refuse(message, changes, model_name=_MODEL, without=()):
    changed = {k: v for k, v in {**arrays, **changes}.items()}
    changed = {k: v for k, v in changed.items() if k not in without}
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ValueError, match=message) as error:
      ced.assign(changed, model, model_name)
    assert "\n" not in str(error.value)
    for variable, value in zip(model.variables, before):
      np.testing.assert_array_equal(variable, value)

  bias = arrays["encoder.norm.bias"]
  refuse("without encoder.norm.bias", {}, without=["encoder.norm.bias"])
  refuse("with encoder.blocks.2.x", {"encoder.blocks.2.x": bias})
  refuse(
    r"encoder.norm.bias has the shape \(9,\)", {"encoder.norm.bias": bias[:9]}
  )
  refuse(
    "bias holds numbers that are not", {"encoder.norm.bias": bias * np.nan}
  )
  tiny = numpy_ced.random_arrays(192, _DEPTH, 3)
  refuse("as if of a ced_tiny: give --model=ced_tiny", tiny)
  with pytest.raises(ValueError, match="not the checkpoint of a CED"):
    ced.num_classes({"fc.bias": bias})
  assert ced.num_classes(arrays) == 3


def test_a_config_of_another_model_is_refused(tmp_path):
  path = tmp_path / "config.json"

  def check(**values):
    path.write_text(json.dumps({"model_type": "ced", **values}))
    ced.check_config(str(tmp_path / "x.safetensors"), _MODEL, _CLASSES)

  low, high, noise = toy.NAMES
  ced.check_config(str(tmp_path / "x.safetensors"), _MODEL, _CLASSES)
  good = {"embed_dim": 256, "num_heads": 4, "outputdim": 3, "depth": 12}
  check(**good, f_min=0, f_max=8000.0, id2label={"0": low, "2": noise})
  check(**good, id2label={"0": "LABEL_0"}, architectures=["Ced"])
  for values, message in (
    ({"model_type": "audio-spectrogram-transformer"}, "of the type 'audio-"),
    ({"embed_dim": 192}, "embed_dim is 192; that of a ced_mini .* is 256"),
    ({"outputdim": 527}, "outputdim is 527; .* of 3 classes is 3"),
    ({"pooling": "token"}, "pooling is 'token'"),
    ({"target_length": 500}, "target_length is 500"),
    ({"id2label": {"1": low}}, f"class 1 is '{low}', but '{high}'"),
  ):
    with pytest.raises(ValueError, match=message):
      check(**values)
  path.write_text("[")
  with pytest.raises(ValueError, match="config.json cannot be read"):
    ced.check_config(str(tmp_path / "x.safetensors"), _MODEL, _CLASSES)


def test_names_that_ceds_config_cuts_are_accepted(tmp_path):
  classes = labels.ClassList.audioset()
  names = {str(i): n.split(",")[0] for i, n in enumerate(classes.names)}
  assert names != {str(i): n for i, n in enumerate(classes.names)}
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"model_type": "ced", "id2label": names}))
  ced.check_config(str(tmp_path / "x"), _MODEL, classes)


def _import(path, *flags, **kwargs):
  run = command.fail if kwargs.pop("fails", True) else command.succeed
  return run(
    "tools/import_weights.py",
    f"--checkpoint={path}",
    f"--saved_model={path}.model",
    *flags,
    **kwargs,
  )


def test_a_wrong_file_is_one_line(arrays, tmp_path):
  flags = ("--format=ced", "--model=ced_mini")
  path = tmp_path / "x.safetensors"
  whole = weight_files_test.safetensors(arrays)
  path.write_bytes(whole[:-1])
  assert f"{path}: cut off: it has {len(whole) - 1} bytes" in _import(
    path, *flags
  )
  path.write_bytes(whole)
  assert "3 classes, but AudioSet has 527" in _import(path, *flags)
  names = tmp_path / "classes.csv"
  names.write_text("index,mid,display_name\n0,a,A\n1,b,B\n2,c,C\n")
  named = (*flags, f"--class_labels_csv={names}")
  error = _import(path, *named)
  assert f"{path}: not the checkpoint of a ced_mini: without" in error
  assert "encoder.blocks.10" in error
  assert not os.path.exists(f"{path}.model")


def test_a_model_of_another_format_is_told_at_once(tmp_path):
  error = _import(tmp_path / "x", "--format=audax", "--model=ced_tiny")
  assert "not a model of --format=audax, which has resnet18" in error
  error = command.fail("tools/import_audax.py", "--checkpoint=x")
  assert "tools/import_weights.py" in error and "--format=audax" in error


def test_the_tool_knows_the_models():
  families = {"audax": audax.MODELS, "ced": ced.MODELS, **images.MODELS}
  assert import_weights.MODELS == families
  for model in (*images.MODELS["timm"], *images.MODELS["keras"]):
    assert (pathlib.Path(command.ROOT) / images.gin_file(model)).exists()
  for family in (audax, ced):
    for model in family.MODELS:
      assert (pathlib.Path(command.ROOT) / family.gin_file(model)).exists()


@pytest.mark.parametrize(
  ("model", "millions"),
  [("ced_tiny", 5.5), ("ced_mini", 9.6), ("ced_small", 22), ("ced_base", 86)],
)
def test_every_size_has_the_published_parameters(model, millions, monkeypatch):
  add_weight = tf.keras.layers.Layer.add_weight

  def add_zeros(self, *args, **kwargs):
    # Only the shapes matter.
    return add_weight(self, *args, **{**kwargs, "initializer": "zeros"})

  monkeypatch.setattr(tf.keras.layers.Layer, "add_weight", add_zeros)
  built = _tagger(model, 12, 527)
  # The paper's counts leave out a percent or so.
  assert abs(built.count_params() / 1e6 - millions) < 0.02 * millions
  # And it is what a checkpoint of that size holds.
  width = built.backbone.embedding_size
  arrays = numpy_ced.random_arrays(width, 12, 527)
  assert built.count_params() == sum(a.size for a in arrays.values())


def test_a_packed_checkpoint_is_as_good_as_an_unpacked_one(arrays, tmp_path):
  content = weight_files_test.torch_file(arrays)
  path = tmp_path / "pytorch_model.bin.gz"
  path.write_bytes(gzip.compress(content, 1))
  read = ced.read_checkpoint(str(path))
  assert read.keys() == arrays.keys()
  other = _tagger()
  ced.assign(read, other, _MODEL)
  for name, variable, convert in ced._pairs(other):
    np.testing.assert_array_equal(variable, convert(arrays[name]))


def test_tflite_models_are_numpys_and_stay_near(arrays, model, exported):
  lines = list(
    tflite.write(model, str(exported), min_samples=2400, padding="zero")
  )
  assert len(lines) == 2 and "1_int8.tflite" in lines[1]
  # Two chunks, and less than a patch.
  for num_samples, padded in ((1020 * 160, 1020 * 160), (1000, 2400)):
    waveform = _sound(num_samples)
    missing = padded - num_samples
    expected, _ = _expected(arrays, np.pad(waveform, (0, missing)))
    for suffix, limit in (("", 1e-3), ("_int8", 0.1)):
      content = pathlib.Path(f"{exported}{suffix}.tflite").read_bytes()
      scores, _ = tflite.TFLiteTagger(content).score(waveform)
      np.testing.assert_allclose(scores, expected, atol=limit)
