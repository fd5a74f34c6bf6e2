# SPDX-License-Identifier: Apache-2.0
"""The SavedModel against the model, and alone in a bare process."""

import io
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import scipy.special
import soundfile
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests import command, toy
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.models import convnext, layers, resnet, tagger
from tf_audioset.serving import export, exported_tagger, signatures
from tf_audioset.training import losses

_CLASSES = labels.ClassList(("/m/a", "/m/b", "/m/c"), ("A, first", "B", "Ç"))
_MIN_SAMPLES = 8000
_BATCH_SHAPE = (3, 5000)


def _built(backbone):
  model = tagger.Tagger(
    len(_CLASSES),
    frontend=features.LogMel(),
    backbone=backbone,
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, _MIN_SAMPLES]))
  return model


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory):
  tf.keras.utils.set_random_seed(1)
  model = _built(resnet.ResNet(18, width=4))
  # Statistics as after training: at their start values nothing would show.
  for i, variable in enumerate(model.variables):
    if "moving" in variable.name:
      noise = tf.random.stateless_uniform(variable.shape, [i, 0])
      variable.assign(variable + 0.1 * noise)
  folder = str(tmp_path_factory.mktemp("model") / "1")
  export.export(
    model,
    folder,
    classes=_CLASSES,
    min_samples=_MIN_SAMPLES,
    padding="repeat",
    batch_shape=_BATCH_SHAPE,
    config_gin="a.b = 'Ç'\n",
    validation={"mAP": 0.25},
    thresholds={"values": [0.5, None, 0.25]},
  )
  return model, folder


@pytest.fixture(name="loaded", scope="module")
def _loaded(exported):
  return exported_tagger.ExportedTagger(exported[1])


@pytest.fixture(name="served", scope="module")
def _served(exported):
  return tf.saved_model.load(exported[1])


def _waveform(batch, num_samples):
  return (
    np.random.default_rng(num_samples)
    .uniform(-0.5, 0.5, [batch, num_samples])
    .astype(np.float32)
  )


@pytest.mark.parametrize(
  ("batch", "num_samples"),
  [(1, 1), (2, 37001)]
  + [(batch, int(s * 16000)) for s in (0.1, 1, 5, 10) for batch in (1, 64)]
  + [(batch, 37 * 16000) for batch in (1, 5)],
)
def test_scores_equal_the_models(exported, loaded, batch, num_samples):
  waveform = _waveform(batch, num_samples)
  scores, embedding = loaded.score(waveform)
  padded = pipeline_lib.pad(tf.constant(waveform), _MIN_SAMPLES, "repeat")
  np.testing.assert_allclose(
    scores, _expected(exported, waveform), rtol=0, atol=1e-5
  )
  np.testing.assert_allclose(embedding, exported[0].embed(padded), atol=1e-4)


def test_more_clips_than_a_request_may_have_are_scored_in_parts(
  loaded, monkeypatch
):
  waveform = _waveform(5, 16000)
  expected = loaded.score(waveform)
  monkeypatch.setattr(signatures, "MAX_SECONDS", 2)
  for got, values in zip(loaded.score(waveform), expected):
    np.testing.assert_allclose(got, values, atol=1e-6)


@pytest.mark.parametrize("batch_shape", [(361, 160000), (1, 601 * 16000)])
def test_a_batch_longer_than_a_request_may_be_is_not_exported(
  exported, tmp_path, batch_shape
):
  with pytest.raises(ValueError, match="a clip may have 600 s and all of them"):
    export.export(
      exported[0],
      str(tmp_path / "1"),
      classes=_CLASSES,
      min_samples=_MIN_SAMPLES,
      padding="repeat",
      batch_shape=batch_shape,
    )


def test_an_export_that_is_cut_off_is_told(exported, tmp_path):
  shutil.copytree(exported[1], tmp_path / "1")
  (weights,) = (tmp_path / "1" / "variables").glob("variables.data*")
  weights.write_bytes(weights.read_bytes()[:-100])
  with pytest.raises(ValueError, match=f"{tmp_path}/1 is broken: Read less"):
    exported_tagger.ExportedTagger(str(tmp_path / "1"))


