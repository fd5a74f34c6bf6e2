# SPDX-License-Identifier: Apache-2.0
"""The SavedModel against the model, and alone in a bare process."""

import json

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests import command
from tf_audioset import data, export, features, labels, losses, tagger
from tf_audioset.models import resnet

_CLASSES = labels.ClassList(("/m/a", "/m/b", "/m/c"), ("A, first", "B", "Ç"))
_MIN_SAMPLES = 8000


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory):
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    len(_CLASSES),
    frontend=features.LogMel(),
    backbone=resnet.ResNet(18, width=4),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, _MIN_SAMPLES]))
  # Statistics as after training: at their start values nothing would show.
  for i, variable in enumerate(model.variables):
    if "moving" in variable.name:
      noise = tf.random.stateless_uniform(variable.shape, [i, 0])
      variable.assign(variable + 0.1 * noise)
  folder = str(tmp_path_factory.mktemp("model") / "1")
  export.export(
    model, folder, classes=_CLASSES, min_samples=_MIN_SAMPLES, padding="repeat"
  )
  return model, folder


def _waveform(batch, num_samples):
  return (
    np.random.default_rng(num_samples)
    .uniform(-0.5, 0.5, [batch, num_samples])
    .astype(np.float32)
  )


@pytest.mark.parametrize(
  ("batch", "num_samples"),
  [(1, 8000), (3, 16000), (2, 37001), (5, 1600), (1, 1)],
)
def test_scores_equal_the_models(exported, batch, num_samples):
  model, folder = exported
  loaded = export.ExportedTagger(folder)
  waveform = _waveform(batch, num_samples)
  scores, embedding = loaded.score(waveform)
  padded = data.pad(tf.constant(waveform), _MIN_SAMPLES, "repeat")
  expected = scipy.special.expit(model(padded).numpy())
  np.testing.assert_allclose(scores, expected, atol=1e-5)
  np.testing.assert_allclose(embedding, model.embed(padded), atol=1e-4)


def test_an_empty_waveform_is_scored_as_silence(exported):
  loaded = export.ExportedTagger(exported[1])
  empty = loaded.score(np.zeros([1, 0], np.float32))[0]
  silence = loaded.score(np.zeros([1, _MIN_SAMPLES], np.float32))[0]
  np.testing.assert_array_equal(empty, silence)


def test_it_knows_its_classes_and_its_input(exported):
  loaded = export.ExportedTagger(exported[1])
  assert loaded.classes == _CLASSES
  assert loaded.sample_rate_hz == 16000
  assert (loaded.min_samples, loaded.padding) == (_MIN_SAMPLES, "repeat")


def test_the_newest_version_of_a_serving_folder_is_taken(exported):
  _, folder = exported
  assert export.ExportedTagger(folder[: -len("/1")]).classes == _CLASSES


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
    command.succeed(script, exported[1], cwd=tmp_path).splitlines()[-1]
  )
  assert answer["input"] == ["waveform", "float32", [None, None]]
  assert answer["outputs"] == ["embedding", "scores"]
  assert answer["names"] == list(_CLASSES.names)
  assert answer["mids"] == list(_CLASSES.mids)
  expected = scipy.special.expit(exported[0](waveform).numpy())
  np.testing.assert_allclose(answer["scores"], expected, atol=1e-5)


def test_only_tensorflows_own_operations_and_no_keras_in_the_file(exported):
  message = saved_model_pb2.SavedModel()
  with open(f"{exported[1]}/saved_model.pb", "rb") as file:
    message.ParseFromString(file.read())
  graph = message.meta_graphs[0]
  nodes = list(graph.graph_def.node)
  for function in graph.graph_def.library.function:
    nodes += function.node_def
  operations = {node.op for node in nodes}
  assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & operations
  assert not {op for op in operations if ">" in op}  # "Addons>..." and such.
  user_objects = {
    node.user_object.identifier
    for node in graph.object_graph_def.nodes
    if node.HasField("user_object")
  }
  assert not {name for name in user_objects if "keras" in name}


def test_what_is_no_exported_tagger_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no SavedModel there"):
    export.ExportedTagger(str(tmp_path / "none"))
  tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
  with pytest.raises(ValueError, match="not an exported tagger"):
    export.ExportedTagger(str(tmp_path / "other"))
