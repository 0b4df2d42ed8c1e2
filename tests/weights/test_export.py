# SPDX-License-Identifier: Apache-2.0
"""`weights export` writes complete files with all arrays and the card."""

import json
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from safetensors import safe_open

import inception_jax
from inception_jax.cli import main as cli
from inception_jax.cli.weights import export_weights
from inception_jax.config import AblationConfig, PreprocessSpec
from inception_jax.models.inputs import block_scales
from inception_jax.models.zoo import SPECS
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.storage.files import CheckpointError
from inception_jax.weights import array_file, export, keras_file
from inception_jax.weights.import_file import import_file
from inception_jax.weights.model import Model
from inception_jax.weights.read_file import read_arrays
from tests.models.tiny import BLOCKS, one_block, three_grids
from tests.weights.filled import CARD, filled


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(x)
        for name, x in flatten_with_paths(inception_jax.load(folder)[1]).items()
    }


def test_safetensors_hold_arrays_and_card(folder, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    export_weights(str(folder), format="safetensors", out=out)
    model, expected = inception_jax.load(folder)[0], arrays_of(folder)
    found = safetensors.numpy.load_file(out)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert (x.dtype, x.shape) == (np.float32, expected[name].shape), name
        np.testing.assert_array_equal(x, expected[name], strict=True, err_msg=name)
    with safe_open(out, framework="np") as file:
        card = json.loads(file.metadata()["model.json"])
    assert card == json.loads(json.dumps(asdict(model.card)))
    count = sum(x.size for x in found.values())
    size = out.stat().st_size
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Wrote tiny, {count:,} numbers, to {out}: {size:,} bytes."
    assert printed[-1] == f'    arrays = safetensors.numpy.load_file("{out}")'


def test_npz_holds_arrays_and_card_without_pickle(folder, tmp_path):
    out = tmp_path / "x.npz"
    export_weights(str(folder), format="npz", out=out)
    expected = arrays_of(folder)
    with np.load(out, allow_pickle=False) as found:
        assert set(found) == {*expected, "model.json"}
        for name, x in expected.items():
            np.testing.assert_array_equal(found[name], x, strict=True, err_msg=name)
        card = json.loads(str(found["model.json"]))
    assert card == json.loads(json.dumps(asdict(inception_jax.load(folder)[0].card)))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_exported_arrays_are_read_back(folder, tmp_path, suffix):
    out = tmp_path / f"x{suffix}"
    export_weights(str(folder), format=suffix[1:], out=out)
    card, arrays = array_file.split_card(out, read_arrays(out))
    assert card == inception_jax.load(folder)[0].card
    expected = arrays_of(folder)
    assert arrays.keys() == expected.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(x, expected[name], strict=True, err_msg=name)
    imported = import_file(out)
    assert imported.card == card
    assert flatten_with_paths(imported.variables).keys() == expected.keys()
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_arrays(out)


def test_files_without_a_card_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())
    names = {"params/a": np.zeros(1)}
    np.savez(tmp_path / "x.npz", **names)
    safetensors.numpy.save_file(names, tmp_path / "x.safetensors")
    for file in tmp_path.iterdir():
        with pytest.raises(ValueError, match="has no card, so it was not exported"):
            import_file(file)
    array_file.write_npz(tmp_path / "z.npz", CARD, names)
    with pytest.raises(ValueError, match="tiny cannot use its arrays: "):
        import_file(tmp_path / "z.npz")
    np.savez(tmp_path / "y.npz", **{"model.json": np.array([{}], object)})
    with pytest.raises(ValueError, match="not an array of numbers: Object arrays"):
        read_arrays(tmp_path / "y.npz")


def test_an_exported_model_folder_is_identical(folder, tmp_path, capsys):
    export_weights(str(folder), format="folder", out=tmp_path / "copy")
    model, _ = inception_jax.load(tmp_path / "copy")
    assert model.card == inception_jax.load(folder)[0].card
    jax.tree.map(
        np.testing.assert_array_equal, arrays_of(folder), arrays_of(tmp_path / "copy")
    )
    assert (
        "Images: grey, the central 0.75 of both sides stretched to 8x8, bilinear; a "
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("format", ["folder", "safetensors", "npz", "stablehlo"])
def test_the_printed_lines_load_the_export(folder, tmp_path, capsys, format):
    out = tmp_path / f'"{export.SUFFIXES.get(format, "")}'
    export_weights(str(folder), format=format, out=out)
    shown = capsys.readouterr().out.split("To load it:\n")[1]
    names = {"images": np.zeros((2, 8, 8, 1), np.float32)}
    exec(textwrap.dedent(shown), names)
    expected = arrays_of(folder)
    if format == "folder":
        assert flatten_with_paths(names["variables"]).keys() == expected.keys()
    elif format == "stablehlo":
        assert names["logits"].shape == (2, 3)
    else:
        assert set(names["arrays"]) >= expected.keys()


def test_missing_packages_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r'flatbuffers .*"inception_jax\[weights\]"'):
        export_weights(str(folder), format="stablehlo", out=tmp_path / "out")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'h5py .*"inception_jax\[weights\]"'):
        keras_file.write(tmp_path / "out", ["a"], {}, CARD)
    assert not list(tmp_path.glob("out*"))