def _expected(exported, waveform):
  """Scores of the model, not of its export."""
  padded = pipeline_lib.pad(
    tf.constant(waveform, tf.float32), _MIN_SAMPLES, "repeat"
  )
  return scipy.special.expit(exported[0](padded).numpy())


def test_one_shape_is_fixed(exported, served):
  batched = served.signatures["batched"]
  (spec,) = batched.structured_input_signature[1].values()
  assert tuple(spec.shape) == _BATCH_SHAPE
  assert batched.structured_outputs["scores"].shape == (3, len(_CLASSES))
  waveform = _waveform(*_BATCH_SHAPE)
  np.testing.assert_allclose(
    batched(waveform=tf.constant(waveform))["scores"],
    _expected(exported, waveform),
    atol=1e-5,
  )


def test_xla_compiles_the_fixed_shape(exported, served):
  """Clips shorter than the crop, and one of silence, which tests the scales."""
  waveform = _waveform(*_BATCH_SHAPE)
  waveform[1] = 0
  batched = tf.function(
    lambda waveform: served.signatures["batched"](waveform=waveform),
    jit_compile=True,
  )
  np.testing.assert_allclose(
    batched(tf.constant(waveform))["scores"],
    _expected(exported, waveform),
    atol=1e-5,
  )


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_replicas_share_batches_and_fill_them_up(exported, num_replicas):
  strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
  if num_replicas == 2:
    strategy = toy.two_replicas()
  tagger_ = exported_tagger.ReplicatedTagger(
    # XLA cannot compile for the second of two devices that are one CPU.
    exported[1],
    strategy,
    jit_compile=num_replicas == 1,
  )
  assert tagger_.batch_size == 3 * num_replicas
  assert tagger_.num_samples == _BATCH_SHAPE[1]
  waveform = _waveform(tagger_.batch_size, tagger_.num_samples)
  for few in (waveform, waveform[:1], waveform[:2]):
    np.testing.assert_allclose(
      tagger_.score(few), _expected(exported, few), atol=1e-5
    )


def test_an_export_that_xla_cannot_compile_is_told(tmp_path):
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([2, 512], name="waveform")])
  def batched(waveform):
    return {"scores": tf.abs(tf.signal.rfft(waveform))}

  for functions in ({"batched": batched}, {"serving_default": batched}):
    folder = str(tmp_path / next(iter(functions)))
    tf.saved_model.save(module, folder, signatures=functions)
    with pytest.raises(ValueError, match="XLA can compile: export the checkp"):
      exported_tagger.ReplicatedTagger(
        folder, tf.distribute.OneDeviceStrategy("/cpu:0")
      )


def _wav(samples, rate_hz=16000, subtype="PCM_16", kind="WAV"):
  file = io.BytesIO()
  soundfile.write(file, samples, rate_hz, subtype=subtype, format=kind)
  return file.getvalue()


def test_wavs_of_any_length_are_scored_each_by_itself(exported, loaded, served):
  clips = [
    np.round(_waveform(num_samples, channels) * 32767).astype(np.int16)
    for num_samples, channels in ((20000, 1), (3000, 2), (9001, 3))
  ]
  got = served.signatures["wav"](wav=tf.constant([_wav(x) for x in clips]))
  for i, samples in enumerate(clips):
    mono = (samples / 32768.0).mean(axis=1)[np.newaxis]
    np.testing.assert_allclose(
      got["scores"][i], _expected(exported, mono)[0], atol=1e-5
    )
    np.testing.assert_array_equal(got["embedding"][i], loaded.score(mono)[1][0])
  none = served.signatures["wav"](wav=tf.constant([], tf.string))
  assert none["scores"].shape == (0, len(_CLASSES))


