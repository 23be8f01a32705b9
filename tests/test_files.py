"""Writes are atomic: after a failure the old contents are there, whole, and nothing else."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tercet.errors import StorageError
from tercet.training.folder import files


def test_json_is_sorted_and_without_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2.5, None, "é"]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "a": [\n    2.5,\n    null,\n    "é"\n  ],\n  "b": 1\n}\n'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["b"] == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    files.write_tensors(path, {"w": torch.arange(3.0)})
    monkeypatch.setattr(os, "replace", _full_disk)
    with pytest.raises(StorageError) as raised:
        files.write_tensors(path, {"w": torch.zeros(3)})
    assert str(raised.value) == (
        f"could not write {path}: No space left on device. What was there before is unharmed; free some space or "
        "choose another place."
    )
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    assert torch.equal(load_file(path)["w"], torch.arange(3.0))


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(StorageError, match="Is a directory"), files.new_folder(tmp_path / "a") as target:  # noqa: PT012
        (target / "half").mkdir()
        (target / "half").write_text("x")
    assert not (tmp_path / "a").exists()
    with files.new_folder(tmp_path / "a") as target:
        (target / "whole").write_text("x")
    assert os.listdir(tmp_path / "a") == ["whole"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files with setrlimit")
def test_a_real_limit_on_the_size_of_files(tmp_path):
    """The operating system refuses the write; setrlimit stands in for a full disk."""
    path = tmp_path / "weights.safetensors"
    files.write_tensors(path, {"w": torch.arange(3.0)})
    code = (
        "import sys, torch, pathlib; from tercet.training.folder import files\n"
        f"files.write_tensors(pathlib.Path({str(path)!r}), {{'w': torch.zeros(100_000)}})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=_limit_files, check=False
    )
    assert "StorageError: could not write" in done.stderr
    assert os.listdir(tmp_path) == ["weights.safetensors"]
    assert torch.equal(load_file(path)["w"], torch.arange(3.0))


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def _limit_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with an error instead of killing the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
