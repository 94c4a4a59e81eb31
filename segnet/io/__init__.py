"""Images and masks from and to files. Imports `runtime` and the floors below."""