_NOISE = _waveform(1, 500)[0]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (_wav(_NOISE, 44100), r"wanted .* 16000 Hz; given, in Hz:\] \[44100\]"),
    (b"", "not a wav file; wanted is a 16-bit PCM wav file at 16000 Hz"),
    (b"\xff\xfb\x90", "not a wav file; wanted is"),
    (_wav(_NOISE, kind="FLAC"), "not a wav file; wanted is"),
    (_wav(_NOISE, subtype="PCM_24"), r"another encoding; .*\[1 1 24\]"),
    (_wav(_waveform(1, 9000)[0])[:400], "the wav file is cut off"),
    (_wav(_NOISE[:0]), "the wav file holds no samples"),
  ],
)
def test_what_is_no_such_wav_is_refused(served, content, message):
  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    served.signatures["wav"](wav=tf.constant([_wav(_NOISE), content]))


@pytest.mark.parametrize(
  ("num_samples", "window_seconds", "hop_seconds", "begins"),
  [
    (40000, 1.0, 0.5, [0, 8000, 16000, 24000]),
    (40001, 1.0, 0.5, [0, 8000, 16000, 24000, 24001]),
    (40000, 0.75, 0.8, [0, 12800, 25600, 28000]),
    (40000, 2.5, 0.1, [0]),
    (12000, 1.0, 1.0, [0]),
    (20000, 0.2, np.inf, [0, 16800]),
    (20000, np.inf, 1.0, [0]),
  ],
)
def test_a_timeline_has_the_scores_of_the_windows(
  exported, served, num_samples, window_seconds, hop_seconds, begins
):
  waveform = _waveform(2, num_samples)
  got = served.signatures["timeline"](
    waveform=tf.constant(waveform),
    window_seconds=tf.constant(window_seconds),
    hop_seconds=tf.constant(hop_seconds),
  )
  assert got["scores"].shape == (2, len(begins), len(_CLASSES))
  np.testing.assert_allclose(
    got["times_seconds"], np.array(begins) / 16000, rtol=1e-6
  )
  window = int(min(window_seconds * 16000, num_samples))
  for i, begin in enumerate(begins):
    np.testing.assert_allclose(
      got["scores"][:, i],
      _expected(exported, waveform[:, begin : begin + window]),
      atol=1e-5,
    )


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, 1e-5])
@pytest.mark.parametrize("name", ["window_seconds", "hop_seconds"])
def test_a_timeline_needs_a_window_and_a_hop(served, name, wrong):
  seconds = {"window_seconds": 1.0, "hop_seconds": 1.0, name: wrong}
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=f"{name} must be at least one sample"
  ):
    served.signatures["timeline"](
      waveform=tf.zeros([1, 16000]),
      **{name: tf.constant(value) for name, value in seconds.items()},
    )


def test_no_samples_are_refused(served):
  empty = {"waveform": tf.zeros([1, 0])}
  second = {"window_seconds": tf.constant(1.0), "hop_seconds": tf.constant(1.0)}
  for name, inputs in (
    ("serving_default", empty),
    ("timeline", {**empty, **second}),
  ):
    with pytest.raises(
      tf.errors.InvalidArgumentError, match=r"of one sample or more.*\[1 0\]"
    ):
      served.signatures[name](**inputs)


def test_it_knows_its_classes_and_its_input(loaded):
  assert loaded.classes == _CLASSES
  assert loaded.sample_rate_hz == 16000
  assert (loaded.min_samples, loaded.padding) == (_MIN_SAMPLES, "repeat")


def test_the_newest_version_of_a_serving_folder_is_taken(exported):
  _, folder = exported
  assert (
    exported_tagger.ExportedTagger(folder[: -len("/1")]).classes == _CLASSES
  )


