"""What kind of model a directory holds, and that nothing hostile in one is ever opened."""

import json
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_estimator import OwnScaler
from safetensors.numpy import save_file

from leptonai import Pipeline
from leptonai.data.pipeline import Impute, Scale, ToMatrix
from leptonai.errors import InvalidRequest, NotFound
from leptonai.serving import engines
from leptonai.serving.kinds.recognising import recognise
from leptonai.serving.model import ModelServer
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.metadata import Metadata

ROWS = np.random.default_rng(0).normal(size=(200, 3))
LABELS = np.where(ROWS.sum(1) > 0, "yes", "no")


def put(directory: Path, **files: bytes | str | dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, dict):
            content = json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        (directory / name.replace("__", ".")).write_bytes(content)
    return directory


def served(directory: Path) -> ModelServer:
    server = ModelServer(directory)
    server.init()
    return server


# --- recognised -----------------------------------------------------------------------------------


def test_a_model_is_recognised_by_its_files(tmp_path: Path) -> None:
    described = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    bert = put(tmp_path / "bert", config__json=described, model__onnx=b"export")
    save_file({"a": np.zeros(3)}, bert / "model.safetensors")
    lepton = {"format": "torch-mlp", "format_version": 1, "model": {}}
    kinds = [
        recognise(bert),
        recognise(put(tmp_path / "mlp", config__json=lepton)),
        recognise(put(tmp_path / "churn", churn__skops=b"", README__md="hello")),
        recognise(put(tmp_path / "graph", model__onnx=b"")),
        recognise(put(tmp_path / "photon", photon__json="{}")),
        recognise(put(tmp_path / "files", numbers__csv="1,2")),
    ]
    assert [(each.kind, each.format) if each else None for each in kinds] == [
        ("transformers", "transformers"),
        ("lepton", "torch-mlp"),
        ("scikit-learn", "scikit-learn"),
        ("onnx", "onnx"),
        ("photon", "photon"),
        None,
    ]
    facts = [each.facts for each in kinds if each]
    assert facts == [{"architectures": ["BertForMaskedLM"]}, {}, {}, {}, {}]


class Hostile:
    def __reduce__(self) -> Any:
        return (Path("touched").touch, ())


def as_torch_saves(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Hostile()))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.pkl", lambda path: path.write_bytes(b"anything")),
        ("weights", lambda path: path.write_bytes(pickle.dumps(Hostile()))),
        ("pytorch_model.bin", as_torch_saves),
        ("program.pt2", lambda path: path.write_bytes(b"anything")),
        ("deep/inside.joblib", lambda path: path.write_bytes(b"anything")),
    ],
)
def test_a_pickle_is_refused_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = put(tmp_path / "model", model__onnx=b"")
    (model / "deep").mkdir()
    write(model / name)
    for look in (recognise, served):
        with pytest.raises(InvalidRequest, match=f"{name} is, or holds, a pickle") as refused:
            look(model)
    assert "skops" in refused.value.hint
    assert not (tmp_path / "touched").exists()


def test_a_head_that_only_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    """The length of its head, the first bytes of a safetensors file, may be any number."""
    head = b"{" + b" " * (0x480 - 2) + b"}"
    weights = struct.pack("<Q", len(head)) + head
    assert weights[:2] == b"\x80\x04"
    model = put(tmp_path / "model", config__json={"model_type": "bert"}, model__safetensors=weights)
    assert recognise(model) is not None


