"""Curation from Kafka by many consumers. Imports `stream_curate`, which knows nothing of it."""