def test_it_loads_without_this_package_or_keras_objects(exported, tmp_path):
  waveform = _waveform(2, 12345)
  np.save(tmp_path / "waveform.npy", waveform)
  script = tmp_path / "bare.py"
  # Run from elsewhere, with an import hook that refuses what is not needed.
  script.write_text(
    """
import json, sys
import numpy as np

class Refuse:
  def find_spec(self, name, path=None, target=None):
    top = name.split(".")[0]
    if top in ("tf_audioset", "tensorflow_addons", "tensorflow_io", "official"):
      raise ImportError("refused: " + name)

sys.meta_path.insert(0, Refuse())
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
serve = model.signatures["serving_default"]
name, spec = next(iter(serve.structured_input_signature[1].items()))
out = serve(waveform=tf.constant(np.load("waveform.npy")))
classes = model.signatures["classes"]()
print(json.dumps({
  "input": [name, spec.dtype.name, spec.shape.as_list()],
  "scores": out["scores"].numpy().tolist(),
  "outputs": sorted(out),
  "names": [n.decode() for n in classes["name"].numpy()],
  "mids": [m.decode() for m in classes["mid"].numpy()],
}))
"""
  )
  answer = json.loads(
    command.succeed(
      script, exported[1], cwd=tmp_path, env=os.environ
    ).splitlines()[-1]
  )
  assert answer["input"] == ["waveform", "float32", [None, None]]
  assert answer["outputs"] == ["embedding", "scores"]
  assert answer["names"] == list(_CLASSES.names)
  assert answer["mids"] == list(_CLASSES.mids)
  expected = scipy.special.expit(exported[0](waveform).numpy())
  np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)


def _meta_graph(folder):
  message = saved_model_pb2.SavedModel()
  with open(f"{folder}/saved_model.pb", "rb") as file:
    message.ParseFromString(file.read())
  return message.meta_graphs[0]


def _run_in_c(saved_model, folder, signature, inputs):
  """Outputs of a signature, as `tests/c_api.py` computes them."""
  signature = _meta_graph(saved_model).signature_def[signature]
  np.savez(
    folder / "inputs.npz",
    **{signature.inputs[name].name: x for name, x in inputs.items()},
  )
  names = sorted(signature.outputs)
  tensors = [signature.outputs[name].name for name in names]
  command.succeed(
    "tests/c_api.py", saved_model, folder, *tensors, env=os.environ
  )
  with np.load(folder / "outputs.npz") as file:
    return dict(zip(names, file.values()))


@pytest.mark.parametrize("signature", ["serving_default", "wav", "timeline"])
def test_the_c_library_alone_runs_it(exported, tmp_path, signature):
  samples = np.round(_waveform(2, 12345) * 32767).astype(np.int16)
  waveform = np.float32(samples / 32768)
  inputs = {
    "serving_default": {"waveform": waveform},
    "wav": {"wav": np.array([_wav(x) for x in samples], object)},
    "timeline": {
      "waveform": waveform,
      "window_seconds": np.float32(0.6),
      "hop_seconds": np.float32(9),
    },
  }[signature]
  got = _run_in_c(exported[1], tmp_path, signature, inputs)
  parts = [waveform]
  if signature == "timeline":
    parts = [waveform[:, :9600], waveform[:, -9600:]]
    got["scores"] = np.concatenate([*got["scores"].transpose([1, 0, 2])])
  expected = np.concatenate([_expected(exported, part) for part in parts])
  np.testing.assert_allclose(got["scores"], expected, rtol=0, atol=1e-5)


def test_the_c_library_alone_knows_every_operation(exported, tmp_path):
  waveform = _waveform(1, 8000)
  _run_in_c(exported[1], tmp_path, "serving_default", {"waveform": waveform})
  known = op_def_pb2.OpList.FromString((tmp_path / "ops.pb").read_bytes())
  used = {node.op for node in toy.nodes(_meta_graph(exported[1]).graph_def)}
  assert {"DecodeRaw", "RFFT", "Conv2D"} <= used
  # Those of addons and tensorflow-io are named "Addons>..." and "IO>...".
  assert used <= {op.name for op in known.op if ">" not in op.name}
  # They would call the Python that made them.
  assert not {op for op in used if "PyFunc" in op}


def test_no_keras_is_in_the_file(exported):
  user_objects = {
    node.user_object.identifier
    for node in _meta_graph(exported[1]).object_graph_def.nodes
    if node.HasField("user_object")
  }
  assert not {name for name in user_objects if "keras" in name}


