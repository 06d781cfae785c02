from __future__ import annotations

import builtins
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from mwactl import runtime
from mwactl.backbone.contract import Backbone, unit_rows
from mwactl.data import open_image
from mwactl.runtime import BundleError, DeviceError, RetrievalModel, is_bundle, load

Change = Callable[..., Path]
CAPTIONS = ["dog", "a red square on a green one , and three more of them", "", "a " * 60, "three dogs &lt;b&gt; é 🐶"]


def open_on_one_thread(folder: Path, **options: Any) -> RetrievalModel:
    return load(folder, **{"device": "cpu", "threads": 1, **options})


# -- the same as torch -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind that goes wrong elsewhere."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))

    exif = Image.Exif()
    exif[0x0112] = 6
    palette = noise(20, 31).convert("P")
    noise(40, 90, 3).save(folder / "wide.png")
    noise(1, 1, 3).save(folder / "one-pixel.png")
    noise(10, 3000, 3).save(folder / "ribbon.png")
    noise(33, 20, 3).convert("CMYK").save(folder / "cmyk.jpg")
    noise(48, 20, 3).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(random.integers(0, 1 << 16, (30, 22), dtype=np.uint16)).save(folder / "16-bit.png")
    (folder / "16-bit.pgm").write_bytes(b"P5 9 8 65535\n" + random.bytes(2 * 9 * 8))
    noise(24, 30, 3).save(folder / "moving.gif", save_all=True, append_images=[noise(24, 30, 3)])
    palette.save(folder / "palette.png", transparency=7)
    noise(25, 37, 2).save(folder / "grey-alpha.png")
    return {path.name: path for path in sorted(folder.iterdir())}


def test_pixels_of_any_file_are_those_of_torch_to_the_bit(
    model: RetrievalModel, backbone: Backbone, pictures: dict[str, Path]
):
    assert len(pictures) == 10
    transform = backbone.image_transform()
    for name, path in pictures.items():
        assert np.array_equal(model.pixels([path])[0], transform(open_image(path)).numpy()), name


def test_a_path_a_string_bytes_and_an_opened_picture_are_one_picture(model: RetrievalModel, pictures: dict[str, Path]):
    for name, path in pictures.items():
        with Image.open(path) as opened:
            size = opened.size
            pixels = model.pixels([path, str(path), path.read_bytes(), opened])
            assert opened.size == size  # not turned in the caller's hands
        assert all(np.array_equal(pixels[0], row) for row in pixels[1:]), name


def test_an_array_is_a_picture_too(model: RetrievalModel):
    array = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    assert np.array_equal(model.pixels([array]), model.pixels([Image.fromarray(array)]))
    assert model.encode_images(np.stack([array, array])).shape == (2, model.width)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8),
        torch.zeros(3, 4, 4), None, 7,
    ],
    ids=["float", "grey", "alpha", "empty", "tensor", "none", "number"],
)  # fmt: skip
def test_what_is_no_picture_is_an_error_that_says_what_is(model: RetrievalModel, picture: Any):
    with pytest.raises(runtime.PictureError, match=r"uint8 \[h, w, 3\]"):
        model.encode_images([picture])


def test_pictures_are_embedded_as_by_torch(model: RetrievalModel, backbone: Backbone, pictures: dict[str, Path]):
    paths = list(pictures.values())
    transform = backbone.image_transform()
    with torch.inference_mode():
        expected = unit_rows(backbone.encode_image(torch.stack([transform(open_image(path)) for path in paths])))
    for batch_size in (1, 2, 5, 32):
        found = model.encode_images(paths, batch_size)
        assert np.abs(found - expected.numpy()).max() < 2e-6
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_captions_are_embedded_as_by_torch_in_the_given_order(model: RetrievalModel, backbone: Backbone):
    tokens = backbone.tokenize(CAPTIONS)
    with torch.inference_mode():
        expected = unit_rows(backbone.encode_text(tokens))
    for batch_size in (1, 2, 5, 32):
        found = model.encode_texts(CAPTIONS, batch_size)
        assert found.dtype == np.float32
        assert np.abs(found - expected.numpy()).max() < 2e-6