BERT: dict[str, Any] = {"model_type": "bert"}


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"config__json": "{"}, "config.json cannot be read"),
        ({"config__json": "[" * 100_000}, "config.json cannot be read"),
        ({"config__json": "[1]"}, "config.json is no object"),
        ({"config__json": BERT}, "has no model.safetensors"),
        ({"config__json": BERT, "model__safetensors": b"short"}, "is damaged: its head"),
        (
            {"config__json": BERT, "model__safetensors": struct.pack("<Q", 1 << 62) + b"{}"},
            "is damaged: its head",
        ),
        (
            {
                "config__json": BERT,
                "model__safetensors": struct.pack("<Q", 30) + b'{"a":{"data_offsets":[0,9999]}}',
            },
            "is damaged",
        ),
        (
            {
                "config__json": BERT,
                "model__safetensors__index__json": {"weight_map": {"a": "../other.safetensors"}},
            },
            "is no file beside it",
        ),
        ({"one__onnx": b"", "two__skops": b""}, "holds several models: one.onnx, two.skops"),
    ],
)
def test_a_damaged_model_is_told_before_it_is_opened(
    tmp_path: Path, files: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        recognise(put(tmp_path / "model", **files))


def test_a_directory_without_a_model_says_what_it_could_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no model: it needs config\.json and"):
        served(tmp_path)


# --- scikit-learn ---------------------------------------------------------------------------------

skops = pytest.importorskip("skops.io", reason="needs the extra serve-models: skops")


def dumped(directory: Path, estimator: Any) -> Path:
    directory.mkdir(exist_ok=True)
    skops.dump(estimator, directory / "model.skops")
    return directory


def test_a_classifier_answers_with_its_own_labels(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(ROWS, LABELS)
    answer = served(dumped(tmp_path, estimator)).predict(ROWS[:9].tolist())
    assert answer.labels == estimator.predict(ROWS[:9]).tolist()
    np.testing.assert_allclose(answer.probabilities, estimator.predict_proba(ROWS[:9]))


def test_an_estimator_of_columns_takes_rows_by_name(tmp_path: Path) -> None:
    import polars as pl
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pl.DataFrame({"age": [20, 40, 60, 80] * 10, "town": ["Ulm", "Bonn"] * 20})
    prepare = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    estimator = make_pipeline(prepare, RandomForestRegressor(5, random_state=0))
    estimator.fit(table, table["age"] * 2.0)
    server = served(dumped(tmp_path, estimator))
    assert server.what_it_takes()["columns"] == {"age": "any", "town": "any"}
    answer = server.predict([{"town": "Ulm", "age": 60, "more": 1}, {"age": 20, "town": "Ulm"}])
    assert answer.values == [pytest.approx(120, abs=1), pytest.approx(40, abs=1)]
    with pytest.raises(InvalidRequest, match="row 0: the column 'town' is not there"):
        server.predict({"age": 1})
    with pytest.raises(InvalidRequest, match=r"the model refuses these inputs: .*unknown categ"):
        server.predict({"age": 1, "town": "Rome"})


def test_what_the_first_rows_import_is_imported_before_they_come(tmp_path: Path) -> None:
    import polars as pl
    from sklearn.linear_model import LinearRegression

    table = pl.DataFrame({"age": [20, 40, 60, 80]})
    path = dumped(tmp_path, LinearRegression().fit(table, table["age"]))
    code = f"""
import sys
from leptonai.serving.model import ModelServer
server = ModelServer({str(path)!r})
server.init()
server.warm_up()
before = set(sys.modules)
server.predict([{{"age": 30}}])
print(*(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_an_estimator_of_texts_takes_texts(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    texts = ["a fine day", "a fine thing", "a dull day", "a dull thing"] * 5
    estimator = make_pipeline(TfidfVectorizer(), MultinomialNB())
    estimator.fit(texts, ["good", "good", "bad", "bad"] * 5)
    server = served(dumped(tmp_path, estimator))
    assert server.predict(["fine", "dull"]).labels == ["good", "bad"]
    [answer] = server.predict_files([b"fine"])
    assert not isinstance(answer, Exception)
    assert answer.labels == ["good"]


def test_an_estimator_is_asked_through_the_pipeline_that_lies_with_it(tmp_path: Path) -> None:
    import polars as pl
    from sklearn.tree import DecisionTreeClassifier

    from leptonai import Dataset

    frame = pl.DataFrame({"age": [1.0, 2.0, None, 80.0, 90.0] * 8, "old": [0, 0, 0, 1, 1] * 8})
    frame.write_csv(tmp_path / "people.csv")
    data = Dataset.from_local(tmp_path / "people.csv")
    pipeline = Pipeline([Impute(), Scale(), ToMatrix()], target="old").fit(data)
    matrix = pipeline.transform(frame.drop("old").to_dicts())
    model = dumped(tmp_path / "model", DecisionTreeClassifier().fit(matrix, frame["old"]))
    pipeline.save(model / "pipeline.safetensors")
    server = served(model)
    assert server.what_it_takes()["columns"] == {"age": "number"}
    assert server.predict([{"age": 85}, {"age": None}]).labels == ["1", "0"]


@pytest.mark.parametrize(
    "name",
    ["RandomForestClassifier", "GradientBoostingClassifier", "HistGradientBoostingClassifier",
     "ExtraTreesClassifier", "AdaBoostClassifier"],
)  # fmt: skip
def test_trees_are_followed_only_as_long_as_they_lead_to_their_own_leaves(
    tmp_path: Path, name: str
) -> None:
    from sklearn import ensemble

    size = {"max_iter": 3} if name.startswith("Hist") else {"n_estimators": 3}
    estimator = getattr(ensemble, name)(**size, random_state=0).fit(ROWS, LABELS)
    answer = served(dumped(tmp_path, estimator)).predict(ROWS[:9].tolist())
    np.testing.assert_allclose(answer.probabilities, estimator.predict_proba(ROWS[:9]))
    first = np.ravel(getattr(estimator, "estimators_", getattr(estimator, "_predictors", None)))[0]
    if hasattr(first, "nodes"):
        first.nodes["left"][0] = 0  # for ever
    else:
        first.tree_.feature[0] = 1_000_000  # somewhere in memory
    with pytest.raises(InvalidRequest, match="leads out of itself"):
        served(dumped(tmp_path, estimator))


def test_types_that_nobody_trusts_are_refused_by_name_until_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dumped(tmp_path, OwnScaler(factor=2.0))
    with pytest.raises(
        InvalidRequest, match=r"types that are not trusted: own_estimator\.OwnScaler"
    ):
        served(model)
    monkeypatch.setenv("LEPTON_TRUSTED_TYPES", "own_estimator.OwnScaler")
    assert served(model).predict([[1.0]]).values == [[2.0]]


class Workspace:
    """Takes what is pushed, and keeps it."""

    def __init__(self, shelf: Path) -> None:
        self.trees = self.models = self
        self.shelf = shelf

    def push_sized(self, directory: Path) -> tuple[str, int]:
        shutil.copytree(directory, self.shelf)
        return "sha256:" + "0" * 64, 1

    def register(self, name: str, spec: ArtifactSpec) -> Artifact:
        return Artifact(metadata=Metadata(name=name, version=1), spec=spec)


def test_a_model_of_another_library_is_registered_with_one_call(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from leptonai.training import register

    estimator = LogisticRegression().fit(ROWS, LABELS)
    workspace: Any = Workspace(tmp_path / "shelf")
    made = register(estimator, "churn", metrics={"val_accuracy": 0.9}, client=workspace)
    assert made is not None
    assert (made.reference, made.spec.format) == ("churn@1", "scikit-learn")
    assert made.spec.attributes["metrics"] == {"val_accuracy": 0.9}
    answer = served(tmp_path / "shelf").predict(ROWS[:3].tolist())
    assert answer.labels == estimator.predict(ROWS[:3]).tolist()
    for wrong in (object(), OwnScaler()):
        with pytest.raises(InvalidRequest, match=r"cannot be registered|are not trusted"):
            register(wrong, "other", client=workspace)


def test_a_classifier_without_probabilities_is_told_the_way_out(tmp_path: Path) -> None:
    from sklearn.svm import LinearSVC

    with pytest.raises(InvalidRequest, match="gives no probabilities") as refused:
        served(dumped(tmp_path, LinearSVC().fit(ROWS, LABELS)))
    assert "CalibratedClassifierCV" in refused.value.hint


def test_a_damaged_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        served(put(tmp_path / "model", model__skops=b"PK nothing"))


# --- ONNX -----------------------------------------------------------------------------------------


def field(number: int, value: int | bytes | str) -> bytes:
    """Of a protocol buffer, with a length or a small number."""
    if isinstance(value, int):
        return bytes([*varint(number << 3), value])
    value = value.encode() if isinstance(value, str) else value
    return bytes([*varint(number << 3 | 2), *varint(len(value))]) + value


def varint(number: int) -> list[int]:
    return [number] if number < 128 else [number & 127 | 128, number >> 7]


def a_tensor_type(name: str, width: int) -> bytes:
    dimensions = field(1, field(2, "N")) + field(1, field(1, width))
    kind = field(1, field(1, 1) + field(2, dimensions))
    return field(1, name) + field(2, kind)


def a_zip_map(given: str, output: str, labels: list[str]) -> tuple[bytes, bytes]:
    """The node that makes maps of probabilities, as skl2onnx ends its classifiers, and its type."""
    names = field(1, "classlabels_strings") + field(20, 8)
    names += b"".join(field(9, label) for label in labels)
    node = field(1, given) + field(2, output) + field(4, "ZipMap") + field(5, names)
    share = field(1, field(1, 1))
    of_strings = field(5, field(1, 8) + field(2, share))
    kind = field(1, output) + field(2, field(4, field(1, of_strings)))
    return field(1, node + field(7, "ai.onnx.ml")), kind


def a_graph(
    weights: Any,
    *,
    output: str = "scores",
    softmax: bool = False,
    labels: list[str] | None = None,
) -> bytes:
    """x [N, I] @ weights [I, K]; the fields' numbers are those of onnx.proto."""
    inner = "product" if softmax else output
    nodes = field(1, field(1, "x") + field(1, "w") + field(2, inner) + field(4, "MatMul"))
    if softmax:
        nodes += field(1, field(1, inner) + field(2, output) + field(4, "Softmax"))
    sizes = b"".join(field(1, length) for length in weights.shape)
    raw = np.asarray(weights, "<f4").tobytes()
    tensor = field(5, sizes + field(2, 1) + field(8, "w") + field(9, raw))
    given = field(11, a_tensor_type("x", weights.shape[0]))
    kind = a_tensor_type(output, weights.shape[1])
    if labels is not None:
        node, kind = a_zip_map(output, "output_probability", labels)
        nodes += node
    graph = nodes + field(2, "g") + tensor + given + field(12, kind)
    opsets = field(8, field(1, "") + field(2, 13)) + field(8, field(1, "ai.onnx.ml") + field(2, 1))
    return field(1, 8) + field(7, graph) + opsets


WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]])