def test_kernels_are_ready_and_no_call_makes_them(exported):
  loaded = tf.saved_model.load(exported[1])
  convolutions = [v for v in loaded.model_variables if v.shape.rank == 4]
  assert len(convolutions) == 20
  for variable in convolutions:
    variable.assign(tf.zeros_like(variable))
  waveform = _waveform(*_BATCH_SHAPE)
  scores = {
    name: loaded.signatures[name](waveform=tf.constant(waveform))["scores"]
    for name in ("serving_default", "batched")
  }
  expected = _expected(exported, waveform)
  np.testing.assert_allclose(scores["serving_default"], expected, atol=1e-5)
  # What XLA compiles takes them as they are: a TPU has them in its memory.
  assert np.abs(scores["batched"] - expected).max() > 1e-3


def _read(path: str) -> str:
  file = pathlib.Path(path)
  return file.read_text() if file.exists() else ""


class _ConvNeXtBlocks(tf.keras.Model):
  """Two blocks of ConvNeXt."""

  embedding_size = 64

  def __init__(self):
    super().__init__()
    self._parts = [convnext._Block(64, False) for _ in range(2)]

  def get_config(self):
    return {}

  def call(self, features, training=False, seed=None):
    x = tf.transpose(features, [0, 1, 3, 2])
    for part in self._parts:
      x += part(x)
    return tf.reduce_mean(x, [1, 2])


class _SiluBackbone(tf.keras.Model):
  """A convolution of EfficientNet's."""

  embedding_size = 8

  def __init__(self):
    super().__init__()
    conv = layers.Conv2D(8, 1, padding="same", use_bias=False)
    self._convolution = layers.ConvNorm(conv, momentum=0.9, epsilon=1e-3)

  def get_config(self):
    return {}

  def call(self, features, training=False, seed=None):
    x = self._convolution(features, training=training)
    return tf.reduce_mean(tf.nn.silu(x), [1, 2])


_with_onednn = pytest.mark.skipif(
  "avx512f" not in _read("/proc/cpuinfo"),
  reason="without AVX-512 TensorFlow need not take oneDNN, which then joins "
  "nothing in bfloat16",
)


@_with_onednn
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_session_joins_gelus_and_layer_norms(tmp_path, precision):
  operations = _operations(_ConvNeXtBlocks, precision, str(tmp_path / "1"))
  assert any("FusedMatMul(" in label for label in operations)
  assert not any("Erf(" in label for label in operations)
  assert sum("_MklLayerNorm(" in label for label in operations) == 2
  assert not any("BatchNorm" in label for label in operations)


@_with_onednn
def test_a_session_joins_silus_with_their_convolutions(tmp_path):
  operations = _operations(_SiluBackbone, "float32", str(tmp_path / "1"))
  assert any("FusedConv2D(" in label for label in operations)
  assert not any("Swish(" in label for label in operations)


def _operations(make_backbone, precision, folder):
  """Of a call of an exported model in a session, which TF Serving has."""
  with toy.precision(precision):
    export.export(
      _built(make_backbone()),
      folder,
      classes=_CLASSES,
      min_samples=_MIN_SAMPLES,
      padding="repeat",
    )
  with tf.compat.v1.Session(graph=tf.Graph()) as session:
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], folder)
    signature = loaded.signature_def["serving_default"]
    metadata = tf.compat.v1.RunMetadata()
    session.run(
      signature.outputs["scores"].name,
      {signature.inputs["waveform"].name: _waveform(1, _MIN_SAMPLES)},
      tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE),
      metadata,
    )
  return [
    node.timeline_label
    for device in metadata.step_stats.dev_stats
    for node in device.node_stats
  ]


def test_what_belongs_to_it_is_in_its_assets(exported):
  folder = pathlib.Path(exported[1]) / "assets"
  table = folder / "class_labels_indices.csv"
  assert labels.ClassList.from_csv(str(table)) == _CLASSES
  assert (folder / "config.gin").read_text(encoding="utf-8") == "a.b = 'Ç'\n"
  assert json.loads((folder / "tagger.json").read_text()) == {
    "sample_rate_hz": 16000,
    "min_samples": _MIN_SAMPLES,
    "window_samples": _MIN_SAMPLES,
    "padding": "repeat",
    "validation": {"mAP": 0.25},
    "thresholds": {"values": [0.5, None, 0.25]},
  }