def test_short_captions_are_not_computed_at_the_length_of_long_ones(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch
):
    widths: list[int] = []
    tokens = model.tokens
    monkeypatch.setattr(model, "tokens", lambda batch: widths.append(tokens(batch).shape[1]) or tokens(batch))
    model.encode_texts(["a", "a " * 60, "b", "b " * 60], batch_size=2)
    assert widths == [3, 16]


def test_nothing_embeds_to_nothing(model: RetrievalModel):
    assert model.encode_images([]).shape == model.encode_texts([]).shape == (0, model.width)


def test_one_caption_or_picture_alone_is_a_mistake_and_not_a_list(model: RetrievalModel):
    with pytest.raises(ValueError, match="a list is embedded"):
        model.encode_texts("a dog")
    for picture in ("dog.jpg", b"dog"):
        with pytest.raises(ValueError, match="a list is embedded"):
            model.encode_images(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -5])
def test_a_batch_holds_something(model: RetrievalModel, size: int):
    with pytest.raises(ValueError, match=f"batches of {size}"):
        model.encode_texts(["a"], size)


def test_a_picture_that_cannot_be_read_is_named(model: RetrievalModel, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(runtime.PictureError, match=r"a\.jpg: not a picture") as caught:
        model.encode_images([tmp_path / "a.jpg"])
    assert isinstance(caught.value, ValueError)
    with pytest.raises(runtime.PictureError, match="no such file"):
        model.encode_images([tmp_path / "b.jpg"])
    with pytest.raises(runtime.PictureError, match="the file is empty"):
        model.encode_images([b""])


def test_embeddings_that_are_no_numbers_are_an_error(model: RetrievalModel):
    with pytest.raises(BundleError, match="not numbers"):
        model._embed("image", np.full((1, 3, 32, 32), np.nan, np.float32))


# -- what is in the folder -------------------------------------------------------------------------------------------


def test_the_model_says_who_it_is(model: RetrievalModel, backbone: Backbone):
    assert (model.identity, model.width) == ("0" * 64, backbone.embedding_width)
    assert model.preprocess_digest == backbone.portable().digest


def test_a_folder_is_a_bundle_by_its_manifest(own_bundle: Path, tmp_path: Path):
    assert is_bundle(own_bundle)
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "absent")
    (own_bundle / "manifest.json").write_text("{")
    assert is_bundle(own_bundle)  # damaged, which `load` says
    (own_bundle / "manifest.json").write_text('{"kind": "adapter"}')
    assert not is_bundle(own_bundle)


