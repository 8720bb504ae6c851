"""The table of event sets: sensors, sizes, files, and where they come from."""

from typing import NamedTuple

__all__: list[str] = []  # nothing here is promised to users

OBJECTS = "airplane automobile bird cat deer dog frog horse ship truck".split()
CAMERA = 2  # polarities of a camera's event: the last axis of its sensor


class EventSet(NamedTuple):
    """A published set of recordings."""

    num_classes: int
    num_train: int  # recordings of our training split in the whole set
    num_test: int
    sensor: tuple[int, ...]  # rows, columns and polarities of a camera; units of a cochlea
    sides: tuple[int, ...]  # rows and columns, or units, of a frame unless asked for otherwise
    timesteps: int  # frames of a recording, unless asked for otherwise
    parts: tuple[str, ...]  # files, folders, or archives `<part>.zip`, that make the set
    main: str  # the file that tells whether the set is there, for messages
    files: str  # what to download, for messages
    folders: tuple[str, ...]  # where the parts may lie under a data directory, besides its top
    url: str
    tonic: str  # the class that downloads it
    downloads: tuple[dict[str, object], ...] = ({},)  # options of that class, one for each part
    by: str = "number"  # how events are shared among the frames, unless asked for otherwise
    duration: int | None = None  # of a recording by time, microseconds; None for its own


def _spoken(name: str, num_classes: int, train: int, test: int, *splits: str) -> EventSet:
    """Return a set of the Zenke lab: one HDF5 file a split, 700 units of an artificial cochlea."""
    upper, key = name.upper(), "split" if "valid" in splits else "train"
    options = [split if key == "split" else split == "train" for split in splits]
    parts = tuple(f"{name}_{split}.h5" for split in splits)
    return EventSet(
        num_classes,
        train,
        test,
        sensor=(700,),
        sides=(700,),
        timesteps=100,
        parts=parts,
        main=parts[0],
        files=f"{', '.join(f'{part}.gz' for part in parts)}, to be unpacked,",
        folders=(name, upper, f"{upper}/{upper}", "hsd", "HSD"),
        url="https://zenkelab.org/datasets/",
        tonic=upper,
        downloads=tuple({key: option} for option in options),
        by="time",
        duration=1_400_000,
    )


EVENT_SETS = {
    "nmnist": EventSet(
        10,
        60_000,
        10_000,
        sensor=(34, 34, CAMERA),
        sides=(34, 34),
        timesteps=10,
        parts=("Train", "Test"),
        main="Train.zip",
        files="Train.zip and Test.zip",
        folders=("nmnist", "NMNIST", "N-MNIST"),
        url="https://www.garrickorchard.com/datasets/n-mnist",
        tonic="NMNIST",
        downloads=({"train": True}, {"train": False}),
    ),
    "dvs_cifar10": EventSet(
        10,
        9_000,
        1_000,
        sensor=(128, 128, CAMERA),
        sides=(48, 48),
        timesteps=10,
        parts=tuple(OBJECTS),
        main="airplane.zip",
        files="airplane.zip to truck.zip",
        folders=(
            "dvs_cifar10",
            "CIFAR10DVS",
            "CIFAR10DVS/extract",
            "CIFAR10DVS/download",
            "CIFAR10-DVS",
        ),
        url="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
        tonic="CIFAR10DVS",
    ),
    "dvs_gesture": EventSet(
        11,
        1_176,
        288,
        sensor=(128, 128, CAMERA),
        sides=(64, 64),
        timesteps=16,
        parts=("ibmGestureTrain", "ibmGestureTest"),
        main="DvsGesture/trials_to_train.txt",
        files="DvsGesture.tar.gz, to be unpacked,",
        folders=("dvs_gesture", "DVSGesture", "DVS128Gesture"),
        url="https://research.ibm.com/interactive/dvsgesture",
        tonic="DVSGesture",
        downloads=({"train": True}, {"train": False}),
    ),
    "shd": _spoken("shd", 20, 8_156, 2_264, "train", "test"),
    "ssc": _spoken("ssc", 35, 75_466, 20_382, "train", "valid", "test"),
}


def how_to_get(name: str) -> str:
    """Return half a sentence on what to download from where."""
    source = EVENT_SETS[name]
    return f"get {source.files} from {source.url}"
