"""Images and masks from and to files. Imports `runtime` and the floors below.

- `volumes`: `read_image` and `read_mask`, from any format; `nifti`: `write_mask`
- `names`: the one rule for names of images, masks and cases; `pairs`, `pair_lists`, `images`: which files are whose
- `nifti`, `zipped`, `metaimage`, `nrrd`, `dicom`: one module for each format; `volume`: the result of all of them
- `streams`, `text_header`: files that are not trusted; `csv_table`: tables that users write; `boxes`: parts of a volume
- `weights`: weights of networks
"""