@pytest.mark.parametrize(
    "name", ["image.onnx", "text.onnx", "preprocess.json", "golden.npz", "merges.txt", "runtime.py"]
)
def test_one_changed_byte_of_any_file_is_noticed(own_bundle: Path, name: str):
    content = bytearray((own_bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (own_bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        load(own_bundle)
    (own_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"there is no .*{name}"):
        load(own_bundle)


def test_files_are_not_read_twice_by_those_who_know_them(own_bundle: Path):
    (own_bundle / "runtime.py").write_text("changed")
    load(own_bundle, check_files=False)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [("{", "damaged"), ("[]", "damaged"), ('{"kind": "mwactl-bundle"}', "damaged"), ('{"kind": "x"}', "another kind")],
)
def test_a_manifest_that_is_none_is_an_error(own_bundle: Path, manifest: str, why: str):
    (own_bundle / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match=why):
        load(own_bundle)


@pytest.mark.parametrize(
    "fact", ["identity", "embedding_width", "tolerance", "files", "preprocess", "dtype", "model", "schema", "kind"]
)
def test_a_manifest_without_a_fact_is_an_error(own_bundle: Path, fact: str):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    del manifest[fact]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"damaged.*{fact}"):
        load(own_bundle)


@pytest.mark.parametrize(
    "facts",
    [
        {"tolerance": {}}, {"tolerance": {"max_abs": 1.0}}, {"tolerance": {"max_abs": "1", "min_cosine": 0.9}},
        {"model": {}}, {"model": "tiny"}, {"embedding_width": "16"}, {"dtype": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_fact_of_another_kind_is_an_error(own_bundle: Path, facts: dict[str, Any]):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    (own_bundle / "manifest.json").write_text(json.dumps(manifest | facts))
    with pytest.raises(BundleError, match=f"damaged: without {next(iter(facts))}"):
        load(own_bundle)


@pytest.mark.parametrize("listed", [{}, {"sha256": None}, None, "0" * 64], ids=str)
def test_a_file_without_a_digest_is_an_error(own_bundle: Path, listed: Any):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    manifest["files"]["runtime.py"] = listed
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is damaged"):
        load(own_bundle)


def test_a_newer_bundle_is_refused_by_its_schema(change: Change):
    with pytest.raises(runtime.UnsupportedBundleError, match="schema 2"):
        load(change(schema=2))


def test_no_folder_and_no_bundle_are_told_apart(tmp_path: Path):
    with pytest.raises(runtime.NoBundleError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(runtime.NoBundleError, match="no manifest"):
        load(tmp_path)


def test_a_file_outside_the_folder_is_none_of_the_bundles(own_bundle: Path, tmp_path: Path):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    (tmp_path / "secret").write_text("")
    manifest["files"]["../secret"] = {"sha256": "0"}
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="there is no"):
        load(own_bundle)


def rewrite_preprocess(folder: Path, edit: Callable[[Any], None], change: Change) -> Path:
    document = json.loads((folder / "preprocess.json").read_bytes())
    edit(document)
    (folder / "preprocess.json").write_text(json.dumps(document))
    manifest = json.loads(change().joinpath("manifest.json").read_bytes())
    return change(preprocess=manifest["files"]["preprocess.json"]["sha256"])


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda document: document["text"]["clean"].append("translate"), "cleaning step `translate`"),
        (lambda document: document["text"].update(library="tiktoken"), "tokenizer library `tiktoken`"),
        (lambda document: document["image"].update(resize="seam"), "resize `seam`"),
        (lambda document: document["image"].update(interpolation="lanczos"), "interpolation `lanczos`"),
    ],
)
def test_what_only_a_newer_runtime_knows_is_refused_by_name(
    own_bundle: Path, change: Change, edit: Callable[[Any], None], why: str
):
    with pytest.raises(runtime.UnsupportedBundleError, match=why):
        load(rewrite_preprocess(own_bundle, edit, change))


def test_preprocessing_without_a_fact_or_with_a_foreign_file_is_damaged(own_bundle: Path, change: Change):
    with pytest.raises(BundleError, match=r"cannot be used.*size"):
        load(rewrite_preprocess(own_bundle, lambda document: document["image"].pop("size"), change))
    shutil.copy(own_bundle / "merges.txt", own_bundle.parent / "merges.txt")

    def restore(document: Any) -> None:
        document["image"]["size"] = [32, 32]
        document["text"]["file"] = "../merges.txt"

    with pytest.raises(BundleError, match=r"merges\.txt is not in manifest"):
        load(rewrite_preprocess(own_bundle, restore, change))


def test_the_preprocessing_of_another_bundle_is_noticed(own_bundle: Path, change: Change):
    document = json.loads((own_bundle / "preprocess.json").read_bytes())
    document["image"]["mean"] = [0.0, 0.0, 0.0]
    (own_bundle / "preprocess.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"two digests of preprocess\.json"):
        load(change())  # whose digests of files are right


def test_a_manifest_of_another_bundle_is_noticed(change: Change):
    model = open_on_one_thread(change(identity="1" * 64))
    with pytest.raises(BundleError, match=r"text\.onnx belongs to another bundle.*they differ in identity"):
        model.encode_texts(["a"])


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize(
    ("fact", "value"),
    [("tolerance", {"max_abs": 1.0, "min_cosine": -1.0}), ("logit_scale", 5.0), ("licence", "MIT"), ("dtype", "fp16")],
)
def test_no_fact_can_be_changed_in_the_manifest_alone(change: Change, tower: str, fact: str, value: Any):
    model = open_on_one_thread(change(**{fact: value}))
    with pytest.raises(BundleError, match=rf"{tower}\.onnx .* they differ in {fact}$"):
        model._session(tower)


def test_a_fact_that_the_manifest_lost_is_noticed(own_bundle: Path):
    manifest = json.loads((own_bundle / "manifest.json").read_bytes())
    del manifest["logit_scale"]
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="differ in logit_scale"):
        open_on_one_thread(own_bundle).verify()


def test_a_graph_that_says_nothing_of_itself_is_not_believed(own_bundle: Path, change: Change):
    graph = onnx.load(own_bundle / "text.onnx")
    for told in ({}, {"mwactl": "{"}, {"mwactl": "[]"}):
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, told)
        (own_bundle / "text.onnx").write_bytes(graph.SerializeToString())
        with pytest.raises(BundleError, match="belongs to another bundle"):
            open_on_one_thread(change()).encode_texts(["a"])


