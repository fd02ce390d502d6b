"""What every room needs: files, caches, processes, threads, progress, provenance."""