@pytest.fixture
def onnxruntime() -> Any:
    return pytest.importorskip("onnxruntime", reason="needs the extra serve-models: onnxruntime")


def test_a_graph_answers_with_values_or_what_its_signature_says(
    tmp_path: Path, onnxruntime: Any
) -> None:
    model = put(tmp_path / "model", model__onnx=a_graph(WEIGHTS))
    answer = served(model).predict(ROWS[:4].tolist())
    np.testing.assert_allclose(answer.values, ROWS[:4] @ WEIGHTS, rtol=1e-5)
    put(
        model,
        signature__json={
            "inputs": "arrays",
            "shape": [3],
            "dtype": "float32",
            "outputs": "labels",
            "classes": ["cat", "dog"],
        },
    )
    answer = served(model).predict([[1, 0, 0], [0, 1, 0]])
    assert answer.labels == ["cat", "dog"]
    np.testing.assert_allclose(np.sum(answer.probabilities, axis=1), 1)
    with pytest.raises(
        InvalidRequest, match=r"expected a list of arrays of shape \[3\], got \[2\]"
    ):
        served(model).predict([[1, 2]])


def test_a_graph_that_ends_with_probabilities_answers_with_labels(
    tmp_path: Path, onnxruntime: Any
) -> None:
    graph = a_graph(WEIGHTS, output="probabilities", softmax=True)
    answer = served(put(tmp_path / "model", model__onnx=graph)).predict([[0, 1, 0]])
    assert answer.labels == ["1"]
    scores = np.exp([0.5, 2.0])
    np.testing.assert_allclose(answer.probabilities, [scores / scores.sum()], rtol=1e-5)


