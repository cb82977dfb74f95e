"""What lies where a model should be: told by its content, with the way to the model."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from firmware_tools.convert.sources.recognise import recognise
from protos.errors import ModelError


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return path


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.keras", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("a.tflite", b"<!DOCTYPE html><html></html>", "download it again"),
        ("a.h5", b"<HTML><body>404", "download it again"),
        ("a.keras", b"\x1f\x8b\x08\x00", "gzip"),
        ("a.bin", b"\x89HDF\r\n\x1a\n", "give it that name"),
        ("a.tflite.txt", b"\x1c\x00\x00\x00TFL3", "give it that name"),
        ("a.bin", b"\x00\x01", "MODEL is a"),
    ],
)
def test_a_file_that_is_something_else_is_told_by_its_content(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as refused:
        recognise(path)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["saved.zip", "saved.keras"])
def test_a_zipped_saved_model_is_to_be_unzipped(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, "m/saved_model.pb", "m/variables/variables.index")
    with pytest.raises(ModelError, match=r"zip archive of a SavedModel.*unzip it"):
        recognise(path)


def test_zip_archives_tell_what_is_in_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"with m/net\.h5 in it"):
        recognise(archive(tmp_path / "a.zip", "m/net.h5"))
    with pytest.raises(ModelError, match=r"without a model \(it holds readme\.md\)"):
        recognise(archive(tmp_path / "b.keras", "readme.md"))
    with pytest.raises(ModelError, match="give it that name"):
        recognise(archive(tmp_path / "c.zip", "config.json", "metadata.json"))
    assert recognise(archive(tmp_path / "d.keras", "config.json", "metadata.json")) == "keras"


def test_folders_tell_what_they_are(tmp_path: Path) -> None:
    inner = tmp_path / "above" / "model"
    inner.mkdir(parents=True)
    (inner / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match=r"above a SavedModel.*give .*/above/model"):
        recognise(tmp_path / "above")
    unpacked = tmp_path / "a.keras"
    unpacked.mkdir()
    for name in ("config.json", "model.weights.h5", "metadata.json"):
        (unpacked / name).write_text("{}")
    with pytest.raises(ModelError, match=r"was unpacked.*zip"):
        recognise(unpacked)


def test_links_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    for name, target in (("self.keras", "self.keras"), ("gone.keras", "not-there.keras")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(ModelError, match="leads nowhere"):
            recognise(tmp_path / name)
