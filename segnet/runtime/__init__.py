"""Files, locks, processes, threads. Imports `segnet.errors` alone."""