def test_a_graph_that_is_none_is_an_error(own_bundle: Path, change: Change):
    (own_bundle / "text.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"onnxruntime .* cannot open .*text\.onnx"):
        open_on_one_thread(change()).encode_texts(["a"])


@pytest.mark.parametrize("package", ["ftfy", "regex", "onnxruntime"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(runtime.MissingPackageError, match=rf"`{package}`; pip install -r requirements\.txt"):
        open_on_one_thread(tiny_bundle).encode_texts(["a"])


# -- verification ----------------------------------------------------------------------------------------------------


def test_a_whole_bundle_is_verified(model: RetrievalModel):
    report = model.verify()
    assert report["pixels"] == {"max_levels": 0.0}
    names = {f"{tower}{how}" for tower in ("image", "text") for how in ("", " in batches of 2", " in batches of 5")}
    assert report.keys() == names | {"pixels", "text, padding cut"}
    assert all(
        report[name]["max_abs"] < 2e-6 and report[name]["min_cosine"] > 0.99999 for name in report.keys() - {"pixels"}
    )


@pytest.fixture
def golden(own_bundle: Path, change: Change) -> Callable[..., RetrievalModel]:
    """golden(**arrays): the model of a bundle whose golden.npz holds other arrays."""

    def write(**arrays: Any) -> RetrievalModel:
        with np.load(own_bundle / "golden.npz") as file:
            np.savez(own_bundle / "golden.npz", **{**file, **arrays})
        return open_on_one_thread(change())

    return write


@pytest.mark.parametrize("tower", ["image", "text"])
def test_other_embeddings_than_at_the_export_are_an_error(
    golden: Callable[..., RetrievalModel], model: RetrievalModel, tower: str
):
    with np.load(model.folder / "golden.npz") as file:
        embeddings = file[f"{tower}_embeddings"]
    embeddings[-1, 0] += 2e-5
    with pytest.raises(BundleError, match=f"the {tower} embeddings are not those of the export"):
        golden(**{f"{tower}_embeddings": embeddings}).verify()


def test_other_token_ids_are_an_error(golden: Callable[..., RetrievalModel]):
    with pytest.raises(BundleError, match="token ids"):
        golden(captions=np.array(["a cat", "a", "b"])).verify()


def test_a_pixel_may_be_a_level_off_and_no_more(golden: Callable[..., RetrievalModel], model: RetrievalModel):
    with np.load(model.folder / "golden.npz") as file:
        pixels, embeddings = file["pixels"], file["image_embeddings"]
    pixels[0, 0, 3, 4] += 1 / 255 / model._transform.std[0, 0]
    embeddings = model._embed("image", pixels)
    assert golden(pixels=pixels, image_embeddings=embeddings).verify()["pixels"]["max_levels"] == pytest.approx(
        1, abs=0.01
    )
    pixels[0, 0, 3, 4] += 1 / 255 / model._transform.std[0, 0]
    with pytest.raises(BundleError, match=r"up to 2\.0 levels"):
        golden(pixels=pixels).verify()


def test_embeddings_that_depend_on_their_batch_are_an_error(model: RetrievalModel, monkeypatch: pytest.MonkeyPatch):
    embed = model._embed

    def leaking(tower: str, batch: Any) -> Any:
        rows = embed(tower, batch)
        return rows + 1e-3 * (len(rows) == 5)

    monkeypatch.setattr(model, "_embed", leaking)
    with pytest.raises(BundleError, match="image embeddings"):
        model.verify()


# -- devices ---------------------------------------------------------------------------------------------------------


def test_a_device_that_does_not_exist_is_refused(tiny_bundle: Path):
    with pytest.raises(DeviceError, match="no device `tpu`; there are auto, cpu, cuda, tensorrt"):
        load(tiny_bundle, device="tpu")


class FakeSession:
    """An onnxruntime session that ends up where it is told."""

    def __init__(self, works: set[str], providers: list[Any]) -> None:
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.found = [name for name in names if name in works]
        self.falls_back = True

    def get_providers(self) -> list[str]:
        return self.found

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_modelmeta(self) -> Any:
        facts = {"identity": "0" * 64, "embedding_width": 16}
        return types.SimpleNamespace(custom_metadata_map={"mwactl": json.dumps(facts)})


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "works", "found"),
    [
        ("cpu", {CPU, CUDA, TENSORRT}, {CPU, CUDA, TENSORRT}, [CPU]),
        ("auto", {CPU}, {CPU}, [CPU]),
        ("auto", {CPU, CUDA}, {CPU}, [CPU]),
        ("auto", {CPU, CUDA, TENSORRT}, {CPU, CUDA, TENSORRT}, [CUDA, CPU]),
        ("cuda", {CPU, CUDA}, {CPU, CUDA}, [CUDA, CPU]),
        ("cuda", {CPU, CUDA}, {CPU}, None),
        ("cuda", {CPU}, {CPU}, None),
        ("tensorrt", {CPU, CUDA, TENSORRT}, {CPU, CUDA, TENSORRT}, [TENSORRT, CUDA, CPU]),
        ("tensorrt", {CPU, CUDA, TENSORRT}, {CPU, CUDA}, None),
        ("tensorrt", {CPU, CUDA}, {CPU, CUDA}, None),
    ],
)
def test_the_device_asked_for_computes_or_it_is_an_error(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, device: str, available: set[str], works: set[str], found: Any
):
    import onnxruntime

    monkeypatch.setattr(runtime.bundle, "_has_driver", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: sorted(available))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: builtins.print("noise"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers: FakeSession(works, providers))
    if found is None:
        with pytest.raises(DeviceError, match=f"device {device}"):
            runtime.bundle._open_session(tiny_bundle / "text.onnx", device, 1)
    else:
        session = runtime.bundle._open_session(tiny_bundle / "text.onnx", device, 1)
        assert session.get_providers() == found
        assert not session.falls_back  # later, without a word


def test_without_a_driver_no_gpu_is_tried(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    def open_session(path: Path, options: Any, providers: list[Any]) -> FakeSession:
        assert providers == [CPU]
        return FakeSession({CPU}, providers)

    monkeypatch.setattr(runtime.bundle, "_has_driver", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: pytest.fail("libraries were loaded"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    runtime.bundle._open_session(tiny_bundle / "text.onnx", "auto", 1)


def test_the_hosts_log_level_is_left_alone(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", lambda level: pytest.fail(f"set to {level}"))
    open_on_one_thread(tiny_bundle).encode_texts(["a"])


def test_looking_for_a_device_says_nothing_of_its_own(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]):
    assert load(tiny_bundle, device="auto", threads=1).providers["text"][-1] == CPU
    assert capfd.readouterr() == ("", "")


def test_a_device_that_is_not_here_is_refused_before_anything_is_computed(tiny_bundle: Path):
    if torch.cuda.is_available():
        pytest.skip("CUDA works here")
    with pytest.raises(DeviceError, match="device cuda"):
        open_on_one_thread(tiny_bundle, device="cuda").encode_texts(["a"])


@pytest.mark.gpu
def test_on_cuda_the_embeddings_are_those_of_the_export(tiny_bundle: Path):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    model = load(tiny_bundle, device="cuda")
    assert model.providers["image"][0] == CUDA
    model.verify()
