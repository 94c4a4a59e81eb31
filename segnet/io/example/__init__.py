"""The image and mask that come with the package, to try segnet with. README.md beside them says where they are from."""

from __future__ import annotations

from pathlib import Path

NAME = "example"
"""Stands for the image, or for its mask, where no file has this name."""
IMAGE = Path(__file__).with_name("example.nii.gz")
MASK = Path(__file__).with_name("example_mask.nii.gz")


FOLDER = Path(__file__).parent
"""Both, as a folder of pairs."""


def or_example(path: Path, example: Path = IMAGE) -> Path:
    """`path`, or the package's own file where `path` is the bare word "example" and no file of that name exists.

    Parameters
    ----------
    example : `IMAGE`, `MASK` or `FOLDER`

    Examples
    --------
    >>> or_example(Path("scan.nii.gz")).name, or_example(Path("example"), MASK).name
    ('scan.nii.gz', 'example_mask.nii.gz')
    """
    return example if path == Path(NAME) and not path.exists() else path
