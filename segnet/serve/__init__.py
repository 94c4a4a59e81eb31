"""The web service: page, API, jobs, PACS. Imports `study` and the floors below."""
