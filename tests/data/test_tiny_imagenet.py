"""Tiny-ImageNet from small folders and archives of its own layout."""

import io
import shutil
import sys
import zipfile

import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.data import tiny_imagenet
from jaxsnn.errors import UserError

Image = pytest.importorskip("PIL.Image")

CLASSES = [f"n{number:08}" for number in range(200)]


def jpeg(level, mode="RGB", side=64):
    """Encode a flat image."""
    buffer = io.BytesIO()
    colour = (level, 40, 90) if mode == "RGB" else level
    Image.new(mode, (side, side), colour).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write two classes of three training images, and four validation images."""
    monkeypatch.delenv("JAXSNN_DATA", raising=False)
    root = tmp_path / "tiny-imagenet-200"
    for label in (3, 150):
        images = root / "train" / CLASSES[label] / "images"
        images.mkdir(parents=True)
        for number in range(3):
            (images / f"{CLASSES[label]}_{number}.JPEG").write_bytes(jpeg(label + 20 * number))
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(4):
        label = (150, 3)[number % 2]
        mode = "L" if number == 3 else "RGB"
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(jpeg(label, mode))
        lines.append(f"val_{number}.JPEG\t{CLASSES[label]}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(CLASSES)))
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(b"has no label, is not read")
    return root


def packed(folder):
    """Turn the folder into the archive that it comes as."""
    with zipfile.ZipFile(folder.parent / "tiny-imagenet-200.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)


@pytest.mark.parametrize("form", ["folder", "archive", "inside"])
def test_images_and_labels_are_those_of_the_files(folder, form):
    if form == "archive":
        packed(folder)
    root = folder if form == "inside" else folder.parent
    found = data.load("tiny_imagenet", root, validation=0)
    assert found.shape == (64, 64, 3) and found.num_classes == 200
    for split in (found.train, found.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    order = np.argsort(found.train.images[:, 0, 0, 0])
    assert found.train.labels[order].tolist() == [3, 3, 3, 150, 150, 150]
    reds = found.train.images[order][:, :, :, 0].astype(int)
    for image, level in zip(reds, (3, 23, 43, 150, 170, 190), strict=True):
        assert np.abs(image - level).max() <= 4  # JPEG
    assert found.test.labels.tolist() == [150, 3, 150, 3]
    grey = found.test.images[3]
    assert np.ptp(grey.astype(int), axis=-1).max() == 0 and abs(int(grey[0, 0, 0]) - 3) <= 4
    assert "the test split is the published validation split" in found.notes
    assert "train: 6 images instead of 100,000; test: 4 images instead of 10,000" in found.notes


def test_decoded_images_are_kept_until_a_file_changes(folder, monkeypatch):
    first = data.load("tiny_imagenet", folder.parent)
    assert len(list(folder.parent.glob("*.npz"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tiny_imagenet, "_decode", None)
        again = data.load("tiny_imagenet", folder.parent)
    np.testing.assert_array_equal(again.train.images, first.train.images)
    (folder / "train" / CLASSES[3] / "images" / "more.JPEG").write_bytes(jpeg(99))
    assert "train: 7 images" in data.load("tiny_imagenet", folder.parent).notes


def told(*args):
    """Return the message of the error that `load` raises, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        data.load("tiny_imagenet", *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jpeg(5)[:300], "damaged or cut short"),
        (b"", "damaged or cut short"),
        (b"GIF89a", "damaged or cut short"),
        (jpeg(5, side=32), "64x64 pixels expected, 32x32 found"),
    ],
)
def test_a_damaged_or_foreign_image_is_named(folder, content, message):
    path = folder / "train" / CLASSES[3] / "images" / f"{CLASSES[3]}_1.JPEG"
    path.write_bytes(content)
    assert f"{path}: {message}" in told(folder.parent)
    assert not list(folder.parent.glob("*.npz"))


def test_what_is_missing_is_named(folder, tmp_path):
    message = told(tmp_path / "tiny-imagenet-200" / "train")
    assert str(tmp_path) in message and "cs231n.stanford.edu" in message
    assert "give its folder as data directory" in told()
    path = folder / "val" / "images" / "val_9.JPEG"
    path.write_bytes(jpeg(1))
    assert f"{path}: is not in val_annotations.txt" in told(tmp_path)
    path.unlink()
    (folder / "wnids.txt").write_text("n1\nn2\n")
    assert "wnids.txt: 200 classes expected, 2 found" in told(tmp_path)
    (folder / "wnids.txt").unlink()
    assert f"{folder / 'wnids.txt'}: no such file" in told(tmp_path)


def test_a_folder_that_is_no_class_is_named(folder):
    (folder / "train" / CLASSES[3]).rename(folder / "train" / "cats")
    assert "is in no class (cats)" in told(folder.parent)


def test_without_pillow_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "pip install pillow" in told(folder.parent)
