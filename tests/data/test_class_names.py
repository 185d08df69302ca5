import pytest

from tests.data.trees import labelled_folder, module, packed, photo


def tree(root, *names):
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            photo(len(name)).save(root / split / name / "one.png")
    return root


def test_names_are_the_same_packed_or_not(tmp_path):
    assert module(packed(tmp_path / "a")).class_names() == ["cat", "dog"]
    assert module(labelled_folder(tmp_path / "b")).class_names() == ["cat", "dog"]
    assert module(tree(tmp_path / "c", "dog", "cat"), batch_size=2).class_names() == ["cat", "dog"]


def test_images_without_classes_have_no_names(tmp_path):
    for number in range(4):
        photo(number).save(tmp_path / f"{number}.png")
    assert module(tmp_path).class_names() is None


def test_several_roots_complete_each_other(tmp_path):
    more = labelled_folder(tmp_path / "more")
    listed = (more / "labels.csv").read_text().replace(",1,dog,", ",2,bird,")
    (more / "labels.csv").write_text(listed)
    data = module(packed(tmp_path / "less"))
    data.roots = [*data.roots, *module(more).roots]
    assert data.class_names() == ["cat", "dog", "bird"]


def test_roots_that_name_one_index_differently_are_refused(tmp_path):
    first, second = module(packed(tmp_path / "a")), module(tree(tmp_path / "b", "cat", "horse"), batch_size=2)
    first.val_roots = second.roots
    with pytest.raises(ValueError, match=r"class 1 is 'horse' in .*b and 'dog' in another root"):
        first.class_names()