def test_thresholds_are_known_or_not(exported, loaded, tmp_path):
  np.testing.assert_array_equal(loaded.thresholds, [0.5, np.nan, 0.25])
  folder = tmp_path / "1"
  shutil.copytree(exported[1], folder)
  table = folder / "assets" / "tagger.json"
  about = json.loads(table.read_text())
  for old in ({**about, "thresholds": None}, {"min_samples": 1}):
    table.write_text(json.dumps(old))
    assert exported_tagger.ExportedTagger(str(folder)).thresholds is None


def _prediction_log():
  """TF Serving's message, as its .proto files declare it."""
  file = descriptor_pb2.FileDescriptorProto(
    name="serving.proto",
    package="serving",
    dependency=["tensorflow/core/framework/tensor.proto"],
    syntax="proto3",
  )

  def message(name, *fields, within=file.message_type):
    added = within.add(name=name)
    for field_name, number, kind in fields:
      field = added.field.add(name=field_name, number=number, label=1)
      if kind is str:
        field.type = field.TYPE_STRING
      else:
        field.type, field.type_name = field.TYPE_MESSAGE, kind
    return added

  message("ModelSpec", ("name", 1, str), ("signature_name", 3, str))
  request = message(
    "PredictRequest",
    ("model_spec", 1, ".serving.ModelSpec"),
    ("inputs", 2, ".serving.PredictRequest.InputsEntry"),
  )
  request.field[1].label = request.field[1].LABEL_REPEATED
  entry = message(
    "InputsEntry",
    ("key", 1, str),
    ("value", 2, ".tensorflow.TensorProto"),
    within=request.nested_type,
  )
  entry.options.map_entry = True
  message("PredictLog", ("request", 1, ".serving.PredictRequest"))
  message("PredictionLog", ("predict_log", 6, ".serving.PredictLog"))
  pool = descriptor_pool.Default()
  pool.Add(file)
  # What is new in protobuf 4 is not in that of Python 3.9 and 3.10.
  return message_factory.MessageFactory(pool).GetPrototype(
    pool.FindMessageTypeByName("serving.PredictionLog")
  )


def test_every_signature_that_computes_is_warmed_up(exported, served):
  path = f"{exported[1]}/assets.extra/tf_serving_warmup_requests"
  log_class = _prediction_log()
  warmed = set()
  for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
    log = log_class.FromString(record)
    request = log.predict_log.request
    signature = served.signatures[request.model_spec.signature_name]
    outputs = signature(
      **{
        name: tf.constant(tf.make_ndarray(x))
        for name, x in request.inputs.items()
      }
    )
    assert all(len(output) for output in outputs.values())
    warmed.add(request.model_spec.signature_name)
  assert warmed == set(served.signatures) - {"classes"}


def test_only_a_saved_model_is_replaced(exported, tmp_path):
  def export_again(folder):
    export.export(
      exported[0],
      str(folder),
      classes=_CLASSES,
      min_samples=_MIN_SAMPLES,
      padding="repeat",
    )

  mine = tmp_path / "mine"
  mine.mkdir()
  (mine / "notes.txt").write_text("keep")
  with pytest.raises(ValueError, match="'notes.txt', which is no part"):
    export_again(mine)
  with pytest.raises(ValueError, match="is a file"):
    export_again(mine / "notes.txt")
  assert (mine / "notes.txt").read_text() == "keep"
  shutil.copytree(exported[1], tmp_path / "1")
  (tmp_path / "1" / "assets" / "old.txt").write_text("old")
  export_again(tmp_path / "1")
  assert {path.name for path in tmp_path.iterdir()} == {"1", "mine"}
  assert not (tmp_path / "1" / "assets" / "old.txt").exists()
  assert exported_tagger.ExportedTagger(str(tmp_path / "1")).classes == _CLASSES


def test_what_is_no_exported_tagger_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no SavedModel there"):
    exported_tagger.ExportedTagger(str(tmp_path / "none"))
  tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
  with pytest.raises(ValueError, match="not an exported tagger"):
    exported_tagger.ExportedTagger(str(tmp_path / "other"))
