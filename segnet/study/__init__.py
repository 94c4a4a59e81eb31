"""Networks compared, timed and described. Imports every floor but `cli`."""
