"""metarun.tasks.sources.image_files: every file that lies there is used, or counted and named."""

import os
from pathlib import Path

import pytest

from metarun.tasks.sources.image_files import as_text, find_images


def write(root: Path, *names: str) -> None:
    """Empty files: nothing here looks into them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def files_of(root: Path) -> dict[str, list[str]]:
    return {name: [file.as_posix() for file in files] for name, files in find_images(root).members.items()}


def test_images_at_any_depth_belong_to_the_class(tmp_path):
    write(tmp_path, "b/2.png", "b/1.JPG", "a/x/y/3.tif", "a/4.webp", "a/x/5.bmp")
    assert files_of(tmp_path) == {"a": ["a/4.webp", "a/x/5.bmp", "a/x/y/3.tif"], "b": ["b/1.JPG", "b/2.png"]}
    assert find_images(tmp_path).in_words() == "images in subfolders belong to their class (2)"


def test_all_that_is_not_used_is_counted_and_named(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png", "loose.png", "README.md", "__MACOSX/a/._1.png", "a/._1.png", ".cache/2.png")
    write(tmp_path, *(f"b/deep/x.{suffix}" for suffix in ("pdf", "h5", "mpg", "txt", "eps")), "b/png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "c").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "folder.png").mkdir()
    found = find_images(tmp_path)
    assert files_of(tmp_path) == {"a": ["a/1.png"], "b": ["b/1.png"]}
    assert {reason: sorted(names) for reason, names in found.unused.items()} == {
        "hidden": [".cache", "__MACOSX", "a/._1.png"],
        "image outside of a class": ["loose.png"],
        "no image": [
            "README.md", "a/pipe.png", "b/deep/x.eps", "b/deep/x.h5", "b/deep/x.mpg", "b/deep/x.pdf", "b/deep/x.txt", "b/png",
        ],
        "broken link": ["a/gone.png", "c"],
    }  # fmt: skip
    assert found.in_words() == (
        "not used: hidden (3): .cache, __MACOSX, a/._1.png; no image (8): README.md, a/pipe.png, b/deep/x.eps and 5 more; "
        "broken link (2): a/gone.png, c; image outside of a class (1): loose.png"
    )


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "store", "one.png", "two.png")
    root = tmp_path / "pets"
    write(root, "a/1.png", "b/1.png")
    (root / "a" / "2.png").symlink_to(tmp_path / "store" / "one.png")
    (root / "c").symlink_to(tmp_path / "store")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "over").symlink_to("../b")
    (root / "b" / "back").symlink_to("../a")
    (root / "all").symlink_to(".")
    (root / "disk").symlink_to("/")
    found = find_images(root)
    assert files_of(root) == {
        "a": ["a/1.png", "a/2.png", "a/over/1.png"],
        "b": ["b/1.png", "b/back/1.png", "b/back/2.png"],
        "c": ["c/one.png", "c/two.png"],
    }
    assert found.unused == {
        "link to a folder that it is in": ["all", "disk", "a/over/back", "a/up", "b/back/over", "b/back/up"]
    }


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train", "valid", "test"), ("Training", "validation", "TEST")]
)
def test_folders_of_splits_go_by_several_names(names, tmp_path):
    train, val, test = names
    write(tmp_path, f"{train}/b/1.png", f"{train}/a/x/1.png", f"{val}/c/1.png", f"{test}/d/1.png", f"{test}/notes.txt")
    write(tmp_path, "__MACOSX/x", "extra/e/1.png", f"{val}/loose.png.txt")
    found = find_images(tmp_path)
    assert found.splits == {"train": ["a", "b"], "val": ["c"], "test": ["d"]} and list(found.members) == [
        "a",
        "b",
        "c",
        "d",
    ]
    assert found.unused["folder beside the splits"] == ["extra"]
    assert found.in_words().startswith("images in subfolders belong to their class (1). not used: ")


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, "train/1.png", "car/1.png", "plane/sea/1.png")
    assert list(find_images(tmp_path).members) == ["car", "plane", "train"] and not find_images(tmp_path).splits
    write(tmp_path, "val/1.png", "test/1.png")  # images lie in them directly
    assert list(find_images(tmp_path).members) == ["car", "plane", "test", "train", "val"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "holds no folders of images: one folder for each class is expected."),
        (("1.png", "a.txt"), "is expected (not used: image outside of a class (1): 1.png; no image (1): a.txt)."),
        (("cats/", "dogs/1.png"), "cats holds no image. Take the folder away, or add images to it."),
        (("cats/a.pdf", "cats/.b.png", "dogs/1.png"), "cats holds no image among its 2 files. Take the folder away"),
        (("train/a/1.png", "test/b/1.png"), "has the folders test, train, and a split by folders needs one each of"),
        (
            ("train/a/1.png", "val/b/1.png", "valid/c/1.png", "test/d/1.png"),
            "has the folders test, train, val, valid, and",
        ),
        (("train/a/1.png", "val/a/1.png", "test/b/1.png"), "not the images of each."),
        (
            ("images/a/1.png", "images/b/1.png"),
            "has one folder, images, and its images lie deeper. Set dataset.path to",
        ),
    ],
)
def test_layouts_that_cannot_be_are_refused_in_one_line(names, words, tmp_path):
    write(tmp_path, *(name for name in names if not name.endswith("/")))
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True) if name.endswith("/") else None
    with pytest.raises(ValueError) as caught:
        find_images(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_that_is_not_utf_8_is_shown_and_two_that_look_alike_are_not_mixed(tmp_path):
    assert as_text("K\udce4se/ä.png") == r"K\xe4se/ä.png"
    os.makedirs(os.fsencode(tmp_path) + b"/K\xe4se")
    write(tmp_path, "K\udce4se/1.png", "b/1.png")
    assert files_of(tmp_path) == {r"K\xe4se": ["K\udce4se/1.png"], "b": ["b/1.png"]}
    write(tmp_path, r"K\xe4se/1.png")
    with pytest.raises(ValueError, match="is there twice"):
        find_images(tmp_path)
