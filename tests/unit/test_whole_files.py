import pytest

from router.whole_files import written_whole


def test_a_file_and_its_folder_are_made(tmp_path):
    path = tmp_path / "new" / "a.json"
    with written_whole(path) as partial:
        partial.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stays_where_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        with written_whole(path) as partial:
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.json"
    with written_whole(path) as one, written_whole(path) as other:
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"  # who ends last
    assert list(tmp_path.iterdir()) == [path]