def test_keras_files_have_the_order_of_keras(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs the weights extra")
    rng = np.random.default_rng(0)
    names = ("b/beta", "b/moving_mean", "b/moving_variance", "a/kernel", "a/bias")
    arrays = {name: rng.normal(size=3).astype(np.float32) for name in reversed(names)}
    out = tmp_path / "x.h5"
    keras_file.write(out, ["b", "empty", "a"], arrays, CARD)
    with h5py.File(out) as file:
        assert list(file.attrs["layer_names"]) == ["b", "a"]
        found = {
            name: file[layer][name][()]
            for layer in file.attrs["layer_names"]
            for name in file[layer].attrs["weight_names"]
        }
        assert json.loads(file["model.json"][()])["network"] == "tiny"
    assert tuple(found) == names
    for name, x in found.items():
        np.testing.assert_array_equal(x, arrays[name], strict=True)


def test_the_residual_scale_is_folded_into_linear_convolutions(monkeypatch):
    monkeypatch.setitem(SPECS, "grids", three_grids())
    spec = PreprocessSpec((32, 32, 1))
    model = Model(replace(CARD, network="grids", preprocess=spec))
    variables = filled(model.shapes)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    arrays = flatten_with_paths(variables)
    published = export.fold_residual_scale(model, arrays)
    apply = jax.jit(lambda v, x, scale: model.network.apply(v, x, scale)[0])
    scales = block_scales(model.network.spec, None)
    expected = jax.jit(lambda v, x: model.apply(v, x)[0])(variables, images)
    found = apply(unflatten_dict(published, sep="/"), images, scales)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    without = apply(variables, images, scales)
    assert np.abs(without - expected).max() > 0.01
    changed = [name for name, x in published.items() if np.any(x != arrays[name])]
    leaves = ("bias", "kernel")
    assert set(changed) == {f"params/{b}/Conv2d_1x1/{x}" for b in BLOCKS for x in leaves}
    untouched = Model(replace(model.card, residual_scale=None))
    assert export.fold_residual_scale(untouched, arrays) is arrays


@pytest.mark.parametrize(
    ("format", "out", "expected"),
    [
        ("npz", "there.npz", "there.npz already exists"),
        ("folder", "model", "model already exists"),
        (
            "stablehlo",
            "no/out",
            "a new folder in an existing folder, got .*/no",
        ),
        ("npz", "x.safetensors", r"a \.npz file in an existing folder, got .*x\.safe"),
        ("timm", "x.pth", r"a \.safetensors file in"),
        ("keras", "x.weights.h5", r"a \.h5 file \(not \.weights\.h5\) in"),
        ("timm", "x.safetensors", "timm does not have tiny; supported are: incep"),
        ("keras", "x.h5", "keras does not have tiny"),
    ],
)
def test_invalid_output_paths_and_networks_are_rejected(
    folder, tmp_path, format, out, expected
):
    (tmp_path / "there.npz").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=expected):
        export_weights(str(folder), format=format, out=tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_output_path_is_checked_before_the_model_is_read(tmp_path):
    with pytest.raises(ValueError, match="existing folder"):
        export_weights("none", format="npz", out=tmp_path / "no" / "x.npz")
    with pytest.raises(ValueError, match="there is no model none"):
        export_weights("none", format="npz", out=tmp_path / "x.npz")


def test_ablations_are_rejected_for_other_libraries(tmp_path):
    ablation = AblationConfig(activation="leaky_relu")
    card = replace(CARD, network="inception_resnet_v2", ablation=ablation)
    with pytest.raises(
        ValueError, match=r"timm's inception_resnet_v2 does not support this"
    ):
        export.export(Model(card), {}, "timm", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("format", "gamma"), [("timm", []), ("keras", ["Batch norm's gamma was folded"])]
)
def test_changes_for_a_library_are_reported(tmp_path, monkeypatch, format, gamma):
    options = {"bn_scale": True, "aux_head": True}
    model = Model(replace(CARD, network="inception_resnet_v2", **options))
    spec = model.network.spec
    linear = {"Conv2d_1x1": {"kernel": np.ones(1), "bias": np.ones(1)}}
    blocks = [x for stage in spec.stages if stage.scale is not None for x in stage.names]
    variables = {"params": dict.fromkeys(blocks, linear)}
    given = {}

    def to_library(layout, arrays):
        given.update(arrays)
        return {"conv2d/kernel": np.zeros(1)}

    monkeypatch.setattr(export, "to_library", to_library)
    out = tmp_path / f"x{export.SUFFIXES[format]}"
    notes = export.export(model, variables, format, out)
    starts = [
        "The auxiliary head was omitted",
        "The residual scale 0.25 was folded",
        *gamma,
    ]
    assert len(notes) == len(starts)
    assert all(note.startswith(x) for note, x in zip(notes, starts, strict=True))
    assert f"{format}'s inception_resnet_v2" in notes[0]
    # 0.25 instead of the published 0.17 and, in the last block, 1.
    np.testing.assert_allclose(given["params/block35_1/Conv2d_1x1/bias"], 0.25 / 0.17)
    np.testing.assert_allclose(given[f"params/{blocks[-1]}/Conv2d_1x1/bias"], 0.25)
    assert out.is_file()


def test_the_command(folder, tmp_path, capsys):
    command = ["weights", "export", str(folder), "--format", "npz", "--out"]
    cli.main([*command, str(tmp_path / "x.npz")])
    assert capsys.readouterr().out.startswith("Wrote tiny, ")
    with pytest.raises(SystemExit) as exit:
        cli.main([*command, str(tmp_path / "x.npz")])
    assert exit.value.code == 2
    out, errors = capsys.readouterr()
    expected = f"{tmp_path / 'x.npz'} already exists; remove it or choose another."
    assert (out, errors) == ("", f"inception-jax: {expected}\n")


@pytest.mark.parametrize("format", ["safetensors", "npz", "stablehlo", "folder"])
def test_a_failed_export_leaves_no_file(folder, tmp_path, monkeypatch, format):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    out = tmp_path / f"x{export.SUFFIXES.get(format, '')}"
    with pytest.raises(CheckpointError, match=r"x.* cannot be written: .*No space left"):
        export_weights(str(folder), format=format, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