def test_a_graph_whose_answers_are_maps_has_their_keys_as_labels(
    tmp_path: Path, onnxruntime: Any
) -> None:
    graph = a_graph(WEIGHTS, softmax=True, labels=["cat", "dog"])
    server = served(put(tmp_path / "model", model__onnx=graph))
    assert server.signature.classes == ("cat", "dog")
    answer = server.predict([[0, 1, 0], [1, 0, 0]])
    assert answer.labels == ["dog", "cat"]
    np.testing.assert_allclose(np.sum(answer.probabilities, axis=1), 1, rtol=1e-6)


def test_classes_have_to_be_as_many_as_outputs(tmp_path: Path, onnxruntime: Any) -> None:
    told = {"inputs": "arrays", "outputs": "labels", "classes": ["only"]}
    model = put(tmp_path / "model", model__onnx=a_graph(WEIGHTS), signature__json=told)
    with pytest.raises(InvalidRequest, match="tells 2 classes apart, and 1 are named"):
        served(model)


def test_a_damaged_graph_is_refused(tmp_path: Path, onnxruntime: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        served(put(tmp_path / "model", model__onnx=b"no graph"))


# --- Keras ----------------------------------------------------------------------------------------


def test_a_keras_model_answers_with_labels(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras", reason="needs the extra keras")
    layers = [keras.layers.Input((3,)), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.keras")
    answer = served(tmp_path).predict(ROWS[:5].tolist())
    expected = model.predict(ROWS[:5], verbose=0)
    np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-5)
    assert answer.labels == [str(at) for at in expected.argmax(1)]


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "os", "class_name": "system", "config": {}, "registered_name": None},
        {"module": "keras.layers", "class_name": "Lambda", "config": {}, "registered_name": None},
        {"module": None, "class_name": "Mine", "config": {}, "registered_name": "mine>Mine"},
    ],
)
def test_a_keras_model_with_what_is_not_kerass_is_refused(
    tmp_path: Path, layer: dict[str, Any]
) -> None:
    config = {"class_name": "Sequential", "module": "keras", "config": {"layers": [layer]}}
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(
        InvalidRequest, match="holds what is not Keras's own: .*" + layer["class_name"]
    ):
        served(tmp_path)


