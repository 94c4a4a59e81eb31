"""Lists of clicks: what is read, and each way to be wrong with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnet.errors import InputError
from segnet.prediction.batch import plan
from segnet.prediction.clicks import ListedClick, read_clicks


def listed(tmp_path: Path, text: str) -> dict[str, list[ListedClick]]:
    file = tmp_path / "clicks.csv"
    file.write_bytes(text.encode())
    return read_clicks(file, "lps")


def test_rows_are_read_with_and_without_the_optional_columns(tmp_path: Path) -> None:
    assert listed(tmp_path, "\ufeffcase,x,y,z\r\na,1,2.5,-3\r\n\r\nb,4,5,6\r\n") == {
        "a": [ListedClick("a", None, (1.0, 2.5, -3.0), "lps", 2)],
        "b": [ListedClick("b", None, (4.0, 5.0, 6.0), "lps", 4)],
    }
    found = listed(tmp_path, "case,x,y,z\na,1,2,3\nb,1,2,3\na,4,5,6\n")
    assert [(c.lesion, c.point[0], c.line) for c in found["a"]] == [(1, 1.0, 2), (2, 4.0, 4)]
    found = listed(tmp_path, "lesion,z,y,x,space,case\n7,3,2,1,ras,a\n2,3,2,5, ,a\n")
    assert found["a"] == [ListedClick("a", 2, (5, 2, 3), "lps", 3), ListedClick("a", 7, (1, 2, 3), "ras", 2)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected the columns case, x, y, z .* got none"),
        ("case;x;y;z\n", "line 1: .* got case;x;y;z; write them with commas"),
        ("case,x,y\na,1,2\n", "line 1: expected the columns"),
        ("case,x,y,z,w\n", "line 1: expected the columns"),
        ("case,x,y,z,x\n", "line 1: expected the columns"),
        ("case,x,y,z\n", "line 2: expected a click"),
        ("case,x,y,z\na,1,2,3\na,1,2\n", "line 3: expected 4 values, got 3"),
        ("case,x,y,z\na,1,2,3,4\n", "line 2: expected 4 values, got 5"),
        ("case,x,y,z\na,1,two,3\n", "line 2: expected a number for y, got 'two'"),
        ("case,x,y,z\na,1,2,nan\n", "line 2: expected a number for z, got 'nan'"),
        ("case,x,y,z\na,1,2,inf\n", "line 2: expected a number for z, got 'inf'"),
        ("case,x,y,z\n,1,2,3\n", "line 2: expected a case"),
        ("case,x,y,z,space\na,1,2,3,mni\n", "line 2: expected space voxel, ras or lps, got 'mni'"),
        ("case,x,y,z,lesion\na,1,2,3,0\n", "line 2: expected a lesion's number from 1, got '0'"),
        ("case,x,y,z,lesion\na,1,2,3,\n", "line 2: expected a lesion's number"),
        ("case,x,y,z,lesion\na,1,2,3,1\nb,1,2,3,1\na,4,2,3,01\n", "line 4: expected each lesion of a once, .* line 2"),
        ('case,x,y,z\n"a,1,2,3\n', "expected a CSV file"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=f"clicks.*{says}"):
        listed(tmp_path, text)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_bytes(b"\xff\xfe\x00case")
    for name in ("clicks.csv", "none.csv"):
        with pytest.raises(InputError, match="clicks: expected a CSV file in UTF-8"):
            read_clicks(tmp_path / name)


def test_one_mask_for_each_click(tmp_path: Path) -> None:
    images = {"a": Path("a.nii"), "b": Path("b.nii"), "c": Path("c.nii")}
    clicks = listed(tmp_path, "case,x,y,z\nb,1,2,3\na,1,2,3\na,4,5,6\n")
    tasks, left_out = plan(images, Path("out"), clicks=clicks)
    assert [(t.case, t.mask.name, t.lesion, t.click) for t in tasks] == [
        ("a", "a_lesion_01.nii.gz", 1, (1, 2, 3)),
        ("a", "a_lesion_02.nii.gz", 2, (4, 5, 6)),
        ("b", "b.nii.gz", None, (1, 2, 3)),
    ]
    assert left_out == ["c"]
    with pytest.raises(InputError, match=r"clicks, line 2: expected a case that has an image, got 'b'.* as 'a'"):
        plan({"a": Path("a.nii")}, Path("out"), clicks=clicks)
