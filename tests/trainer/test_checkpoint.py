import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import (
    Checkpoint,
    CheckpointError,
    model_weights,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)


def save(root: Path, step: int, *, keep: int = 3) -> Path:
    parts = {"model": {"weight": torch.full((4,), float(step))}}
    return save_checkpoint(root, state={"step": step}, parts=parts, keep=keep)


def newest(root: Path) -> Checkpoint:
    checkpoint, _ = newest_checkpoint(root)
    assert checkpoint is not None
    return checkpoint


def test_what_is_saved_is_found_again(tmp_path: Path):
    generator = torch.Generator().manual_seed(1)
    parts = {
        "model": {"a.b": torch.randn(3, 2).T},
        "optimizer": {"step:a.b": torch.tensor(3.0)},
        "random": {"cpu": generator.get_state()},
    }
    save_checkpoint(tmp_path, state={"step": 7, "sampler": {"epoch": 1}}, parts=parts, keep=1)
    checkpoint = newest(tmp_path)
    assert checkpoint.step == 7
    assert checkpoint.state["sampler"] == {"epoch": 1}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.tensors(part)[name], tensor)
    assert checkpoint.tensors("average") == {}


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path):
    for step in (9, 10):
        save(tmp_path, step)
    assert newest(tmp_path).step == 10


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (8, 9, 10, 11):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11"]


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "absent") == (None, [])


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: flip_byte(f / "model.safetensors"), "not those that were saved"),
        (lambda f: os.truncate(f / "model.safetensors", 9), "size must be 88 bytes, got 9"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "must hold a JSON object"),
        (lambda f: (f / "manifest.json").write_text("{}"), "format_version must be 1, got None"),
        (
            lambda f: (f / "manifest.json").write_text('{"format_version": 1}'),
            "manifest.json must list state.json",
        ),
    ],
)
def test_a_broken_newest_is_reported_and_the_one_before_it_taken(tmp_path: Path, spoil, words):
    save(tmp_path, 1)
    spoil(save(tmp_path, 2))
    checkpoint, warnings = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(warnings) == 1
    assert "step-2" in warnings[0]
    assert words in warnings[0]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../state.json": {}, "state.json": {}}, "must hold a record for a file"),
        ({"state.json": 3}, "must hold a record for a file, got state.json"),
    ],
)
def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, files, words: str):
    folder = save(tmp_path, 1)
    manifest = {"format_version": 1, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(folder)


def test_a_broken_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path: Path):
    flip_byte(save(tmp_path, 2) / "model.safetensors")
    save(tmp_path, 2)
    assert newest(tmp_path).step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_a_half_written_folder_is_passed_over_and_removed_by_the_next_save(tmp_path: Path):
    save(tmp_path, 1)
    (tmp_path / "step-2.tmp-abc").mkdir()
    assert newest(tmp_path).step == 1
    save(tmp_path, 3)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_planted_pickle_is_never_read(tmp_path: Path):
    folder = save(tmp_path, 1)

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    for name in ("optimizer.pt", ".metadata", "average.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    checkpoint = newest(tmp_path)
    assert torch.equal(checkpoint.tensors("model")["weight"], torch.ones(4))
    assert not (tmp_path / "exploded").exists()


def test_weights_can_be_taken_from_a_checkpoint_folder(tmp_path: Path):
    folder = save(tmp_path, 3)
    assert torch.equal(model_weights(folder)["weight"], torch.full((4,), 3.0))


def test_averaged_weights_are_preferred(tmp_path: Path):
    parts = {"model": {"w": torch.zeros(1)}, "average": {"w": torch.ones(1)}}
    folder = save_checkpoint(tmp_path, state={"step": 1}, parts=parts, keep=1)
    assert model_weights(folder)["w"] == 1


def test_weights_from_elsewhere_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="init_from must be a checkpoint folder"):
        model_weights(tmp_path / "absent")