@pytest.mark.parametrize(
    ("module", "file", "extra"),
    [
        ("skops.io", "model.skops", "serve-models"),
        ("onnxruntime", "model.onnx", "serve-models"),
    ],
)
def test_what_is_not_installed_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, file: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / file).touch()
    with pytest.raises(InvalidRequest, match="which is not installed") as refused:
        served(tmp_path)
    assert refused.value.hint.endswith(f"pip install 'openlepton[{extra}]'")


# --- engines --------------------------------------------------------------------------------------


def test_the_command_line_of_an_engine_is_a_list_in_which_nothing_is_a_shells() -> None:
    argv = engines.engine_argv(
        "vllm", "/models/a b;c", name="chat", host="127.0.0.1", port=8001, gpus=2,
        options=["--max-model-len", "4096"],
    )  # fmt: skip
    assert argv == [
        "vllm", "serve", "/models/a b;c", "--served-model-name", "chat", "--host", "127.0.0.1",
        "--port", "8001", "--tensor-parallel-size", "2", "--load-format", "safetensors",
        "--max-model-len", "4096",
    ]  # fmt: skip
    argv = engines.engine_argv("sglang", "/m", name="e", host="::1", port=1, embeds=True)
    assert argv[1:] == [
        "-m", "sglang.launch_server", "--model-path", "/m", "--served-model-name", "e", "--host",
        "::1", "--port", "1", "--tp-size", "1", "--load-format", "safetensors", "--is-embedding",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option", ["--trust-remote-code", "--trust_remote_code=true", "--trust", "--load-format=pt"]
)
def test_no_option_has_code_of_a_models_run(option: str) -> None:
    with pytest.raises(InvalidRequest, match="is not passed on"):
        engines.check_options(["--max-model-len=9", option])


def test_an_engine_is_taken_by_itself_where_it_is_installed_and_there_is_a_gpu() -> None:
    assert engines.chosen("auto", installed=["vllm", "sglang"], gpus=1) == "vllm"
    assert engines.chosen("auto", installed=["sglang"], gpus=1) == "sglang"
    assert engines.chosen("auto", installed=["vllm"], gpus=0) == "transformers"
    assert engines.chosen("auto", installed=[], gpus=1) == "transformers"
    assert engines.chosen("sglang", installed=["vllm", "sglang"], gpus=0) == "sglang"
    with pytest.raises(InvalidRequest, match="the engine vllm is not installed here"):
        engines.chosen("vllm", installed=["sglang"], gpus=1)
    with pytest.raises(InvalidRequest, match="'tgi' is no engine"):
        engines.chosen("tgi", installed=[], gpus=0)
