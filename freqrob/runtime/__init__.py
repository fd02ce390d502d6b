"""Shared by all packages: files, caches, registries, processes, threads, progress, provenance."""
