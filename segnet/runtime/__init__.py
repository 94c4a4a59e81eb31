"""Files, locks, processes, threads. Imports `config` and the floors below."""
