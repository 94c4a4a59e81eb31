"""Networks compared, timed and described. Imports `report` and the floors below."""
