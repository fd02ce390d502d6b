"""Shared infrastructure: files, caches, registries, processes, threads, progress, provenance."""
